"""No float in ledger/: units, cash and ratios are integers, and every division names its rounding.

Refused are float and complex literals, calls of `float`, true division, and the parts of `math` that answer with floats. What
is allowed stands in ALLOWED, with the reason; a line there that no longer matches anything fails too. A path is joined by
`/` as well: for a division, the line in ALLOWED may name its leftmost operand instead.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

LEDGER = Path(__file__).resolve().parents[2] / "ledger"
INTEGER_MATH = {"gcd", "isqrt", "lcm", "comb", "perm", "factorial"}

# (file below ledger/, expression or leftmost operand as `ast.unparse` writes it): why it is no money.
ALLOWED = {
    ("engine.py", "0.05"): "seconds to wait for another writer",
    ("leadership.py", "0.1"): "seconds between a follower's looks",
    ("leadership.py", "0.5"): "seconds between a leader's signs of life",
    ("log/postgres_backend.py", "0.02"): "seconds to wait for another writer",
    ("log/postgres_backend.py", "math.inf"): "a time without end",
    ("log/postgres_deadlines.py", "0.2"): "seconds between looks at the clock",
    ("log/tiles.py", "folder"): "a path",
    ("log/tiles.py", "self.path"): "a path",
}


def floats_in(tree: ast.AST) -> list[tuple[int, str]]:
    """Return line and expression of everything that may bring a float into being."""
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=float() | complex()):
                found.append(node)
            case ast.Call(func=ast.Name(id="float" | "complex")):
                found.append(node)
            case ast.BinOp(op=ast.Div()) | ast.AugAssign(op=ast.Div()):
                found.append(node)
            case ast.Attribute(value=ast.Name(id="math"), attr=name) if name not in INTEGER_MATH:
                found.append(node)
            case ast.Attribute(value=ast.Name(id="operator"), attr="truediv" | "itruediv"):
                found.append(node)
            case ast.ImportFrom(module="math", names=names) if {alias.name for alias in names} - INTEGER_MATH:
                found.append(node)
    return [(node.lineno, ast.unparse(node)) for node in found]


def leftmost(expression: str) -> str:
    """Return `a` for `a / b / c`, and anything else as it is."""
    node = ast.parse(expression).body[0]
    if isinstance(node, ast.Expr):
        node = node.value
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        node = node.left
    return ast.unparse(node)


def test_the_ledger_has_no_floats():
    refused, used = [], set()
    for path in sorted(LEDGER.rglob("*.py")):
        name = path.relative_to(LEDGER).as_posix()
        for line, expression in floats_in(ast.parse(path.read_text(encoding="utf-8"))):
            allowed = {(name, expression), (name, leftmost(expression))} & ALLOWED.keys()
            used |= allowed
            if not allowed:
                refused.append(f"ledger/{name}:{line}: {expression}")
    assert refused == []
    assert ALLOWED.keys() - used == set()


@pytest.mark.parametrize(
    ("code", "expressions"),
    [
        ("a = 1.5", ["1.5"]),
        ("a = float(b)", ["float(b)"]),
        ("a = b / c", ["b / c"]),
        ("a /= 2", ["a /= 2"]),
        ("a = math.sqrt(b)", ["math.sqrt"]),
        ("from math import floor", ["from math import floor"]),
        ("a = operator.truediv(b, c)", ["operator.truediv"]),
        ("a: float = b // c; d = math.gcd(a, c); from math import isqrt", []),
    ],
)
def test_a_float_is_found(code: str, expressions: list[str]):
    assert [expression for _, expression in floats_in(ast.parse(code))] == expressions

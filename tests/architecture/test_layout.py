"""The rooms of ARCHITECTURE.md: what stands where."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {"protos", "ledger", "chain_adapters", "services", "tests", "benchmarks", "examples", "docs", "tools", "requirements"}
MADE_BY_MAKE = {"build", "dist", "node_modules", "__pycache__"}
PROTOS = sorted((ROOT / "protos").rglob("*.proto"))


def test_there_are_no_other_rooms():
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert folders - MADE_BY_MAKE <= ROOMS


def test_every_package_is_typed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert [name for name in packages if not (ROOT / name / "py.typed").exists()] == []
    assert [name for name in packages if not (ROOT / name / "__init__.py").exists()] == []


@pytest.mark.parametrize("proto", PROTOS, ids=lambda path: path.stem)
def test_every_proto_has_its_generated_files_beside_it(proto: Path):
    has_service = re.search(r"^service ", proto.read_text(encoding="utf-8"), re.MULTILINE) is not None
    suffixes = ["_pb2.py", "_pb2.pyi"] + (["_pb2_grpc.py", "_pb2_grpc.pyi"] if has_service else [])
    generated = sorted(path.name for path in proto.parent.glob(f"{proto.stem}_pb2*"))
    assert generated == sorted(proto.stem + suffix for suffix in suffixes)


def test_no_generated_file_has_lost_its_proto():
    generated = {re.sub(r"_pb2(_grpc)?\.pyi?$", "", str(path)) for path in (ROOT / "protos").rglob("*_pb2*.py*") if path.suffix != ".pyc"}
    assert generated == {str(path.with_suffix("")) for path in PROTOS}

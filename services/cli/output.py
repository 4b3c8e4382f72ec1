"""What a person or a machine gets to see: tables, numbers with their decimals, JSON, and progress.

Answers go to stdout; progress, notes and complaints to stderr. Colours, frames and progress appear on a terminal only, so that what is
piped is the same everywhere. A character that the output cannot take is written as its escape: printing never fails on one.
"""

from __future__ import annotations

import io
import json
import re
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

_PROGRESS_SECONDS: Final = 0.1
_BAR_WIDTH: Final = 24
_WHOLE_DIGITS_MAX: Final = 19
"""Of 2^62 and all that is checked against it; longer texts would be long to read as numbers, or fail."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""What would break a row of a table, or be an order to the terminal; and lone surrogates."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; numbers are aligned right."""

    title: str
    right: bool = False


def grouped(number: int) -> str:
    """Write an integer with thousands separators. Example: `grouped(1234567) == "1,234,567"`."""
    return f"{number:,}"


def decimal_text(units: int, decimals: int) -> str:
    """Write units with their decimals and thousands separators. Example: `decimal_text(-123456789012, 8) == "-1,234.56789012"`."""
    whole, rest = divmod(abs(units), 10**decimals)
    text = f"{whole:,}.{rest:0{decimals}}" if decimals else f"{whole:,}"
    return f"-{text}" if units < 0 else text


def ratio_text(value: int, scale_decimals: int) -> str:
    """Write a ratio without trailing zeros. Example: `ratio_text(999500000000000000, 18) == "0.9995"`."""
    text = decimal_text(value, scale_decimals)
    return text.rstrip("0").rstrip(".") if "." in text else text


def parse_decimal_text(text: str, decimals: int) -> int:
    """Read a decimal number as units. Example: `parse_decimal_text("1.5", 8) == 150_000_000`.

    Raises: ValueError when it is not a plain number, is beyond all bounds, or has more decimals than there are.
    """
    whole, point, fraction = text.partition(".")
    digits = whole + fraction
    if not (digits.isascii() and digits.isdecimal()) or (point and not (whole and fraction)):
        raise ValueError(f"{text!r} is not a number such as 1.5")
    whole = whole.lstrip("0")
    if len(whole) > _WHOLE_DIGITS_MAX:
        raise ValueError(f"a number of {len(whole)} digits is more than can be counted")
    if len(fraction.rstrip("0")) > decimals:
        raise ValueError(f"{text} has more than {decimals} decimals")
    scale: int = 10**decimals
    return int(whole or 0) * scale + int(fraction[:decimals].ljust(decimals, "0") or "0")


def escape_what_cannot_be_printed() -> None:
    """From now on write a character that stdout or stderr cannot take as its escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def json_text(document: Any, indent: int | None = None) -> str:
    """Write JSON, in ASCII alone where stdout is not UTF-8: JSON has escapes of its own."""
    is_utf8 = (sys.stdout.encoding or "").lower() in ("utf-8", "utf8")
    return json.dumps(document, indent=indent, ensure_ascii=not is_utf8)


def print_json(document: Any) -> None:
    """Print one JSON document: on lines of its own for a person, on one line for a machine."""
    print(json_text(document, 2 if sys.stdout.isatty() else None))


def printable(text: str) -> str:
    r"""Write control characters and lone surrogates as escapes. Example: a line feed as `\n`."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], empty: str) -> None:
    """Print rows under titles, one line each, or the sentence that says there are none."""
    rows = [[printable(cell) for cell in row] for row in rows]
    if not rows:
        print(empty)
    elif not (sys.stdout.isatty() and _print_framed(columns, rows)):
        _print_plain(columns, rows)


def note(text: str) -> None:
    """Tell a person something beside the answer."""
    print(text, file=sys.stderr)


def _print_plain(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    titles = [column.title for column in columns]
    widths = [max(map(len, cells)) for cells in zip(titles, *rows, strict=True)]
    for row in (titles, ["-" * width for width in widths], *rows):
        cells = (cell.rjust(width) if column.right else cell.ljust(width) for cell, width, column in zip(row, widths, columns, strict=True))
        print("  ".join(cells).rstrip())


def _print_framed(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> bool:
    """Print with rich, and say whether it is installed."""
    try:
        from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - optional, and slow to import
        from rich.console import Console  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
    except ImportError:
        return False
    table = Table(box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column.title, justify="right" if column.right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)
    return True


class Progress:
    """A progress bar on stderr, drawn only where stderr is a terminal. Call it with (what is being done, done, total)."""

    def __init__(self, unit: str = "entries") -> None:
        self._unit = unit
        self._shown = sys.stderr.isatty()
        self._what = ""
        self._start = self._last = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        if not self._shown:
            return
        now = time.monotonic()
        if what != self._what:
            self._what, self._start, self._last = what, now, 0.0
        if now - self._last < _PROGRESS_SECONDS and done < total:
            return
        self._last = now
        filled = _BAR_WIDTH * done // total if total else _BAR_WIDTH
        bar = "#" * filled + "." * (_BAR_WIDTH - filled)
        rate = round(done / max(now - self._start, 0.001))
        text = f"\r{what:<8} [{bar}] {grouped(done)} of {grouped(total)} {self._unit}, {grouped(rate)}/s\x1b[K"
        print(text, end="", file=sys.stderr, flush=True)

    def of(self, what: str) -> Any:
        """Return a callable of (done, total) for one thing that is being done."""
        return lambda done, total: self(what, done, total)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._shown and self._what:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

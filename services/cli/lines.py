"""Read commands from JSON lines or CSV, as the protobuf messages they are.

Whatever is wrong with one line is told with its number; it does not spoil the others.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import ParseDict, ParseError

from chain_adapters.json_depth import DEPTH_MAX, is_too_deep
from ledger.rules import COMMAND_TYPES
from services.cli.outcome import UsageError
from services.settings import suggestion

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

COMMAND: Final = "command"
LIST_SEPARATOR: Final = ";"
_TRUTHS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_TIME: Final = "google.protobuf.Timestamp"
_UNDERSCORE: Final = re.compile("_(.)")


class LineError(Exception):
    """A line is not a command; the message says why."""


class NotCsvError(Exception):
    """A record is not CSV; the message says why."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number
        """Of the line it begins on."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file, from 1, and the command on it or what is wrong with it."""

    number: int
    name: str
    command: Any
    error: str = ""


def read_commands(lines: Iterable[str], form: str | None) -> Iterator[Line]:
    """Yield the commands of a file; `form` is "jsonl", "csv", or None to take the first line's word for it.

    Raises: UsageError when the file as a whole is neither.
    """
    source = iter(lines)
    start, first = next(((number, line) for number, line in enumerate(source, 1) if line.strip()), (1, ""))
    if not first:
        return iter(())
    if form is None:
        form = "jsonl" if first.lstrip().startswith("{") else "csv"
    if form == "jsonl":
        return (_json_line(number, text) for number, text in enumerate(itertools.chain([first], source), start) if text.strip())
    return _read_csv(first, source, start)


def _json_line(number: int, text: str) -> Line:
    name = ""
    try:
        fields = read_json(text)
        if not isinstance(fields, dict):
            raise LineError("it is not a JSON object")  # noqa: TRY301
        given = fields.pop(COMMAND, "")
        if not isinstance(given, str):
            raise LineError(f"its {COMMAND} is not a text")  # noqa: TRY301
        name = given
        return Line(number, name, make_command(name, fields))
    except LineError as error:
        return Line(number, name, None, str(error))


def _read_csv(first: str, rest: Iterator[str], start: int) -> Iterator[Line]:
    records = csv_records(itertools.chain([first], rest), start)
    try:
        header = [title.strip() for title in next(records)[1]]
    except NotCsvError as error:
        raise UsageError(f"line {error.number}, the header, is not CSV: {error}") from error
    if header[0] != COMMAND:
        raise UsageError(f"the first column of the CSV is {header[0]!r}, it must be {COMMAND!r}; a line of JSON begins with {{")
    if len(set(header)) != len(header):
        raise UsageError("the header of the CSV names a column twice")
    return _csv_lines(header, records)


def _csv_lines(header: list[str], records: Iterator[tuple[int, list[str]]]) -> Iterator[Line]:
    try:
        for number, cells in records:
            if any(cells):
                yield _csv_line(number, header, cells)
    except NotCsvError as error:
        yield Line(error.number, "", None, f"it is not CSV: {error}; nothing after it was read")


def csv_records(lines: Iterable[str], start: int = 1) -> Iterator[tuple[int, list[str]]]:
    """Yield the records of a CSV that are not empty, each with the number of the line it begins on; the first line is `start`.

    Raises: NotCsvError. Where the record after such a one begins, nobody can tell.
    """
    reader = csv.reader(lines, strict=True)
    number = start
    try:
        for cells in reader:
            if cells:
                yield number, cells
            number = start + reader.line_num
    except csv.Error as error:
        last = start + reader.line_num - 1
        raise NotCsvError(number, str(error) if last == number else f"{error} on line {last}; perhaps its quote is not closed") from error


def _csv_line(number: int, header: list[str], cells: list[str]) -> Line:
    name = cells[0].strip()
    if len(cells) > len(header):
        return Line(number, name, None, f"it has {len(cells)} cells, the header {len(header)}")
    named = {title: cell.strip() for title, cell in zip(header[1:], cells[1:], strict=False) if cell.strip()}
    try:
        return Line(number, name, make_command(name, cells_to_fields(command_type(name), named)))
    except LineError as error:
        return Line(number, name, None, str(error))


def read_json(text: str) -> Any:
    """Read a JSON document.

    Raises: LineError, also for what the parser alone would let through or end in a fault: integers of thousands of digits, nesting that
    overflows the stack, lone surrogates (no protobuf text can hold one), NaN and its kin, and a member named twice, of which the parser
    would take the last.
    """
    if text.count("[") + text.count("{") > DEPTH_MAX and is_too_deep(text.encode(errors="replace")):
        raise LineError(f"it is nested more than {DEPTH_MAX} levels deep, or does not close what it opens")
    try:
        document = json.loads(text, object_pairs_hook=_members_of_pairs, parse_constant=_refuse_constant)
        if "\\u" in text:
            json.dumps(document, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise LineError(f"it is not JSON: {error.msg} at column {error.colno}") from error
    except UnicodeEncodeError as error:
        raise LineError("it has a lone surrogate, which is no character") from error
    except ValueError as error:
        raise LineError("it has an integer of too many digits") from error
    return document


def _members_of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members of an object. In protobuf JSON `requestId` is another spelling of `request_id`, and so the same member."""
    seen = set()
    for name, _ in pairs:
        spelling = _UNDERSCORE.sub(lambda found: found[1].upper(), name)
        if spelling in seen:
            raise LineError(f"it names {name} twice")
        seen.add(spelling)
    return dict(pairs)


def _refuse_constant(name: str) -> NoReturn:
    raise LineError(f"it is not JSON: {name} is no number there")


def command_type(name: str) -> Any:
    """Return the message of a command by its name, with or without "Request".

    Raises: LineError.
    """
    if not name:
        raise LineError(f"it has no {COMMAND}")
    found = COMMAND_TYPES.get(name.removesuffix("Request"))
    if found is None:
        raise LineError(f"{name} is not a command{suggestion(name, COMMAND_TYPES)}")
    return found


def make_command(name: str, fields: dict[str, Any]) -> Any:
    """Make a command from its fields in protobuf JSON.

    Raises: LineError.
    """
    message = command_type(name)()
    known = message.DESCRIPTOR.fields_by_name
    for field in fields:
        if field not in known and field not in message.DESCRIPTOR.fields_by_camelcase_name:
            raise LineError(f"{name} has no field {field}{suggestion(field, known)}")
    try:
        return ParseDict(fields, message)
    except (ParseError, ValueError, TypeError, OverflowError) as error:
        raise LineError(f"{name}: {str(error).rstrip('.')}") from error


def cells_to_fields(message_type: Any, cells: dict[str, str]) -> dict[str, Any]:
    """Turn cells of a CSV, by field name, into fields of protobuf JSON. Enums may go without their prefix: `stock`.

    Raises: LineError.
    """
    fields = {}
    for name, cell in cells.items():
        field = message_type.DESCRIPTOR.fields_by_name.get(name)
        if field is None:
            names = message_type.DESCRIPTOR.fields_by_name
            raise LineError(f"{message_type.DESCRIPTOR.name.removesuffix('Request')} has no field {name}{suggestion(name, names)}")
        if field.is_repeated:
            fields[name] = [_cell_value(field, item.strip()) for item in cell.split(LIST_SEPARATOR) if item.strip()]
        else:
            fields[name] = _cell_value(field, cell)
    return fields


def _cell_value(field: Any, cell: str) -> Any:
    if field.type == FieldDescriptor.TYPE_BOOL:
        if cell.lower() not in _TRUTHS:
            raise LineError(f"{field.name} is {cell!r}, it must be true or false")
        return _TRUTHS[cell.lower()]
    if field.type == FieldDescriptor.TYPE_ENUM:
        return enum_name(field, cell)
    if field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type.full_name != _TIME:
        try:
            return read_json(cell)
        except LineError as error:
            raise LineError(f"{field.name} is a message and must be JSON: {error}") from error
    return cell


def enum_name(field: Any, text: str) -> str:
    """Return the full name of an enum value given by it, or without its prefix and in any case. Example: "stock" of kind.

    Raises: LineError, naming the values there are.
    """
    names = field.enum_type.values_by_name
    prefix = field.enum_type.values[0].name.removesuffix("UNSPECIFIED")
    for name in (text, prefix + text.upper().replace("-", "_").replace(" ", "_")):
        if name in names:
            return str(name)
    known = ", ".join(name.removeprefix(prefix).lower() for name in names if not name.endswith("_UNSPECIFIED"))
    raise LineError(f"{field.name} is {text!r}, it must be one of {known}")

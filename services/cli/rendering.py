"""Messages as rows of a table: which fields, and how each is written for people.

What a field is follows from its name, as everywhere in the protos: `units` and `..._units` are smallest units of the row's instrument,
`..._e8` are shares at scale 1e8, every `multiplier` is at scale 1e18. A message that is not named here shows all its plain fields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict

from ledger.rules import COMMAND_TYPES
from ledger.rules.checks import time_us, utc_text
from services.cli.output import Column, decimal_text, grouped, ratio_text

if TYPE_CHECKING:
    from collections.abc import Mapping

COLUMNS: Final = {
    "Instrument": (
        "symbol", "name", "kind", "underlying_isin", "decimals", "multiplier", "authorised_units", "halted_operations", "retired",
    ),
    "Reserve": (
        "instrument", "settled_shares_e8", "received_shares_e8", "delivered_shares_e8", "reserve_shares_e8", "needed_shares_e8",
        "shortfall", "evidence",
    ),
    "Approval": ("approval", "command", "requester", "approved_by", "approvals_needed", "request_time", "content"),
    "Instruction": (
        "instruction", "chain", "instrument", "kind", "units", "source", "destination", "onward", "state", "blocked_by", "failure",
        "attempt_count",
    ),
    "PlaceUnits": ("instrument", "place", "units", "transit_units", "divergence_units", "chain_raw", "difference_raw"),
    "GetSupplyResponse": ("instrument", "supply_units", "authorised_units", "multiplier"),
}  # fmt: skip
"""Message -> its fields shown, in order. Everything is in the JSON."""
_NUMERIC: Final = frozenset({FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64})
_OWED_IN_CASH: Final = ("blocked_units", "unclaimed_units", "withheld_units")
_COUNTS: Final = ("_count", "size")
_DETAIL_LENGTH: Final = 60


class Renderer:
    """Writes messages of one kind as rows; it knows the decimals of every instrument."""

    def __init__(self, message_type: Any, decimals: Mapping[str, int], *, raw_units: bool) -> None:
        descriptor = message_type.DESCRIPTOR
        names = COLUMNS.get(descriptor.name) or [field.name for field in descriptor.fields if _is_plain(field)]
        self._fields = [descriptor.fields_by_name[name] for name in names]
        self._decimals = decimals
        self._raw_units = raw_units

    @property
    def columns(self) -> list[Column]:
        return [Column(_title(field.name), right=_is_number(field)) for field in self._fields]

    def row(self, message: Any) -> list[str]:
        return [self._cell(message, field) for field in self._fields]

    def _cell(self, message: Any, field: Any) -> str:
        value = getattr(message, field.name)
        if field.is_repeated:
            return ", ".join(self._text(message, field, item) for item in value)
        if field.has_presence and not message.HasField(field.name):
            return ""
        return self._text(message, field, value)

    def _text(self, message: Any, field: Any, value: Any) -> str:
        name = field.name
        if name.endswith("multiplier") and field.type == FieldDescriptor.TYPE_STRING:
            return value if self._raw_units or not value else ratio_text(int(value), 18)
        if name.endswith("_e8"):
            return grouped(int(value or 0)) if self._raw_units else ratio_text(int(value or 0), 8)
        if name == "units" or name.endswith("_units"):
            decimals = 0 if self._raw_units else self._decimals.get(_instrument_of(message, name), 0)
            return decimal_text(value, decimals)
        if name == "content":
            return _detail_of_command(message)
        match field.type:
            case FieldDescriptor.TYPE_ENUM:
                return short_enum(field, value)
            case FieldDescriptor.TYPE_BOOL:
                return "yes" if value else ""
            case FieldDescriptor.TYPE_BYTES:
                return str(value.hex())
            case FieldDescriptor.TYPE_MESSAGE:
                return _text_of_message(field, value)
            case _:
                return grouped(value) if name.endswith(_COUNTS) else str(value)


def short_enum(field: Any, value: int) -> str:
    """Write an enum value without its prefix, in lower case; nothing for none. Example: INSTRUMENT_KIND_STOCK is "stock"."""
    if not value:
        return ""
    prefix = field.enum_type.values[0].name.removesuffix("UNSPECIFIED")
    found = field.enum_type.values_by_number.get(value)
    return str(value) if found is None else str(found.name.removeprefix(prefix).lower())


def as_json(message: Any) -> dict[str, Any]:
    """Return a message in protobuf JSON, with the names of the protos and every field there is."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def detail_of(message: Any, length: int = 0) -> str:
    """Write what is set of a message on one line, cut where it is longer than `length` characters."""
    content = MessageToDict(message, preserving_proto_field_name=True)
    text = " ".join(f"{name}={_short(value)}" for name, value in content.items())
    return text if not length or len(text) <= length else f"{text[: length - 3]}..."


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"[{len(value)}]" if len(value) > 3 else f"[{', '.join(map(_short, value))}]"
    if isinstance(value, dict):
        return "{" + " ".join(f"{name}={_short(inner)}" for name, inner in value.items()) + "}"
    return str(value)


def _detail_of_command(approval: Any) -> str:
    """Write the command that an approval is about."""
    command_type = COMMAND_TYPES.get(approval.command)
    return "" if command_type is None else detail_of(command_type.FromString(approval.content), _DETAIL_LENGTH)


def _text_of_message(field: Any, value: Any) -> str:
    if field.message_type.full_name == "google.protobuf.Timestamp":
        return utc_text(time_us(field.name, value))
    if field.message_type.name == "Evidence":
        kind = short_enum(value.DESCRIPTOR.fields_by_name["kind"], value.kind)
        stale = "stale since" if value.stale else "until"
        return f"{kind} by {value.signer} {stale} {utc_text(time_us('valid_until_time', value.valid_until_time))}"
    return detail_of(value)


def _instrument_of(message: Any, name: str) -> str:
    """Return the symbol of the instrument whose units a field counts: the cash of `cash_units`, fees and entitlements, or the row's own."""
    if "cash" in name or "fee" in name or name in _OWED_IN_CASH:
        return str(getattr(message, "cash_instrument", ""))
    return str(getattr(message, "instrument", "") or getattr(message, "symbol", ""))


def _is_plain(field: Any) -> bool:
    return bool(field.type != FieldDescriptor.TYPE_BYTES)


def _is_number(field: Any) -> bool:
    numeric = field.cpp_type in _NUMERIC and not field.is_repeated
    return numeric or field.name.endswith(("multiplier", "_e8"))


def _title(name: str) -> str:
    return name.removesuffix("_e8").replace("_", " ")

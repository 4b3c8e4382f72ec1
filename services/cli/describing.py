"""`stockledger commands`: what `apply` understands, from the messages themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor

from ledger.rules import COMMAND_TYPES
from ledger.rules.approvals import default_policies
from services.cli.lines import LineError, command_type
from services.cli.outcome import DONE, UsageError
from services.cli.output import Column, print_json, print_table

if TYPE_CHECKING:
    import argparse

_TYPES = {
    FieldDescriptor.TYPE_STRING: "text",
    FieldDescriptor.TYPE_BOOL: "true or false",
    FieldDescriptor.TYPE_BYTES: "bytes, base64",
}


def run(options: argparse.Namespace) -> int:
    """List all commands, or the fields of one."""
    if options.name is None:
        _list_commands(options.json)
        return DONE
    try:
        command = command_type(options.name)
    except LineError as error:
        raise UsageError(str(error)) from error
    fields = {field.name: type_text(field) for field in command.DESCRIPTOR.fields}
    if options.json:
        print_json({"command": options.name, "fields": fields})
    else:
        print_table([Column("field"), Column("what it takes")], list(map(list, fields.items())), "")
    return DONE


def _list_commands(as_json: bool) -> None:
    waiting = default_policies()
    names = sorted(COMMAND_TYPES)
    if as_json:
        print_json({name: {"approvals_by_default": waiting[name].approvals_needed if name in waiting else 0} for name in names})
        return
    rows = [[name, "waits for approval by default" if name in waiting else ""] for name in names]
    print_table([Column("command"), Column("")], rows, "")


def type_text(field: Any) -> str:
    """Return in words what a field takes."""
    text = _single_type_text(field)
    return f"list of: {text}" if field.is_repeated else text


def _single_type_text(field: Any) -> str:
    if field.type == FieldDescriptor.TYPE_ENUM:
        return " | ".join(value.name for value in field.enum_type.values if value.number)
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        if field.message_type.full_name == "google.protobuf.Timestamp":
            return "moment, such as 2026-11-22T18:00:00Z"
        return "{" + ", ".join(f"{inner.name}: {type_text(inner)}" for inner in field.message_type.fields) + "}"
    return _TYPES.get(field.type, "whole number")

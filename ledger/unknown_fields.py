"""Nothing is ignored in silence: a field this version does not know is refused, at any depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.unknown_fields import UnknownFieldSet

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.message import Message

_NESTED: dict[str, tuple[tuple[str, bool], ...]] = {}
"""By message type: its fields that are messages themselves, and whether they are repeated. Well-known types have no unknown fields of ours."""


def _nested(message: Message) -> tuple[tuple[str, bool], ...]:
    name = message.DESCRIPTOR.full_name
    found = _NESTED.get(name)
    if found is None:
        found = tuple(
            (field.name, bool(field.is_repeated))
            for field in message.DESCRIPTOR.fields
            if field.type == FieldDescriptor.TYPE_MESSAGE and not field.message_type.GetOptions().map_entry
        )
        _NESTED[name] = found
    return found


def find_unknown_field(message: Message) -> str | None:
    """Return where an unknown field stands ("rule.17"), or None if every field is known, recursively."""
    unknown = UnknownFieldSet(message)
    if len(unknown):
        return str(unknown[0].field_number)
    for name, repeated in _nested(message):
        children: Iterable[Any]
        if repeated:
            children = getattr(message, name)
        elif message.HasField(name):
            children = (getattr(message, name),)
        else:
            continue
        for child in children:
            found = find_unknown_field(child)
            if found is not None:
                return f"{name}.{found}"
    return None

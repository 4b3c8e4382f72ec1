"""Nothing is ignored in silence: a field this version does not know is refused, at any depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.unknown_fields import UnknownFieldSet

if TYPE_CHECKING:
    from google.protobuf.message import Message


class _Nested(NamedTuple):
    """The fields of a message type that are messages themselves; maps are not followed, their values are plain."""

    single: tuple[str, ...]
    repeated: tuple[str, ...]
    choices: tuple[tuple[str, frozenset[str]], ...]
    """(oneof, those of its fields that are messages): one question instead of sixty for an Entry."""


_NESTED: dict[type[Any], _Nested] = {}


def _nested(kind: type[Any]) -> _Nested:
    fields = [
        field
        for field in kind.DESCRIPTOR.fields
        if field.type == FieldDescriptor.TYPE_MESSAGE and not field.message_type.GetOptions().map_entry
    ]
    oneofs = {field.containing_oneof.name for field in fields if field.containing_oneof is not None}
    found = _NESTED[kind] = _Nested(
        single=tuple(field.name for field in fields if not field.is_repeated and field.containing_oneof is None),
        repeated=tuple(field.name for field in fields if field.is_repeated),
        choices=tuple(
            (
                oneof,
                frozenset(field.name for field in fields if field.containing_oneof is not None and field.containing_oneof.name == oneof),
            )
            for oneof in sorted(oneofs)
        ),
    )
    return found


def find_unknown_field(message: Message) -> str | None:
    """Return where an unknown field stands ("rule.17"), or None if every field is known, recursively."""
    unknown = UnknownFieldSet(message)
    if unknown:
        return str(unknown[0].field_number)
    kind = type(message)
    nested = _NESTED.get(kind) or _nested(kind)
    for name in nested.single:
        if message.HasField(name):
            found = find_unknown_field(getattr(message, name))
            if found is not None:
                return f"{name}.{found}"
    for name in nested.repeated:
        for child in getattr(message, name):
            found = find_unknown_field(child)
            if found is not None:
                return f"{name}.{found}"
    for oneof, names in nested.choices:
        chosen = message.WhichOneof(oneof)
        if chosen in names:
            found = find_unknown_field(getattr(message, chosen))
            if found is not None:
                return f"{chosen}.{found}"
    return None

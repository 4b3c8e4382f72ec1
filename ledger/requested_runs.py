"""Plain transfers read from the bytes of their requests, many at once, before they are decided.

A request with nothing special about it has one shape (tags in hex; a length <n> is one byte):

    [0a 24 <request id, 36>]  22 <n> <instrument>  2a <n> <source>  32 <n> <destination>  38 <units, 1 to 8>

All have a request id, or none has. Every tag and length is looked at, and the fields must fill their request to its last byte: so nothing
else is said in it, known or unknown. At the least doubt the requests are left to whoever looks at them one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ledger import vectors
from ledger.request_ids import parse_request_ids
from ledger.wire_columns import LENGTH_MAX, Texts, lay, varints

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.state import State

_ID_CHARACTERS: Final = 36
_REACH: Final = 2 + _ID_CHARACTERS + 3 * (2 + 255) + 9
"""How far beyond the start of a request a byte is looked at, whatever its lengths say."""


class Requested(NamedTuple):
    """What requests say, by numpy columns of numbers."""

    request_ids: list[bytes] | None
    """None: the ledger makes them."""
    instruments: Any
    sources: Any
    destinations: Any
    units: Any

    def within(self, part: slice) -> Requested:
        """Return what those in a part say."""
        request_ids, *columns = self
        return Requested(None if request_ids is None else request_ids[part], *(column[part] for column in columns))


def read_requests(state: State, requests: Sequence[bytes]) -> Requested | None:
    """Return what requests say if all are plain transfers, of instruments and accounts that there are; else None."""
    wire = lay(requests, _REACH)
    _, starts, stops, byte, _, word = wire
    named = byte[starts] == 0x0A
    request_ids, fields = None, starts
    if named.any():
        if not named.all() or (byte[starts + 1] != _ID_CHARACTERS).any():
            return None
        fields = starts + 2 + _ID_CHARACTERS
        request_ids = parse_request_ids(word[starts[:, None] + (2, 10, 18, 26, 34)].view(vectors.numpy.uint8))
        if request_ids is None:
            return None
    instruments, lengths = wire.texts(fields + 1)
    sources, length = wire.texts(instruments.stops + 1)
    lengths |= length
    destinations, length = wire.texts(sources.stops + 1)
    width = stops - destinations.stops - 1
    plain = (lengths | length <= LENGTH_MAX) & (width > 0) & (width <= 8)
    tags = (fields, 0x22), (instruments.stops, 0x2A), (sources.stops, 0x32), (destinations.stops, 0x38)
    for places, tag in tags:
        plain &= byte[places] == tag
    units, sound = varints(word[destinations.stops + 1], width.clip(1, 8))
    if not (plain & sound).all():
        return None
    ends = Texts(*map(vectors.numpy.concatenate, zip(sources, destinations, strict=True)))
    try:
        numbers, accounts = wire.numbers(state.instruments, instruments), wire.numbers(state.accounts, ends)
    except KeyError:
        return None
    count = len(requests)
    return Requested(request_ids, numbers, accounts[:count], accounts[count:], units.astype(vectors.numpy.int64))

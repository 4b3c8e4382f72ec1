"""Plain transfers read from their stored bytes, a page of entries at once: replay without parsing each entry by itself.

The entry of a transfer with nothing special about it has one shape (tags in hex; a length <n> is one byte, that of the event one or two):

    entry   08 <time, 8>  12 <n> <principal>  1a 10 <request id, 16>  22 10 <digest, 16>  8a 01 <n> <event>
    event   0a <n> <instrument>  12 <n> <source>  1a <n> <destination>  20 <units, 1 to 8>

The numbers are varints: 7 bits in a byte, the lowest first, and the high bit in all bytes but the last; times have 8 bytes from 1987 to
4253. Every tag, length and high bit is looked at, and the fields must fill their entry to its last byte. So an entry taken here says what
protobuf reads from it, and nothing else, known or unknown. At the least doubt it is left to protobuf and `fold`, which find what is wrong,
if anything is. What comes of it is what folding each entry by itself gives; tests hold the two against each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ledger import vectors
from ledger.arithmetic import UNITS_MAX
from ledger.rules.packed import legs_by_instrument
from ledger.wire_columns import LENGTH_MAX, Texts, Wire, lay, varints

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.state import State

_ENTRY_BYTES_MAX: Final = 9 + 2 + LENGTH_MAX + 2 * 18 + 4 + 3 * (2 + LENGTH_MAX) + 9
_REACH: Final = 11 + 255 + 40 + 3 * (2 + 255) + 9
"""How far beyond the start of an entry a byte is looked at, whatever its lengths say."""
_REQUEST_ID_BYTES: Final = 16


class StoredPage(NamedTuple):
    """A page of entries, and numpy columns over them, which mean something where `plain` is True."""

    wire: Wire
    plain: Any
    times: Any
    principals: Texts
    request_ids: Texts
    instruments: Texts
    sources: Texts
    destinations: Texts
    units: Any

    def stretches(self) -> list[tuple[int, int]]:
        """Return the (start, stop) of plain transfers that follow each other, where they are enough to be worth it."""
        numpy = vectors.numpy
        borders = numpy.flatnonzero(numpy.diff(self.plain, prepend=False, append=False)).tolist()
        return [(start, stop) for start, stop in zip(borders[0::2], borders[1::2], strict=True) if vectors.worthwhile(stop - start)]


def read_page(entries: Sequence[bytes]) -> StoredPage | None:
    """Find the plain transfers in a page of entries; None where it is not worth it. Nothing is known of the books here."""
    if not vectors.worthwhile(len(entries)):
        return None
    if max(map(len, entries)) > _ENTRY_BYTES_MAX:
        entries = [data if len(data) <= _ENTRY_BYTES_MAX else b"" for data in entries]
    wire = lay(entries, _REACH)
    _, starts, stops, byte, pair, word = wire
    times, plain = varints(word[starts + 1], 8)
    plain &= (byte[starts] == 0x08) & (byte[starts + 9] == 0x12)
    principals, lengths = wire.texts(starts + 10)
    request_ids = principals.stops + 2
    event = request_ids + 37
    plain &= (pair[request_ids - 2] == 0x101A) & (pair[request_ids + 16] == 0x1022) & (pair[event - 3] == 0x018A)
    low, high = byte[event - 1], byte[event]
    two_bytes = low > LENGTH_MAX
    plain &= ~two_bytes | (high > 0) & (high <= LENGTH_MAX)
    event += two_bytes
    plain &= stops - event == (low & LENGTH_MAX) + 128 * two_bytes * high.astype(vectors.numpy.int64)
    instruments, length = wire.texts(event + 1)
    lengths |= length
    sources, length = wire.texts(instruments.stops + 1)
    lengths |= length
    destinations, length = wire.texts(sources.stops + 1)
    plain &= lengths | length <= LENGTH_MAX
    tags = (event, 0x0A), (instruments.stops, 0x12), (sources.stops, 0x1A), (destinations.stops, 0x20)
    for places, tag in tags:
        plain &= byte[places] == tag
    width = stops - destinations.stops - 1
    units, sound = varints(word[destinations.stops + 1], width.clip(1, 8))
    plain &= sound & (width > 0) & (width <= 8)
    ids = Texts(request_ids, request_ids + _REQUEST_ID_BYTES)
    return StoredPage(wire, plain, times, principals, ids, instruments, sources, destinations, units)


def fold_stretch(state: State, page: StoredPage, start: int, stop: int) -> bool:
    """Book plain transfers as `fold` would book one after the other; False where the books leave a doubt, and nothing is booked then."""
    part, count = slice(start, stop), stop - start
    times, units = page.times[part], page.units[part]
    last_decision_time_us = int(times[-1])
    if state.parts or times[0] <= state.last_decision_time_us or (times[1:] < times[:-1]).any():
        return False
    if vectors.exact_sum(units) > UNITS_MAX >> 1:
        return False
    seconds = (page.wire.word[page.request_ids.starts[part]].byteswap() >> 16) // 1000
    if not state.window_has_room(count, int(seconds.min()), last_decision_time_us):
        return False
    try:
        keys = _keys(page, part)
        instruments = page.wire.numbers(state.instruments, page.instruments.within(part))
        sources = page.wire.numbers(state.accounts, page.sources.within(part))
        destinations = page.wire.numbers(state.accounts, page.destinations.within(part))
    except (KeyError, UnicodeDecodeError):
        return False
    if (sources == destinations).any() or min(sources.min(), destinations.min()) < 0:
        return False
    legs = legs_by_instrument(instruments, sources, destinations, units.astype(vectors.numpy.int64))
    if not all(state.has_room(instrument, *mine) for instrument, mine in legs.items()):
        return False
    for instrument, mine in legs.items():
        state.post_columns(instrument, *mine)
    first, state.size = state.size, state.size + count
    state.last_decision_time_us = last_decision_time_us
    new_seconds = [0, *(vectors.numpy.flatnonzero(seconds[1:] != seconds[:-1]) + 1).tolist()]
    state.remember_stored(keys, [(place, int(seconds[place])) for place in new_seconds], first << 16, last_decision_time_us)
    return True


def _keys(page: StoredPage, part: slice) -> list[bytes]:
    """Return request ids with the principals behind them. Protobuf refuses a principal that is not UTF-8, and so does this."""
    request_ids, principals = page.request_ids.within(part), page.principals.within(part)
    wire = page.wire
    principal = wire.common(principals)
    if principal is None:
        each = wire.cut(principals)
        for text in {*each}:
            text.decode()
        return [request_id + text for request_id, text in zip(wire.cut(request_ids), each, strict=True)]
    principal.decode()
    numpy = vectors.numpy
    keys = numpy.empty((len(request_ids.starts), _REQUEST_ID_BYTES + len(principal)), dtype=numpy.uint8)
    halves = wire.word[request_ids.starts[:, None] + numpy.array((0, 8))]
    keys[:, :_REQUEST_ID_BYTES] = halves.view(numpy.uint8)
    keys[:, _REQUEST_ID_BYTES:] = numpy.frombuffer(principal, dtype=numpy.uint8)
    return list(keys.view(f"V{keys.shape[1]}").ravel().tolist())

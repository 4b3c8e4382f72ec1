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

import functools
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ledger import vectors
from ledger.arithmetic import UNITS_MAX
from ledger.rules.packed import legs_by_instrument

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ledger.records import Account, Instrument
    from ledger.state import State

_LENGTH_MAX: Final = 127
"""Of a length in one byte."""
_ENTRY_BYTES_MAX: Final = 9 + 2 + _LENGTH_MAX + 2 * 18 + 4 + 3 * (2 + _LENGTH_MAX) + 9
_REACH: Final = 11 + 255 + 40 + 3 * (2 + 255) + 9
"""How far beyond the start of an entry a byte is looked at, whatever its lengths say."""
_HIGH_BITS: Final = 0x8080_8080_8080_8080
_REQUEST_ID_BYTES: Final = 16


class _Texts(NamedTuple):
    """Where the texts of one field start and stop."""

    starts: Any
    stops: Any

    def within(self, part: slice) -> _Texts:
        return _Texts(self.starts[part], self.stops[part])

    def cut(self, data: Any) -> list[Any]:
        """Return the texts, cut out of the data one by one."""
        return [data[start:stop] for start, stop in zip(self.starts.tolist(), self.stops.tolist(), strict=True)]

    def common(self, byte: Any) -> bytes | None:
        """Return the text that all of them are, or None."""
        size = self.stops[0] - self.starts[0]
        if (self.stops - self.starts != size).any():
            return None
        texts = byte[self.starts[:, None] + vectors.numpy.arange(size)]
        return texts[0].tobytes() if (texts == texts[0]).all() else None


class StoredPage(NamedTuple):
    """A page of entries, and numpy columns over them, which mean something where `plain` is True."""

    data: bytes
    byte: Any
    word: Any
    plain: Any
    times: Any
    principals: _Texts
    request_ids: _Texts
    instruments: _Texts
    sources: _Texts
    destinations: _Texts
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
    numpy = vectors.numpy
    sizes = numpy.array([*map(len, entries)], dtype=numpy.int64)
    if sizes.max() > _ENTRY_BYTES_MAX:
        entries = [data if len(data) <= _ENTRY_BYTES_MAX else b"" for data in entries]
        sizes[sizes > _ENTRY_BYTES_MAX] = 0
    data = b"".join([*entries, bytes(_REACH)])
    byte = numpy.frombuffer(data, dtype=numpy.uint8)
    pair, word = (numpy.ndarray(len(data) - width + 1, f"<u{width}", data, strides=(1,)) for width in (2, 8))  # one at every byte
    stops = sizes.cumsum()
    starts = stops - sizes
    times, plain = _varints(word[starts + 1], 8)
    plain &= (byte[starts] == 0x08) & (byte[starts + 9] == 0x12)
    principals, lengths = _texts(byte, starts + 10)
    request_ids = principals.stops + 2
    event = request_ids + 37
    plain &= (pair[request_ids - 2] == 0x101A) & (pair[request_ids + 16] == 0x1022) & (pair[event - 3] == 0x018A)
    low, high = byte[event - 1], byte[event]
    two_bytes = low > _LENGTH_MAX
    plain &= ~two_bytes | (high > 0) & (high <= _LENGTH_MAX)
    event += two_bytes
    plain &= stops - event == (low & _LENGTH_MAX) + 128 * two_bytes * high.astype(numpy.int64)
    instruments, length = _texts(byte, event + 1)
    lengths |= length
    sources, length = _texts(byte, instruments.stops + 1)
    lengths |= length
    destinations, length = _texts(byte, sources.stops + 1)
    plain &= lengths | length <= _LENGTH_MAX
    tags = (event, 0x0A), (instruments.stops, 0x12), (sources.stops, 0x1A), (destinations.stops, 0x20)
    for places, tag in tags:
        plain &= byte[places] == tag
    width = stops - destinations.stops - 1
    units, sound = _varints(word[destinations.stops + 1], width.clip(1, 8))
    plain &= sound & (width > 0) & (width <= 8)
    ids = _Texts(request_ids, request_ids + _REQUEST_ID_BYTES)
    return StoredPage(data, byte, word, plain, times, principals, ids, instruments, sources, destinations, units)


def _texts(byte: Any, places: Any) -> tuple[_Texts, Any]:
    """Return the texts whose lengths stand at these places, and the lengths."""
    lengths = byte[places]
    starts = places + 1
    return _Texts(starts, starts + lengths), lengths


def _varints(words: Any, widths: Any) -> tuple[Any, Any]:
    """Return the numbers in the first bytes of little-endian words, and which of them are above zero and written as protobuf does.

    Groups of 7 bits are drawn together to groups of 14, 28 and 56. Example: the bytes ac 02 are 0x2c + 2 * 128 = 300.
    """
    below = _below()
    most, last = below[widths], below[widths - 1]
    words = words & most
    sound = (words & _HIGH_BITS == last & _HIGH_BITS) & (words > last)
    words = words & 0x7F007F007F007F | (words & 0x7F007F007F007F00) >> 1
    words = words & 0x3FFF00003FFF | (words & 0x3FFF00003FFF0000) >> 2
    return words & 0xFFFFFFF | (words & 0xFFFFFFF00000000) >> 4, sound


@functools.cache
def _below() -> Any:
    """Return the greatest numbers of 0 to 8 bytes."""
    return vectors.numpy.array([(1 << 8 * width) - 1 for width in range(9)], dtype=vectors.numpy.uint64)


def fold_stretch(state: State, page: StoredPage, start: int, stop: int) -> bool:
    """Book plain transfers as `fold` would book one after the other; False where the books leave a doubt, and nothing is booked then."""
    part, count = slice(start, stop), stop - start
    times, units = page.times[part], page.units[part]
    last_decision_time_us = int(times[-1])
    if state.parts or times[0] <= state.last_decision_time_us or (times[1:] < times[:-1]).any():
        return False
    if vectors.exact_sum(units) > UNITS_MAX >> 1:
        return False
    seconds = (page.word[page.request_ids.starts[part]].byteswap() >> 16) // 1000
    if not state.window_has_room(count, int(seconds.min()), last_decision_time_us):
        return False
    try:
        keys = _keys(page, part)
        instruments = _numbers(state.instruments, page.instruments.within(part), page)
        sources = vectors.int64s(_numbers(state.accounts, page.sources.within(part), page))
        destinations = vectors.int64s(_numbers(state.accounts, page.destinations.within(part), page))
    except (KeyError, UnicodeDecodeError):
        return False
    if (sources == destinations).any() or min(sources.min(), destinations.min()) < 0:
        return False
    units = units.astype(vectors.numpy.int64)
    legs = {instruments[0]: (sources, destinations, units)}
    if len({*instruments}) > 1:
        legs = legs_by_instrument(instruments, sources.tolist(), destinations.tolist(), units.tolist())
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
    principal = principals.common(page.byte)
    if principal is None:
        each = principals.cut(page.data)
        for text in {*each}:
            text.decode()
        return [request_id + text for request_id, text in zip(request_ids.cut(page.data), each, strict=True)]
    principal.decode()
    numpy = vectors.numpy
    keys = numpy.empty((len(request_ids.starts), _REQUEST_ID_BYTES + len(principal)), dtype=numpy.uint8)
    halves = page.word[request_ids.starts[:, None] + numpy.array((0, 8))]
    keys[:, :_REQUEST_ID_BYTES] = halves.view(numpy.uint8)
    keys[:, _REQUEST_ID_BYTES:] = numpy.frombuffer(principal, dtype=numpy.uint8)
    return list(keys.view(f"V{keys.shape[1]}").ravel().tolist())


def _numbers(table: Mapping[str, Account | Instrument], texts: _Texts, page: StoredPage) -> list[int]:
    """Return the numbers of what is named. Names are read as ASCII, and columns of texts drop zeros at the end: others count as unknown."""
    numpy = vectors.numpy
    lengths = texts.stops - texts.starts
    eights = 8 * numpy.arange(lengths.max() + 7 >> 3)
    words = page.word[texts.starts[:, None] + eights] & _below()[(lengths[:, None] - eights).clip(0, 8)]
    if (words & _HIGH_BITS).any() or not page.byte[texts.stops - 1].all():
        raise KeyError("a name beyond ASCII, or that ends in a zero")
    distinct = words[:1] if (words == words[0]).all() else words
    letters = distinct.astype("<u8", copy=False).view(numpy.uint8).astype(numpy.uint32)
    numbers = [table[name].number for name in letters.view(f"U{letters.shape[1]}").ravel().tolist()]
    return numbers if len(distinct) == len(words) else numbers * len(words)

"""Messages of one shape read from their bytes, all at once: numpy columns over protobuf's wire format.

Who reads so knows the shape he looks for, and looks at every tag, length and high bit of it; where one is another, he leaves the messages
to protobuf, which finds what else they say. A text's length is one byte here, so at most 127.
"""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ledger import vectors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ledger.records import Account, Instrument

LENGTH_MAX: Final = 127
"""Of a length in one byte."""
_HIGH_BITS: Final = 0x8080_8080_8080_8080
_ODD: Final = 0x9E37_79B9_7F4A_7C15
"""2^64 over the golden ratio: multiplied with it, neighbours are scattered over the upper bits."""
_SLOT_BITS: Final = 16
_number_of: Final = operator.attrgetter("number")


class Texts(NamedTuple):
    """Where the texts of one field start and stop."""

    starts: Any
    stops: Any

    def within(self, part: slice) -> Texts:
        return Texts(self.starts[part], self.stops[part])


class Wire(NamedTuple):
    """Messages behind each other, and what stands at each of their bytes: the byte, and the two or eight from it on."""

    data: bytes
    starts: Any
    """Of each message."""
    stops: Any
    byte: Any
    pair: Any
    word: Any

    def texts(self, places: Any) -> tuple[Texts, Any]:
        """Return the texts whose lengths stand at these places, and the lengths."""
        lengths = self.byte[places]
        starts = places + 1
        return Texts(starts, starts + lengths), lengths

    def cut(self, texts: Texts) -> list[bytes]:
        """Return texts, cut out one by one."""
        data = self.data
        return [data[start:stop] for start, stop in zip(texts.starts.tolist(), texts.stops.tolist(), strict=True)]

    def common(self, texts: Texts) -> bytes | None:
        """Return the text that all of them are, or None."""
        size = texts.stops[0] - texts.starts[0]
        if (texts.stops - texts.starts != size).any():
            return None
        found = self.byte[texts.starts[:, None] + vectors.numpy.arange(size)]
        return bytes(found[0].tobytes()) if (found == found[0]).all() else None

    def numbers(self, table: Mapping[str, Account | Instrument], texts: Texts) -> Any:
        """Return the numbers of what is named, as a column.

        Raises: KeyError for an unknown name. Names are read as ASCII, and columns of texts drop zeros at the end: others count as unknown.
        """
        numpy = vectors.numpy
        lengths = texts.stops - texts.starts
        count = int(lengths.max()) + 7 >> 3
        words = self.word[texts.starts[:, None] + 8 * numpy.arange(count)] & _masks(count).take(lengths, 0)
        if int(numpy.bitwise_or.reduce(words, None)) & _HIGH_BITS or not self.byte[texts.stops - 1].all():
            raise KeyError("a name beyond ASCII, or that ends in a zero")
        likeness = _likeness(words)
        distinct = numpy.flatnonzero(likeness == numpy.arange(len(words)))
        letters = words[distinct].astype("<u8", copy=False).view(numpy.uint8).astype(numpy.uint32)
        names = letters.view(f"U{letters.shape[1]}").ravel().tolist()
        numbers = numpy.zeros(len(words), dtype=numpy.int64)
        numbers[distinct] = numpy.fromiter(map(_number_of, map(table.__getitem__, names)), numpy.int64, len(names))
        return numbers[likeness]


def lay(messages: Sequence[bytes], reach: int) -> Wire:
    """Put messages behind each other; `reach` is how far beyond a message's start a byte is looked at, whatever its lengths say."""
    numpy = vectors.numpy
    data = b"".join([*messages, bytes(reach)])
    stops = numpy.fromiter(map(len, messages), numpy.int64, len(messages)).cumsum()
    starts = numpy.concatenate(([0], stops[:-1]))
    pair, word = (numpy.ndarray(len(data) - width + 1, f"<u{width}", data, strides=(1,)) for width in (2, 8))  # one at every byte
    return Wire(data, starts, stops, numpy.frombuffer(data, dtype=numpy.uint8), pair, word)


def varints(words: Any, widths: Any) -> tuple[Any, Any]:
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


def _likeness(words: Any) -> Any:
    """Return for each row of words the place of one that is the same, and itself such a one; mostly few are different.

    Rows of one hash are held against the last of them; the few that differ from it stand for themselves.
    """
    numpy = vectors.numpy
    hashes = words[:, 0]
    for place in range(1, words.shape[1]):
        hashes = hashes * _ODD ^ words[:, place]
    slots = hashes * _ODD >> 64 - _SLOT_BITS
    last = numpy.empty(1 << _SLOT_BITS, dtype=numpy.int64)
    last[slots] = numpy.arange(len(words))
    likeness = last[slots]
    others = numpy.flatnonzero((words[likeness] != words).any(axis=1))
    likeness[others] = others
    return likeness


@functools.cache
def _masks(count: int) -> Any:
    """Return what keeps of so many words the first bytes, from none to 255 of them."""
    numpy = vectors.numpy
    return _below()[(numpy.arange(256)[:, None] - 8 * numpy.arange(count)).clip(0, 8)]


@functools.cache
def _below() -> Any:
    """Return the greatest numbers of 0 to 8 bytes."""
    return vectors.numpy.array([(1 << 8 * width) - 1 for width in range(9)], dtype=vectors.numpy.uint64)

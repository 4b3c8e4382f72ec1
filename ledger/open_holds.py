"""The open holds as columns: an exchange has a million open orders, and settles thousands of them with one command.

    holds = OpenHolds()
    row = holds.append(hold)        as a row of no units: not open yet
    holds.units[row] = hold.units
    holds[hold.hold] == hold

A hold is open as long as it has units left, so that to open it, to close it, and to undo either, is to change one cell. Numbers only
grow, so their column is sorted, and a hold is found by halving. Rows of closed holds stay until `tidy`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Mapping
from itertools import compress
from typing import TYPE_CHECKING, Any, Final

from ledger import vectors
from ledger.records import Hold

if TYPE_CHECKING:
    from collections.abc import Iterator

COLUMNS: Final = ("numbers", "instruments", "accounts", "purposes", "expiry_times_us", "units")
"""Of integers; the references stand beside them in a list."""
ROWS_MIN: Final = 8_192
"""From so many rows on it is worth the time to give up those of closed holds."""


class OpenHolds(Mapping[int, Hold]):
    """Holds by their numbers, in the order in which they were opened."""

    __slots__ = (*COLUMNS, "_tidy_at", "references")

    def __init__(self) -> None:
        self.numbers = array("q")
        self.instruments = array("i")
        self.accounts = array("i")
        self.purposes = array("i")
        self.expiry_times_us = array("q")
        self.units = array("q")
        """What is left of each; 0: it is closed."""
        self.references: list[str] = []
        self._tidy_at = ROWS_MIN

    def __getitem__(self, number: int) -> Hold:
        row = self.row_of(number)
        return Hold(
            number,
            self.instruments[row],
            self.accounts[row],
            self.purposes[row],
            self.expiry_times_us[row],
            self.references[row],
            self.units[row],
        )

    def __iter__(self) -> Iterator[int]:
        return compress(self.numbers, self.units)

    def __len__(self) -> int:
        return len(self.units) - self.units.count(0)

    def left(self, number: int) -> int:
        """Return what is left of a hold: nothing of one that is over."""
        try:
            return self.units[self.row_of(number)]
        except KeyError:
            return 0

    def row_of(self, number: int) -> int:
        """Return the row of an open hold.

        Raises: KeyError.
        """
        row = bisect_right(self.numbers, number) - 1
        if row < 0 or self.numbers[row] != number or not self.units[row]:
            raise KeyError(number)
        return row

    def rows_of(self, numbers: Any) -> Any | None:
        """Return the rows of a numpy column of numbers as another, or None if a hold is not open."""
        if not self.numbers:
            return None
        known = vectors.view_of(self.numbers)
        rows = known.searchsorted(numbers, side="right") - 1
        are_open = (rows >= 0) & (known[rows] == numbers) & (vectors.view_of(self.units)[rows] > 0)
        return rows if are_open.all() else None

    def append(self, hold: Hold) -> int:
        """Write a hold into a row of its own and return that; it is open when its units are put there."""
        while self.numbers and self.numbers[-1] >= hold.hold:  # what remains of holds whose booking was undone
            assert not self.units[-1], "numbers of holds only grow"
            for name in (*COLUMNS, "references"):
                getattr(self, name).pop()
        self.numbers.append(hold.hold)
        self.instruments.append(hold.instrument)
        self.accounts.append(hold.account)
        self.purposes.append(hold.purpose)
        self.expiry_times_us.append(hold.expiry_time_us)
        self.units.append(0)
        self.references.append(hold.reference)
        return len(self.units) - 1

    def tidy(self) -> None:
        """Give up the rows of closed holds, each time there are twice as many rows as were kept last; not while anything may be undone."""
        if len(self.units) < self._tidy_at:
            return
        units = self.units
        self.references = list(compress(self.references, units))
        for name in COLUMNS:
            setattr(self, name, vectors.compress(getattr(self, name), units))
        self._tidy_at = 2 * len(self.units) + ROWS_MIN

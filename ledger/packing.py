"""Gather a run of single transfers into one packed entry.

Each transfer of a run is decided on its own, against the books and what the run itself has moved so far. Nothing is booked until the
run is folded as one entry.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from ledger.answers import Booked
from ledger.rules.checks import check_free
from ledger.rules.packed import TRANSFERS_PER_ENTRY_MAX
from ledger.rules.transfers import check_transfer
from stockledger.v1.events_pb2 import Entry
from stockledger.v1.transfers_pb2 import TransfersPacked, TransferUnitsRequest, UnitsTransferred

if TYPE_CHECKING:
    from ledger.rules import Rule
    from ledger.state import State


class Run:
    """Transfers on their way into one entry; all have the entry's decision time."""

    def __init__(self, state: State, rule: Rule, principal: str, now_us: int) -> None:
        self.now_us = now_us
        self.request_ids: dict[bytes, int] = {}
        self.positions: list[int] = []
        self._state = state
        self._rule = rule
        self._principal = principal
        self._packable = rule.name not in state.approval_policies or not state.approval_policies[rule.name].approvals_needed
        self._ids: list[bytes] = []
        self._digests: list[bytes] = []
        self._legs: list[tuple[Any, Any, Any, int]] = []
        self._moved: dict[tuple[int, int], int] = {}
        """(instrument, account) -> units the run has brought, less those it has taken."""

    @property
    def full(self) -> bool:
        return len(self.positions) >= TRANSFERS_PER_ENTRY_MAX

    def takes(self, command: Any) -> bool:
        """True for a transfer with nothing special about it."""
        return self._packable and type(command) is TransferUnitsRequest and not command.reference and not command.validate_only

    def add(self, position: int, command: TransferUnitsRequest, request_id: bytes) -> None:
        """Decide one transfer and take it into the run.

        Raises: what TransferUnits raises.
        """
        state = self._state
        instrument, source, destination, units = check_transfer(state, command, self.now_us)
        moved = self._moved
        giving = (instrument.number, source.number)
        brought = moved.get(giving, 0)
        if state.free(*giving) + brought < units:
            check_free(state, instrument, source, units - brought)
        moved[giving] = brought - units
        taking = (instrument.number, destination.number)
        moved[taking] = moved.get(taking, 0) + units
        content = command.SerializeToString(deterministic=True)
        self._digests.append(hashlib.sha256(self._rule.digest_prefix + content).digest()[:16])
        self._legs.append((instrument, source, destination, units))
        self.request_ids[request_id] = position
        self._ids.append(request_id)
        self.positions.append(position)

    def entry(self) -> Entry:
        """Make the entry of the whole run."""
        legs = self._legs
        packed = TransfersPacked(
            request_ids=b"".join(self.request_ids),
            request_digests=b"".join(self._digests),
            instruments=[leg[0].number for leg in legs],
            sources=[leg[1].number for leg in legs],
            destinations=[leg[2].number for leg in legs],
            units=[leg[3] for leg in legs],
        )
        return Entry(decision_time_us=self.now_us, principal=self._principal, transfers_packed=packed)

    def booked(self, place: int, index: int) -> Booked:
        """Return the result of the transfer at a place of the run, whose entry has this index."""
        return Booked(self._rule, index, 1, place, _Event(self._legs[place]), self.now_us, self._ids[place])


class _Event:
    """The event of one packed transfer, made when somebody looks at it."""

    __slots__ = ("_leg",)

    def __init__(self, leg: tuple[Any, Any, Any, int]) -> None:
        self._leg = leg

    def __getitem__(self, position: int) -> UnitsTransferred:
        if position:
            raise IndexError(position)
        instrument, source, destination, units = self._leg
        return UnitsTransferred(instrument=instrument.symbol, source=source.name, destination=destination.name, units=units)

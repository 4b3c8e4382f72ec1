"""Gather a run of single transfers into one packed entry.

A run is checked on whole columns at once; where that finds the least doubt, each transfer is decided on its own, against the books and
what the run itself has moved so far, and those that are refused are left out. Nothing is booked until the run is folded as one entry.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from google.protobuf.unknown_fields import UnknownFieldSet

from ledger import vectors
from ledger.answers import Booked
from ledger.errors import LedgerError
from ledger.request_ids import AHEAD_MS_MAX, digest_of
from ledger.requested_runs import Requested, read_requests
from ledger.rules import ARITHMETIC_VERSION
from ledger.rules.checks import check_free
from ledger.rules.columns import acceptable_at_once, have_profiles
from ledger.rules.packed import TRANSFERS_PER_ENTRY_MAX, legs_by_instrument
from ledger.rules.runs import Transfers
from ledger.rules.transfers import check_transfer, goes_by_chain
from ledger.sent_transfers import SentTransfers
from stockledger.v1.events_pb2 import Entry
from stockledger.v1.transfers_pb2 import TransfersPacked, TransferUnitsRequest, UnitsTransferred

if TYPE_CHECKING:
    from ledger.rules import Rule
    from ledger.state import State

Identify = Callable[[Any], tuple[bytes, int | None]]
"""Checks what stands around a command; returns its request id, and where it was booked before, if it was."""
_NOBODY = -1
_DAY_US = 86_400_000_000


def read_sent(state: State, commands: Sequence[Any]) -> Requested | None:
    """Return what all commands say where they came as bytes and are plain: read together, each name is looked up once."""
    if isinstance(commands, SentTransfers) and vectors.worthwhile(len(commands)):
        return read_requests(state, commands.requests)
    return None


class Run:
    """Transfers of one principal on their way into one entry; all have the entry's decision time. `index` is that of the entry."""

    def __init__(self, state: State, rule: Rule, principal: str, now_us: int) -> None:
        self.now_us = now_us
        self.index = 0
        self.positions: Any = []
        """Of each transfer of the run: its position among the caller's commands. Columns are lists, or a range and numpy columns."""
        self._entries: list[bytes] = []
        """Of a run that was taken apart."""
        self._state = state
        self._rule = rule
        self._principal = principal
        self._commands: Any = []
        self._requests: list[bytes] = []
        """Serialised, of a run that was taken at once."""
        self._request_ids: list[bytes] = []
        self._instruments: Any = []
        self._sources: Any = []
        self._destinations: Any = []
        self._units: Any = []

    def gather(
        self,
        commands: Sequence[Any],
        start: int,
        identify: Identify,
        outcomes: list[Any],
        *,
        make_id: Callable[[int], bytes],
        read: Requested | None,
    ) -> int:
        """Take transfers with nothing special about them, from a position on; return the position of the first not taken.

        What is refused for its envelope is told in `outcomes`. Accounts and instruments that do not exist are found out later. `read` is
        what all commands say, where that is known.
        """
        policy = self._state.approval_policies.get(self._rule.name)
        if policy is not None and policy.approvals_needed:
            return start
        stop = min(len(commands), start + TRANSFERS_PER_ENTRY_MAX)
        known = None if read is None else read.within(slice(start, stop))
        if self._take_at_once(commands[start:stop], range(start, stop), make_id, known):
            return stop
        return self._gather_each(commands, range(start, stop), identify, outcomes, make_id)

    def _take_at_once(
        self, commands: Sequence[Any], positions: range, make_id: Callable[[int], bytes], read: Requested | None = None
    ) -> bool:
        """Take all commands if all are transfers with nothing special about them, under new request ids or none; else none of them."""
        if not vectors.worthwhile(len(commands)):
            return False
        if not isinstance(commands, SentTransfers) and set(map(type, commands)) != {TransferUnitsRequest}:
            return False
        state, time_ms = self._state, self.now_us // 1000
        requests = commands.requests if isinstance(commands, SentTransfers) else [*map(TransferUnitsRequest.SerializeToString, commands)]
        found = read or read_requests(state, requests)
        if found is None or (state.deployments and not have_profiles(state, found.sources, found.destinations)):
            return False  # of accounts without a profile some may stand at a chain
        request_ids = found.request_ids
        if request_ids is None:
            request_ids = [make_id(time_ms) for _ in positions]
        elif not state.requests.all_new(request_ids, self._principal, time_ms + AHEAD_MS_MAX):
            return False
        self.positions, self._commands, self._requests, self._request_ids = positions, commands, requests, request_ids
        self._instruments, self._sources, self._destinations, self._units = found[1:]
        return True

    def _gather_each(
        self, commands: Sequence[Any], positions: range, identify: Identify, outcomes: list[Any], make_id: Callable[[int], bytes]
    ) -> int:
        """Take transfers one by one; stop at the first with something special about it."""
        time_ms = self.now_us // 1000
        given: set[bytes] = set()
        for position in positions:
            command = commands[position]
            if type(command) is not TransferUnitsRequest or command.reference or command.validate_only:
                return position
            if goes_by_chain(self._state, command.source, command.destination):
                return position
            if command.request_id or command.HasField("not_after_time") or len(UnknownFieldSet(command)):
                try:
                    request_id, location = identify(command)
                except LedgerError as error:
                    outcomes[position] = error
                    continue
                if location is not None or request_id in given or command.HasField("not_after_time"):
                    return position
                given.add(request_id)
            else:
                request_id = make_id(time_ms)
            instrument = self._state.instruments.get(command.instrument)
            source, destination = (self._state.accounts.get(name) for name in (command.source, command.destination))
            self._instruments.append(_NOBODY if instrument is None else instrument.number)
            self._sources.append(_NOBODY if source is None else source.number)
            self._destinations.append(_NOBODY if destination is None else destination.number)
            self._units.append(command.units)
            self._request_ids.append(request_id)
            self.positions.append(position)
            self._commands.append(command)
        return positions.stop

    def take_apart(self, commands: Sequence[Any], start: int, make_id: Callable[[int], bytes]) -> Transfers | None:
        """Take commands that become an entry each, a microsecond after the other, if all are found acceptable at once; else None.

        `start` is the position of the first.

        Rules that change with time do so at the due time of a step, which the last is held against, or from day to day.
        """
        first_us = self.now_us
        last_us = first_us + len(commands) - 1
        policy = self._state.approval_policies.get(self._rule.name)
        if policy is not None and policy.approvals_needed:
            return None
        if first_us // _DAY_US != last_us // _DAY_US or not self._take_at_once(commands, range(start, start + len(commands)), make_id):
            return None
        if not self._state.window_holds(self._request_ids, last_us) or not self._acceptable_at_once(last_us):
            return None
        return Transfers(self._instruments, self._sources, self._destinations, self._units, self._request_ids, self._principal, last_us)

    def entries(self) -> list[bytes]:
        """Make the entries of a run that was taken apart, one a transfer."""
        entry = Entry(principal=self._principal, arithmetic_version=ARITHMETIC_VERSION)
        event = entry.units_transferred
        made = []
        each = zip(itertools.count(self.now_us), self._commands, self._requests, self._request_ids, strict=False)
        for moment_us, command, request, request_id in each:
            entry.decision_time_us, entry.request_id, entry.request_digest = moment_us, request_id, digest_of(TransferUnitsRequest, request)
            event.instrument, event.source, event.destination = command.instrument, command.source, command.destination
            event.units = command.units
            made.append(entry.SerializeToString())
        self._entries = made
        return made

    def decide(self, outcomes: list[Any]) -> None:
        """Decide every transfer of the run in order; those refused are told in `outcomes`, and leave the run."""
        if not self._acceptable_at_once(self.now_us):
            self._decide_each(outcomes)

    def _acceptable_at_once(self, now_us: int) -> bool:
        """Return True only if every transfer is acceptable; instruments do not touch each other, so each is looked at by itself."""
        state = self._state
        if not vectors.worthwhile(len(self.positions)):
            return False
        for number, legs in legs_by_instrument(self._instruments, self._sources, self._destinations, self._units).items():
            symbol = state.instrument_symbols.get(number)
            if symbol is None or not acceptable_at_once(state, state.instruments[symbol], legs, now_us):
                return False
        return True

    def _decide_each(self, outcomes: list[Any]) -> None:
        state = self._state
        moved: dict[tuple[int, int], int] = {}  # (instrument, account) -> what the run has brought, less what it has taken
        kept = []
        for place, command in enumerate(self._commands):
            try:
                instrument, source, destination, units = check_transfer(state, command, self.now_us)
                giving, taking = (instrument.number, source.number), (instrument.number, destination.number)
                brought = moved.get(giving, 0)
                if state.free(*giving) + brought < units:
                    check_free(state, instrument, source, units, brought)
            except LedgerError as error:
                outcomes[self.positions[place]] = error
                continue
            moved[giving] = brought - units
            moved[taking] = moved.get(taking, 0) + units
            kept.append(place)
        if len(kept) < len(self._commands):
            for name in ("positions", "_commands", "_request_ids", "_instruments", "_sources", "_destinations", "_units"):
                column = getattr(self, name)
                setattr(self, name, [column[place] for place in kept])

    def entry(self) -> Entry:
        """Make the entry of the whole run."""
        numbers = self._instruments, self._sources, self._destinations
        fields = [b"".join(self._request_ids), *(vectors.little_endian(column, "i") for column in numbers)]
        fields.append(vectors.little_endian(self._units, "q"))
        packed = TransfersPacked.FromString(b"".join(map(vectors.packed_field, itertools.count(1), fields)))
        return Entry(decision_time_us=self.now_us, principal=self._principal, transfers_packed=packed)

    def booked(self, position: int) -> Booked:
        """Return the result of the command at a position."""
        place = bisect_left(self.positions, position)
        if self._entries:
            entry = Entry.FromString(self._entries[place])
            return Booked(self._rule, self.index + place, 1, 0, [entry.units_transferred], entry.decision_time_us, entry.request_id)
        command = self._commands[place]
        event = UnitsTransferred(instrument=command.instrument, source=command.source, destination=command.destination, units=command.units)
        return Booked(self._rule, self.index, 1, place, [event], self.now_us, self._request_ids[place])

"""A batch on its way to the log: commands decided one after the other on the provisional state, and the entries that come of them.

Each is identified, decided by the rules, turned into entries and folded at once, so that the next one is decided on what it left. Whether
any of it becomes durable is the engine's affair: it appends the entries, or has the state put back.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from ledger import replay, vectors
from ledger.answers import Booked
from ledger.errors import InvalidRequest, LedgerError, refusal
from ledger.identity import identify
from ledger.packing import Run, read_sent
from ledger.request_ids import format_request_id, request_digest
from ledger.rules import ARITHMETIC_VERSION, EVENT_FIELDS, RULES, TOPICS, decide, fold
from ledger.rules.context import Context
from ledger.rules.packed import TRANSFERS_PER_ENTRY_MAX
from ledger.rules.runs import fold_transfers
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.events_pb2 import Entry
from stockledger.v1.transfers_pb2 import TransfersPacked, TransferUnitsRequest, UnitsTransferred

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ledger.log.log import Log
    from ledger.state import State

ENTRY_BYTES_MAX: Final = 65_535


class Batch:
    """Entries decided and not appended yet, with their topics."""

    def __init__(self, state: State, log: Log, make_id: Callable[[int], bytes], now_us: int) -> None:
        self.topics: list[str] = []
        self.entries: list[bytes] = []
        self._state = state
        self._log = log
        self._make_id = make_id
        self._base = state.size
        """The index of the first entry."""
        self._now_us = now_us

    def decide(self, commands: Sequence[Any], principal: str, *, pack: bool) -> Sequence[Any]:
        """Decide commands in order and book them provisionally; return of each what it became: Booked, a LedgerError, or the run it is in.

        Raises: InvalidRequest FIELD_MALFORMED for a principal that cannot be.
        """
        if not 0 < len(principal) <= 128 or not (principal.isascii() or principal.isprintable()):
            raise InvalidRequest(Reason.REASON_FIELD_MALFORMED, "a principal has 1 to 128 characters, all of text", field="principal")
        if pack:
            return self._decide_packed(commands, principal)
        if len(commands) == 1:
            return (self._decide_one(commands[0], principal),)
        if vectors.worthwhile(len(commands)):
            return self._decide_apart(commands, principal)
        return [self._decide_one(command, principal) for command in commands]

    def _decide_apart(self, commands: Sequence[Any], principal: str) -> list[Any]:
        """Decide commands in order, an entry or more each: transfers at once where that is sound, everything else one by one."""
        outcomes: list[Any] = []
        for start in range(0, len(commands), TRANSFERS_PER_ENTRY_MAX):
            page = commands[start : start + TRANSFERS_PER_ENTRY_MAX] if len(commands) > TRANSFERS_PER_ENTRY_MAX else commands
            run = self._book_at_once(page, start, principal) if vectors.worthwhile(len(page)) else None
            if run is not None:
                outcomes += [run] * len(page)
            else:
                outcomes += [self._decide_one(command, principal) for command in page]
        return outcomes

    def _book_at_once(self, commands: Sequence[Any], start: int, principal: str) -> Run | None:
        """Book commands together, an entry each, if all are transfers that can be seen to be acceptable; else do nothing."""
        state = self._state
        run = Run(state, RULES[TransferUnitsRequest], principal, state.next_decision_time_us(self._now_us))
        transfers = run.take_apart(commands, start, self._make_id)
        if transfers is None:
            return None
        run.index = state.size
        entries = run.entries()
        fold_transfers(state, transfers)
        self.topics.extend([TOPICS[UnitsTransferred]] * len(entries))
        self.entries.extend(entries)
        return run

    def _decide_one(self, command: Any, principal: str) -> Booked | LedgerError:
        """Decide one command and book it provisionally, or return why it is refused."""
        state = self._state
        rule = RULES.get(type(command))
        if rule is None:
            raise TypeError(f"{type(command).__name__} is not a command")
        now_us = state.next_decision_time_us(self._now_us)
        digest = request_digest(command)
        try:
            request_id, location = identify(state, command, principal, now_us, self._make_id)
            if location is not None:
                return self._repeat(rule, location, digest, request_id)
            events = decide(state, command, Context(now_us, principal, self._entry))
            if command.validate_only:
                return Booked(rule, -1, 0, 0, events, now_us, request_id)
            return self._book(rule, events, principal=principal, now_us=now_us, request_id=request_id, digest=digest)
        except LedgerError as refused:
            return refused

    def _decide_packed(self, commands: Sequence[Any], principal: str) -> list[Any]:
        """Decide commands in order, booking runs of single transfers as one entry each."""
        state = self._state
        outcomes: list[Any] = [None] * len(commands)
        read = read_sent(state, commands)
        position = 0
        while position < len(commands):
            now_us = state.next_decision_time_us(self._now_us)
            run = Run(state, RULES[TransferUnitsRequest], principal, now_us)
            identify_now = functools.partial(identify, state, principal=principal, now_us=now_us, make_id=self._make_id)
            start = position
            position = run.gather(commands, start, identify_now, outcomes, make_id=self._make_id, read=read)
            run.decide(outcomes)
            if run.positions:
                run.index = state.size
                self._append_entry(run.entry(), TransfersPacked)
                for taken in run.positions:
                    outcomes[taken] = run
            if position == start:
                outcomes[position] = self._decide_one(commands[position], principal)
                position += 1
        return outcomes

    def _book(self, rule: Any, events: list[Any], *, principal: str, now_us: int, request_id: bytes, digest: bytes) -> Booked:
        """Turn events into entries and fold them; all parts of a command are there or none."""
        index = self._state.size
        count = len(events)
        assert count, "a command that is not refused books something"
        for part, event in enumerate(events):
            entry = Entry()  # set field by field: half the time of keyword arguments
            entry.decision_time_us = now_us
            entry.principal = principal
            entry.request_id = request_id
            entry.request_digest = digest
            if count > 1:
                entry.part, entry.part_count = part, count
            entry.arithmetic_version = ARITHMETIC_VERSION
            getattr(entry, EVENT_FIELDS[type(event)]).CopyFrom(event)
            self._append_entry(entry, type(event))
        return Booked(rule, index, count, 0, events, now_us, request_id)

    def _append_entry(self, entry: Entry, event: type[Any]) -> None:
        """Serialise an entry once, for ever, and fold it."""
        data = entry.SerializeToString()
        assert len(data) <= ENTRY_BYTES_MAX, f"an entry of {len(data)} bytes; decide must split it"
        fold(self._state, entry, data)
        self.topics.append(TOPICS[event])
        self.entries.append(data)

    def _repeat(self, rule: Any, location: int, digest: bytes, request_id: bytes) -> Booked:
        """Return the first answer of a request that was booked before."""
        index, position = location >> 16, location & 0xFFFF
        first = self._entry(index)
        booked = replay.booked_request(first, position, lambda n: self._entry(index + n), self._state)
        if booked.digest != digest:
            text = format_request_id(request_id)
            message = f"request id {text} was booked with other content at index {index}"
            raise refusal(Reason.REASON_REQUEST_ID_REUSED, message, request_id=text, index=index)
        count = max(first.part_count, 1)
        return Booked(rule, index, count, position, booked.events, first.decision_time_us, request_id, repeated=True)

    def _entry(self, index: int) -> Entry:
        """Return a booked entry, of the log or of the batch on its way."""
        if not 0 <= index < self._base + len(self.entries):
            raise refusal(Reason.REASON_ENTRY_NOT_FOUND, f"no entry {index}, the log has {self._state.size}", index=index)
        data = self.entries[index - self._base] if index >= self._base else self._log.entry(index)
        return Entry.FromString(data)

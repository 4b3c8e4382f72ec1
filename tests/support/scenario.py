"""given(commands).when(command).then(event) or .raises(reason): rules, told as a story on a real ledger in memory.

    books = Scenario().given(INSTRUMENT, HOLDER, ALICE, BOB).units("AAPLx", "book:alice", 100)
    books.when(transfer(units=40)).then(UnitsTransferred(...))
    books.when(transfer(units=400)).raises("UNITS_INSUFFICIENT")

After every step the invariants of the books are checked, and a refused command must leave no trace. Every batch is read past while it is
flushed.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Self

from ledger import Ledger, LedgerError
from ledger.replay import latest_state
from ledger.rules import EVENT_FIELDS, RULES
from ledger.rules.chains.endings import TAKING, target_key, units_in_transit
from ledger.rules.chains.places import move
from ledger.state import EXTERNAL, ISSUANCE
from stockledger.v1.accounts_pb2 import InvestorClass, OpenAccountRequest, RegisterHolderRequest
from stockledger.v1.approvals_pb2 import ApprovalRequested, ApproveCommandRequest, GrantRoleRequest, Role
from stockledger.v1.instruments_pb2 import Backing, InstrumentKind, RegisterInstrumentRequest

START_US = 1_795_370_400_000_000
"""2026-11-22T18:00:00Z."""


class FixedClock:
    """A clock that moves only when told to."""

    def __init__(self, now_us: int = START_US) -> None:
        self.now_us = now_us
        self.jumped_us = 0

    def wall_us(self) -> int:
        return self.now_us + self.jumped_us

    def monotonic_us(self) -> int:
        return self.now_us - START_US

    def pass_time(self, microseconds: int) -> None:
        """Let time pass, on wall and monotonic clock alike."""
        self.now_us += microseconds

    def jump(self, microseconds: int) -> None:
        """Set the wall clock, as an operator or a faulty time server would."""
        self.jumped_us += microseconds


class Scenario:
    """A ledger in memory with a clock of its own."""

    def __init__(self, **options: Any) -> None:
        self.clock = FixedClock()
        self.books = Ledger.open("sqlite:///:memory:", ledger_id="test", clock=self.clock, **options)
        self.answer: Any = None
        self.error: LedgerError | None = None
        self.booked: list[Any] = []
        backend = self.books.log.backend
        self._flush, backend.append = backend.append, self._read_during_the_flush  # type: ignore[method-assign]

    def _read_during_the_flush(self, *batch: Any) -> None:
        """Read when commands are decided and not durable: who does sees the books as they were, and the batch is booked all the same."""
        durable = latest_state(self.books.log) if self.replayable else None
        assert self.books.look(lambda state: durable is None or state == durable), "a read sees what may never happen"
        self._flush(*batch)

    def given(self, *commands: Any, principal: str = "operator", approver: str = "approver") -> Self:
        """Book commands that must be accepted; what needs approval is approved."""
        for command in commands:
            answer = self.books.execute(command, principal=principal)
            if answer.booking.approval:
                self.books.execute(ApproveCommandRequest(approval=answer.booking.approval), principal=approver)
        self.check()
        return self

    def units(self, instrument: str, account: str, units: int) -> Self:
        """Put units straight onto an account, past issuance rules: for tests of other rules only. Replay does not know them."""
        state = self.books._state
        state.post(state.instruments[instrument].number, ISSUANCE, state.accounts[account].number, units)
        self.replayable = False
        return self

    def at_chain(self, instrument: str, account: str, units: int) -> Self:
        """Put units straight onto an account at a chain, as if they were seen there. Replay does not know them."""
        state = self.books._state
        move(state, state.instruments[instrument], ISSUANCE, state.accounts[account].number, units)
        self.replayable = False
        return self

    replayable = True

    def pass_time(self, seconds: int) -> Self:
        self.clock.pass_time(seconds * 1_000_000)
        return self

    def when(self, command: Any, *, principal: str = "operator", approver: str | None = None) -> Self:
        """Ask for one command. With `approver`, what waits for approval is approved at once, by that principal."""
        before = self.books.size
        self.answer = self.error = None
        try:
            self.answer = self.books.execute(command, principal=principal)
            approval = self.answer.booking.approval if type(command) in RULES else 0
            if approval and approver:
                self.answer = self.books.execute(ApproveCommandRequest(approval=approval), principal=approver)
        except LedgerError as error:
            self.error = error
        self.booked = [getattr(entry, entry.WhichOneof("event")) for _, entry in self.books.tail(before)]
        self.check()
        return self

    def then(self, *events: Any) -> Self:
        """Expect that exactly these events were booked."""
        assert self.error is None, f"refused: {self.error}"
        assert self.booked == list(events), f"booked: {self.booked}"
        return self

    def accepted(self) -> Self:
        """Expect that it was booked, whatever the event."""
        assert self.error is None, f"refused: {self.error}"
        assert self.booked, "nothing was booked"
        return self

    def raises(self, reason: str, **metadata: Any) -> Self:
        """Expect a refusal with this reason (without REASON_), these metadata among its own, and nothing booked."""
        assert self.error is not None, f"booked: {self.booked}"
        assert self.error.reason_name == reason, str(self.error)
        for name, value in metadata.items():
            assert self.error.metadata.get(name) == str(value), self.error.metadata
        assert not self.booked, f"booked in spite of the refusal: {self.booked}"
        return self

    def raises_after_booking(self, reason: str) -> Self:
        """Expect that the command was taken to wait, and its approval refused with this reason."""
        assert self.error is not None, f"booked: {self.booked}"
        assert self.error.reason_name == reason, str(self.error)
        assert [type(event) for event in self.booked] == [ApprovalRequested], f"booked: {self.booked}"
        return self

    def holding(self, instrument: str, account: str) -> int:
        return self.books.holding(instrument, account)

    def check(self) -> None:
        """Check the invariants, and that replaying the log gives the same state."""
        state = self.books._state
        check_invariants(state)
        check_chains(state)
        if self.replayable:
            assert latest_state(self.books.log) == state, "replay gives another state"


def units_left(scenario: Scenario) -> dict[int, int]:
    """Return what is left of each open hold."""
    return {number: hold.units for number, hold in scenario.books._state.holds.items()}


def check_invariants(state: Any) -> None:
    """Check what must hold after every step (DESIGN.md section 3), from the tables alone."""
    for number, symbol in state.instrument_symbols.items():
        book = state.books[number]
        assert sum(book.units) == 0, f"{symbol} does not sum to zero"
        for account, units in enumerate(book.units):
            may_owe = account in (ISSUANCE, EXTERNAL) or state.account_names.get(account, "").startswith("divergence:")
            assert units >= 0 or may_owe, f"{state.account_names[account]} has {units} {symbol}"
            assert 0 <= book.held[account] <= max(units, 0), f"{state.account_names[account]} holds back {book.held[account]} {symbol}"
    held: dict[tuple[int, int], int] = {}
    for hold in state.holds.values():
        key = (hold.instrument, hold.account)
        assert hold.units > 0
        held[key] = held.get(key, 0) + hold.units
    for number in state.instrument_symbols:
        for account, units in enumerate(state.books[number].held):
            assert units == held.get((number, account), 0), "held units are the sum of the holds"


def check_chains(state: Any) -> None:
    """Check the sums that are kept of chains against what they are sums of."""
    there: Counter[tuple[str, str]] = Counter()
    for number, symbol in state.instrument_symbols.items():
        for account, units in enumerate(state.books[number].units):
            place = state.accounts[state.account_names[account]].place if units else ""
            if place in state.chains:
                there[symbol, place] += units
    assert {key: units for key, units in there.items() if units} == state.place_units
    promised: Counter[tuple[int, int]] = Counter()
    onward: Counter[tuple[str, str]] = Counter()
    transit: Counter[tuple[str, str]] = Counter()
    for key, each in state.instructions.items():
        assert key == each.key
        if each.kind in TAKING:
            promised[state.instruments[each.instrument].number, state.accounts[each.source].number] += each.units
            if each.onward and state.accounts[each.onward].place in state.chains:
                onward[each.instrument, state.accounts[each.onward].place] += each.units
        transit[each.instrument, each.chain] += units_in_transit(each)
    assert (promised, onward) == (state.promised, state.onward_units), "what is promised is what open instructions take"
    for (symbol, chain), units in transit.items():
        found = state.holding(state.instruments[symbol].number, state.chains[chain].transit) if symbol else 0
        assert found >= units, f"{found} {symbol} are in transit to {chain}, instructions are to bring {units}"
    for key, targets in state.targets.items():
        assert targets
        assert all(target_key(state.instructions[target]) == key for target in targets), "targets are listed under what they aim at"


assert EVENT_FIELDS, "every event of the rules has its field in Entry"


# ---- things most stories need --------------------------------------------------------------------------------------------------------


def stock(symbol: str = "AAPLx", isin: str = "US0378331005", **changes: Any) -> RegisterInstrumentRequest:
    fields: dict[str, Any] = {
        "symbol": symbol,
        "name": f"{symbol} tokenised",
        "kind": InstrumentKind.INSTRUMENT_KIND_STOCK,
        "underlying_isin": isin,
        "decimals": 8,
        "backing": Backing.BACKING_CUSTODIED,
        "authorised_units": 10**16,
    }
    return RegisterInstrumentRequest(**(fields | changes))


def cash(symbol: str = "USDC", **changes: Any) -> RegisterInstrumentRequest:
    fields: dict[str, Any] = {
        "symbol": symbol,
        "name": f"{symbol} cash",
        "kind": InstrumentKind.INSTRUMENT_KIND_CASH,
        "currency": symbol,
        "decimals": 6,
        "backing": Backing.BACKING_CUSTODIED,
        "authorised_units": 10**16,
    }
    return RegisterInstrumentRequest(**(fields | changes))


def holder(name: str = "h-1", country: str = "DE", investor_class: int = InvestorClass.INVESTOR_CLASS_RETAIL) -> RegisterHolderRequest:
    return RegisterHolderRequest(holder=name, country=country, investor_class=investor_class)


def account(name: str = "book:alice", holder: str = "h-1") -> OpenAccountRequest:
    return OpenAccountRequest(account=name, holder=holder)


def enforcer(principal: str = "enforcer") -> GrantRoleRequest:
    return GrantRoleRequest(principal=principal, role=Role.ROLE_ENFORCER)


def two_holders() -> tuple[Any, ...]:
    """AAPLx and USDC, h-1 with book:alice, h-2 with book:bob, and book:fees of h-3."""
    return (
        stock(),
        cash(),
        holder("h-1"),
        holder("h-2", "FR"),
        holder("h-3", "CH", InvestorClass.INVESTOR_CLASS_INSTITUTION),
        account("book:alice", "h-1"),
        account("book:bob", "h-2"),
        account("book:fees", "h-3"),
    )

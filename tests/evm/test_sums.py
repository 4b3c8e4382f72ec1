"""Any sequence of operations, against a model of plain dicts: holdings, supply, frozen units, and what the log adds up to."""

from __future__ import annotations

import contextlib

import pytest
from evm_market import ALLOTMENT, Market
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from chain_adapters.evm import roles, token_calls
from chain_adapters.evm.codec import encode_call
from chain_adapters.evm.token_calls import Call, Line, Pause
from chain_adapters.evm.token_events import AllotmentSet, FreezeSet, Moved, PausesSet

HOLDERS = ["alice", "bob", "carol", "burner"]
people = st.sampled_from(HOLDERS)
amounts = st.one_of(st.integers(1, 50), st.integers(1, ALLOTMENT + 5))


class TokenModel(RuleBasedStateMachine):
    market: Market

    @initialize()
    def begin(self) -> None:
        self.put_back = contextlib.ExitStack()
        self.put_back.enter_context(self.market.node.put_back())
        self.units = dict.fromkeys(HOLDERS, 0)
        self.frozen = dict.fromkeys(HOLDERS, 0)
        self.whole: set[str] = set()
        self.denied: set[str] = set()
        self.paused = Pause(0)
        self.allotment = ALLOTMENT
        self.done: list[Call] = []

    def teardown(self) -> None:
        if hasattr(self, "put_back"):
            self.put_back.close()

    def supply(self) -> int:
        return sum(self.units.values())

    def free(self, name: str) -> int:
        return 0 if name in self.whole else max(0, self.units[name] - self.frozen[name])

    def attempt(self, call: Call, *, allowed: bool) -> bool:
        """Carry a call out, or see it refused, as the model says."""
        if allowed:
            self.market.do(call)
            self.done.append(call)
        else:
            assert self.market.refused(call)
        return allowed

    @rule(lines=st.lists(st.tuples(people, amounts), min_size=1, max_size=4))
    def mint(self, lines: list[tuple[str, int]]) -> None:
        total = sum(units for _, units in lines)
        allowed = (
            Pause.MINTS not in self.paused and self.supply() + total <= self.allotment and not self.denied & {name for name, _ in lines}
        )
        if self.attempt(token_calls.mint(self.market.lines(*lines)), allowed=allowed):
            for name, units in lines:
                self.units[name] += units

    @rule(units=st.lists(amounts, min_size=1, max_size=4))
    def burn(self, units: list[int]) -> None:
        allowed = Pause.BURNS not in self.paused and sum(units) <= self.free("burner") and "burner" not in self.denied
        if self.attempt(token_calls.burn(self.market.lines(*(("burner", each) for each in units))), allowed=allowed):
            self.units["burner"] -= sum(units)

    @rule(source=people, destination=people, units=st.integers(0, 60))
    def transfer(self, source: str, destination: str, units: int) -> None:
        allowed = Pause.TRANSFERS not in self.paused and units <= self.free(source) and not self.denied & {source, destination}
        data = encode_call("StockToken", "transfer(address,uint256)", self.market[destination], units)
        assert self.market.ask("canTransfer(address,address,uint256)", source, destination, units) is allowed
        if allowed:
            self.market.send(source, self.market.token, data)
            self.units[source] -= units
            self.units[destination] += units
        else:
            assert self.market.refusal("StockToken", source, self.market.token, data)

    @rule(source=people, destination=st.one_of(st.none(), people), units=amounts)
    def force(self, source: str, destination: str | None, units: int) -> None:
        if destination is None:
            call = token_calls.forced_burn(self.market.id(), self.market[source], units, b"order")
            allowed = Pause.BURNS not in self.paused
        else:
            call = token_calls.forced_transfer(self.market.id(), self.market[source], self.market[destination], units, b"order")
            allowed = destination not in self.denied
        free = max(0, self.units[source] - self.frozen[source])
        if self.attempt(call, allowed=allowed and units <= self.units[source]):
            self.frozen[source] -= max(0, units - free)
            self.units[source] -= units
            if destination is not None:
                self.units[destination] += units

    @rule(name=people, units=st.one_of(st.just(0), st.integers(0, 100), st.just(2**248 - 1)))
    def freeze_units(self, name: str, units: int) -> None:
        self.attempt(token_calls.freeze_units(self.market.id(), self.market[name], units, b"order"), allowed=True)
        self.frozen[name] = units

    @rule(name=people)
    def freeze_or_thaw(self, name: str) -> None:
        self.attempt(token_calls.freeze_account(self.market.id(), self.market[name], name not in self.whole, b"order"), allowed=True)
        self.whole ^= {name}

    @rule(bits=st.integers(0, 7))
    def pause(self, bits: int) -> None:
        operations = Pause(bits)
        call = token_calls.set_pauses(self.market.id(), operations, b"halt")
        if self.paused & ~operations:
            assert self.market.refused(call) == "AccessControlUnauthorizedAccount"
            kept = self.paused & operations
            self.market.do(token_calls.set_pauses(self.market.id(), kept, b"over"), "unpauser")
        self.attempt(call, allowed=True)
        self.paused = operations

    @rule(units=st.one_of(st.integers(0, 200), st.just(ALLOTMENT)))
    def allot(self, units: int) -> None:
        self.attempt(token_calls.set_allotment(self.market.id(), units), allowed=True)
        self.allotment = units

    @rule(name=people)
    def list_or_unlist(self, name: str) -> None:
        (self.market.allow if name in self.denied else self.market.deny)(name)
        self.denied ^= {name}

    @precondition(lambda self: self.done)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """Send something again that was carried out: it is always refused, a set of pauses perhaps for the role that it would take now."""
        call = data.draw(st.sampled_from(self.done))
        others = {"AccessControlUnauthorizedAccount"} if call.role == roles.PAUSER else set()
        assert self.market.refused(call) in {"InstructionTaken"} | others

    @invariant()
    def the_chain_is_the_model(self) -> None:
        if not hasattr(self, "units"):
            return
        assert {name: self.market.units(name) for name in HOLDERS} == self.units
        assert self.market.supply() == self.supply()
        frozen = {name: (name in self.whole, self.frozen[name]) for name in HOLDERS}
        assert {name: self.market.ask("freezeOf(address)", name) for name in HOLDERS} == frozen

    @invariant()
    def the_log_adds_up_to_it(self) -> None:
        if not hasattr(self, "units"):
            return
        units: dict[str, int] = {}
        frozen: dict[str, tuple[bool, int]] = {}
        paused, allotment = Pause(0), 0
        for fact in self.market.all_facts():
            match fact:
                case Moved(source, destination, moved):
                    units[source] = units.get(source, 0) - moved
                    units[destination] = units.get(destination, 0) + moved
                case FreezeSet(account, whole, amount):
                    frozen[account] = (whole, amount)
                case PausesSet(value):
                    paused = value
                case AllotmentSet(value):
                    allotment = value
        assert units.pop("", 0) == -self.supply()
        at = {name: self.market[name] for name in HOLDERS}
        assert {name: units.get(at[name], 0) for name in HOLDERS} == self.units
        assert {name: frozen.get(at[name], (False, 0)) for name in HOLDERS} == {
            name: (name in self.whole, self.frozen[name]) for name in HOLDERS
        }
        assert (paused, allotment) == (self.paused, self.allotment)


def run(market: Market, examples: int, steps: int) -> None:
    machine = type("BoundModel", (TokenModel,), {"market": market})
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=steps, deadline=None, print_blob=True))


def test_any_sequence_of_operations(market: Market):
    run(market, 8, 25)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_many_sequences_of_operations(market: Market):
    run(market, 500, 60)


def test_a_line_is_what_the_contract_takes():
    assert Line._fields == ("instruction", "account", "units")

"""Decisions of the ledger and doings of a chain, in any order, against a chain that is a dict.

The chain keeps raw units by account, and what it has done since it was last read. Transactions of ours land in any order of keys, or
fail, or are overtaken; others mint, burn and send as they like. After every step, and whatever happened:

- all holdings of an instrument sum to zero, and replay gives the same state (Scenario.check);
- once read, every account there has in the books what it has on the chain, and so the supply there is the units at that place;
- an instruction ends once at most, and when all is quiet none is left but those that wait for a human.
"""

from __future__ import annotations

from collections import Counter
from hashlib import sha256
from random import Random
from typing import Any

import pytest
from durable import fund
from on_chains import A, B, addresses, bound, change, deploy, omnibus, one_chain, register, set_key, wallet
from primary_market import fill, policy, reserve, settle, subscribe
from readers import BURN, MINT, SHOWN_BY, TRANSFER, Reader, seen
from scenario import Scenario, enforcer, stock, two_holders

from ledger import LedgerError
from ledger.rules.chains.endings import units_in_transit
from ledger.snapshots import decode_state, encode_state
from ledger.verify import check_books
from stockledger.v1.accounts_pb2 import (
    FreezeAccountRequest,
    FreezeHolderRequest,
    RecoverWalletRequest,
    UnfreezeAccountRequest,
    UnfreezeHolderRequest,
)
from stockledger.v1.approvals_pb2 import ApproveCommandRequest
from stockledger.v1.chains_pb2 import (
    AbandonInstructionRequest,
    ChainFailure,
    InstructionState,
    RangeObserved,
    RecordTransactionsRequest,
    ResolveDivergenceRequest,
    Sequence,
    SweepWalletRequest,
    Transaction,
)
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.instruments_pb2 import Backing, HaltInstrumentRequest, ResumeInstrumentRequest
from stockledger.v1.issuance_pb2 import RejectSubscriptionRequest
from stockledger.v1.redemptions_pb2 import RequestRedemptionRequest
from stockledger.v1.transfers_pb2 import ForceTransferRequest, TransferUnitsRequest

CHAINS = (A, B)
WHO = ("alice", "bob", "deposit", "hot", "cold", "stranger", "other")
SCALE = 10**10
BARRED, LACKING = ChainFailure.CHAIN_FAILURE_ACCOUNT_BARRED, ChainFailure.CHAIN_FAILURE_UNITS_INSUFFICIENT
OVER = {
    InstructionState.INSTRUCTION_STATE_FINAL,
    InstructionState.INSTRUCTION_STATE_ABANDONED,
    InstructionState.INSTRUCTION_STATE_SUPERSEDED,
}
OPEN, RECORDED = InstructionState.INSTRUCTION_STATE_OPEN, InstructionState.INSTRUCTION_STATE_RECORDED
ENDS = ["book:alice", "book:bob", *(wallet(who, chain) for who in ("alice", "bob") for chain in CHAINS)]


class PlainChain:
    """A chain as a dict: raw units by (instrument, account)."""

    def __init__(self, books: Scenario, chain: str) -> None:
        self.chain = chain
        self.reader = Reader(books, chain)
        self.raw: Counter[tuple[str, str]] = Counter()
        self.pending: list[Transaction] = []
        self.landed: list[Any] = []
        self.unread: list[Any] = []
        self.barred: set[str] = set()
        self.next_number: Counter[str] = Counter()

    def move(self, kind: int, instrument: str, raw: int, source: str, destination: str) -> bool:
        """Move raw units, or bring them into being, or end them; False: the source has too few."""
        if kind != MINT and self.raw[instrument, source] < raw:
            return False
        if kind != MINT:
            self.raw[instrument, source] -= raw
        if kind != BURN:
            self.raw[instrument, destination] += raw
        return True

    def do(self, kind: int, instrument: str, raw: int, source: str, destination: str) -> None:
        """Let others do something, if the chain lets them."""
        if self.move(kind, instrument, raw, source, destination):
            token = f"{self.chain}/token:{instrument}"
            ends = ("" if kind == MINT else source, "" if kind == BURN else destination)
            self.unread.append(seen(kind, raw, *ends, instrument=instrument, token=token))

    def land(self, state: Any, transaction: Transaction) -> None:
        """Carry out a transaction of ours: all of its instructions, or none."""
        wanted = [state.instructions[tuple(map(int, text.split("-")))] for text in transaction.instructions]
        before, effects, failure = self.raw.copy(), [], 0
        for each in wanted:
            kind = SHOWN_BY.get(each.kind)
            if kind is not None and {each.source, each.destination} & self.barred:
                failure = BARRED
            elif kind is not None and not self.move(kind, each.instrument, each.raw, each.source, each.destination):
                failure = LACKING
            elif kind is not None:
                effects.append(self.reader.effect_of(each, transaction))
        if failure:
            self.raw, effects = before, []
        self.landed.append(self.reader.landed(transaction, failure=failure))
        self.unread += effects


class Chains:
    """One ledger, two chains; each step is drawn from the chances it is given."""

    def __init__(self, random: Random) -> None:
        self.random = random
        books = self.books = Scenario().given(*two_holders(), enforcer(), *one_chain(), register(B), deploy(chain=B), set_key(f"{B}:key"))
        books.given(stock("OMNIx", "US5949181045", backing=Backing.BACKING_OMNIBUS), bound("alice", "h-1", B), bound("bob", "h-2", B))
        books.given(bound("other", "h-1"), bound("other", "h-1", B))
        books.given(omnibus(wallets=[wallet("hot"), wallet("cold")]), *(set_key(wallet(who)) for who in ("hot", "deposit")))
        books.given(addresses((wallet("deposit"), "book:alice"), (wallet("deposit", B), "book:bob")))
        for name in ("book:alice", "book:bob"):
            fund(books.books, "AAPLx", name, 300)
            fund(books.books, "USDC", name, 10_000)
        books.given(*reserve(), policy("FillSubscription"), policy("SettleFill"))
        self.chains = {chain: PlainChain(books, chain) for chain in CHAINS}
        self.ended: Counter[str] = Counter()

    def step(self) -> None:
        """Do one thing that anybody may do."""
        draw, pick = self.random.choice, self.random.randint
        chain, few = draw(CHAINS), pick(1, 30)
        draw(
            [
                *[lambda: self.transfer(draw(ENDS), draw(ENDS), few, pick(1, 4) == 1)] * 6,
                *[lambda: self.withdraw(draw(["alice", "bob"]), few)] * 2,
                *[lambda: self.subscribe(draw([("alice", "book:alice"), ("bob", "book:bob")]), chain, few)] * 3,
                lambda: self.sweep(draw(["hot", "deposit"])),
                lambda: self.redeem(draw([("alice", "book:alice"), ("bob", "book:bob")]), chain, few),
                lambda: self.freeze(draw(["h-1", "h-2"]), draw(ENDS), pick(0, 3)),
                *[lambda: self.freeze(draw(["h-1", "h-2"]), draw(ENDS), draw([1, 3]))] * 4,
                lambda: self.recover(draw(["alice", "bob"]), chain, draw(CHAINS)),
                lambda: self.halt(draw(Operation.values()[1:]), halted=pick(1, 6) == 1),
                lambda: self.halt_on_divergence(chain, halting=pick(1, 4) == 1),
                lambda: self.give_up(pick(0, 50), draw([0, BARRED]), draw(["", "book:alice", wallet("bob", B)])),
                *[self.resolve] * 3,
                *[lambda: self.record(chain, pick(1, 3))] * 8,
                *[lambda: self.land(chain, pick(1, 4))] * 8,
                *[lambda: self.others(chain, draw([TRANSFER] * 6 + [BURN]), draw(WHO), draw(WHO), few)] * 6,
                lambda: self.stolen_key(chain, draw(WHO), few),
                *[lambda: self.others_of_omnibus(draw(WHO), draw(WHO), pick(1, 5 * SCALE), minted=pick(0, 1) == 1)] * 4,
                lambda: self.deny(chain, draw(WHO), barred=pick(1, 3) == 1),
                *[lambda: self.read(chain)] * 6,
            ]
        )()

    def ask(self, command: Any, principal: str = "operator") -> None:
        """Ask, and let it be approved; it may be refused."""
        try:
            answer = self.books.books.execute(command, principal=principal)
            if answer.booking.approval:
                self.books.books.execute(ApproveCommandRequest(approval=answer.booking.approval), principal="approver")
        except LedgerError:
            pass
        self.books.check()

    # ---- what the ledger decides

    def transfer(self, source: str, destination: str, units: int, forced: bool) -> None:
        fields = {"instrument": "AAPLx", "source": source, "destination": destination, "units": units}
        if forced:
            self.ask(ForceTransferRequest(**fields, legal_reference="order 1", cause="seizure"), "enforcer")
        else:
            self.ask(TransferUnitsRequest(**fields))

    def withdraw(self, who: str, units: int) -> None:
        self.ask(TransferUnitsRequest(instrument="OMNIx", source=f"book:{who}", destination=wallet(who), units=units))

    def sweep(self, source: str) -> None:
        self.ask(SweepWalletRequest(instrument="OMNIx", wallet=wallet(source), receiving_wallet=wallet("cold")))

    def redeem(self, who: tuple[str, str], chain: str, units: int) -> None:
        fields = {"instrument": "AAPLx", "account": who[1], "units": units, "cash_instrument": "USDC"}
        self.ask(RequestRedemptionRequest(**fields, wallet=wallet(who[0], chain)))

    def subscribe(self, who: tuple[str, str], chain: str, units: int) -> None:
        """Ask for units at a wallet; fill the oldest order, settle its fills, now and then in the book; or turn it down."""
        if not self.state.subscriptions:
            self.ask(subscribe(account=who[1], receiving_account=wallet(who[0], chain), cash_units=100))
            return
        number, order = min(self.state.subscriptions.items())
        waiting = [each.fill for each in order.fills if not each.settled]
        if waiting:
            self.ask(settle(subscription=number, fill=waiting[0], in_book=units % 5 == 0))
        elif units % 7 == 0:
            self.ask(RejectSubscriptionRequest(subscription=number, cause="x"))
        else:
            terms = {"shares_e8": units, "price_e8": 10**8, "proceeds_account": "book:fees", "fee_units": 0, "last": units % 2 == 1}
            self.ask(fill(subscription=number, **terms))

    def freeze(self, holder: str, account: str, kind: int) -> None:
        self.ask(
            [
                FreezeHolderRequest(holder=holder, legal_reference="x"),
                UnfreezeHolderRequest(holder=holder, legal_reference="x"),
                FreezeAccountRequest(account=account, legal_reference="x"),
                UnfreezeAccountRequest(account=account, legal_reference="x"),
            ][kind]
        )

    def recover(self, who: str, chain: str, other: str) -> None:
        """Recover a lost wallet to another one, at its chain or another, or into the book."""
        account = self.random.choice([f"book:{who}", wallet("other", other)])
        self.ask(RecoverWalletRequest(lost_account=wallet(who, chain), account=account, evidence="x"), "enforcer")

    def halt(self, operation: Any, *, halted: bool) -> None:
        self.ask(
            HaltInstrumentRequest(instrument="AAPLx", operations=[operation], cause="x")
            if halted
            else ResumeInstrumentRequest(instrument="AAPLx", operations=Operation.values()[1:])
        )

    def halt_on_divergence(self, chain: str, *, halting: bool) -> None:
        self.ask(change(chain=chain, halt_on_divergence=halting))

    def resolve(self) -> None:
        """End the oldest divergence; what nobody decided is taken as issued, or redeemed."""
        for number in sorted(self.state.divergences)[:1]:
            divergence = self.state.divergences[number]
            own = self.books.holding(divergence.instrument, f"divergence:{divergence.chain}") if divergence.instrument else 0
            command = ResolveDivergenceRequest(divergence=number, cause="x", units=-own)
            command.bearing_account = "ledger:issuance" if own else ""
            self.ask(command)

    def give_up(self, pick: int, failure: int, account: str) -> None:
        waiting = sorted(self.state.instructions)
        if waiting:
            text = self.state.instructions[waiting[pick % len(waiting)]].text
            size = self.books.books.size
            self.ask(AbandonInstructionRequest(instruction=text, cause="x", failure=failure, return_account=account))
            given_up = any(entry.HasField("instruction_abandoned") for _, entry in self.books.books.tail(size))
            self.ended[text] += given_up and self.find(text) is None  # what came from a chain waits in transit, refused

    # ---- what the worker does

    @property
    def state(self) -> Any:
        return self.books.books._state

    def record(self, chain: str, together: int) -> None:
        """Record what is open and not blocked, some of it together, each wallet's by its own key."""
        plain = self.chains[chain]
        by_key: dict[str, list[Any]] = {}
        for key in sorted(self.state.instructions):
            each = self.state.instructions[key]
            if (each.chain, each.state) == (chain, OPEN):
                by_key.setdefault(each.source if each.instrument == "OMNIx" else f"{chain}:key", []).append(each)
        for key, waiting in by_key.items():
            for first in range(0, len(waiting), together):
                instructions = [each.text for each in waiting[first : first + together]]
                number = plain.next_number[key]
                payload = sha256(f"{key} {number}".encode()).digest()
                transaction = Transaction(key=key, sequence=Sequence(number=number), payload=payload, instructions=instructions)
                before = self.books.books.size
                self.ask(RecordTransactionsRequest(chain=chain, transactions=[transaction]))
                if self.books.books.size > before:
                    plain.next_number[key] += 1
                    plain.pending.append(transaction)

    # ---- what the chain does

    def land(self, chain: str, count: int) -> None:
        """Let the oldest of our transactions land; each is final, done or failed, and not read yet."""
        plain = self.chains[chain]
        for _ in range(min(count, len(plain.pending))):
            plain.land(self.state, plain.pending.pop(0))

    def others(self, chain: str, kind: int, source: str, destination: str, raw: int) -> None:
        plain = self.chains[chain]
        owners = sorted(account for (symbol, account), there in plain.raw.items() if symbol == "AAPLx" and there)
        giver = self.random.choice([*owners * 3, wallet(source, chain)])
        plain.do(kind, "AAPLx", raw, giver, wallet(destination, chain))

    def stolen_key(self, chain: str, destination: str, raw: int) -> None:
        """Mint behind the ledger's back."""
        self.chains[chain].do(MINT, "AAPLx", raw, "", wallet(destination, chain))

    def others_of_omnibus(self, source: str, destination: str, raw: int, *, minted: bool) -> None:
        self.chains[A].do(MINT if minted else TRANSFER, "OMNIx", raw, wallet(source), wallet(destination))

    def deny(self, chain: str, who: str, *, barred: bool) -> None:
        (self.chains[chain].barred.add if barred else self.chains[chain].barred.discard)(wallet(who, chain))

    # ---- what the reader does

    def read(self, chain: str) -> None:
        """Book everything the chain has done, and hold all of it against the books."""
        plain = self.chains[chain]
        events = plain.reader.see(*plain.unread, landed=plain.landed)
        plain.unread, plain.landed = [], []
        for event in events:
            if isinstance(event, RangeObserved):
                for outcome in event.outcomes:
                    over = outcome.state in OVER or (
                        outcome.state == InstructionState.INSTRUCTION_STATE_REFUSED and self.find(outcome.instruction) is None
                    )
                    self.ended[outcome.instruction] += over
        assert all(count <= 1 for count in self.ended.values()), "an instruction ends once"
        assert not any(self.find(text) for text, count in self.ended.items() if count), "what is over is not kept"
        self.agree(plain)

    def find(self, text: str) -> Any:
        return self.state.instructions.get(tuple(map(int, text.split("-"))))

    def agree(self, plain: PlainChain) -> None:
        """Every account has in the books what it has on the chain; of somebody else's token, every wallet of ours."""
        state, number = self.state, self.state.instruments["AAPLx"].number
        there = {account: raw for (symbol, account), raw in plain.raw.items() if symbol == "AAPLx" and raw}
        booked = {
            account.name: state.holding(number, account.number)
            for account in state.accounts.values()
            if account.place == plain.chain and state.holding(number, account.number)
        }
        assert booked == there
        assert state.place_units.get(("AAPLx", plain.chain), 0) == sum(there.values())
        if plain.chain == A:
            ours = {wallet(who) for who in ("hot", "cold", "deposit")}
            held = {address: raw for (_, _, address), raw in state.wallet_raw.items() if raw}
            assert held == {account: raw for (symbol, account), raw in plain.raw.items() if symbol == "OMNIx" and raw and account in ours}
        check_books(state, state.size - 1)
        assert decode_state(encode_state(state)) == state

    def end(self) -> None:
        """Lift all that stands in the way, and go on until all is quiet."""
        for holder in ("h-1", "h-2"):
            self.ask(UnfreezeHolderRequest(holder=holder, legal_reference="x"))
        for account in [each.name for each in self.state.accounts.values() if each.freeze_reference]:
            self.ask(UnfreezeAccountRequest(account=account, legal_reference="x"))
        self.ask(ResumeInstrumentRequest(instrument="AAPLx", operations=Operation.values()[1:]))
        for _ in range(12):
            while self.state.divergences:  # what others did last is read here only
                self.resolve()
            for chain in CHAINS:
                self.record(chain, 1)
                self.land(chain, 100)
                self.read(chain)
        left = [each for each in self.state.instructions.values() if each.state in {OPEN, RECORDED}]
        assert not left, "all that could be done is done"
        in_transit = Counter()
        for each in self.state.instructions.values():
            in_transit[each.instrument, each.chain] += units_in_transit(each)
            assert units_in_transit(each) or each.source in self.state.deposit_addresses, "nothing else is kept once it is refused"
        for chain in CHAINS:
            for symbol in ("AAPLx", "OMNIx"):
                assert self.books.holding(symbol, f"transit:{chain}") == in_transit[symbol, chain], "what is in transit waits for somebody"


def live(seed: int, step_count: int) -> Chains:
    chains = Chains(Random(seed))
    for _ in range(step_count):
        chains.step()
    chains.end()
    return chains


@pytest.mark.parametrize("seed", range(6))
def test_chains_against_plain_dicts(seed: int) -> None:
    live(seed, 400)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_chains_against_plain_dicts_for_long() -> None:
    for seed in range(1_000, 1_100):
        live(seed, 300)

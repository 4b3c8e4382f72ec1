"""A ledger with one instrument on one chain, for the conformance kit: a real ledger in memory, a rig, and the three loops between them.

1,000,000 shares stand behind AAPLx, 1,000 units a share; h-1 has book:alice with 10,000,000 units, h-2 has book:bob. Where the token can,
a unit stands for 1.5 shares of an eighth decimal throughout, so that nobody takes a shown amount for a raw one.
"""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from nacl.signing import SigningKey

from chain_adapters.calls import items_of, open_divergences
from chain_adapters.projector import Projector, Round
from chain_adapters.protocol import ChainUnavailable
from chain_adapters.reader import Read, Reader
from chain_adapters.reconciler import Reconciled, Reconciler
from ledger import Ledger
from ledger.digest import state_digest
from ledger.replay import latest_state
from ledger.rules.checks import utc_text
from ledger.rules.wallets import wallet_text
from stockledger.v1.accounts_pb2 import (
    BindWalletRequest,
    InvestorClass,
    ListRegisterRequest,
    OpenAccountRequest,
    RecoverWalletRequest,
    RegisterHolderRequest,
)
from stockledger.v1.approvals_pb2 import ApproveCommandRequest, GrantRoleRequest, Role
from stockledger.v1.chains_pb2 import (
    ChainCapability,
    ChainKeyRole,
    ChainPosition,
    Deployment,
    DepositAddress,
    Divergence,
    FinalityRule,
    GetChainRequest,
    Instruction,
    InstructionState,
    ListDeploymentsRequest,
    ListInstructionsRequest,
    ListMultiplierChangesRequest,
    ListPlacesRequest,
    ListTransactionsRequest,
    MultiplierChange,
    OpeningHolding,
    OpenTransaction,
    RegisterChainRequest,
    RegisterDeploymentRequest,
    RegisterDepositAddressesRequest,
    SetChainKeyRequest,
)
from stockledger.v1.corporate_actions_pb2 import ActionTerms, AnnounceActionRequest, CashDividend, StockSplit
from stockledger.v1.instruments_pb2 import ActionMethod, Backing, InstrumentKind, RegisterInstrumentRequest, SetMultiplierRequest
from stockledger.v1.issuance_pb2 import IssueUnitsRequest
from stockledger.v1.reserves_pb2 import EvidenceKind, OpenCustodyAccountRequest, RecordEvidenceRequest, RegisterCustodianRequest
from stockledger.v1.transfers_pb2 import ForceTransferRequest, TransferUnitsRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from chain_adapters.protocol import ChainAdapter
    from chain_adapters.rig import Rig

SYMBOL: Final = "AAPLx"
FOREIGN: Final = "MSFTx"
CASH: Final = "USDC"
MISTAKEN: Final = "TSLAx"
DECIMALS: Final = 6
UNITS: Final = 10_000_000
"""What book:alice begins with."""
MULTIPLIER: Final = 15 * 10**17
ALLOTMENT: Final = 5_000_000
ROUNDS_MAX: Final = 400
_CUSTODIAN: Final = SigningKey(bytes([9]) * 32)


class Omnibus(NamedTuple):
    """Somebody else's token, and where ours of it stand."""

    token: str
    hot: str
    deposit: str


class Market:
    """The ledger, the rig, and whatever loops exist just now."""

    def __init__(
        self,
        rig: Rig,
        *,
        leave_out: Collection[ChainCapability.ValueType] = (),
        url: str | None = None,
        store: str = "sqlite:///:memory:",
        halt_on_divergence: bool = False,
    ) -> None:
        self.rig = rig
        self.url = url
        self._adapters: list[ChainAdapter] = []
        self.store = store
        self.books = Ledger.open(store, ledger_id="kit", origin="kit.example/log")
        self.deployment = rig.make_token(SYMBOL, DECIMALS, frozenset(rig.capabilities) - frozenset(leave_out))
        self.token = self.deployment.token
        self.capabilities = frozenset(self.deployment.capabilities)
        self._open_books()
        self._register_chain(halt_on_divergence=halt_on_divergence)

    # ---- set up ---------------------------------------------------------------------------------------------------------------------

    def _open_books(self) -> None:
        self.do(
            GrantRoleRequest(principal="enforcer", role=Role.ROLE_ENFORCER),
            _stock(SYMBOL, "Apple tokenised", "US0378331005", Backing.BACKING_CUSTODIED),
            RegisterHolderRequest(holder="h-1", country="DE", investor_class=InvestorClass.INVESTOR_CLASS_RETAIL),
            RegisterHolderRequest(holder="h-2", country="FR", investor_class=InvestorClass.INVESTOR_CLASS_RETAIL),
            OpenAccountRequest(account="book:alice", holder="h-1"),
            OpenAccountRequest(account="book:bob", holder="h-2"),
            RegisterCustodianRequest(custodian="alpaca", name="Alpaca", public_key=bytes(_CUSTODIAN.verify_key)),
            OpenCustodyAccountRequest(custody_account="alpaca/AAPL-1", custodian="alpaca", isin="US0378331005", instrument=SYMBOL),
            evidence(1_000_000),
            IssueUnitsRequest(instrument=SYMBOL, account="book:alice", units=UNITS, reference="DTC 1"),
        )
        if self.can(ChainCapability.CHAIN_CAPABILITY_MULTIPLIER):
            self.set_multiplier(10**18, MULTIPLIER)

    def _register_chain(self, *, halt_on_divergence: bool) -> None:
        cursor = self.connect().finalised()
        rule = FinalityRule.FINALITY_RULE_CHAIN
        deployment = self.deployment
        self.do(
            RegisterChainRequest(chain=self.rig.chain, name="Under test", finality_rule=rule, cursor=cursor),
            *(SetChainKeyRequest(key=key.key, roles=key.roles, consumed_count=key.consumed_count) for key in self.rig.registered_keys()),
            RegisterDeploymentRequest(
                chain=deployment.chain,
                instrument=SYMBOL,
                token=deployment.token,
                decimals=deployment.decimals,
                kind=deployment.kind,
                capabilities=deployment.capabilities,
                allotment_units=ALLOTMENT,
                halt_on_divergence=halt_on_divergence,
            ),
        )
        self.wallets = [self.make_wallet("h-1"), self.make_wallet("h-2")]

    def make_wallet(self, holder: str = "") -> str:
        """Return the account of a new wallet, bound to a holder unless that is empty."""
        wallet = self.rig.make_wallet()
        if holder:
            signature = self.rig.sign_binding(wallet, wallet_text("kit", wallet, holder))
            self.do(BindWalletRequest(account=wallet, holder=holder, signature=signature))
        return wallet

    def register_wrongly(self, fault: str) -> Deployment:
        """Register another token of ours with decimals that it has not ("decimals"), or where there is none ("nowhere")."""
        made = self.rig.make_token(MISTAKEN, DECIMALS + 1, self.capabilities)
        token = made.token
        if fault == "nowhere":
            token = f"{token.rpartition(':')[0]}:{self.rig.make_wallet().rpartition(':')[2]}"
        self.do(
            _stock(MISTAKEN, "Tesla, registered wrongly", "US88160R1014", Backing.BACKING_CUSTODIED),
            RegisterDeploymentRequest(
                chain=made.chain,
                instrument=MISTAKEN,
                token=token,
                decimals=DECIMALS,
                kind=made.kind,
                capabilities=made.capabilities,
                allotment_units=ALLOTMENT,
            ),
        )
        return made

    def open_omnibus(self, decimals: int, before: Callable[[Omnibus], None] = lambda _: None, *, taken_over: bool = False) -> Omnibus:
        """Hold somebody else's token: in a hot wallet, and at an address that stands for book:bob.

        `before` does what happens on chain before the ledger knows of any of it. With `taken_over` the two are measured, and what they
        hold already is registered with them.
        """
        foreign = self.rig.make_foreign_token(FOREIGN, decimals)
        hot, deposit = self.rig.make_wallet(), self.rig.make_wallet()
        before(Omnibus(foreign.token, hot, deposit))
        self.do(
            _stock(FOREIGN, "Microsoft, somebody else's", "US5949181045", Backing.BACKING_OMNIBUS),
            *(SetChainKeyRequest(key=wallet, roles=[ChainKeyRole.CHAIN_KEY_ROLE_WALLET]) for wallet in (hot, deposit)),
            RegisterDepositAddressesRequest(deposit_addresses=[DepositAddress(deposit_address=deposit, account="book:bob")]),
        )
        request = RegisterDeploymentRequest(
            chain=foreign.chain,
            instrument=FOREIGN,
            token=foreign.token,
            decimals=foreign.decimals,
            kind=foreign.kind,
            capabilities=foreign.capabilities,
            wallets=[hot],
        )
        if taken_over:
            self._measure_openings(request, foreign, [hot, deposit])
        self.do(request)
        return Omnibus(foreign.token, hot, deposit)

    def _measure_openings(self, request: RegisterDeploymentRequest, foreign: Deployment, wallets: list[str]) -> None:
        """Say what wallets hold already, measured at the cursor: the chain is read on to where the node's answer is from."""
        self.rig.finalise()
        self.read()
        adapter = self.connect()
        measured = adapter.measure(foreign, wallets, self.cursor())
        reader = Reader(self.call, adapter)
        while self.cursor().number < measured.position.number:
            reader.read(through_number=measured.position.number)
        request.opening_position.CopyFrom(measured.position)
        request.opening_holdings.extend(
            OpeningHolding(wallet=figure.account, raw=figure.raw) for figure in measured.figures if figure.account and int(figure.raw)
        )

    def can(self, capability: ChainCapability.ValueType) -> bool:
        return capability in self.capabilities

    # ---- the ledger -----------------------------------------------------------------------------------------------------------------

    def do(self, *commands: Any, principal: str = "operator") -> Any:
        """Book commands; what needs approval is approved by another. Return the last answer."""
        answer = None
        for command in commands:
            answer = self.books.execute(command, principal=principal)
            if answer.booking.approval:
                answer = self.books.execute(ApproveCommandRequest(approval=answer.booking.approval), principal="approver")
        return answer

    def call(self, request: Any) -> Any:
        """Ask the ledger as the worker."""
        return self.books.execute(request, principal="worker")

    def transfer(self, source: str, destination: str, units: int) -> None:
        self.do(TransferUnitsRequest(instrument=SYMBOL, source=source, destination=destination, units=units))

    def force_transfer(self, source: str, destination: str, units: int) -> None:
        request = ForceTransferRequest(instrument=SYMBOL, source=source, destination=destination, units=units)
        request.legal_reference, request.cause = "court order 12/2026", "judgment"
        self.do(request, principal="enforcer")

    def recover_wallet(self, lost: str, account: str) -> None:
        self.do(RecoverWalletRequest(lost_account=lost, account=account, evidence="affidavit 2026-117"), principal="enforcer")

    def set_multiplier(self, expected: int, multiplier: int) -> None:
        self.do(SetMultiplierRequest(instrument=SYMBOL, expected_multiplier=str(expected), multiplier=str(multiplier), cause="split"))

    def second_ahead(self, seconds: int) -> int:
        """Return a whole second so far ahead of both the ledger's clock and the chain's, in microseconds since 1970."""
        now_us = max(time.time_ns() // 1000, self.connect().finalised().time.ToMicroseconds())
        return (now_us // 1_000_000 + seconds) * 1_000_000

    def announce_split(self, action: str, execution_us: int, new_shares: int) -> None:
        """Announce a split by the multiplier, so that chains are told ahead of it."""
        self._announce(action, execution_us, ActionTerms(stock_split=StockSplit(new_shares=new_shares, old_shares=1)))

    def announce_dividend(self, action: str, execution_us: int) -> None:
        """Announce 0.25 a share that is reinvested at 227.00 after 30 % tax, by the multiplier: 9,087 shares for every 9,080."""
        cash = InstrumentKind.INSTRUMENT_KIND_CASH
        terms = CashDividend(
            cash_instrument=CASH, cash_per_share_e8=25_000_000, reference_price_e8=22_700_000_000, multiplier_withholding_bps=3000
        )
        self.do(
            RegisterInstrumentRequest(
                symbol=CASH,
                name="USD Coin",
                kind=cash,
                currency="USD",
                decimals=6,
                backing=Backing.BACKING_CUSTODIED,
                authorised_units=10**15,
            )
        )
        self._announce(action, execution_us, ActionTerms(cash_dividend=terms))

    def _announce(self, action: str, execution_us: int, terms: ActionTerms) -> None:
        request = AnnounceActionRequest(action=action, instrument=SYMBOL, method=ActionMethod.ACTION_METHOD_MULTIPLIER, terms=terms)
        request.ex_date = request.record_date = request.payment_date = utc_text(execution_us)[:10]
        request.execution_time.FromMicroseconds(execution_us)
        self.do(request)

    def in_force(self, instrument: str = SYMBOL) -> list[MultiplierChange]:
        """Return what the ledger says took effect on the chain, in order."""
        request = ListMultiplierChangesRequest(instrument=instrument, place=self.rig.chain)
        return list(items_of(self.call, request, "multiplier_changes"))

    def units(self, account: str) -> int:
        """Return what the ledger says an account holds."""
        return self.books.holding(SYMBOL, account)

    def instructions(self, state: InstructionState.ValueType = InstructionState.INSTRUCTION_STATE_UNSPECIFIED) -> list[Instruction]:
        return list(items_of(self.call, ListInstructionsRequest(chain=self.rig.chain, state=state), "instructions"))

    def transactions(self) -> list[OpenTransaction]:
        return list(items_of(self.call, ListTransactionsRequest(chain=self.rig.chain), "transactions"))

    def cursor(self) -> ChainPosition:
        return self.call(GetChainRequest(chain=self.rig.chain)).chain.cursor  # type: ignore[no-any-return]

    def divergences(self) -> tuple[Divergence, ...]:
        return open_divergences(self.call, self.rig.chain)

    # ---- the loops ------------------------------------------------------------------------------------------------------------------

    def connect(self) -> ChainAdapter:
        adapter = self.rig.connect(self.url)
        self._adapters.append(adapter)
        return adapter

    def close(self) -> None:
        """Let go of the ledger and of all adapters that were ever connected."""
        for adapter in self._adapters:
            adapter.close()
        self.books.close()

    def project(self, adapter: ChainAdapter | None = None, call: Callable[[Any], Any] | None = None) -> Round:
        """Do one round with fresh objects, as after a crash."""
        return Projector(call or self.call, adapter or self.connect()).round()

    def read(self, adapter: ChainAdapter | None = None, call: Callable[[Any], Any] | None = None, round_: Round | None = None) -> Read:
        """Read all that is final now, with fresh objects; a chain may go on by itself meanwhile, faster than it is read."""
        reader = Reader(call or self.call, adapter or self.connect())
        satisfied = None if round_ is None else round_.satisfied
        read = reader.read(satisfied=satisfied)
        final = read.final.number
        while read.booked and read.cursor.number < final:
            read = reader.read(satisfied=satisfied)
        return read

    def reconciler(self) -> Iterator[Reconciled]:
        adapter = self.connect()
        return Reconciler(self.call, adapter, Reader(self.call, adapter)).run()

    def reconcile(self) -> tuple[Reconciled, ...]:
        return tuple(self.reconciler())

    def settle(self) -> None:
        """Project and read until nothing is open but what is blocked or refused.

        A node that fails now and then is asked again; everything is made anew each time.
        """
        for _ in range(ROUNDS_MAX):
            done = Round(self.rig.chain)
            with contextlib.suppress(ChainUnavailable):
                done = self.project()
            self.rig.finalise()
            with contextlib.suppress(ChainUnavailable):
                self.read(round_=done)
                if not self.transactions() and not any(_may_go_on(each) for each in self.instructions()):
                    return
        raise AssertionError(f"still open after {ROUNDS_MAX} rounds: {self.instructions()}\n{self.transactions()}")

    def settle_multiplier(self) -> None:
        """Go on until a multiplier that is set counts on the chain too: chains count whole seconds, by a clock of their own."""
        for _ in range(ROUNDS_MAX):
            (deployment,) = self.call(ListDeploymentsRequest(chain=self.rig.chain, instrument=SYMBOL)).deployments
            if not deployment.chain_multiplier.next_multiplier:
                return
            self.rig.finalise()
            self.read()
        raise AssertionError(f"no multiplier in force after {ROUNDS_MAX} rounds")

    # ---- what must hold -------------------------------------------------------------------------------------------------------------

    def check(self, expected: dict[str, int] | None = None) -> None:
        """Hold the ledger against the rig's own look at the chain, and both against what was expected of each account."""
        chain = self.rig.chain
        register = items_of(self.call, ListRegisterRequest(instrument=SYMBOL), "holdings")
        there = {each.account: each.units for each in register if each.account.rpartition(":")[0] == chain}
        for account, units in there.items():
            assert self.rig.holding(self.token, account) == units, f"{account}: {self.rig.holding(self.token, account)} there, {units} here"
        for account, units in (expected or {}).items():
            assert self.units(account) == units, f"{account} has {self.units(account)}, expected {units}"
            if account.rpartition(":")[0] == chain:
                assert self.rig.holding(self.token, account) == units
        assert self.rig.supply(self.token) == sum(there.values()), f"{self.rig.supply(self.token)} there, {there} here"
        place = next(each for each in items_of(self.call, ListPlacesRequest(instrument=SYMBOL), "places") if each.place == chain)
        assert place.units == self.rig.supply(self.token)
        assert state_digest(latest_state(self.books.log)) == self.books.state_digest(), "a replay gives other books"


def _stock(symbol: str, name: str, isin: str, backing: Backing.ValueType) -> RegisterInstrumentRequest:
    return RegisterInstrumentRequest(
        symbol=symbol,
        name=name,
        kind=InstrumentKind.INSTRUMENT_KIND_STOCK,
        underlying_isin=isin,
        decimals=DECIMALS,
        backing=backing,
        authorised_units=10**15,
    )


def _may_go_on(instruction: Instruction) -> bool:
    return instruction.state != InstructionState.INSTRUCTION_STATE_REFUSED and not instruction.blocked_by


def evidence(shares: int, *, share_basis: int = 0) -> RecordEvidenceRequest:
    """Return what a custodian signs: settled shares as of an hour ago, valid for a day; of a basis that grows with each split."""
    now_us = time.time_ns() // 1000
    statement = json.dumps(
        {
            "ledger": "kit",
            "custody_account": "alpaca/AAPL-1",
            "isin": "US0378331005",
            "settled_shares_e8": shares * 10**8,
            "pending_shares_e8": 0,
            "encumbered_shares_e8": 0,
            "as_of_time": utc_text(now_us - 3_600_000_000),
            "valid_until_time": utc_text(now_us + 23 * 3_600_000_000),
            "share_basis": share_basis,
        }
    ).encode()
    signature = _CUSTODIAN.sign(statement).signature
    kind = EvidenceKind.EVIDENCE_KIND_CUSTODIAN_SIGNED
    return RecordEvidenceRequest(kind=kind, signer="alpaca", statement=statement, signature=signature)

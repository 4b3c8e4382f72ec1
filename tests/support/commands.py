"""For every command of the rules, how to think one up that has something to do with the books as they are.

Each maker takes `draw` (of one of `chances`) and the state, and returns a request. Most of what they make is
acceptable; names nobody knows, units of zero and numbers of nothing come up often enough.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import chances as st
import sightings
from google.protobuf.timestamp_pb2 import Timestamp
from nacl.signing import SigningKey
from scenario import cash, stock

from ledger.arithmetic import UNITS_MAX
from ledger.rules.checks import utc_date, utc_text
from ledger.rules.wallets import wallet_text
from stockledger.v1 import (
    accounts_pb2,
    approvals_pb2,
    chains_pb2,
    common_pb2,
    corporate_actions_pb2,
    eligibility_pb2,
    holds_pb2,
    instruments_pb2,
    issuance_pb2,
    redemptions_pb2,
    reserves_pb2,
    settlement_pb2,
    transfers_pb2,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Draw = Callable[[Any], Any]

DAY_US = 86_400_000_000
SYMBOLS = ["AAPLx", "NVDAx"]
CASH = ["USDC", "EURC"]
HOLDERS = ["h-1", "h-2", "h-3", "h-4"]
NAMES = ["book:a", "book:b", "book:c", "book:d", "book:fees"]
PRINCIPALS = ["operator", "enforcer", "approver"]
KEY = SigningKey(bytes([7]) * 32)
WALLET = SigningKey(bytes([9]) * 32)
GENESIS = "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def moment(moment_us: int) -> Timestamp:
    found = Timestamp()
    found.FromMicroseconds(moment_us)
    return found


def wallet_name() -> str:
    number, digits = int.from_bytes(bytes(WALLET.verify_key), "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = _ALPHABET[digit] + digits
    return f"solana:{GENESIS}:{digits}"


def one(draw: Draw, known: Iterable[Any], other: Any) -> Any:
    """Draw something known, seldom something unknown."""
    return draw(st.sampled_from([*sorted(known) * 4, other]))


def few(draw: Draw, most: int = 40) -> int:
    """Draw a count of units: mostly few, seldom none, below zero, or too many."""
    return draw(st.one_of(*[st.integers(1, most)] * 8, st.sampled_from([0, -1, 10**7, UNITS_MAX, UNITS_MAX + 1])))


def symbol(draw: Draw, state: Any) -> str:
    return one(draw, [*SYMBOLS, *state.instruments], "NONEx")


def paper(draw: Draw) -> str:
    return draw(st.sampled_from([*SYMBOLS * 3, *CASH]))


def money(draw: Draw) -> str:
    return draw(st.sampled_from([*CASH * 4, "AAPLx"]))


def name(draw: Draw, state: Any) -> str:
    return one(draw, [*NAMES, *(name for name in state.accounts if not name.startswith("ledger:"))], "book:nobody")


def number_in(draw: Draw, table: Any) -> int:
    return one(draw, table, 999)


def operations(draw: Draw) -> list[Any]:
    return draw(st.lists(st.sampled_from(common_pb2.Operation.values()[1:]), min_size=1, max_size=2))


def later(draw: Draw, state: Any) -> Timestamp:
    """Draw a moment from a little before the last decision to days after it; time passes in steps of that kind."""
    return moment(state.last_decision_time_us + draw(st.sampled_from([-1, 5, 10**6, 10**8, 10**10, 3 * DAY_US])))


def movement(draw: Draw, state: Any) -> dict[str, Any]:
    units = few(draw, draw(st.sampled_from([40, 40, 1200])))
    return {"instrument": paper(draw), "source": name(draw, state), "destination": name(draw, state), "units": units}


def batch(draw: Draw, state: Any) -> Any:
    ends = st.sampled_from([*[account.number for account in state.accounts.values()] * 2, 0, -1, 500])
    rows = draw(st.lists(st.tuples(ends, ends, st.integers(1, 20)), min_size=1, max_size=80))
    sources, destinations, units = zip(*rows, strict=True)
    legs = common_pb2.LegColumns(instrument=symbol(draw, state), sources=sources, destinations=destinations, units=units)
    return transfers_pb2.TransferBatchRequest(legs=[legs])


def plain_batch(draw: Draw, state: Any) -> Any:
    """A batch with nothing wrong but perhaps its units: a ring, long enough for whole columns."""
    numbers = [state.accounts[known].number for known in NAMES if known in state.accounts]
    count = draw(st.sampled_from([1, 3, 50, 60]))
    units = draw(st.lists(st.integers(1, 30), min_size=count, max_size=count))
    ends = [numbers[each % len(numbers)] for each in range(count + 1)]
    legs = common_pb2.LegColumns(instrument=paper(draw), sources=ends[:-1], destinations=ends[1:], units=units)
    return transfers_pb2.TransferBatchRequest(legs=[legs])


def delivery(draw: Draw, state: Any) -> Any:
    """Mostly one instrument against another between two parties; seldom anything."""
    if draw(st.sampled_from([True, False, False, False])):
        movements = [movement(draw, state) for _ in range(draw(st.integers(1, 3)))]
    else:
        buyer, seller = draw(st.sampled_from([NAMES[:2], NAMES[1:3], NAMES[3:]]))
        movements = [
            {"instrument": draw(st.sampled_from(SYMBOLS)), "source": seller, "destination": buyer, "units": draw(st.integers(1, 9))},
            {"instrument": draw(st.sampled_from(CASH)), "source": buyer, "destination": seller, "units": draw(st.integers(1, 9))},
        ]
    return settlement_pb2.SettleDeliveryRequest(movements=[common_pb2.Movement(**each) for each in movements])


def repaid(draw: Draw, state: Any) -> Any:
    holder, instrument, _ = one(draw, state.receivables, ("h-none", "AAPLx", ""))
    account = one(draw, state.accounts_of_holder.get(holder, ()), "book:nobody")
    units = draw(st.sampled_from([1, 1, 2, 500]))
    return transfers_pb2.RepayReceivableRequest(holder=holder, instrument=instrument, account=account, units=units)


def released(draw: Draw, state: Any) -> Any:
    action, account = one(draw, state.owed, ("A-0", 16))
    return corporate_actions_pb2.ReleaseEntitlementRequest(action=action, account=state.account_names[account])


def trades(draw: Draw, state: Any) -> Any:
    instrument, coin = draw(st.sampled_from(SYMBOLS)), draw(st.sampled_from(CASH))
    sells = [hold.hold for hold in state.holds.values() if state.instrument_symbols[hold.instrument] == instrument]
    buys = [hold.hold for hold in state.holds.values() if state.instrument_symbols[hold.instrument] == coin]
    sell, buy = st.sampled_from([*sells * 5, 999]), st.sampled_from([*buys * 5, 999])
    fees = draw(st.booleans())
    rows = draw(
        st.lists(st.tuples(sell, buy, st.integers(1, 9), st.integers(1, 9), st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=4)
    )
    columns = list(zip(*rows, strict=True))
    return settlement_pb2.SettleTradesRequest(
        instrument=instrument,
        cash_instrument=coin,
        sell_holds=columns[0],
        buy_holds=columns[1],
        units=columns[2],
        cash_units=columns[3],
        buyer_fee_units=columns[4] if fees else [],
        seller_fee_units=columns[5] if fees else [],
        fee_account="book:fees" if fees else "",
        each_on_its_own=draw(st.booleans()),
    )


def evidence(state: Any, account: str, settled_shares_e8: int = 10**15, age_us: int = 0, valid_us: int = 30 * DAY_US) -> bytes:
    """Return the statement of a custody account, in today's share basis."""
    known = state.custody_accounts.get(account)
    backed = state.instruments.get(known.instrument) if known is not None else None
    members = {
        "ledger": state.ledger_id,
        "custody_account": account,
        "isin": known.isin if known is not None else "US0378331005",
        "settled_shares_e8": settled_shares_e8,
        "pending_shares_e8": 0,
        "encumbered_shares_e8": 0,
        "as_of_time": utc_text(state.last_decision_time_us - age_us),
        "valid_until_time": utc_text(state.last_decision_time_us + valid_us),
        "share_basis": backed.share_basis if backed is not None else 0,
    }
    return json.dumps(members).encode()


def signed(data: bytes, signature: bytes | None = None) -> Any:
    kind = reserves_pb2.EvidenceKind.EVIDENCE_KIND_CUSTODIAN_SIGNED
    return reserves_pb2.RecordEvidenceRequest(kind=kind, signer="alpaca", statement=data, signature=signature or KEY.sign(data).signature)


def statement(draw: Draw, state: Any) -> Any:
    """Evidence for one of the custody accounts, mostly signed and of enough shares."""
    account = one(draw, state.custody_accounts, "alpaca/none")
    shares = draw(st.sampled_from([10**15, 10**15, 10**9, 0]))
    data = evidence(state, account, shares, draw(st.sampled_from([0, 10**6, DAY_US])), draw(st.sampled_from([DAY_US, 30 * DAY_US])))
    if draw(st.sampled_from([False, False, False, True])):
        imported = reserves_pb2.EvidenceKind.EVIDENCE_KIND_IMPORTED
        return reserves_pb2.RecordEvidenceRequest(kind=imported, statement=data, document_hash=hashlib.sha256(b"letter").digest())
    return signed(data, draw(st.sampled_from([None] * 5 + [bytes(64)])))


def dividend(state: Any, name: str, instrument: str, coin: str, funding: str) -> Any:
    """Announce a dividend by holdings of 0.000007 a share, fixed in five seconds and paid in ten."""
    now = state.last_decision_time_us
    fixing, execution = now + 4_000_000, now + 8_000_000
    command = corporate_actions_pb2.AnnounceActionRequest(
        action=name,
        instrument=instrument,
        ex_date=utc_date(fixing),
        record_date=utc_date(fixing),
        payment_date=utc_date(execution),
        fixing_time=moment(fixing),
        execution_time=moment(execution),
        method=instruments_pb2.ActionMethod.ACTION_METHOD_HOLDINGS,
    )
    terms = command.terms.cash_dividend
    terms.cash_instrument, terms.cash_per_share_e8, terms.funding_account = coin, 700, funding
    terms.withholding.add(country="DE", rate_bps=2637)
    return command


def action(draw: Draw, state: Any) -> Any:
    """Announce a dividend or a split by either method, with its steps falling due soon."""
    now = state.last_decision_time_us
    fixing, execution = now + draw(st.sampled_from([10**6, 10**9])), now + draw(st.sampled_from([2 * 10**9, 10**10]))
    day, pay = utc_date(fixing), utc_date(execution)
    methods = st.sampled_from([instruments_pb2.ActionMethod.ACTION_METHOD_HOLDINGS, instruments_pb2.ActionMethod.ACTION_METHOD_MULTIPLIER])
    method = draw(methods)
    holdings = method == instruments_pb2.ActionMethod.ACTION_METHOD_HOLDINGS
    command = corporate_actions_pb2.AnnounceActionRequest(
        action=f"A-{draw(st.integers(1, 5))}", instrument=draw(st.sampled_from(SYMBOLS)), ex_date=day, method=method
    )
    command.execution_time.CopyFrom(moment(execution))
    if draw(st.booleans()):
        command.record_date, command.payment_date = day, pay
        dividend = command.terms.cash_dividend
        dividend.cash_instrument, dividend.cash_per_share_e8 = draw(st.sampled_from(CASH)), draw(st.sampled_from([1000, 333, 7]))
        dividend.withholding.add(country="DE", rate_bps=2637)
        if holdings:
            dividend.funding_account = draw(st.sampled_from(NAMES))
        else:
            dividend.reference_price_e8 = 200 * 10**8
    else:
        command.terms.stock_split.new_shares, command.terms.stock_split.old_shares = draw(
            st.sampled_from([(10, 1), (3, 2), (1, 3), (1, 1)])
        )
        holdings = False
    if holdings:
        command.fixing_time.CopyFrom(moment(fixing))
    return command


def rule(draw: Draw) -> Any:
    countries = st.lists(st.sampled_from(["DE", "FR", "US"]), max_size=1)
    date = draw(st.sampled_from(["2026-11-01", "2026-11-23", "2026-12-01"]))
    return eligibility_pb2.EligibilityRule(effective_date=date, barred_countries=draw(countries))


def bound(draw: Draw, state: Any) -> Any:
    holder = one(draw, state.holders, "h-none")
    account = draw(st.sampled_from([wallet_name(), *CHAIN_WALLETS]))
    text = wallet_text(state.ledger_id, account, holder).encode()
    return accounts_pb2.BindWalletRequest(account=account, holder=holder, signature=WALLET.sign(text).signature)


def chain(draw: Draw, state: Any) -> Any:
    """Register one of two chains, mostly with a finality that goes with its rule."""
    rule = draw(st.sampled_from(chains_pb2.FinalityRule.values()[1:]))
    depth = draw(st.sampled_from([0 if rule == chains_pb2.FINALITY_RULE_CHAIN else 64] * 5 + [-1]))
    cursor = chains_pb2.ChainPosition(number=draw(st.integers(0, 9)), hash="0x0", time=moment(state.last_decision_time_us))
    name = draw(st.sampled_from(["memory:a", "memory:b"]))
    return chains_pb2.RegisterChainRequest(chain=name, name="A", finality_rule=rule, finality_depth=depth, cursor=cursor)


CHAIN_WALLETS = [f"{chain}:{bytes(WALLET.verify_key).hex()}" for chain in ("memory:a", "memory:b")]
CHAIN_ACCOUNTS = [f"{chain}:{name}" for chain in ("memory:a", "memory:b") for name in ("d1", "d2", "k1")]
"""Addresses of ours, and a key, at each of two chains."""


def openings(draw: Draw, state: Any, chain: str) -> dict[str, Any]:
    """What the wallet of somebody else's token held already, as measured at the cursor or a little off."""
    if chain not in state.chains or draw(st.booleans()):
        return {}
    cursor = state.chains[chain].cursor
    position = chains_pb2.ChainPosition(number=cursor.number + draw(st.sampled_from([0, 0, 0, 0, -1, 1])), hash=cursor.hash)
    position.time.FromMicroseconds(cursor.time_us)
    row = chains_pb2.OpeningHolding(
        wallet=f"{chain}:{draw(st.sampled_from(['k1', 'k1', 'k1', 's1', 'd1']))}",
        raw=draw(st.sampled_from(["5", "37", "40000", "0"])),
        account=draw(st.sampled_from(["", *NAMES])),
    )
    return {"opening_holdings": [row], "opening_position": position}


def deployment(draw: Draw, state: Any) -> Any:
    """Mostly a native token of one of the stocks that can do everything; or somebody else's, in a wallet of ours."""
    chain, symbol = one(draw, state.chains, "memory:none"), draw(st.sampled_from([*SYMBOLS, "OMNIx"]))
    if symbol == "OMNIx":
        return chains_pb2.RegisterDeploymentRequest(
            chain=chain,
            instrument=symbol,
            token=f"{chain}/token:{symbol}",
            decimals=draw(st.sampled_from([3, 3, 3, 1])),
            kind=2,
            capabilities=chains_pb2.ChainCapability.values()[1:],
            wallets=[f"{chain}:k1"],
            halt_on_divergence=draw(st.booleans()),
            **openings(draw, state, chain),
        )
    return chains_pb2.RegisterDeploymentRequest(
        chain=chain,
        instrument=symbol,
        token=f"{chain}/token:{symbol}",
        decimals=draw(st.sampled_from([2, 2, 2, 8])),
        kind=draw(st.sampled_from([1, 1, 1, 1, 2])),
        capabilities=draw(st.sampled_from([chains_pb2.ChainCapability.values()[1:]] * 4 + [[]])),
        allotment_units=draw(st.sampled_from([10**6, 10**6, 500, 10**17])),
        halt_on_divergence=draw(st.booleans()),
    )


def amended_deployment(draw: Draw, state: Any) -> Any:
    instrument, chain = one(draw, state.deployments, ("AAPLx", "memory:none"))
    return chains_pb2.AmendDeploymentRequest(
        chain=chain,
        instrument=instrument,
        **fields(draw, allotment_units=st.sampled_from([0, 10**6, 2 * 10**6]), halt_on_divergence=st.booleans()),
        **(openings(draw, state, chain) if instrument == "OMNIx" else {}),
    )


def recorded(draw: Draw, state: Any) -> Any:
    """Record a round of one or two transactions, mostly of open instructions under the next number of the key."""
    chain = one(draw, state.chains, "memory:none")
    key = f"{chain}:k1"
    waiting = [each.text for each in state.instructions.values() if each.chain == chain]
    number = len([each for each in state.open_transactions.values() if each.key == key])
    known = state.chain_keys.get(key)
    number += known.consumed_count if known is not None else 0
    carried = [draw(st.lists(st.sampled_from([*waiting, "9-9"]), max_size=2)) for _ in range(draw(st.integers(1, 2)))]
    transactions = [
        chains_pb2.Transaction(key=key, sequence=chains_pb2.Sequence(number=number + n), payload=b"p%d" % n, instructions=each)
        for n, each in enumerate(carried)
    ]
    return chains_pb2.RecordTransactionsRequest(chain=chain, transactions=transactions)


def buried(draw: Draw, state: Any) -> Any:
    known = [(each.chain, each.versions[0]) for each in state.open_transactions.values()]
    chain, version = one(draw, known, ("memory:none", chains_pb2.Transaction(key="memory:none:k1").SerializeToString()))
    first = chains_pb2.Transaction.FromString(version)
    number = draw(st.sampled_from([0, 0, 0, 10**9]))
    position = chains_pb2.ChainPosition(number=number, hash="0x0", time=moment(state.last_decision_time_us))
    dead = chains_pb2.DeadTransaction(key=first.key, sequence=first.sequence, proof=1, position=position, found="0x1")
    return chains_pb2.RecordDeadTransactionsRequest(chain=chain, transactions=[dead])


def given_up(draw: Draw, state: Any) -> Any:
    known = [each.text for each in state.instructions.values()]
    return chains_pb2.AbandonInstructionRequest(
        instruction=one(draw, known, "9-9"),
        cause=draw(_CAUSES),
        failure=draw(st.sampled_from([0, 0, 1, 2, 3])),
        return_account=draw(st.sampled_from(["", "", "book:a", name(draw, state)])),
    )


def frozen(draw: Draw, table: Any, other: str) -> str:
    """Draw what is frozen, where anything is."""
    return one(draw, [key for key, record in table.items() if record.freeze_reference], other)


def unfrozen(draw: Draw, state: Any) -> Any:
    known = [(state.instrument_symbols[instrument], state.account_names[account]) for instrument, account in state.frozen_units]
    instrument, account = one(draw, known, ("AAPLx", "book:a"))
    return accounts_pb2.UnfreezeUnitsRequest(instrument=instrument, account=account, legal_reference=draw(_LAW))


def recovered(draw: Draw, state: Any) -> Any:
    """Mostly from one account of a holder to another of the same."""
    pairs = [(lost, kept) for names in state.accounts_of_holder.values() for lost in names for kept in names if lost != kept]
    lost, kept = one(draw, pairs, ("book:a", "book:b"))
    return accounts_pb2.RecoverWalletRequest(lost_account=lost, account=kept, evidence="police report")


def settled_fill(draw: Draw, state: Any) -> Any:
    known = [(number, fill.fill) for number, subscription in state.subscriptions.items() for fill in subscription.fills]
    subscription, fill = one(draw, known, (999, 1))
    return issuance_pb2.SettleFillRequest(subscription=subscription, fill=fill)


def fields(draw: Draw, **choices: Any) -> dict[str, Any]:
    """Draw a value of each field, or leave it unset, but not all of them."""
    return {each: draw(choices[each]) for each in draw(st.subsets(sorted(choices)))}


_I, _A, _P = instruments_pb2, accounts_pb2, approvals_pb2
_T, _R, _C = transfers_pb2, reserves_pb2, corporate_actions_pb2
_S, _D, _H = issuance_pb2, redemptions_pb2, holds_pb2
_CAUSES = st.sampled_from(["news", "", "x" * 141])
_CLASSES = st.sampled_from(_A.InvestorClass.values())
_COUNTRIES = st.sampled_from(["DE", "FR", "US", "de"])
_LAW = st.sampled_from([*["OFAC 2026-11"] * 5, ""])
_FREE_POLICIES = ("IssueUnits", "SettleDelivery", "ForceTransfer", "FillSubscription")

MAKERS: dict[type[Any], Callable[[Draw, Any], Any]] = {
    _I.RegisterInstrumentRequest: lambda draw, _: draw(
        st.sampled_from([stock("MSFTx", "US5949181045"), cash("GBPC"), stock("AAPLx"), stock("BADx", "US0378331006"), stock(decimals=9)])
    ),
    _I.AmendInstrumentRequest: lambda draw, state: _I.AmendInstrumentRequest(
        instrument=symbol(draw, state), **fields(draw, name=st.just("new"), authorised_units=st.sampled_from([5, 10**16, 10**15]))
    ),
    _I.HaltInstrumentRequest: lambda draw, state: _I.HaltInstrumentRequest(
        instrument=symbol(draw, state), operations=operations(draw), cause=draw(_CAUSES)
    ),
    _I.ResumeInstrumentRequest: lambda draw, state: _I.ResumeInstrumentRequest(
        instrument=one(draw, [each.symbol for each in state.instruments.values() if each.halted_operations] or ["AAPLx"], "NONEx"),
        operations=common_pb2.Operation.values()[1:],
    ),
    _I.RetireInstrumentRequest: lambda draw, _: _I.RetireInstrumentRequest(instrument=one(draw, ["MSFTx", "GBPC"], "AAPLx")),
    _A.RegisterHolderRequest: lambda draw, _: _A.RegisterHolderRequest(
        holder=one(draw, HOLDERS, "h 9"), country=draw(_COUNTRIES), investor_class=draw(_CLASSES)
    ),
    _A.AmendHolderRequest: lambda draw, _: _A.AmendHolderRequest(
        holder=one(draw, HOLDERS, "h-none"),
        **fields(draw, country=_COUNTRIES, investor_class=_CLASSES, state=st.sampled_from([1, 1, 1, 2, 3])),
    ),
    _A.OpenAccountRequest: lambda draw, _: _A.OpenAccountRequest(
        account=one(draw, [*NAMES, "book:e", "book:f"], "ledger:x"), holder=one(draw, HOLDERS, "h-none")
    ),
    _A.CloseAccountRequest: lambda draw, _: _A.CloseAccountRequest(account=one(draw, ["book:e", "book:f"], "book:a")),
    _A.FreezeHolderRequest: lambda draw, _: _A.FreezeHolderRequest(holder=one(draw, HOLDERS, "h-none"), legal_reference=draw(_LAW)),
    _A.UnfreezeHolderRequest: lambda draw, state: _A.UnfreezeHolderRequest(
        holder=frozen(draw, state.holders, "h-1"), legal_reference=draw(_LAW)
    ),
    _A.FreezeAccountRequest: lambda draw, state: _A.FreezeAccountRequest(account=name(draw, state), legal_reference=draw(_LAW)),
    _A.UnfreezeAccountRequest: lambda draw, state: _A.UnfreezeAccountRequest(
        account=frozen(draw, state.accounts, "book:a"), legal_reference=draw(_LAW)
    ),
    _A.FreezeUnitsRequest: lambda draw, state: _A.FreezeUnitsRequest(
        instrument=paper(draw), account=name(draw, state), units=few(draw), legal_reference=draw(_LAW)
    ),
    _A.UnfreezeUnitsRequest: unfrozen,
    _A.BindWalletRequest: bound,
    _A.RecoverWalletRequest: recovered,
    eligibility_pb2.SetEligibilityRequest: lambda draw, state: eligibility_pb2.SetEligibilityRequest(
        instrument=symbol(draw, state), rule=rule(draw)
    ),
    _P.SetApprovalPolicyRequest: lambda draw, _: _P.SetApprovalPolicyRequest(
        policy=_P.ApprovalPolicy(command=one(draw, _FREE_POLICIES, "Nothing"), approvals_needed=draw(st.integers(0, 2)))
    ),
    _P.ApproveCommandRequest: lambda draw, state: _P.ApproveCommandRequest(approval=number_in(draw, state.approvals)),
    _P.DeclineCommandRequest: lambda draw, state: _P.DeclineCommandRequest(approval=number_in(draw, state.approvals), cause="no"),
    _P.GrantRoleRequest: lambda draw, _: _P.GrantRoleRequest(principal=draw(st.sampled_from(PRINCIPALS)), role=_P.Role.ROLE_ENFORCER),
    _P.RevokeRoleRequest: lambda draw, _: _P.RevokeRoleRequest(principal=draw(st.sampled_from(PRINCIPALS)), role=_P.Role.ROLE_ENFORCER),
    _T.TransferUnitsRequest: lambda draw, state: _T.TransferUnitsRequest(**movement(draw, state)),
    _T.ForceTransferRequest: lambda draw, state: _T.ForceTransferRequest(
        **movement(draw, state), legal_reference=draw(_LAW), cause="court"
    ),
    _T.TransferBatchRequest: lambda draw, state: (plain_batch if draw(st.booleans()) else batch)(draw, state),
    _T.ReverseTransferRequest: lambda draw, state: _T.ReverseTransferRequest(
        index=draw(st.integers(max(state.size - 12, 0), state.size)), cause="typo", loss_account=draw(st.sampled_from(["", "book:fees"]))
    ),
    _T.RepayReceivableRequest: repaid,
    _H.PlaceHoldRequest: lambda draw, state: _H.PlaceHoldRequest(
        instrument=paper(draw),
        account=name(draw, state),
        units=few(draw),
        purpose=draw(st.sampled_from([1, 1, 1, *_H.HoldPurpose.values()])),
        expiry_time=later(draw, state) if draw(st.booleans()) else None,
    ),
    _H.ExecuteHoldRequest: lambda draw, state: _H.ExecuteHoldRequest(
        hold=number_in(draw, state.holds), destination=name(draw, state), units=few(draw), last=draw(st.booleans())
    ),
    _H.ReleaseHoldRequest: lambda draw, state: _H.ReleaseHoldRequest(
        hold=number_in(draw, state.holds), units=draw(st.sampled_from([0, 1, 5, 50]))
    ),
    _C.TakeDueStepsRequest: lambda draw, _: _C.TakeDueStepsRequest(limit=draw(st.sampled_from([0, 1, -1]))),
    settlement_pb2.SettleDeliveryRequest: delivery,
    settlement_pb2.SettleTradesRequest: trades,
    _R.RegisterCustodianRequest: lambda draw, _: _R.RegisterCustodianRequest(
        custodian=draw(st.sampled_from(["alpaca", "bank"])), name="Custodian", public_key=bytes(KEY.verify_key)
    ),
    _R.RotateCustodianKeyRequest: lambda draw, state: _R.RotateCustodianKeyRequest(
        custodian=one(draw, [known for known in state.custodians if known != "alpaca"] or ["bank"], "none"),
        public_key=bytes(draw(st.sampled_from([KEY, WALLET])).verify_key),
    ),
    _R.OpenCustodyAccountRequest: lambda draw, _: _R.OpenCustodyAccountRequest(
        custody_account=draw(st.sampled_from(["alpaca/1", "alpaca/4", "alpaca/5", "bank/1", "bank/2"])),
        custodian=draw(st.sampled_from(["alpaca", "bank"])),
        isin=draw(st.sampled_from(["US0378331005", "US67066G1040"])),
        instrument=draw(st.sampled_from(SYMBOLS)),
    ),
    _R.RecordEvidenceRequest: statement,
    _R.ConfirmReceiptRequest: lambda draw, state: _R.ConfirmReceiptRequest(
        custody_account=one(draw, state.custody_accounts, "x/1"), shares_e8=few(draw, 10**9), settled_time=later(draw, state), reference="r"
    ),
    _R.ConfirmDeliveryRequest: lambda draw, state: _R.ConfirmDeliveryRequest(
        custody_account=one(draw, state.custody_accounts, "x/1"), shares_e8=few(draw, 10**9), settled_time=later(draw, state), reference="d"
    ),
    _I.SetMultiplierRequest: lambda draw, state: _I.SetMultiplierRequest(
        instrument="AAPLx",
        expected_multiplier=str(state.instruments["AAPLx"].multiplier),
        multiplier=draw(st.sampled_from([str(10**18), str(3 * 10**17), "0"])),
        cause="correction",
    ),
    _S.IssueUnitsRequest: lambda draw, state: _S.IssueUnitsRequest(
        instrument=paper(draw), account=name(draw, state), units=few(draw, 1000)
    ),
    _S.RequestSubscriptionRequest: lambda draw, state: _S.RequestSubscriptionRequest(
        instrument=paper(draw),
        account=name(draw, state),
        cash_instrument=money(draw),
        cash_units=few(draw, 300),
        receiving_account=draw(st.sampled_from(["", "", *CHAIN_WALLETS])),
    ),
    _S.FillSubscriptionRequest: lambda draw, state: _S.FillSubscriptionRequest(
        subscription=number_in(draw, state.subscriptions),
        shares_e8=draw(st.sampled_from([10**6, 2 * 10**6, 12345])),
        price_e8=draw(st.sampled_from([10**5, 10**6])),
        fee_units=draw(st.sampled_from([0, 1])),
        trade_date="2026-11-20",
        settlement_date="2026-11-22",
        proceeds_account=draw(st.sampled_from(NAMES)),
        fee_account=draw(st.sampled_from(NAMES)),
        last=draw(st.booleans()),
    ),
    _S.SettleFillRequest: settled_fill,
    _S.RejectSubscriptionRequest: lambda draw, state: _S.RejectSubscriptionRequest(
        subscription=number_in(draw, state.subscriptions), cause="late"
    ),
    _S.CancelSubscriptionRequest: lambda draw, state: _S.CancelSubscriptionRequest(subscription=number_in(draw, state.subscriptions)),
    _D.RequestRedemptionRequest: lambda draw, state: _D.RequestRedemptionRequest(
        instrument=paper(draw),
        account=name(draw, state),
        units=few(draw, 3 * 10**2),
        cash_instrument=draw(st.sampled_from([*CASH, *CASH, "AAPLx", ""])),
        in_kind=draw(st.booleans()),
        delivery_reference="DTC 1",
    ),
    _D.FillRedemptionRequest: lambda draw, state: _D.FillRedemptionRequest(
        redemption=number_in(draw, state.redemptions),
        shares_e8=draw(st.sampled_from([10**6, 3 * 10**6, 12345])),
        price_e8=draw(st.sampled_from([10**5, 10**6])),
        fee_units=draw(st.sampled_from([0, 1])),
        trade_date="2026-11-20",
        settlement_date="2026-11-22",
    ),
    _D.SettleRedemptionRequest: lambda draw, state: _D.SettleRedemptionRequest(
        redemption=number_in(draw, state.redemptions),
        fill=draw(st.integers(1, 2)),
        paying_account=name(draw, state),
        fee_account="book:fees",
    ),
    _D.DeliverRedemptionRequest: lambda draw, state: _D.DeliverRedemptionRequest(
        redemption=number_in(draw, state.redemptions),
        **draw(st.sampled_from([{"shares": 1}, {"shares": 2}, {"cash_units": 10}, {"shares": 1, "cash_units": 1}])),
        custody_account=one(draw, state.custody_accounts, "x/1"),
        settled_time=moment(state.last_decision_time_us - draw(st.sampled_from([1, 1, -(10**6)]))),
        reference="DTC 1",
    ),
    _D.RejectRedemptionRequest: lambda draw, state: _D.RejectRedemptionRequest(redemption=number_in(draw, state.redemptions), cause="late"),
    _D.CancelRedemptionRequest: lambda draw, state: _D.CancelRedemptionRequest(redemption=number_in(draw, state.redemptions)),
    _C.AnnounceActionRequest: action,
    _C.FixEntitlementsRequest: lambda draw, state: _C.FixEntitlementsRequest(action=one(draw, state.actions, "A-0")),
    _C.ExecuteActionRequest: lambda draw, state: _C.ExecuteActionRequest(action=one(draw, state.actions, "A-0")),
    _C.CancelActionRequest: lambda draw, state: _C.CancelActionRequest(action=one(draw, state.actions, "A-0"), cause="withdrawn"),
    _C.ReleaseEntitlementRequest: released,
    chains_pb2.RegisterChainRequest: chain,
    chains_pb2.AmendChainRequest: lambda draw, state: chains_pb2.AmendChainRequest(
        chain=one(draw, state.chains, "memory:none"), **fields(draw, name=st.sampled_from(["A", "B"]), retired=st.just(True))
    ),
    chains_pb2.RegisterDeploymentRequest: deployment,
    chains_pb2.AmendDeploymentRequest: amended_deployment,
    chains_pb2.SetChainKeyRequest: lambda draw, _: chains_pb2.SetChainKeyRequest(
        key=draw(st.sampled_from(["memory:a:k1", "memory:b:k1", "memory:none:k1"])),
        roles=draw(st.sampled_from([chains_pb2.ChainKeyRole.values()[1:]] * 4 + [[1], []])),
    ),
    chains_pb2.RecordTransactionsRequest: recorded,
    chains_pb2.RecordDeadTransactionsRequest: buried,
    chains_pb2.AbandonInstructionRequest: given_up,
    chains_pb2.RegisterDepositAddressesRequest: lambda draw, state: chains_pb2.RegisterDepositAddressesRequest(
        deposit_addresses=[chains_pb2.DepositAddress(deposit_address=draw(st.sampled_from(CHAIN_ACCOUNTS)), account=name(draw, state))]
    ),
    **sightings.MAKERS,
}  # fmt: skip

"""Opening holdings: what wallets of ours held of somebody else's token before the ledger knew of it.

    command                                  booked with the event
    RegisterDeployment, AmendDeployment      per wallet: external -> an account in the book, or unattributed

From then on the wallet holds that much in the books, and external owes it, so the reserve covers what is owed from the first moment. The
figures are measured by whoever takes over, at a place up to which the reader has been; what moved there since, or was measured wrongly, the
reconciler finds at the cursor, and says with both figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ledger.arithmetic import UNITS_MAX, divide_floor
from ledger.errors import refusal
from ledger.rules.addresses import check_address
from ledger.rules.chains.places import OMNIBUS, raw_of_units
from ledger.rules.chains.ranges import check_cursor, check_raw, position_text
from ledger.rules.chains.registration import check_position
from ledger.rules.checks import (
    OPERATION_TRANSFER,
    check_eligible,
    check_open,
    check_party,
    check_range,
    find_book_account,
)
from ledger.state import EXTERNAL, REMAINDER
from stockledger.v1.chains_pb2 import OpeningHolding
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.records import Account, Chain, Deployment
    from ledger.state import State

OPENINGS_MAX: Final = 100
"""At most 450 bytes each with the longest names: 45,000 of a leaf's 65,535 bytes, beside a deployment's 15,000."""


def _malformed(message: str, value: object) -> Exception:
    return refusal(Reason.REASON_FIELD_MALFORMED, f"opening_holdings {message}", field="opening_holdings", value=value)


def check_opening_fields(command: Any, kind: int) -> None:
    """Refuse opening holdings that are wrong in themselves."""
    openings = command.opening_holdings
    if len(openings) > OPENINGS_MAX:
        message = f"opening_holdings has {len(openings)} items, at most {OPENINGS_MAX} may be"
        raise refusal(Reason.REASON_TOO_MANY_ITEMS, message, field="opening_holdings", count=len(openings), limit=OPENINGS_MAX)
    if command.HasField("opening_position") != bool(openings):
        message = "opening_holdings and opening_position go together: what was held, and where that was measured"
        raise refusal(Reason.REASON_FIELD_MISSING, message, field="opening_position" if openings else "opening_holdings")
    if not openings:
        return
    if kind != OMNIBUS:
        raise _malformed("is set; what is held of a native token is its holders'", "")
    check_position("opening_position", command.opening_position)
    for opening in openings:
        check_address("wallet", opening.wallet, command.chain)
        if check_raw("raw", opening.raw) == 0:
            raise refusal(Reason.REASON_UNITS_NOT_POSITIVE, f"{opening.wallet} held nothing", field="raw", value=0)
        if opening.units:
            raise _malformed("has units, which the ledger counts", opening.units)
    if len({opening.wallet for opening in openings}) < len(openings):
        raise _malformed("names a wallet twice", [opening.wallet for opening in openings])


def check_openings(state: State, command: Any, deployment: Deployment, now_us: int) -> tuple[list[OpeningHolding], int, int]:
    """Return what is booked of each wallet, the units of the remainder, and the dust that is left.

    `deployment` is as it will be: with the wallets that it has from now on.

    Raises: NotFound ACCOUNT_NOT_FOUND; RuleViolated ACCOUNT_RESERVED, PLACE_UNFIT, STATE_UNFIT, EXPECTATION_FAILED, ACTION_DUE,
    INSTRUMENT_HALTED, ACCOUNT_CLOSED, ACCOUNT_FROZEN, HOLDER_*; InvalidRequest UNITS_OUT_OF_RANGE.
    """
    if not command.opening_holdings:
        return [], 0, deployment.dust_raw
    instrument, chain = state.instruments[deployment.instrument], state.chains[deployment.chain]
    credited = [_find_credited(state, opening, chain) for opening in command.opening_holdings]
    for opening in command.opening_holdings:
        _check_new(state, opening.wallet, deployment)
    _check_measured(check_position("opening_position", command.opening_position), chain)
    check_open(instrument, OPERATION_TRANSFER, now_us)
    for account in credited:
        if account.number != chain.unattributed:
            check_party(state, account)
            check_eligible(state, instrument, account, now_us)
    return _counted(state, deployment, command.opening_holdings, credited)


def _find_credited(state: State, opening: OpeningHolding, chain: Chain) -> Account:
    """Return who is credited. A deposit address stands for its account and no other."""
    stands_for = state.deposit_addresses.get(opening.wallet, "")
    if opening.account and stands_for not in ("", opening.account):
        message = f"{opening.wallet} stands for {stands_for}, so {opening.account} is not credited"
        raise refusal(Reason.REASON_STATE_UNFIT, message, wallet=opening.wallet, account=opening.account)
    name = opening.account or stands_for
    return find_book_account(state, name) if name else state.accounts[state.account_names[chain.unattributed]]


def _check_new(state: State, wallet: str, deployment: Deployment) -> None:
    """Refuse what is none of ours, and what is in the books already: its deposits were booked when they were seen."""
    booked = state.wallet_raw.get((deployment.chain, deployment.instrument, wallet), 0)
    ours = wallet in deployment.wallets or wallet in state.deposit_addresses
    if not ours or booked:
        why = f"has {booked} raw in the books" if booked else f"is no wallet of ours for {deployment.instrument}"
        raise refusal(Reason.REASON_STATE_UNFIT, f"{wallet} {why}", account=wallet, state="booked" if booked else "not ours")


def _check_measured(position: Any, chain: Chain) -> None:
    """Refuse figures of beyond the cursor: what came there until then would be read, and booked, once more."""
    if position.number == chain.cursor.number:
        check_cursor("opening_position", position, chain)
    elif position.number > chain.cursor.number:
        expected, found = position_text(chain.cursor), position_text(position)
        message = f"opening_position is {found}, {chain.chain} is read up to {expected}; read on first"
        raise refusal(Reason.REASON_EXPECTATION_FAILED, message, field="opening_position", expected=expected, found=found)


def _counted(
    state: State, deployment: Deployment, openings: Sequence[OpeningHolding], credited: Sequence[Account]
) -> tuple[list[OpeningHolding], int, int]:
    """Count raw units as whole ones, rounded down; what is cut off is dust, of which whole units go to the remainder.

    Example: of 10,000 raw units a unit, 15,000 and 8,000 are one unit and none, and of the 13,000 left one goes to the remainder.
    """
    instrument, scale = state.instruments[deployment.instrument], raw_of_units(state, deployment, 1)
    booked, dust = [], deployment.dust_raw
    for opening, account in zip(openings, credited, strict=True):
        units = check_range("raw", divide_floor(int(opening.raw), scale))
        dust += int(opening.raw) - units * scale
        booked.append(OpeningHolding(wallet=opening.wallet, raw=opening.raw, account=account.name, units=units))
    remainder = divide_floor(dust, scale)
    total = sum(each.units for each in booked) + remainder
    owing = [EXTERNAL, *(chain.divergence for chain in state.chains.values())]
    owed = state.supply(instrument.number) + sum(max(-state.holding(instrument.number, number), 0) for number in owing)
    if owed + total > UNITS_MAX:
        message = f"{total} more units of {instrument.symbol} than the {owed} there are would exceed 2^62"
        raise refusal(Reason.REASON_UNITS_OUT_OF_RANGE, message, field="opening_holdings", value=owed + total)
    return booked, remainder, dust - remainder * scale


def book_openings(state: State, event: Any) -> None:
    """Book opening holdings of a DeploymentRegistered or DeploymentAmended; its dust is in the deployment."""
    deployment = event.deployment
    instrument = state.instruments[deployment.instrument].number
    for opening in event.opening_holdings:
        key = (deployment.chain, deployment.instrument, opening.wallet)
        state.put(state.wallet_raw, key, state.wallet_raw.get(key, 0) + int(opening.raw))
        if opening.units:
            state.post(instrument, EXTERNAL, state.accounts[opening.account].number, opening.units)
    if event.remainder_units:
        state.post(instrument, EXTERNAL, REMAINDER, event.remainder_units)

"""Mistakes that somebody could make in the rules and the engine, each of which a test must catch.

A mutation replaces one piece of text of a file under ledger/, which must stand there exactly once, and names the tests that are to fail.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import ledger

TESTS = Path(__file__).parents[1]


class Mutation(NamedTuple):
    """One mistake: in which file, what becomes what, and which test files look."""

    file: str
    old: str
    new: str
    tests: str


def _of(file: str, tests: str, *pairs: tuple[str, str]) -> list[Mutation]:
    return [Mutation(file, old, new, tests) for old, new in pairs]


MUTATIONS = [
    *_of(
        "rules/transfers.py",
        "rules/test_transfers.py",
        ("if state.free(instrument.number, source.number) < units:", "if state.free(instrument.number, source.number) < units - 1:"),
        ("if source == destination and source:", "if False:"),
        ("if unheld < command.units:", "if False:"),
        ("    check_account_open(destination)\n    unheld", "    unheld"),
    ),
    *_of(
        "rules/checks.py",
        "rules/test_transfers.py rules/test_freezes.py rules/test_eligibility.py rules/test_holds.py rules/test_wallets.py",
        ("    if free < units:", "    if free <= units:"),
        ("    if units <= 0:", "    if units < 0:"),
        ("    if units > UNITS_MAX:", "    if units > UNITS_MAX + 1:"),
        ("    if instrument.retired:", "    if False:"),
        ("    if instrument.halted_operations and operation in instrument.halted_operations:", "    if False:"),
        ("    if account.closed:", "    if False:"),
        ("    if account.freeze_reference:", "    if False:"),
        ("    if holder.freeze_reference:", "    if False:"),
        ("    if holder.state != HolderState.HOLDER_STATE_ACTIVE:", "    if False:"),
        ("        if rule.effective_date <= today:", "        if rule.effective_date < today:"),
        ("    if not rule.admits(holder.country, holder.investor_class):", "    if False:"),
        ('    if account.name.partition(":")[0] in OWN_PLACES:', "    if False:"),
        ("    if account.place != BOOK:", "    if False:"),
        ("    if time.nanos % 1000:", "    if False:"),
        ("        check_eligible(state, instrument, destination, now_us)", "        check_eligible(state, instrument, source, now_us)"),
        ("        check_party(state, source)\n", ""),
        ("        check_party(state, destination)\n", ""),
    ),
    *_of(
        "rules/checks.py",
        "rules/test_chains.py",
        ('frozenset({"ledger", "transit", "divergence", "unattributed"})', 'frozenset({"ledger"})'),
    ),
    *_of(
        "rules/chains/registration.py",
        "rules/test_chains.py",
        ("    if not lowest <= depth <= highest:", "    if False:"),
        ("    if position.number < 0:", "    if False:"),
        ("    if chain.retired:", "    if False:"),
        ('    if changes.get("retired"):', "    if False:"),
        ("    own = (chain.transit, chain.divergence, chain.unattributed)", "    own = (chain.transit, chain.divergence)"),
    ),
    *_of(
        "records.py",
        "rules/test_eligibility.py",
        ("country in self.barred_countries or investor_class", "investor_class"),
    ),
    *_of(
        "state.py",
        "rules/test_transfers.py rules/test_holds.py rules/test_freezes.py rules/test_eligibility.py engine/test_requests.py",
        ("        column[source] = source_before - units", "        column[source] = source_before + units"),
        ("        column[destination] = destination_before + units", "        column[destination] = destination_before + units + 1"),
        ("unheld = book.units[account_number] - book.held[account_number] if", "unheld = book.units[account_number] if"),
        ("        return 0 if frozen is None else frozen.units", "        return 0"),
        ("        return max(clock_us, self.last_decision_time_us + 1)", "        return max(clock_us, self.last_decision_time_us)"),
        ("        if oldest > requests.low_water_second:", "        if oldest < requests.low_water_second:"),
    ),
    *_of(
        "rules/holds.py",
        "rules/test_holds.py rules/test_boundaries.py",
        ("    if now_us >= hold.expiry_time_us:", "    if now_us > hold.expiry_time_us:"),
        ("    if left < units:", "    if left < units - 1:"),
        ("    if hold.purpose not in _OF_CALLERS:", "    if False:"),
        ("    if expiry_time_us <= now_us:", "    if expiry_time_us < now_us:"),
        ("event.units + event.released_units)", "event.units)"),
    ),
    *_of(
        "rules/settlement.py",
        "rules/test_settlement.py",
        ("trade.buy_hold, trade.cash_units + trade.buyer_fee_units)", "trade.buy_hold, trade.cash_units)"),
        ("        state.post(instrument, seller, buyer, trade.units)", "        state.post(instrument, buyer, seller, trade.units)"),
        ("        state.post(cash, buyer, seller, trade.cash_units)", "        state.post(cash, buyer, seller, trade.units)"),
        ("    if 0 < trade.seller_fee_units > trade.cash_units:", "    if False:"),
        ("            if not command.each_on_its_own:", "            if False:"),
        ("        if hold.instrument != instrument.number:", "        if False:"),
    ),
    *_of(
        "rules/columns.py",
        "rules/test_batches.py rules/test_boundaries.py properties/test_columns.py",
        ("    if (spent[sources] <= free).all():", "    if (spent[sources] < free + 2).all():"),
        ("    if units.min() <= 0 or units.max() > UNITS_MAX:", "    if units.max() > UNITS_MAX:"),
        ("    if vectors.exact_sum(units) + largest >= UNITS_MAX:", "    if False:"),
        ("or (sources == destinations).any():", "or False:"),
    ),
    *_of(
        "rules/issuance.py",
        "rules/test_issuance.py",
        ("    if supply + units > authorised:", "    if supply + units >= authorised:"),
        ("    check_reserve(state, instrument, units, now_us)", "    check_reserve(state, instrument, 0, now_us)"),
        ("    if left < cost:", "    if False:"),
        ("    if units == 0:", "    if False:"),
    ),
    *_of(
        "rules/redemptions.py",
        "rules/test_redemptions.py",
        ("    if shares_e8 > left_e8 % SHARES_SCALE:", "    if False:"),
        ("    if command.fee_units > cash_units:", "    if False:"),
        ("    destroy(state, redemption, event.units)\n    cash, paying", "    cash, paying"),
    ),
    *_of(
        "rules/reserves.py",
        "rules/test_reserves.py rules/test_boundaries.py",
        ("    return now_us >= evidence.valid_until_time_us", "    return now_us > evidence.valid_until_time_us"),
        ("    if reserve < needed:", "    if reserve < needed - 1:"),
        ("    if symbol in state.shortfalls:", "    if False:"),
    ),
    *_of(
        "rules/evidence.py",
        "rules/test_reserves.py rules/test_boundaries.py",
        ("    if moment_us > now_us:", "    if False:"),
        ("    if as_of_us <= last.as_of_time_us or ", "    if as_of_us < last.as_of_time_us or "),
        ("    if by_custodian and signer.custodian != account.custodian:", "    if False:"),
        ("    if statement.isin != account.isin:", "    if False:"),
        ("    if basis != instrument.share_basis:", "    if False:"),
        ("    if statement.ledger != ledger_id:", "    if False:"),
    ),
    *_of(
        "rules/reversals.py",
        "rules/test_reversals.py rules/test_boundaries.py",
        ("    if reversed_by is not None:", "    if False:"),
        ("    if command.units > owed:", "    if False:"),
        ("    if account.holder != holder.holder:", "    if False:"),
    ),
    *_of(
        "rules/approvals.py",
        "rules/test_approvals.py rules/test_transfers.py rules/test_wallets.py rules/test_boundaries.py",
        ("    if principal == approval.requester:", "    if False:"),
        ("completed = len(approval.approved_by) + 1 >= approval.approvals_needed", "completed = True"),
        ("    if not any(granted == role for", "    if not any(True for"),
    ),
    *_of(
        "rules/wallets.py",
        "rules/test_wallets.py",
        ("    if not signed:", "    if False:"),
        ("    if lost.holder != account.holder:", "    if False:"),
        ("    check_wallet_signature(state.ledger_id, command)  # before", "    # before"),
    ),
    *_of(
        "rules/addresses.py",
        "rules/test_wallets.py",
        ('        if "0x" + digits != expected:', "        if False:"),
    ),
    *_of(
        "rules/multipliers.py",
        "rules/test_multipliers.py",
        ("    if expected != found:", "    if False:"),
    ),
    *_of(
        "rules/corporate_actions/effects.py",
        "rules/test_stock_split.py rules/test_cash_dividend.py rules/test_corporate_actions.py rules/test_boundaries.py",
        ("        if new_units > old_units:", "        if new_units >= old_units + 2:"),
        ("    assert totals.declared_units == sum(parts)", "    assert totals.declared_units >= 0 * sum(parts) + 1"),
    ),
    *_of(
        "rules/corporate_actions/lifecycle.py",
        "rules/test_corporate_actions.py",
        ("    if account.freeze_reference and destination is not account:", "    if False:"),
        ("    if destination.holder != account.holder:", "    if False:"),
    ),
    *_of(
        "engine.py",
        "engine/test_requests.py engine/test_faults.py engine/test_threads.py",
        ("        if booked.digest != digest:", "        if False:"),
        ("        if location is None:\n            check_not_late", "        if True:\n            check_not_late"),
        ("        if id_time_ms < requests.low_water_second * 1000:", "        if False:"),
        ("and len(submissions) > 1 and not self._unsettled:", "and len(submissions) > 1:"),
        (
            "            now_us = state.next_decision_time_us(batch.now_us)\n            run",
            "            now_us = batch.now_us\n            run",
        ),
        ("requests.find(request_id + principal.encode(), id_time_ms)", "requests.find(request_id, id_time_ms)"),
    ),
    *_of(
        "replay.py",
        "engine/test_requests.py engine/test_threads.py",
        ("middle).decision_time_us <= time_us:", "middle).decision_time_us < time_us:"),
    ),
    *_of(
        "snapshots.py",
        "engine/test_snapshots.py",
        ("    if snapshot.root != log.tree.root_at(snapshot.size):", "    if False:"),
        ("    if snapshot.rules_version != VERSION:", "    if False:"),
    ),
]  # fmt: skip


def find_problem(mutation: Mutation) -> str:
    """Return why a mutation cannot be applied, or nothing."""
    count = (Path(ledger.__file__).parent / mutation.file).read_text().count(mutation.old)
    return "" if count == 1 else f"{mutation.file}: {mutation.old!r} stands there {count} times"


def environment_of(folder: Path) -> dict[str, str]:
    """Return an environment in which the package is the one in this folder, wherever a process starts."""
    own = {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1", "STOCKLEDGER_TEST_TREE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **own}


def is_caught(mutation: Mutation, folder: Path) -> bool:
    """Copy the package, make the mistake, run the tests on the copy; True if one fails."""
    package = folder / "ledger"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(Path(ledger.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    changed = package / mutation.file
    changed.write_text(changed.read_text().replace(mutation.old, mutation.new))
    files = [str(TESTS / name) for name in mutation.tests.split()]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:randomly", *files]
    environment = environment_of(folder)
    result = subprocess.run(command, env=environment, cwd=TESTS.parent, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode in (0, 1), result.stdout + result.stderr
    return result.returncode == 1

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
        "rules/chains/observations.py",
        "rules/test_observations.py rules/test_omnibus.py",
        ("        if sent is None or sent.transaction != seen.transaction:", "        if sent is None:"),
        ("        if int(seen.raw) != wanted.raw:", "        if False:"),
        ("        del self.sent[wanted.key]", "        pass"),
        ("    if version is None or not version.instructions:", "    if version is None:"),
        ("alone=len(carried) == 1)", "alone=True)"),
        ("    elif landed.failure in FOR_EVER and instruction.kind in MOVING:", "    elif landed.failure in FOR_EVER:"),
        ("        outcome.returned_units = returnable_units(walk.state, instruction)", "        outcome.returned_units = 0"),
        ("    if instruction.kind in TARGETS and instruction.state == OPEN:", "    if instruction.state == OPEN:"),
        ("    if not walk.can_count(instrument, lacking):", "    if False:"),
        ("    if claimed is None or not claimed.legal_reference:", "    if True:"),
        ("    if seen.transaction in ours.transactions:", "    if False:"),
        ("    if reserve < owed:", "    if False:"),
        ("    if raw - units * scale:", "    if True:"),
        ("        if sha256(version.payload).digest() == digest:", "        if True:"),
        ("    ours.closed.add(sequence)", "    pass"),
    ),
    *_of(
        "rules/chains/walks.py",
        "rules/test_observations.py rules/test_omnibus.py",
        ("        return owed + units <= UNITS_MAX", "        return owed + units < UNITS_MAX"),
        ("        return self.state.promised.get(key, 0) - self._released[key]", "        return self.state.promised.get(key, 0)"),
        ("            if left < self.promised(instrument, giver.number):", "            if False:"),
        ("            if left < self.state.frozen(instrument.number, giver.number):", "            if False:"),
        ("        if operation in instrument.halted_operations:", "        if False:"),
        ("            if used + needed > PART_BYTES_MAX:", "            if False:"),
    ),
    *_of(
        "rules/chains/ranges.py",
        "rules/test_observations.py rules/test_divergences.py",
        ("    if (found.number, found.hash) != (chain.cursor.number, chain.cursor.hash):", "    if found.number != chain.cursor.number:"),
        ("        if not before < place or place[0] > last_number:", "        if not before <= place or place[0] > last_number:"),
        ("        if not before < place or place[0] > last_number:", "        if not before < place:"),
        ("    _check_history(state, chain)\n    return", "    return"),
    ),
    *_of(
        "rules/chains/divergences.py",
        "rules/test_divergences.py",
        ("            if (instrument, account, kind) in self._open:", "            if False:"),
        ("        if each.chain == chain.chain and not each.halting and", "        if each.chain == chain.chain and"),
        ("    if not 0 < abs(units) <= (-there if units > 0 else there):", "    if False:"),
        ("        check_free(state, instrument, bearing, units)", "        pass"),
        ("        if divergence.kind != HISTORY_CHANGED:", "        if False:"),
    ),
    *_of(
        "rules/chains/omnibus.py",
        "rules/test_omnibus.py",
        ("    if not 0 < needed <= free:", "    if not 0 < needed <= there:"),
        ("    check_place_open(state, chain.chain, deployment.instrument)", "    pass"),
        ("            raw += held * 10 ** (finest - deployment.decimals)", "            raw += held"),
        ("(command.receiving_wallet, command.receiving_wallet in deployment.wallets)", "(command.receiving_wallet, True)"),
    ),
    *_of(
        "rules/chains/anchors.py",
        "rules/test_omnibus.py",
        ("    if size <= newest:", "    if size < newest:"),
        ("    if not 0 < int(size) <= state.size:", "    if False:"),
        ("lines[0] == state.origin and", "True and"),
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
        "rules/issuance.py",
        "rules/test_subscriptions_at_chains.py",
        ("        check_allotment(state, deployment, units)", "        pass"),
        ("        check_place_open(state, deployment.chain, deployment.instrument)", "        pass"),
        ("        check_own_wallet(state, wallet, account)", "        pass"),
        ("    check_party(state, receiver)", "    pass"),
        ("receiver = state.chains[event.chain].transit if event.chain else", "receiver ="),
    ),
    *_of(
        "rules/chains/projection.py",
        "rules/test_subscriptions_at_chains.py",
        ("decided, origin=event.account, owner=wallet)", "decided, origin=ISSUANCE_NAME, owner=wallet)"),
        ("decided, origin=event.account, owner=wallet)", "decided, origin=event.account, owner=event.account)"),
    ),
    *_of(
        "rules/chains/openings.py",
        "rules/test_openings.py",
        ("    if not ours or booked:", "    if not ours:"),
        ("    if not ours or booked:", "    if booked:"),
        ("    elif position.number > chain.cursor.number:", "    elif False:"),
        ('        check_cursor("opening_position", position, chain)', "        pass"),
        ("    if owed + total > UNITS_MAX:", "    if total > UNITS_MAX + 1:"),
        ("    return booked, remainder, dust - remainder * scale", "    return booked, remainder, dust"),
        ("            check_party(state, account)", "            pass"),
        ("    if opening.account and stands_for not in", "    if False and stands_for not in"),
    ),
    *_of(
        "rules/chains/in_force.py",
        "rules/test_in_force.py rules/test_divergences.py",
        ("    return abs(found - wanted) << _F64_BITS <= wanted", "    return found == wanted"),
        (" or (term.until_us is not None and effective_us >= term.until_us)", ""),
        ("        if not exact or abs(effective_us - term.from_us) < CHAIN_CLOCK_US:", "        if True:"),
        ("term.told_ahead and term.from_us > deployment.registered_time_us", "term.told_ahead"),
        ("        told_ahead=scheduled is not None and scheduled.action == event.action,", "        told_ahead=False,"),
    ),
    *_of(
        "rules/redemptions.py",
        "rules/test_redemptions.py",
        ("    if shares_e8 > left_e8 % SHARES_SCALE:", "    if False:"),
        ("    if command.fee_units > cash_units:", "    if False:"),
        ("    destroy(state, redemption, event.units)\n    cash, paying", "    cash, paying"),
        ("    if cash_units > left:", "    if cash_units > left + 1:"),
        ("    check_kind(instrument, cash=command.cash_units > 0)\n", ""),
        ("units, shares_e8 = command.cash_units, check_paid_out", "units, shares_e8 = command.cash_units - 1, check_paid_out"),
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
        ("    if not lost.holder or lost.holder != account.holder:", "    if False:"),
        ("    check_wallet_signature(state.ledger_id, command)  # before", "    # before"),
    ),
    *_of(
        "rules/chains/deployments.py",
        "rules/test_deployments.py rules/test_crossings.py",
        ("    if others + allotment_units > instrument.authorised_units:", "    if allotment_units > instrument.authorised_units:"),
        ("    if allotment_units < there:", "    if False:"),
    ),
    *_of(
        "rules/chains/places.py",
        "rules/test_crossings.py rules/test_instructions.py",
        ("    if there + units > deployment.allotment_units:", "    if there + units >= deployment.allotment_units:"),
        (" + transit + state.onward_units.get(key, 0)", " + transit"),
        ("        if place in state.chains:", "        if False:"),
    ),
    *_of(
        "rules/chains/crossings.py",
        "rules/test_crossings.py",
        ("check_free(state, instrument, account, units, frozen - promised)", "check_free(state, instrument, account, units, frozen)"),
        ("    if source.place != BOOK:\n        return\n", ""),
        ("    crossing.check_places(state)\n    check_party(state, crossing.source)", "    check_party(state, crossing.source)"),
        ("    check_party(state, crossing.destination)\n", ""),
        ("    if crossing.giving is not None:\n        check_open(instrument, Operation.OPERATION_REDEEM, now_us)\n", ""),
    ),
    *_of(
        "rules/chains/instructions.py",
        "rules/test_instructions.py rules/test_transactions.py",
        ("    if halting(state, instruction.chain, instruction.instrument):", "    if False:"),
        ("    if instruction.legal_reference:", "    if True:"),
        ("if state.instructions[older].state != RECORDED and not waits:", "if not waits:"),
        ("if state.instructions[older].state != RECORDED and not waits:", "if state.instructions[older].state != RECORDED:"),
        ("    if instruction.state == RECORDED:", "    if False:"),
        ("    if command.failure and command.failure not in FOR_EVER:", "    if False:"),
        ("    if event.failure and stays_refused(state, instruction, event.returned_units):", "    if False:"),
    ),
    *_of(
        "rules/chains/projection.py",
        "rules/test_instructions.py rules/test_crossings.py",
        ("return ALL_OPERATIONS if Operation.OPERATION_TRANSFER in halted else", "return ALL_OPERATIONS if halted else"),
        ("        frozen = is_frozen(state, account)\n", "        frozen = True\n"),
    ),
    *_of(
        "rules/chains/transactions.py",
        "rules/test_transactions.py",
        ("(consumed or sequence in state.open_transactions)):", "consumed):"),
        ("(consumed or sequence in state.open_transactions)):", "sequence in state.open_transactions):"),
        ("    if dead.position.number > chain.cursor.number:", "    if False:"),
        ("        elif dead.searched_from_number > opened.cursor_number:", "        elif False:"),
        ("        if key is None or (key.retired and instructions):", "        if key is None:"),
        ("            fits = RECORDED if transaction.replacement else OPEN", "            fits = instruction.state"),
    ),
    *_of(
        "rules/corporate_actions/lifecycle.py",
        "rules/test_instructions.py",
        ("        units_of.pop(state.chains[chain].transit, 0)", "        pass"),
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
        ("and len(submissions) > 1 and not self._unsettled:", "and len(submissions) > 1:"),
    ),
    *_of(
        "rules/chains/crossings.py",
        "rules/test_observations.py",
        ("in state.deposit_addresses and not forced:", "in state.deposit_addresses:"),
    ),
    *_of(
        "rules/chains/endings.py",
        "rules/test_observations.py",
        ("    return deposited or units_in_transit", "    return units_in_transit"),
    ),
    *_of("rules/chains/keys.py", "rules/test_deployments.py", ("            _check_empty(state, known)", "            pass")),
    *_of(
        "log/log.py",
        "log/test_damage.py",
        ("        if edge is not None and edge.size > size:", "        if False:"),
        ("            with contextlib.suppress(LedgerError):\n                self.keep_right_edge()", "            pass"),
        ("        if told != newest and (told > newest or not self.read_only):", "        if False:"),
    ),
    *_of("engine.py", "engine/test_threads.py", ("return self._settled_size", "return min(self._log.size, self._state.size)")),
    *_of(
        "batch.py",
        "engine/test_requests.py engine/test_faults.py engine/test_threads.py",
        ("        if booked.digest != digest:", "        if False:"),
        (
            "            now_us = state.next_decision_time_us(self._now_us)\n            run",
            "            now_us = self._now_us\n            run",
        ),
    ),
    *_of(
        "identity.py",
        "engine/test_requests.py",
        ("    if location is None:\n        check_not_late", "    if True:\n        check_not_late"),
        ("    if id_time_ms < requests.low_water_second * 1000:", "    if False:"),
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
    *_of(
        "open_holds.py",
        "engine/test_open_holds.py",
        ("self.numbers[row] != number or not self.units[row]:", "self.numbers[row] != number:"),
        (" & (known[rows] == numbers)", ""),
        (" & (vectors.view_of(self.units)[rows] > 0)", ""),
        ("        while self.numbers and self.numbers[-1] >= hold.hold:", "        while self.numbers and self.numbers[-1] > hold.hold:"),
        ("        self._tidy_at = 2 * len(self.units) + ROWS_MIN", "        self._tidy_at = 1 << 60"),
    ),
    *_of(
        "rules/holds.py",
        "engine/test_open_holds.py rules/test_settlement.py",
        ("    expiring = (left == 0) & (expiry", "    expiring = (left >= 0) & (expiry"),
        ("    if not left:\n        _forget_expiry", "    if left:\n        _forget_expiry"),
    ),
    *_of(
        "rules/settlement.py",
        "rules/test_settlement.py",
        (" & (vectors.view_of(holds.purposes)[rows] == _ORDER)", ""),
        ("(vectors.view_of(holds.instruments)[rows] == wanted) & ", ""),
        ("    if not (of_orders & (vectors.view_of(holds.expiry_times_us)[rows] > terms.now_us)).all():", "    if not of_orders.all():"),
        ("    return accounts[place] if (needed <= vectors.view_of(holds.units)[rows]).all() else None", "    return accounts[place]"),
        ("    numpy.add.at(totals, place, units)\n    return distinct", "    totals[place] = units\n    return distinct"),
    ),
    *_of(
        "request_window.py",
        "engine/test_request_window.py",
        ("        if min(request_ids) > self._newest:", "        if max(request_ids) > self._newest:"),
        ("            self._newest = max(self._newest, *request_ids)", "            pass"),
        ("        self._newest = None\n\n    def find", "        pass\n\n    def find"),
    ),
    *_of(
        "wire_columns.py",
        "engine/test_wire_columns.py",
        ("    likeness[others] = others", "    pass"),
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

"""Compute units on a real node: exactly those of the committed table, and below the bounds that plans are made with."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from spl_chain import DECIMALS

from chain_adapters.spl import compute, programs, token_2022
from chain_adapters.spl.addresses import associated_account_and_bump
from chain_adapters.spl.mint_setup import create_mint, space
from chain_adapters.spl.multiplier import SCALE, encode_multiplier
from chain_adapters.spl.planning import Step, plan
from chain_adapters.spl.signing import sign

TABLE = Path(__file__).parents[1] / "data/solana_compute_units.csv"


@pytest.fixture(scope="module")
def measured(chain):
    """Run one of everything, and return its compute units and its bound."""
    token = chain.token()
    mint, minter, guard, delegate = token.mint, token.minter.public_key, token.guard.public_key, token.delegate.public_key
    (wallet, account), (_, other) = token.holder(units=1_000_000), token.holder()
    owners = (chain.key().public_key for _ in range(1_000))
    owner = next(owner for owner in owners if associated_account_and_bump(owner, mint)[1] == 255)
    one = {"units": 10, "decimals": DECIMALS}
    powers = {"permanent_delegate": delegate, "freeze_authority": guard, **one}
    open_account = programs.create_associated_account(chain.payer.public_key, owner, mint)
    minted = token_2022.mint_to(mint, account, minter, **one)
    found = {}

    def measure(name, instructions, *keys):
        landed = chain.run(instructions, *keys)
        assert landed.error is None, (name, landed.error)
        found[name] = (landed.compute_units, compute.bound(instructions))

    measure("open account", [open_account], chain.payer)
    measure("open account that is there", [open_account, programs.set_compute_unit_price(1)], chain.payer)
    measure("mint", [minted], token.minter)
    measure("burn", [token_2022.burn(mint, account, wallet.public_key, **one)], wallet)
    measure("transfer", [token_2022.transfer(mint, account, other, wallet.public_key, **one)], wallet)
    measure("forced transfer", token_2022.forced_transfer(mint, account, other, source_is_frozen=False, **powers), token.delegate)
    measure("freeze", [token_2022.freeze(mint, account, guard)], token.guard)
    frozen = token_2022.forced_transfer(mint, account, other, source_is_frozen=True, **powers)
    measure("forced transfer from a frozen account", frozen, token.delegate, token.guard)
    burned = token_2022.forced_burn(mint, account, account_is_frozen=True, **powers)
    measure("forced burn of a frozen account", burned, token.delegate, token.guard)
    measure("thaw", [token_2022.thaw(mint, account, guard)], token.guard)
    measure("pause", [token_2022.pause(mint, guard)], token.guard)
    measure("resume", [token_2022.resume(mint, guard)], token.guard)
    scaler = token.scaler.public_key
    measure("multiplier", [token_2022.update_multiplier(mint, scaler, encode_multiplier(2 * SCALE), 4_000_000_000)], token.scaler)
    measure("metadata field", [token_2022.update_metadata_field(mint, delegate, "name", "Apple")], token.delegate)
    measure("hand over a power", [token_2022.set_authority(mint, token_2022.AuthorityKind.PAUSE, guard, guard)], token.guard)
    measure("memo of 20 characters", [programs.memo("x" * 20)])
    fresh = chain.token()
    found["new mint"] = (fresh.made.compute_units, compute.bound(create_mint(fresh.setup, chain.payer.public_key, space(fresh.setup))))
    nonce = chain.nonce(chain.payer)
    [planned] = plan([Step(str(number), (minted,)) for number in range(10)], chain.payer.public_key, [nonce], 1)
    landed = chain.land(sign(planned.message, [chain.payer, token.minter]))
    assert landed.error is None
    found["10 mints with memos on a durable nonce"] = (landed.compute_units, planned.compute_units)
    return found


def test_as_the_table_has_it(measured):
    with TABLE.open(newline="", encoding="utf-8") as lines:
        table = {line["operation"]: int(line["compute_units"]) for line in csv.DictReader(lines)}
    assert {name: used for name, (used, _) in measured.items()} == table


def test_every_bound_leaves_room_and_wastes_little(measured):
    for name, (used, bound) in measured.items():
        per_memo = 20_000 * (10 if name.startswith("10") else 1 if name.startswith("memo") else 0)
        assert used * 3 // 2 <= bound <= used * 10 + per_memo, (name, used, bound)

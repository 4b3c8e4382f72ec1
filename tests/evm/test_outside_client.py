"""What a client that is not ours sees: ethers, with nothing but the standards' signatures."""

from __future__ import annotations

from pathlib import Path

from evm_market import E18, MULTIPLIER, ROLES, Market
from evm_node import CHAIN_ID, run_javascript

from chain_adapters.evm import token_calls
from chain_adapters.evm.token_calls import Pause


def test_ethers_reads_the_token(market: Market):
    alice, minter = market["alice"], market["minter"]
    zero = "0x" + "0" * 40
    at = market.node.time() + 100_000
    market.do(token_calls.mint(market.lines(("alice", 250_000_000))))
    market.do(token_calls.schedule_multiplier(market.id(), MULTIPLIER, 3 * E18, at, b"split 2:1"))
    market.do(token_calls.freeze_units(market.id(), alice, 7, b"order"))
    market.do(token_calls.set_pauses(market.id(), Pause.TRANSFERS, b"halt"))
    seen = run_javascript(Path(__file__).parent / "read_token.cjs", market.node.url, market.token, alice, minter)
    start = seen["multipliers"][0][2]
    assert seen == {
        "name": "Apple Inc. tokenised",
        "symbol": "AAPLx",
        "decimals": 8,
        "supply": "250000000",
        "raw_balance": "2.5",
        "shown_balance": "3.75",
        "multiplier": "1.5",
        "next_multiplier": "3.0",
        "effective_at": str(at),
        "paused": True,
        "frozen": "7",
        "can_transfer": False,
        "owner": market["admin"],
        "minter_role": True,
        "interfaces": [True, True, True, False],
        "domain": ["Apple Inc. tokenised", "1", str(CHAIN_ID), market.token],
        "beacon": market.plan.beacon,
        "transfers": [[zero, alice, "250000000"]],
        "multipliers": [["0", str(MULTIPLIER), start], [str(MULTIPLIER), str(3 * E18), str(at)]],
        "roles_granted": len(ROLES) + 1,
        "pauses": [[market["pauser"]]],
        "freezes": [[alice, "7"]],
    }

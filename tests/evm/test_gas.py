"""What each operation costs, to the unit of gas: gas.json, written anew by `make gas`, so that every change is seen in review."""

from __future__ import annotations

import json
import os
from pathlib import Path

from evm_market import MULTIPLIER, Market
from evm_node import evm_node

from chain_adapters.evm import roles, token_calls
from chain_adapters.evm.codec import encode_call
from chain_adapters.evm.deployment import plan_token
from chain_adapters.evm.token_calls import Line, Pause

SNAPSHOT = Path(__file__).with_name("gas.json")


def wallets(count: int, first: int) -> list[str]:
    return [f"0x{first + number:040x}" for number in range(count)]


def measure(market: Market) -> dict[str, int]:
    """Measure on a token that is in use: supply is there, the word of the instruction ids is begun, wallets hold units or not as named."""
    gas: dict[str, int] = {}
    old = wallets(100, 0x1000_0000)
    market.do(token_calls.mint(market.lines(*((wallet, 1000) for wallet in old), ("burner", 1000), ("alice", 1000), ("bob", 1000))))
    for count in (1, 10, 100):
        new = wallets(count, 0x2000_0000 * count)
        gas[f"mint, {count} new wallets"] = market.do(token_calls.mint(market.lines(*((wallet, 5) for wallet in new)))).gas
        gas[f"mint, {count} wallets with units"] = market.do(token_calls.mint(market.lines(*((wallet, 5) for wallet in old[:count])))).gas
        lines = market.lines(*(("burner", 5) for _ in range(count)))
        market.do(token_calls.burn(market.lines(("burner", 1))))
        gas[f"burn, {count} lines"] = market.do(token_calls.burn(lines)).gas
    transfer = encode_call("StockToken", "transfer(address,uint256)", market["bob"], 5)
    gas["transfer, to a wallet with units"] = market.send("alice", market.token, transfer).gas
    transfer = encode_call("StockToken", "transfer(address,uint256)", "0x" + "77" * 20, 5)
    gas["transfer, to a new wallet"] = market.send("alice", market.token, transfer).gas
    gas["approve"] = market.as_owner("alice", "approve(address,uint256)", "bob", 5).gas
    gas["transfer from"] = market.as_owner("bob", "transferFrom(address,address,uint256)", "alice", "bob", 4).gas
    alice, bob, reason = market["alice"], market["bob"], b"order 7 of the court of X, 2027-01-15"
    gas["freeze of units"] = market.do(token_calls.freeze_units(market.id(), alice, 900, reason)).gas
    gas["freeze of an account"] = market.do(token_calls.freeze_account(market.id(), bob, True, reason)).gas
    gas["forced transfer, past a freeze"] = market.do(token_calls.forced_transfer(market.id(), alice, bob, 500, reason)).gas
    gas["forced burn, past a freeze"] = market.do(token_calls.forced_burn(market.id(), alice, 100, reason)).gas
    gas["multiplier, scheduled"] = market.do(
        token_calls.schedule_multiplier(market.id(), MULTIPLIER, 2 * MULTIPLIER, 2**33, b"split 2:1")
    ).gas
    market.do(token_calls.set_allotment(market.id(), 2**62))
    gas["allotment"] = market.do(token_calls.set_allotment(market.id(), 2**61)).gas
    gas["pause of everything"] = market.do(token_calls.set_pauses(market.id(), Pause(7), reason)).gas
    market.do(token_calls.set_pauses(market.id(), Pause(0), reason), "unpauser")
    cancelled = [market.id() for _ in range(10)]
    gas["cancel, 10 instructions"] = market.do(token_calls.cancel(roles.MINTER, cancelled), "minter").gas
    gas["mint by an id that is a hash"] = market.do(token_calls.mint([Line(b"\xa5" * 32, bob, 5)])).gas
    gas["deploy the issuer's contracts"] = market.issuer_gas
    step = plan_token(market.plan, market.terms("MSFTx"))
    gas["deploy a token"] = market.send("deployer", step.target, step.data).gas
    return gas


def test_gas_is_what_was_committed():
    with evm_node() as node:
        measured = measure(Market(node))
    if os.environ.get("STOCKLEDGER_WRITE_GAS") == "1":
        SNAPSHOT.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    assert measured == json.loads(SNAPSHOT.read_text(encoding="utf-8")), "gas has changed; if that is meant, run `make gas`"

"""A node that leaves logs out: what it hides is found by name, and told by another node it is booked once."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("web3", reason="web3 is not installed: pip install 'stockledger[evm]'")

from command_line import Done, run_process
from evm_rig import EvmRig
from scripted_proxy import scripted_proxy
from server_process import ServerProcess

from chain_adapters.conformance_market import Market
from chain_adapters.evm.adapter import connect
from chain_adapters.protocol import ChainSettings, NodeUnfit
from chain_adapters.reader import Reader
from chain_adapters.rereader import Reread, Rereader
from ledger import Ledger
from ledger.errors import RuleViolated
from stockledger.v1.approvals_pb2 import GrantRoleRequest, Role
from stockledger.v1.chains_pb2 import DepositAddress, DivergenceKind, RegisterDepositAddressesRequest

HOLDING = DivergenceKind.DIVERGENCE_KIND_HOLDING


class Hiding:
    """Leaves out the logs of chosen blocks, whole, as an index with a hole does."""

    def __init__(self) -> None:
        self.blocks: set[int] = set()

    def __call__(self, request: dict[str, Any], answer: bytes) -> tuple[int, bytes, dict[str, str]]:
        if request["method"] == "eth_getLogs":
            told = json.loads(answer)
            told["result"] = [log for log in told["result"] if int(log["blockNumber"], 16) not in self.blocks]
            answer = json.dumps(told).encode()
        return 200, answer, {}


@pytest.fixture
def liar() -> Hiding:
    return Hiding()


@pytest.fixture
def market(tmp_path: Path, liar: Hiding) -> Iterator[Market]:
    """Give a market whose worker asks a node that hides things; the first wallet has 1,000 units."""
    with EvmRig() as rig, scripted_proxy(rig.node_url) as proxy:
        proxy.always = liar
        with contextlib.closing(Market(rig, store=f"sqlite:///{tmp_path}/books.db")) as market:
            market.settle()
            market.transfer("book:alice", market.wallets[0], 1000)
            market.settle()
            market.url = proxy.url
            yield market


def hide(market: Market, liar: Hiding, source: str, destination: str, units: int) -> None:
    """Let a wallet send, and nobody hear of it."""
    rig = market.rig
    assert isinstance(rig, EvmRig)
    rig.transfer(market.token, source, destination, units)
    liar.blocks.add(int(rig.node.call("eth_blockNumber"), 16))
    market.settle()


def reread(market: Market, *, honest: bool = True, first: int = 0) -> Reread:
    with contextlib.closing(market.rig.connect(market.rig.node_url if honest else market.url)) as adapter:
        return Rereader(market.call, adapter).run(first)


def found(market: Market) -> list[tuple[str, str, str]]:
    market.reconcile()
    assert {each.kind for each in market.divergences()} <= {HOLDING}
    return sorted((each.account, each.expected, each.found) for each in market.divergences())


def test_a_hidden_transfer_is_found_by_the_holdings_and_booked_once(market: Market, liar: Hiding) -> None:
    first, second = market.wallets
    before = market.cursor().number
    hide(market, liar, first, second, 30)
    assert (market.units(first), market.units(second)) == (1000, 0), "nobody saw it"
    assert found(market) == [(first, "1000", "970")], "who has nothing in the books is not measured: the other end tells"
    assert not reread(market, honest=False).missed, "the node that hides it tells nothing new"
    told = reread(market, first=before)
    assert [(each.source, each.destination, each.raw) for each in told.missed] == [(first, second, "30")]
    assert told.booked
    market.check({first: 970, second: 30})
    assert found(market) == []
    assert not reread(market).missed, "once"
    market.rig.transfer(market.token, second, first, 5)
    market.settle()
    market.check({first: 975, second: 25})


def test_a_hidden_deposit_is_credited_late(market: Market, liar: Hiding) -> None:
    first = market.wallets[0]
    deposit = market.make_wallet()
    market.do(RegisterDepositAddressesRequest(deposit_addresses=[DepositAddress(deposit_address=deposit, account="book:bob")]))
    hide(market, liar, first, deposit, 40)
    assert market.units("book:bob") == 0
    assert reread(market).booked
    market.settle()
    market.check({first: 960, deposit: 0, "book:bob": 40})
    assert found(market) == []


def test_what_was_hidden_and_went_on_leaves_nothing_behind(market: Market, liar: Hiding) -> None:
    """The units came from nowhere and went on: a divergence of that moment, which a human ends once the account has been put right."""
    first, second = market.wallets
    stranger = market.make_wallet()
    hide(market, liar, first, stranger, 30)
    market.rig.transfer(market.token, stranger, second, 30)
    market.settle()
    assert market.units(f"divergence:{market.rig.chain}") == -30
    assert reread(market).booked
    market.check({first: 970, second: 30, stranger: 0})
    assert market.units(f"divergence:{market.rig.chain}") == 0
    assert [each.divergence_count for each in market.reconcile()] == [0]


def test_a_second_node_that_hides_something_else_is_not_believed(market: Market, liar: Hiding) -> None:
    first, second = market.wallets
    market.rig.transfer(market.token, first, second, 7)
    market.settle()
    other = Hiding()
    hide(market, liar, first, second, 30)
    number = market.rig.node.call("eth_blockNumber") if isinstance(market.rig, EvmRig) else "0x0"
    hide(market, liar, second, first, 11)
    with scripted_proxy(market.rig.node_url) as proxy:
        proxy.always = other
        market.url = proxy.url
        other.blocks = {max(liar.blocks)}
        with pytest.raises(RuleViolated, match="the chain has"):
            reread(market, honest=False)
        other.blocks = set(range(int(number, 16)))
        with pytest.raises(NodeUnfit, match=r"does not tell|partial"):
            reread(market, honest=False)
    assert (market.units(first), market.units(second)) == (993, 7)
    assert len(reread(market).missed) == 2
    market.check({first: 974, second: 26})


def test_a_hidden_mint_is_found_at_once_and_the_next_node_asked(market: Market, liar: Hiding) -> None:
    rig = market.rig
    assert isinstance(rig, EvmRig)
    rig.mint_behind(market.token, market.wallets[1], 77)
    liar.blocks.add(int(rig.node.call("eth_blockNumber"), 16))
    rig.finalise()
    with pytest.raises(NodeUnfit, match="logs are partial"):
        market.read()
    both = ChainSettings(rig.chain, (str(market.url), rig.node_url), ledger="kit", options=rig.options())
    with contextlib.closing(connect(both)) as adapter:
        assert Reader(market.call, adapter).read().booked
    assert market.units(market.wallets[1]) == 77
    assert [each.kind for each in market.divergences()] == [DivergenceKind.DIVERGENCE_KIND_MINT_UNDECIDED]


def test_an_operator_reads_again_from_the_command_line(market: Market, liar: Hiding, tmp_path: Path) -> None:
    first, second = market.wallets
    hide(market, liar, first, second, 30)
    for principal, role in (("operator", Role.ROLE_OPERATOR), ("worker", Role.ROLE_WORKER)):
        market.do(GrantRoleRequest(principal=principal, role=role))
    market.books.close()

    def run(server: ServerProcess, node_url: str, *flags: str) -> Done:
        chain = f"{market.rig.chain}={node_url}"
        return run_process("reread", "--chain", chain, "--ledger-address", server.address, *flags)

    with ServerProcess(market.store, local_principals=True) as server:
        told = run(server, market.rig.node_url, "--validate-only", "--json")
        assert (told.code, told.json["booked"], len(told.json["missed"])) == (0, False, 1), told.err
        told = run(server, market.rig.node_url)
        assert (told.code, told.lines[-1].startswith("booked")) == (0, True), told.err
        assert f"TRANSFER 30 of {market.token}, {first} -> {second}" in told.out
        assert run(server, market.rig.node_url, "--json").json["missed"] == []
        assert run(server, "http://127.0.0.1:1").code == 3
    market.books = Ledger.open(market.store)
    market.check({first: 970, second: 30})

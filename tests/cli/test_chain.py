"""`stockledger chain`: tokens put on real nodes, taken up where it broke off, registered, and inspected."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("web3", reason="web3 is not installed: pip install 'stockledger[evm]'")
pytest.importorskip("solders", reason="solders is not installed: pip install 'stockledger[spl]'")

from chain_files import COINS, EvmFile, SplFile, token
from chain_worker_process import wait_until
from evm_node import evm_node
from scenario import stock
from server_process import free_port
from solana_node import solana_node
from solders.pubkey import Pubkey
from spl_chain import SplChain, transfer_lamports

from chain_adapters.spl.mint_setup import derived_mint
from chain_adapters.spl.programs import derived_nonce_account
from ledger import Ledger

ORIGIN = 'origin = "acme.example/stockledger"'


@pytest.fixture(scope="module")
def evm():
    with evm_node("--slots-in-an-epoch", "1", "--block-time", "1") as node:
        yield node


@pytest.fixture(scope="module")
def spl():
    with solana_node() as node:
        chain = SplChain(node)
        yield chain
        chain.client.close()


@pytest.fixture
def books(place):
    """Make books with AAPLx and MSFTx, for the lines of a deployment to be applied to."""
    url = f"sqlite:///{place}/books.db"
    with Ledger.open(url, ledger_id="acme") as ledger:
        ledger.execute(stock())
        ledger.execute(stock(symbol="MSFTx", underlying_isin="US5949181045"))
    return url


def address(account: str) -> str:
    return account.rpartition(":")[2]


def deploy(run, path, *flags: str) -> Any:
    done = run("chain", "deploy", path, "--json", *flags)
    assert done.code == 0, done.err
    return done.json


def register(run, books, told) -> None:
    path = Path("register.jsonl")
    path.write_text("".join(json.dumps(line) + "\n" for line in told["commands"]))
    done = run("apply", path, "--store", books, "--approver", "carol", "--json")
    assert done.code == 0, done.out


def inspect(run, books, told, *flags: str) -> Any:
    options = [f for name, values in told["worker"].items() for value in values for f in (f"--{name.replace('_', '-')[:-1]}", value)]
    return run("chain", "inspect", "--store", books, "--json", *options, *flags)


def sent(node, account: str) -> int:
    return int(node.call("eth_getTransactionCount", address(account), "latest"), 16)


def test_evm_from_nothing_to_registered(run, place, books, evm):
    file = EvmFile(place, evm, name="one")
    path = file.write(top=ORIGIN, tables=token(reserve_feed=True))
    planned = deploy(run, path, "--dry-run")
    assert sent(evm, file.accounts["deployer"]) == 0
    assert [part["stands"] for part in planned["parts"] if part["name"] != "Deployer"] == [False] * 6  # that one is everybody's
    made = deploy(run, path)
    assert made["faults"] == []
    paid = COINS - int(evm.call("eth_getBalance", address(file.accounts["deployer"]), "latest"), 16)
    assert int(made["cost"]) == paid, "what it says it cost is what was paid"
    assert paid < int(planned["cost"])
    for before, after in zip(planned["parts"], made["parts"], strict=True):
        assert before["address"] == after["address"]
    register(run, books, made)
    looked = inspect(run, books, made)
    assert (looked.code, looked.json["chains"][0]["faults"]) == (0, [])
    assert [each["state"] for each in looked.json["chains"][0]["tokens"]] == ["as registered"]


def test_evm_goes_on_where_it_stopped(run, place, evm):
    file = EvmFile(place, evm, name="two")
    deploy(run, file.write(tables=token()))
    before = sent(evm, file.accounts["deployer"])
    path = file.write(top=ORIGIN, tables=token(reserve_feed=True) + token("MSFTx"))
    more = deploy(run, path)
    made = [part["name"] for part in more["parts"] if part["transaction"]]
    assert made == ["ReserveFeed of AAPLx", "StockToken of MSFTx", "CheckpointAnchor"]
    assert sent(evm, file.accounts["deployer"]) == before + 3
    again = deploy(run, path)
    assert (sent(evm, file.accounts["deployer"]), again["cost"]) == (before + 3, "0")
    assert again["commands"][1:] == more["commands"][1:]


def test_evm_killed_while_nothing_has_landed_pays_once(run, place):
    with evm_node("--slots-in-an-epoch", "1", "--no-mining") as node:
        file = EvmFile(place, node)
        path = file.write(tables=token())
        with subprocess.Popen(
            [sys.executable, "-m", "services.cli.main", "chain", "deploy", str(path)], stderr=subprocess.DEVNULL
        ) as killed:
            wait_until(lambda: node.call("txpool_status")["pending"] == "0x5", 60, "not everything is sent")
            killed.kill()
        node.call("evm_setIntervalMining", 1)
        made = deploy(run, path)
        assert sent(node, file.accounts["deployer"]) == 5
        assert made["faults"] == []


def test_evm_without_what_it_takes(run, place, evm):
    poor = EvmFile(place, evm, funded=(), name="poor")
    done = run("chain", "deploy", poor.write(tables=token()), "--json")
    assert (done.code, done.json["error"]["reason"]) == (1, "FundsInsufficient")
    rich = EvmFile(place, evm, funded=("deployer",), name="rich")
    told = deploy(run, rich.write(tables=token()))
    assert [fault.partition(" ")[2] for fault in told["faults"]] == ["has no coin to pay fees with"] * 7
    path = rich.write(tables=token())
    path.write_text(path.read_text().replace('"rich-deployer.key"', f'"{rich.accounts["deployer"]}"').replace("rich", "poor"))
    done = run("chain", "deploy", path, "--json")
    assert (done.code, done.json["error"]["reason"]) == (1, "KeyMissing")
    path.write_text(path.read_text().replace(rich.chain, "eip155:1"))
    done = run("chain", "deploy", path, "--json")
    assert (done.code, done.json["error"]["reason"]) == (1, "NodeUnfit")


def test_a_node_that_is_away_ends_with_3(run, place, spl):
    path = SplFile(place, spl).write(tables=token())
    path.write_text(path.read_text().replace(spl.node.rpc_url, f"http://127.0.0.1:{free_port()}"))
    done = run("chain", "deploy", path, "--json")
    assert (done.code, done.json["error"]["reason"]) == (3, "ChainUnavailable")


def test_inspection_finds_what_is_not_as_registered(run, place, books, evm):
    file = EvmFile(place, evm, name="three")
    told = deploy(run, file.write(top=ORIGIN, tables=token(reserve_feed=True)))
    other = EvmFile(place, evm, name="other")
    for line in told["commands"]:
        if line.get("roles") == ["CHAIN_KEY_ROLE_PAUSER"]:
            line["key"] = other.accounts["pauser"]
        if line["command"] == "RegisterDeployment":
            line["capabilities"].append("CHAIN_CAPABILITY_SEND")
    register(run, books, told)
    looked = inspect(run, books, told)
    assert looked.code == 1
    assert looked.json["chains"][0]["faults"] == [
        f"{other.accounts['pauser']} is registered, and its key is not here",
        "AAPLx is registered as capable of SEND, and cannot do it",
        f"{other.accounts['pauser']} lacks PAUSER and UNPAUSER on AAPLx",
    ]


@pytest.fixture
def spl_file(place, spl):
    file = SplFile(place, spl)
    payer = Pubkey.from_string(address(file.accounts["payer"]))
    assert spl.run([transfer_lamports(spl.payer.public_key, payer, 10**9)]).error is None
    return file


def test_solana_from_nothing_to_registered(run, books, spl, spl_file):
    path = spl_file.write(tables=token(uri="https://acme.example/a/rather/long/path/of/metadata/AAPLx.json"))
    payer = Pubkey.from_string(address(spl_file.accounts["payer"]))
    planned = deploy(run, path, "--dry-run")
    assert spl.client.lamports(payer) == 10**9
    made = deploy(run, path)
    assert (made["faults"], made["cost"]) == ([], planned["cost"])
    assert 10**9 - spl.client.lamports(payer) == int(made["cost"])
    register(run, books, made)
    looked = inspect(run, books, made)
    assert (looked.code, looked.json["chains"][0]["faults"]) == (0, [])
    again = deploy(run, path)
    assert again["cost"] == "0"
    assert again["commands"][1:] == made["commands"][1:]


def test_solana_lamports_sent_to_where_something_is_to_stand_block_nothing(run, books, spl, spl_file):
    payer = Pubkey.from_string(address(spl_file.accounts["payer"]))
    for known in (derived_mint(payer, "AAPLx"), derived_nonce_account(payer, 1)):
        assert spl.run([transfer_lamports(spl.payer.public_key, known, 10**6)]).error is None
    path = spl_file.write(tables=token())
    assert not any(part["stands"] for part in deploy(run, path, "--dry-run")["parts"])
    made = deploy(run, path)
    assert 10**9 - spl.client.lamports(payer) == int(made["cost"])
    register(run, books, made)
    assert inspect(run, books, made).json["chains"][0]["faults"] == []
    assert deploy(run, path)["cost"] == "0"


def test_solana_goes_on_where_it_stopped(run, spl, spl_file):
    deploy(run, spl_file.write(tables=token(), nonces=2))
    more = deploy(run, spl_file.write(tables=token() + token("MSFTx"), nonces=4))
    assert [part["name"] for part in more["parts"] if part["transaction"]] == ["nonce account", "nonce account", "mint of MSFTx"]


def test_solana_inspection_finds_authorities_of_others(run, place, books, spl, spl_file):
    told = deploy(run, spl_file.write(tables=token()))
    stranger = SplFile(place, spl)
    minter = next(line for line in told["commands"] if line.get("roles") == ["CHAIN_KEY_ROLE_MINTER"])["key"]
    for line in told["commands"]:
        if line.get("key") == minter:
            line["key"] = stranger.accounts["minter"]
    register(run, books, told)
    told["worker"]["chain_keys"] = []
    told["worker"]["chain_options"] = [f"{spl_file.chain}=nonces=5"]
    looked = inspect(run, books, told)
    assert looked.code == 1
    assert looked.json["chains"][0]["faults"] == [
        f"2 of 5 nonce accounts of {spl_file.accounts['payer']} are not open",
        f"the mint authority of AAPLx is {address(minter)}, which is not registered as MINTER",
    ]


def test_somebody_elses_token(run, place, evm):
    """An exchange deploys nothing: it registers its wallets, and what the token there can do."""
    issuer = EvmFile(place, evm, name="issuer")
    there = deploy(run, issuer.write(tables=token("MSFTx", decimals=18)))["commands"][-1]["token"]
    path = place / "exchange.toml"
    entry = f'[[omnibus]]\ninstrument = "MSFTx"\ntoken = "{there}"\ndecimals = 18\nwallets = ["issuer-admin.key"]\nunits_per_day_max = 7\n'
    path.write_text(f'chain = "{issuer.chain}"\nname = "Ethereum"\nnodes = ["{evm.url}"]\n{entry}')
    told = deploy(run, path)
    assert (told["parts"], told["cost"]) == ([], "0")
    _, key, deployment = told["commands"]
    assert (key["key"], key["roles"]) == (issuer.accounts["admin"], ["CHAIN_KEY_ROLE_WALLET"])
    assert deployment["wallets"] == [issuer.accounts["admin"]]
    assert (deployment["capabilities"], deployment["withdrawal_limits"]) == (["CHAIN_CAPABILITY_SEND"], {"units_per_day_max": "7"})
    path.write_text(path.read_text().replace("decimals = 18", "decimals = 8"))
    done = run("chain", "deploy", path, "--json")
    assert (done.code, done.json["error"]["reason"]) == (1, "DeploymentUnfit")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("name = ", "nmae = "), "nmae is not known (did you mean name?)"),
        (("decimals = 8", 'decimals = "8"'), "decimals is '8', it must be a whole number from 0 on"),
        (("minter = ", "mintress = "), "mintress, which is no party"),
        (('minter = "four-minter.key"\n', ""), "keys lacks minter"),
        (("[[tokens]]", "[[token]]"), "token is not known (did you mean tokens?)"),
        (('"four-minter.key"', '"nowhere.key"'), "the key nowhere.key cannot be read"),
        (("decimals = 8", 'decimals = 8\nmultiplier = "1.5"'), "must be a whole number at scale 1e18"),
        (("decimals = 8", f'decimals = 8\nmultiplier = "{"9" * 5000}"'), "must be a whole number at scale 1e18"),
        (("[keys]", "[keys"), "is not TOML"),
    ],
)
def test_files_that_are_not_understood(run, place, evm, change, message):
    path = EvmFile(place, evm, name="four").write(tables=token())
    assert change[0] in path.read_text()
    path.write_text(path.read_text().replace(*change))
    done = run("chain", "deploy", path)
    assert (done.code, done.out) == (64, "")
    assert message in done.err

"""What the compiler made: state that stays where it is, ids that are the standards', code a chain takes."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from eth_utils.abi import function_signature_to_4byte_selector
from eth_utils.crypto import keccak
from evm_market import Market
from evm_node import MODULES, ROOT

from chain_adapters.evm.artifacts import load

CONTRACTS = ROOT / "chain_adapters" / "evm" / "contracts"
ARTIFACTS = sorted((ROOT / "chain_adapters" / "evm" / "artifacts").glob("*.json"))
COMPILE = ROOT / "tools" / "compile_contracts.cjs"
NAMESPACE = re.compile(r"abi\.encode\(uint256\(keccak256\(\"([^\"]+)\"\)\) - 1\).*\n\s+bytes32 private constant \w+ = (0x[0-9a-f]{64});")

# ERC-165 ids by the functions they are of, as the standards list them.
INTERFACES = {
    0x01FFC9A7: ["supportsInterface(bytes4)"],
    0xA60BF13D: ["uiMultiplier()"],
    0x4BD27648: ["newUIMultiplier()", "effectiveAt()"],
    0x57854FC3: ["toUIAmount(uint256)", "fromUIAmount(uint256)"],
    0xD890FD71: ["balanceOfUI(address)", "totalSupplyUI()"],
    0x3EDBB4C4: [
        "forcedTransfer(address,address,uint256)", "setFrozenTokens(address,uint256)", "canSend(address)", "canReceive(address)",
        "getFrozenTokens(address)", "canTransfer(address,address,uint256)",
    ],
    0x33331994: ["crosschainMint(address,uint256)", "crosschainBurn(address,uint256)"],
    0x9D8FF7DA: ["permit(address,address,uint256,uint256,uint8,bytes32,bytes32)", "nonces(address)", "DOMAIN_SEPARATOR()"],
    0x7965DB0B: [
        "hasRole(bytes32,address)", "getRoleAdmin(bytes32)", "grantRole(bytes32,address)", "revokeRole(bytes32,address)",
        "renounceRole(bytes32,address)",
    ],
    0x36372B07: [
        "totalSupply()", "balanceOf(address)", "transfer(address,uint256)", "allowance(address,address)", "approve(address,uint256)",
        "transferFrom(address,address,uint256)",
    ],
}  # fmt: skip


@pytest.mark.parametrize("number", INTERFACES, ids=hex)
def test_the_token_has_the_standards_interfaces(market: Market, number: int):
    computed = 0
    for signature in INTERFACES[number]:
        computed ^= int.from_bytes(function_signature_to_4byte_selector(signature))
    assert computed == number
    assert market.ask("supportsInterface(bytes4)", number.to_bytes(4)) is True


def test_the_token_does_not_claim_everything(market: Market):
    for number in (0xFFFFFFFF, 0xDEADBEEF, 0x80AC58CD):
        assert market.ask("supportsInterface(bytes4)", number.to_bytes(4)) is False


def test_the_event_of_the_multiplier_is_the_standards():
    assert keccak(text="UIMultiplierUpdated(uint256,uint256,uint256)").hex().startswith("2205df4534432b2f")
    assert any(member["type"] == "event" and member["name"] == "UIMultiplierUpdated" for member in load("StockToken").abi)


def test_namespaces_stand_where_erc_7201_puts_them():
    found = {name: slot for path in CONTRACTS.rglob("*.sol") for name, slot in NAMESPACE.findall(path.read_text(encoding="utf-8"))}
    assert found.keys() == {"stockledger.Instructions", "stockledger.StockToken"}
    for name, slot in found.items():
        inner = (int.from_bytes(keccak(text=name)) - 1).to_bytes(32)
        assert slot == "0x" + (keccak(inner)[:31] + b"\0").hex()


@pytest.mark.parametrize("path", ARTIFACTS, ids=lambda path: path.stem)
def test_an_artifact_is_whole(path: Path):
    artifact = load(path.stem)
    assert artifact.bytecode.endswith(artifact.deployed_bytecode[-32:]) or artifact.immutables
    assert len(artifact.deployed_bytecode) <= 24_576, "EIP-170"
    assert len(artifact.bytecode) <= 49_152, "EIP-3860"
    assert bytes.fromhex(artifact.metadata_hash[2:]) in artifact.deployed_bytecode


def test_every_refusal_of_ours_says_what_it_means():
    ours = {
        name
        for path in CONTRACTS.rglob("*.sol")
        for name in re.findall(r"^ +error (\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    met = set()
    for path in ARTIFACTS:
        artifact = load(path.stem)
        named = {member["name"] for member in artifact.abi if member["type"] == "error"} & ours
        meant = {signature.partition("(")[0] for signature, meaning in artifact.errors.items() if meaning}
        assert named - meant == set(), path.stem
        met |= named
    assert met == ours


MOVES = [
    ([], []),
    (["a", "b"], []),
    (["a"], ["a", "b"]),
    (["a", "b"], ["b", "a"]),
    (["a", "b"], ["a"]),
    (["uint64 a", "b"], ["uint128 a", "b"]),
]


@pytest.mark.parametrize(("before", "after"), MOVES, ids=str)
def test_state_may_be_appended_and_not_moved(before: list[str], after: list[str]):
    if not MODULES.exists():
        pytest.skip("no node_modules")
    script = (
        f"const {{ movedState }} = require({json.dumps(str(COMPILE))});"
        f"const of = (members) => ({{ contract: 'C', namespaces: {{ n: members }} }});"
        f"console.log(JSON.stringify(movedState(of({json.dumps(before)}), of({json.dumps(after)}))));"
    )
    done = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True)
    assert bool(json.loads(done.stdout)) == (before != after[: len(before)])


def test_the_committed_layout_is_the_tokens():
    content = json.loads((ROOT / "chain_adapters" / "evm" / "artifacts" / "StockToken.json").read_text(encoding="utf-8"))
    assert content["namespaces"]["stockledger.StockToken"][:3] == ["uint128 multiplier", "uint128 nextMultiplier", "uint64 effectiveAt"]
    assert {name for name in content["namespaces"] if name.startswith("openzeppelin.")} >= {
        "openzeppelin.storage.ERC20",
        "openzeppelin.storage.AccessControl",
    }

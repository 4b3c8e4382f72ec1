"""@solana/spl-token, which knows nothing of us, reads our tokens, and builds the same instructions to the byte."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from solana_node import ROOT
from solders.pubkey import Pubkey
from spl_chain import NAME, SYMBOL, URI
from spl_instructions import KEYS, known_instructions

from chain_adapters.spl import token_2022
from chain_adapters.spl.addresses import associated_account
from chain_adapters.spl.multiplier import SCALE, encode_multiplier

AAPLX_EXTENSIONS = [
    "MetadataPointer",
    "PermanentDelegate",
    "DefaultAccountState",
    "ScaledUiAmountConfig",
    "PausableConfig",
    "ConfidentialTransferMint",
    "TransferHook",
    "TokenMetadata",
]

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not (ROOT / "node_modules/@solana/spl-token").is_dir(),
    reason="needs Node and `npm ci` in the project's folder",
)


def outside(*arguments):
    script = Path(__file__).with_name("outside_client.js")
    done = subprocess.run(["node", script, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_mint_is_read_as_one_of_xstocks(chain, token):
    read = outside("describe", chain.node.rpc_url, str(token.mint))
    assert read == {
        "extensions": AAPLX_EXTENSIONS,
        "decimals": 8,
        "supply": "0",
        "mintAuthority": str(token.minter.public_key),
        "freezeAuthority": str(token.guard.public_key),
        "permanentDelegate": str(token.delegate.public_key),
        "defaultState": 1,
        "multiplier": 1,
        "nextMultiplier": 1,
        "nextMultiplierTime": "0",
        "multiplierAuthority": str(token.scaler.public_key),
        "paused": False,
        "pauseAuthority": str(token.guard.public_key),
        "hookAuthority": str(token.delegate.public_key),
        "hookProgram": str(Pubkey.default()),
        "metadataAddress": str(token.mint),
        "metadata": {"name": NAME, "symbol": SYMBOL, "uri": URI, "additional": []},
    }


def test_what_changes_is_seen(chain, token):
    wallet, account = token.holder(units=12_345)
    announced = token_2022.update_multiplier(token.mint, token.scaler.public_key, encode_multiplier(SCALE // 40), 4_000_000_000)
    assert chain.run([announced], token.scaler).error is None
    assert chain.run([token_2022.freeze(token.mint, account, token.guard.public_key)], token.guard).error is None
    assert chain.run([token_2022.pause(token.mint, token.guard.public_key)], token.guard).error is None
    read = outside("describe", chain.node.rpc_url, str(token.mint))
    assert (read["paused"], read["supply"], read["multiplier"]) == (True, "12345", 1)
    assert (read["nextMultiplier"], read["nextMultiplierTime"]) == (0.025, "4000000000")
    assert outside("hold", chain.node.rpc_url, str(token.mint), str(wallet.public_key)) == {
        "address": str(account),
        "units": "12345",
        "frozen": True,
        "owner": str(wallet.public_key),
    }


def test_the_same_instructions_to_the_byte():
    ours = known_instructions()
    theirs = outside("build", *map(str, KEYS))
    assert theirs.keys() == ours.keys()
    for name, instruction in ours.items():
        built = theirs[name]
        assert (name, str(instruction.program_id), bytes(instruction.data).hex()) == (name, built["program"], built["data"])
        metas = [(str(meta.pubkey), meta.is_signer, meta.is_writable) for meta in instruction.accounts]
        assert (name, metas) == (name, [tuple(meta) for meta in built["accounts"]])
    assert str(associated_account(KEYS[2], KEYS[0])) == theirs["associatedAccount"]["accounts"][1][0]

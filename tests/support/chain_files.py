"""Settings files of `stockledger chain deploy` for the test nodes, with new keys in files beside them."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from nacl.signing import SigningKey

from chain_adapters.evm.keys import open_signer as open_evm_signer
from chain_adapters.evm.setup import PARTIES as EVM_PARTIES
from chain_adapters.spl.addresses import chain_id
from chain_adapters.spl.setup import PARTIES as SPL_PARTIES
from chain_adapters.spl.signing import open_signer as open_spl_signer

COINS = 10**19


class EvmFile:
    """A file for an EVM node, keys as 64 hex digits."""

    def __init__(self, folder: Path, node, *, funded=tuple(EVM_PARTIES), name: str = "ethereum") -> None:
        self.chain = f"eip155:{int(node.call('eth_chainId'), 16)}"
        self.path = folder / f"{name}.toml"
        self.accounts = {}
        for party in EVM_PARTIES:
            path = folder / f"{name}-{party}.key"
            path.write_text(secrets.token_hex(32))
            self.accounts[party] = open_evm_signer(self.chain, path.read_bytes()).account
            if party in funded:
                node.call("anvil_setBalance", self.accounts[party].rpartition(":")[2], hex(COINS))
        self._head = f'chain = "{self.chain}"\nname = "Ethereum"\nnodes = ["{node.url}"]\n'
        self._keys = "[keys]\n" + "".join(f'{party} = "{name}-{party}.key"\n' for party in EVM_PARTIES)

    def write(self, *, top: str = "", tables: str = "") -> Path:
        self.path.write_text(f"{self._head}{top}\n{self._keys}\n{tables}")
        return self.path


class SplFile:
    """A file for a Solana node, keys as solana-keygen writes them; the payer is funded by the node's own."""

    def __init__(self, folder: Path, chain) -> None:
        self.chain = chain_id(chain.client.genesis_hash())
        self.path = folder / "solana.toml"
        self.accounts = {}
        for party in SPL_PARTIES:
            path = folder / f"solana-{party}.json"
            key = SigningKey.generate()
            path.write_text(json.dumps(list(bytes(key) + bytes(key.verify_key))))
            self.accounts[party] = open_spl_signer(self.chain, path.read_bytes()).account
        self._head = f'chain = "{self.chain}"\nname = "Solana"\nnodes = ["{chain.node.rpc_url}"]\n'
        self._keys = "[keys]\n" + "".join(f'{party} = "solana-{party}.json"\n' for party in SPL_PARTIES)

    def write(self, *, tables: str = "", nonces: int = 3) -> Path:
        self.path.write_text(f'{self._head}\n{self._keys}\n[options]\nnonces = "{nonces}"\n\n{tables}')
        return self.path


def token(instrument: str = "AAPLx", **more: object) -> str:
    """Return one of [[tokens]]."""
    fields = {"instrument": instrument, "name": f"{instrument[:-1]} tokenised", "decimals": 8, "allotment_units": 10**12, **more}
    return "[[tokens]]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in fields.items())

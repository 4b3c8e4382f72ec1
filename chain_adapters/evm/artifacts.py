"""The compiled contracts, as `make contracts` committed them."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

ADDRESS_WORD_BYTES = 32


@dataclass(frozen=True, slots=True)
class Artifact:
    """A compiled contract.

    `abi` is the list of its members, `errors` what each of its refusals means in words, by signature, `immutables` the
    (start, length) of the places in `deployed_bytecode` that the constructor fills in.
    """

    contract: str
    metadata_hash: str
    abi: tuple[dict[str, Any], ...]
    errors: dict[str, str]
    bytecode: bytes
    deployed_bytecode: bytes
    immutables: tuple[tuple[int, int], ...]

    def is_code_of(self, code: bytes) -> bool:
        """Tell whether the code at an address is this contract, whatever its constructor was given.

        A proxy is found to be a proxy; what it runs is its beacon's business.
        """
        return self._masked(code) == self._masked(self.deployed_bytecode)

    def immutables_of(self, code: bytes) -> set[bytes]:
        """Return what the constructor filled in, each as a word of 32 bytes."""
        return {code[start : start + length].rjust(ADDRESS_WORD_BYTES, b"\0") for start, length in self.immutables}

    def _masked(self, code: bytes) -> bytes:
        masked = bytearray(code)
        for start, length in self.immutables:
            masked[start : start + length] = bytes(len(masked[start : start + length]))
        return bytes(masked)


@functools.cache
def load(contract: str) -> Artifact:
    """Load a contract by its name, for example "StockToken"."""
    text = files(__package__).joinpath("artifacts", f"{contract}.json").read_text(encoding="utf-8")
    content = json.loads(text)
    return Artifact(
        contract=content["contract"],
        metadata_hash=content["metadata_hash"],
        abi=tuple(content["abi"]),
        errors=content["errors"],
        bytecode=bytes.fromhex(content["bytecode"][2:]),
        deployed_bytecode=bytes.fromhex(content["deployed_bytecode"][2:]),
        immutables=tuple((place["start"], place["length"]) for place in content["immutables"]),
    )

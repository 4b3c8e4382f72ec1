"""The reference chain: the executable meaning of the Protocol, for tests, examples and whoever writes an adapter.

token.py       one token: who may do what with it, and what comes of it
chain.py       blocks, signatures, sequences, fees, finality, reorganisations; everything at its node's disposal
node.py        the node as an adapter asks it: in this process or over HTTP on loopback
payloads.py    what is signed: JSON in one canonical form
preparing.py   instructions -> operations -> transactions
adapter.py     the verbs of `chain_adapters.protocol.ChainAdapter`
rig.py         what the conformance kit needs of a chain beside an adapter

It is a chain in everything but value: Ed25519 signatures are verified, numbers and one-time values let one transaction land, a
failed one pays and uses up its sequence, and what is not final may be reorganised away.
"""

from __future__ import annotations

from chain_adapters.memory.adapter import MemoryAdapter, connect
from chain_adapters.memory.payloads import open_signer

__all__ = ["MemoryAdapter", "connect", "open_signer"]

"""One Solana node for the tests of this folder and this process; each test makes tokens and keys of its own on it."""

from __future__ import annotations

import contextlib

import pytest

pytest.importorskip("solders", reason="solders is not installed: pip install 'stockledger[spl]'")

from solana_node import solana_node
from spl_chain import SplChain


@pytest.fixture(scope="session")
def chain():
    with solana_node() as node, contextlib.closing(SplChain(node)) as chain:
        yield chain


@pytest.fixture
def token(chain):
    return chain.token()

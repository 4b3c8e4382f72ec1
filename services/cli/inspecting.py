"""`stockledger chain inspect`: chains, tokens and keys as the ledger has them registered, against what their nodes say now."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chain_adapters.protocol import ChainError, ChainSettings, find_adapter
from chain_adapters.setting_up import find_setup
from services.chain_worker.command import chain_configurations
from services.cli.outcome import DONE, REFUSED
from services.cli.output import Column, Progress, note, print_json, print_table
from services.cli.showing import Books
from services.cli.stores import open_store, settings_of, state_of
from stockledger.v1.chains_pb2 import ChainCapability, ListChainKeysRequest, ListChainsRequest, ListDeploymentsRequest

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from chain_adapters.protocol import ChainAdapter
    from services.chain_worker.chain_loop import ChainConfiguration
    from stockledger.v1.chains_pb2 import Chain, Deployment


@dataclass
class Looked:
    """What was found of one chain. `faults` is empty where all is as registered."""

    chain: str
    node: str = ""
    final_number: int = 0
    cursor_number: int = 0
    tokens: list[dict[str, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def run(options: argparse.Namespace) -> int:
    """Look at every chain that is registered and has a node in the settings."""
    settings = settings_of(options)
    configurations = {each.chain: each for each in chain_configurations(settings.worker, os.environ)}
    with Progress() as progress, open_store(settings) as log:
        state = state_of(log, settings, progress)

    assert state.ledger_id, "the first entry says whose log it is"
    books = Books(state, time.time_ns() // 1000)
    found = []
    for chain in books.read_all(ListChainsRequest):
        configuration = configurations.pop(chain.chain, None)
        if configuration is None:
            note(f"{chain.chain} is registered, and the settings name no node of it")
        elif not chain.retired:
            found.append(_look(books, state.ledger_id, chain, configuration))
    found += [Looked(chain, faults=["it is not registered"]) for chain in configurations]
    _print(found, as_json=options.json)
    return REFUSED if any(each.faults for each in found) else DONE


def _look(books: Books, ledger: str, chain: Chain, configuration: ChainConfiguration) -> Looked:
    deployments = [each for each in books.read_all(ListDeploymentsRequest, chain=chain.chain) if not each.retired]
    keys = [each for each in books.read_all(ListChainKeysRequest, chain=chain.chain) if not each.retired]
    looked = Looked(chain.chain, cursor_number=chain.cursor.number)
    settings = ChainSettings(
        chain.chain, configuration.urls, configuration.signers, chain.finality_depth, ledger=ledger, options=configuration.options
    )
    if configuration.signers:
        absent = [each.key for each in keys if each.key not in configuration.signers]
        looked.faults += [f"{key} is registered, and its key is not here" for key in absent]
    try:
        with contextlib.closing(find_adapter(chain.chain)(settings)) as adapter:
            looked.node = adapter.describe().node
            looked.final_number = adapter.finalised().number
            for deployment in deployments:
                _look_at_token(adapter, deployment, looked)
        with contextlib.closing(find_setup(chain.chain)(settings)) as setup:
            looked.faults += setup.faults(deployments, keys)
    except ChainError as error:
        looked.faults.append(f"{type(error).__name__}: {error}")
    return looked


def _look_at_token(adapter: ChainAdapter, deployment: Deployment, looked: Looked) -> None:
    """Hold what a token can do against its registration: what it could do beyond that is nobody's concern."""
    try:
        able = adapter.inspect(deployment)
    except ChainError as error:
        looked.faults.append(f"{type(error).__name__}: {error}")
        state = type(error).__name__
    else:
        lacking = [_short(each) for each in deployment.capabilities if each not in able]
        looked.faults += [f"{deployment.instrument} is registered as capable of {each}, and cannot do it" for each in lacking]
        state = "as registered" if not lacking else f"cannot {', '.join(lacking)}"
    looked.tokens.append({"instrument": deployment.instrument, "token": deployment.token, "state": state})


def _short(capability: ChainCapability.ValueType) -> str:
    return ChainCapability.Name(capability).removeprefix("CHAIN_CAPABILITY_")


def _print(found: Sequence[Looked], *, as_json: bool) -> None:
    if as_json:
        print_json({"chains": [vars(each) for each in found]})
        return
    chains: list[list[Any]] = [[each.chain, each.node, str(each.final_number), str(each.cursor_number)] for each in found]
    print_table([Column("chain"), Column("node"), Column("final", right=True), Column("in the books", right=True)], chains, "no chains")
    tokens = [[each["instrument"], each["token"], each["state"]] for looked in found for each in looked.tokens]
    if tokens:
        print_table([Column("instrument"), Column("token"), Column("state")], tokens, "")
    for looked in found:
        for fault in looked.faults:
            print(f"{looked.chain}: {fault}")

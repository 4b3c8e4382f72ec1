"""The worker as a process: it carries everything out, and being killed changes nothing."""

from __future__ import annotations

import contextlib
import random
import re
import threading
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

import pytest
from chain_worker_process import Ticking, wait_until
from worker_crashes import crash_worker

from chain_adapters.conformance_market import Market
from chain_adapters.memory import connect
from chain_adapters.memory.chain import NUMBER, ONE_TIME_VALUE
from chain_adapters.memory.rig import MemoryRig
from chain_adapters.protocol import ChainSettings, ChainUnavailable
from services.chain_worker.chain_loop import ChainConfiguration, ChainLoop
from services.chain_worker.command import chain_configurations
from services.chain_worker.metrics import WorkerMetrics
from services.chain_worker.settings import WorkerSettings
from services.settings import SettingsError, load_settings, shown_value
from stockledger.v1.chains_pb2 import RegisterChainRequest

if TYPE_CHECKING:
    from pathlib import Path

    from chain_adapters.protocol import ChainAdapter


@pytest.mark.parametrize("sequences", [NUMBER, ONE_TIME_VALUE])
def test_a_worker_killed_at_random_does_everything_once(tmp_path: Path, sequences: str) -> None:
    with MemoryRig(sequences=sequences, seed=11) as rig:
        crash_worker(rig, tmp_path, instructions=60, kills=4, seed=11)


def loop_of(market: Market, rig: MemoryRig, metrics: WorkerMetrics) -> ChainLoop:
    signers = {signer.account: signer for signer in rig.signers.values()}
    configuration = ChainConfiguration(rig.chain, (rig.node_url,), signers, {}, poll_seconds=0.01, reconcile_seconds=0.05)
    return ChainLoop(market.call, "kit", configuration, metrics, connect=connect)


def figure(metrics: WorkerMetrics, name: str, chain: str) -> float | None:
    return metrics.registry.get_sample_value(f"stockledger_chain_{name}", {"chain": chain})


def test_a_chain_that_fails_leaves_the_others_alone() -> None:
    metrics, told = WorkerMetrics(), threading.Event()
    with MemoryRig() as rig, contextlib.closing(Market(rig)) as market:
        with MemoryRig("memory:away", seed=1) as away, contextlib.closing(away.connect()) as adapter:
            market.do(RegisterChainRequest(chain="memory:away", name="Away", finality_rule=1, cursor=adapter.finalised()))
        loops = [loop_of(market, each, metrics) for each in (rig, away)]
        threads = [threading.Thread(target=loop.run, args=(told,)) for loop in loops]
        for thread in threads:
            thread.start()
        try:
            market.transfer("book:alice", market.wallets[0], 70)
            with Ticking(rig, random.Random(1)):
                wait_until(lambda: market.units(market.wallets[0]) == 70, 20, "the mint is not final")
                wait_until(lambda: figure(metrics, "up", "memory:away") == 0, 20, "nobody noticed")
                rig.mint_behind(market.token, market.wallets[0], 7)
                wait_until(lambda: (figure(metrics, "divergences_open", rig.chain) or 0) > 0, 20, "the divergence is not told")
        finally:
            told.set()
            for thread in threads:
                thread.join()
        rig.finalise()
        market.settle()
        market.check({market.wallets[0]: 77})
        assert figure(metrics, "up", rig.chain) == 1
        assert (figure(metrics, "transactions_sent_total", rig.chain) or 0) >= 1
        assert figure(metrics, "reconciled_time_seconds", rig.chain)


class Waits(threading.Event):
    """Notes how long it is waited for, and ends the loop after a few times."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout)
        if len(self.seconds) == 3:
            self.set()
        return self.is_set()


@pytest.mark.parametrize(("asked", "seconds"), [(7.0, [7.0, 7.0, 7.0]), (1.0, [0.1, 0.2, 0.4]), (1e9, [300.0] * 3)])
def test_a_node_that_asks_for_time_gets_it(asked: float, seconds: list[float]) -> None:
    told = Waits()

    def refuse(settings: ChainSettings) -> ChainAdapter:
        raise ChainUnavailable(settings.chain, "429", retry_after_seconds=asked)

    with MemoryRig() as rig, contextlib.closing(Market(rig)) as market:
        configuration = ChainConfiguration(rig.chain, (rig.node_url,), {}, {}, poll_seconds=0.01, reconcile_seconds=1)
        ChainLoop(market.call, "kit", configuration, WorkerMetrics(), connect=refuse).run(told)
    assert told.seconds == seconds


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chains": ()}, "there is nothing to work on"),
        ({"chains": ("memory:1",)}, "it must begin with a chain's id"),
        ({"chains": ("memory:1=http://a:1", "memory:1=http://b:1")}, "names one twice"),
        ({"chain_keys": ("memory:2=env:KEY",)}, "which is not among the chains"),
        ({"chain_keys": ("eip155:1=env:KEY",)}, "nothing that is installed opens keys"),
        ({"chain_keys": ("memory:1=env:NOTHING",)}, "the environment variable NOTHING, which is not set"),
        ({"chain_keys": ("memory:1=nowhere.seed",)}, "cannot be read"),
        ({"chain_keys": ("memory:1=env:SHORT",)}, "cannot be opened"),
        ({"chain_options": ("memory:1=name",)}, "must be like memory:1=name=value"),
    ],
)
def test_what_settings_cannot_be(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str) -> None:
    point = EntryPoint("memory", "chain_adapters.memory:open_signer", "stockledger.chain_signers")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [point])
    settings = WorkerSettings(**({"chains": ("memory:1=http://127.0.0.1:1",)} | changes))
    with pytest.raises(SettingsError, match=re.escape(message)):
        chain_configurations(settings, {"KEY": "ab" * 32, "SHORT": "ab"})


def test_addresses_of_nodes_are_shown_without_what_is_secret() -> None:
    settings = load_settings({"chains": ["eip155:1=https://user:word@node.example/v2/secret http://127.0.0.1:8545"]}, {})
    assert shown_value(settings, "chains") == "eip155:1=https://node.example/(hidden) http://127.0.0.1:8545"

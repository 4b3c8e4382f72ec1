"""`stockledger work`: work on chains until told to stop (SIGTERM, SIGINT)."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from ledger.caip import check_chain
from ledger.errors import Unavailable
from services.chain_worker.chain_loop import ChainConfiguration, ChainLoop
from services.chain_worker.connection import LedgerConnection
from services.chain_worker.keys import open_signers, split_item
from services.chain_worker.metrics import WorkerMetrics
from services.cli.stores import settings_of
from services.observability import start_logging
from services.settings import SettingsError, refused_value

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from services.chain_worker.settings import WorkerSettings
    from services.settings import Settings

LEDGER_PAUSE_SECONDS = 1.0
SIGNAL_SECONDS = 1.0


def run(options: argparse.Namespace) -> int:
    """Work until told to stop, and return the exit code.

    Raises: SettingsError; LedgerError if the ledger refuses us.
    """
    settings = settings_of(options)
    start_logging(settings.server.log_level)
    configurations = chain_configurations(settings.worker, os.environ)
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    metrics = WorkerMetrics()
    served = _tell_figures(metrics, settings)
    try:
        with open_connection(settings.worker) as connection:
            _work(connection, configurations, metrics, told)
    finally:
        if served is not None:
            served.shutdown()
            served.server_close()
    return 0


def chain_configurations(settings: WorkerSettings, environment: Mapping[str, str]) -> list[ChainConfiguration]:
    """Return what is set for each chain.

    Raises: SettingsError.
    """
    if not settings.chains:
        raise SettingsError("there is nothing to work on: name chains and their nodes, like --chain eip155:1=http://127.0.0.1:8545")
    urls = dict(split_item(item, "chains") for item in settings.chains)
    if len(urls) < len(settings.chains):
        raise SettingsError("chains names one twice; several nodes of a chain are separated by spaces")
    signers = open_signers(settings.chain_keys, settings.chain_key_passphrase, environment)
    options: dict[str, dict[str, str]] = {}
    for item in settings.chain_options:
        chain, rest = split_item(item, "chain_options")
        name, equals, value = rest.partition("=")
        if not equals:
            raise SettingsError(f"chain_options has {item!r}; it must be like {chain}=name=value")
        options.setdefault(chain, {})[name] = value
    for chain in (*signers, *options):
        if chain not in urls:
            raise SettingsError(f"something is set for {chain}, which is not among the chains")
    return [
        ChainConfiguration(
            chain=check_chain("chains", chain),
            urls=tuple(nodes.split()),
            signers=signers.get(chain, {}),
            options=options.get(chain, {}),
            poll_seconds=settings.chain_poll_ms / 1000,
            reconcile_seconds=settings.chain_reconcile_seconds,
        )
        for chain, nodes in urls.items()
    ]


def open_connection(settings: WorkerSettings) -> LedgerConnection:
    """Connect to the ledger's owner; nothing is asked yet.

    Raises: SettingsError.
    """
    try:
        return LedgerConnection(settings)
    except (OSError, ValueError) as error:
        raise SettingsError(f"the ledger cannot be connected to: {error}") from error


def _tell_figures(metrics: WorkerMetrics, settings: Settings) -> Any:
    name, port = "worker_metrics_port", settings.worker.worker_metrics_port
    try:
        return metrics.serve(port) if port else None
    except OSError as error:
        expected = f"a port on loopback that can be had ({error.strerror})"
        raise SettingsError(refused_value(name, port, settings.sources[name], expected)) from error


def _work(connection: LedgerConnection, configurations: list[ChainConfiguration], metrics: WorkerMetrics, told: threading.Event) -> None:
    ledger_id = ""
    while not ledger_id and not told.is_set():
        try:
            ledger_id = connection.ledger_id()
        except Unavailable:
            told.wait(LEDGER_PAUSE_SECONDS)  # a worker may be started before the server
    loops = [ChainLoop(connection.call, ledger_id, configuration, metrics) for configuration in configurations]
    threads = [threading.Thread(target=loop.run, args=(told,), name=loop.chain) for loop in loops]
    for thread in threads:
        thread.start()
    print(f"stockledger works on {', '.join(loop.chain for loop in loops)} for {ledger_id}", file=sys.stderr, flush=True)  # noqa: T201 - for a person
    while not told.wait(SIGNAL_SECONDS):  # a thread that waits for ever may sleep through a signal that came as it fell asleep
        pass
    for thread in threads:
        thread.join()

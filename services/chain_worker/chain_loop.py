"""One chain: project, read, and now and then reconcile, for as long as the worker lives; whatever fails is tried again."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from chain_adapters.calls import open_divergences
from chain_adapters.projector import Projector, Round, Stuck
from chain_adapters.protocol import ChainError, ChainSettings, ChainUnavailable, find_adapter
from chain_adapters.reader import Reader
from chain_adapters.reconciler import Reconciler
from ledger.errors import LedgerError
from services.observability import LOGGER
from stockledger.v1.chains_pb2 import DivergenceKind, GetChainRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chain_adapters.calls import Call
    from chain_adapters.protocol import ChainAdapter, Connect, Signer
    from chain_adapters.reader import Read
    from services.chain_worker.metrics import WorkerMetrics

PAUSE_SECONDS: Final = 0.1
PAUSE_SECONDS_MAX: Final = 10.0
"""After something failed: the first pause, which doubles each time, and the longest."""
DEFAULT_RETRY_SECONDS: Final = 1.0
"""What ChainUnavailable says where the node has said nothing."""
RETRY_SECONDS_MAX: Final = 300.0
"""However long a node asks for: it may have been told another limit since, and an operator another node."""
RANGES_PER_TURN_MAX: Final = 50
"""Ranges that are read before the projector has its turn again."""
_log = logging.getLogger(LOGGER)


@dataclass(frozen=True, slots=True)
class ChainConfiguration:
    """What the settings say of one chain."""

    chain: str
    urls: tuple[str, ...]
    signers: Mapping[str, Signer]
    options: Mapping[str, str]
    poll_seconds: float
    reconcile_seconds: float


class ChainLoop:
    """Works on one chain, in a thread of its own."""

    def __init__(
        self,
        call: Call,
        ledger_id: str,
        configuration: ChainConfiguration,
        metrics: WorkerMetrics,
        *,
        connect: Connect | None = None,
    ) -> None:
        self._call = call
        self._ledger_id = ledger_id
        self._configuration = configuration
        self.chain = configuration.chain
        self._metrics = metrics
        self._connect = connect
        self._adapter: ChainAdapter | None = None
        self._projector: Projector | None = None
        self._reconcile_at = 0.0
        self._stuck: dict[str, Stuck] = {}
        self._divergences: set[int] = set()
        self._failure = ""

    def run(self, told: threading.Event) -> None:
        """Work until told to stop. A turn that has begun is carried through: it ends in a state from which anything can go on."""
        pause = PAUSE_SECONDS
        while not told.is_set():
            try:
                busy = self.turn()
            except Exception as error:  # noqa: BLE001 - whatever happens to one chain, the others and the next turn go on
                self._tell_failure(error)
                told.wait(max(pause, _retry_seconds(error)))
                pause = min(2 * pause, PAUSE_SECONDS_MAX)
            else:
                self._tell_success()
                pause = PAUSE_SECONDS
                if not busy:
                    told.wait(self._configuration.poll_seconds)
        if self._adapter is not None:
            self._adapter.close()

    def turn(self) -> bool:
        """Project once, read what is final, reconcile if it is time; tell whether there was anything to do.

        Raises: ChainError, LedgerError.
        """
        adapter, projector = self._connected()
        reader = Reader(self._call, adapter)
        done, failure = Round(self.chain), None
        try:
            done = projector.round()
            self._tell_round(done)
        except ChainError as error:  # what cannot be sent now must not keep what is final from the books, nor a divergence hidden
            failure = error
        read = self._read(reader, done)
        if not read.halted and time.monotonic() >= self._reconcile_at:
            self._reconcile_at = time.monotonic() + self._configuration.reconcile_seconds
            for reconciled in Reconciler(self._call, adapter, reader).run():
                self._metrics.reconciled(reconciled)
        self._tell_divergences()
        if failure is not None:
            raise failure
        return bool(done.sent_count or done.made_count or read.booked)

    def _connected(self) -> tuple[ChainAdapter, Projector]:
        """Connect as the ledger has the chain registered; the projector holds each token against its registration, once."""
        if self._adapter is None or self._projector is None:
            configuration = self._configuration
            registered = self._call(GetChainRequest(chain=self.chain)).chain
            connect = self._connect or find_adapter(self.chain)
            settings = ChainSettings(
                chain=self.chain,
                urls=configuration.urls,
                signers=configuration.signers,
                finality_depth=registered.finality_depth,
                ledger=self._ledger_id,
                options=configuration.options,
            )
            adapter = connect(settings)
            description = adapter.describe()
            _log.info("chain connected", extra={"chain": self.chain, "node": description.node, "keys": sorted(configuration.signers)})
            self._adapter, self._projector = adapter, Projector(self._call, adapter)
        return self._adapter, self._projector

    def _read(self, reader: Reader, done: Round) -> Read:
        read = reader.read(satisfied=done.satisfied)
        self._metrics.read(read)
        ranges = 1
        while read.booked and read.lag_blocks and ranges < RANGES_PER_TURN_MAX:
            read = reader.read(satisfied=done.satisfied)
            self._metrics.read(read)
            ranges += 1
        return read

    # ---- what is told ---------------------------------------------------------------------------------------------------------------

    def _tell_round(self, done: Round) -> None:
        self._metrics.round(done, time.time_ns() // 1000)
        stuck = {each.what: each for each in done.stuck}
        for what, each in stuck.items():
            if what not in self._stuck or self._stuck[what].why != each.why:
                _log.warning("stuck", extra={"chain": self.chain, "what": what, "since_us": each.since_us, "why": each.why})
        for what in self._stuck.keys() - stuck.keys():
            _log.info("no longer stuck", extra={"chain": self.chain, "what": what})
        self._stuck = stuck

    def _tell_divergences(self) -> None:
        found = {each.divergence: each for each in open_divergences(self._call, self.chain)}
        self._metrics.set(self.chain, "divergences_open", len(found))
        for number in sorted(found.keys() - self._divergences):
            each = found[number]
            told = {"chain": self.chain, "divergence": number, "kind": DivergenceKind.Name(each.kind), "halting": each.halting}
            _log.error("divergence", extra=told | {"instrument": each.instrument, "expected": each.expected, "found": each.found})
        self._divergences = set(found)

    def _tell_failure(self, error: Exception) -> None:
        self._metrics.failed(self.chain, error)
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, (ChainError, LedgerError)):
            if text != self._failure:
                _log.warning("chain waits", extra={"chain": self.chain, "why": text})
        else:
            _log.exception("fault", extra={"chain": self.chain})
        self._failure = text

    def _tell_success(self) -> None:
        self._metrics.set(self.chain, "up", 1)
        if self._failure:
            _log.info("chain goes on", extra={"chain": self.chain, "after": self._failure})
        self._failure = ""


def _retry_seconds(error: Exception) -> float:
    """Return when a node asks to be left alone until; one that does not say so is asked again as soon as the pause allows."""
    asked = error.retry_after_seconds if isinstance(error, ChainUnavailable) else 0.0
    return min(asked, RETRY_SECONDS_MAX) if asked > DEFAULT_RETRY_SECONDS else 0.0

"""Figures of a worker for Prometheus, by chain. Alarms belong on: lag, stuck, divergences open, and up being 0."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

if TYPE_CHECKING:
    from chain_adapters.projector import Round
    from chain_adapters.reader import Read
    from chain_adapters.reconciler import Reconciled

_GAUGES = {
    "up": "1 while the last look at the chain and the ledger succeeded.",
    "halted": "1 while the chain's history has changed, and nothing is read or sent.",
    "lag_blocks": "Blocks that are final and not in the books yet.",
    "lag_seconds": "What lies between the cursor and the newest final block, by the chain's clock.",
    "instructions_open": "Instructions that no transaction carries.",
    "instructions_blocked": "Of these, stopped by a freeze, a halt, or a target before them.",
    "transactions_open": "Recorded transactions that may land.",
    "pending_seconds": "For how long the oldest instruction or transaction has waited.",
    "stuck": "Instructions and keys that do not go on by themselves.",
    "divergences_open": "Divergences that nobody has resolved.",
    "reconciled_time_seconds": "When supply and holdings were last held against the books, seconds since 1970.",
}
_COUNTERS = {
    "transactions_made": "Transactions recorded.",
    "transactions_sent": "Transactions signed and broadcast, each time.",
    "transactions_replaced": "Recorded with another fee.",
    "transactions_buried": "Recorded as dead.",
    "instructions_refused": "Given up because the chain refuses them for ever.",
    "instructions_final": "Carried out, finally.",
    "observations": "Things seen on chain, and booked.",
    "divergences": "Divergences raised.",
}


class WorkerMetrics:
    """Figures of one worker, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._gauges = {name: Gauge(f"stockledger_chain_{name}", text, ["chain"], registry=registry) for name, text in _GAUGES.items()}
        self._counters = {
            name: Counter(f"stockledger_chain_{name}", text, ["chain"], registry=registry) for name, text in _COUNTERS.items()
        }
        self._failures = Counter(
            "stockledger_chain_failures", "Looks that failed, by what was raised.", ["chain", "kind"], registry=registry
        )

    def set(self, chain: str, name: str, value: float) -> None:
        self._gauges[name].labels(chain).set(value)

    def round(self, done: Round, now_us: int) -> None:
        """Tell what a projector's round found and did."""
        chain = done.chain
        self.set(chain, "halted", done.halted)
        self.set(chain, "instructions_open", done.open_count)
        self.set(chain, "instructions_blocked", done.blocked_count)
        self.set(chain, "transactions_open", done.recorded_count)
        self.set(chain, "pending_seconds", (now_us - done.oldest_us) / 1e6 if done.oldest_us else 0)
        self.set(chain, "stuck", len(done.stuck))
        self._count(chain, "transactions_made", done.made_count)
        self._count(chain, "transactions_sent", done.sent_count)
        self._count(chain, "transactions_replaced", done.replaced_count)
        self._count(chain, "transactions_buried", done.buried_count)
        self._count(chain, "instructions_refused", done.refused_count)

    def read(self, done: Read) -> None:
        """Tell what a reader's range came to."""
        chain = done.chain
        self.set(chain, "lag_blocks", done.lag_blocks)
        self.set(chain, "lag_seconds", done.lag_seconds)
        self._count(chain, "observations", done.observation_count)
        self._count(chain, "instructions_final", done.final_count)
        self._count(chain, "instructions_refused", done.refused_count)
        self._count(chain, "divergences", done.divergence_count)

    def reconciled(self, done: Reconciled) -> None:
        """Tell what one deployment came to."""
        if done.position is not None:
            self.set(done.chain, "reconciled_time_seconds", time.time())
        self._count(done.chain, "divergences", done.divergence_count)

    def failed(self, chain: str, error: BaseException) -> None:
        self.set(chain, "up", 0)
        self._failures.labels(chain, type(error).__name__).inc()

    def serve(self, port: int) -> Any:
        """Answer Prometheus on loopback; return what is shut down in the end."""
        return start_http_server(port, addr="127.0.0.1", registry=self.registry)[0]

    def _count(self, chain: str, name: str, count: int) -> None:
        self._counters[name].labels(chain).inc(count)

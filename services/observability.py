"""What a service tells about itself: a log for machines, figures for Prometheus, and traces where OpenTelemetry is installed.

None of it carries what requests say: no names of holders or accounts, no references, no units. A principal is the id of a system or an
operator, and stands in the log because somebody must be asked when something is wrong.
"""

from __future__ import annotations

import itertools
import json
import logging
import sys
import time
import traceback
from bisect import bisect_left
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

LOGGER: Final = "stockledger"
_STANDARD: Final = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime", "taskName"}
_SECONDS_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_COUNT_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)


class JsonFormatter(logging.Formatter):
    """One line of JSON for each record: time, level, logger, event, and whatever was given as `extra`.

    Of an exception the type and the places it came by are told, not its message, in which anything may stand.
    """

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line: dict[str, Any] = {"time": moment, "level": record.levelname.lower(), "logger": record.name, "event": record.getMessage()}
        line |= {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__
            line["places"] = _places(record.exc_info[2])
        return json.dumps(line, default=str)


def _places(where: TracebackType | None) -> list[str]:
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(where)]


def start_logging(level: str) -> None:
    """Send the log of this program to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger(LOGGER)
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


class _CallsOfRpc:
    """How calls of one RPC ended, and how long they took."""

    __slots__ = ("by_bucket", "by_code", "seconds")

    def __init__(self) -> None:
        self.by_code: dict[str, int] = {}
        self.by_bucket = [0] * (len(_SECONDS_BUCKETS) + 1)
        self.seconds = 0.0


class Calls(Collector):
    """Calls that ended. Counted by the event loop alone, so without the locks that take most of the library's time here."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._by_rpc: dict[str, _CallsOfRpc] = {}

    def ended(self, rpc: str, code: str, seconds: float) -> None:
        """Count a call that ended."""
        calls = self._by_rpc.get(rpc)
        if calls is None:
            calls = self._by_rpc[rpc] = _CallsOfRpc()
        calls.by_code[code] = calls.by_code.get(code, 0) + 1
        calls.by_bucket[bisect_left(_SECONDS_BUCKETS, seconds)] += 1
        calls.seconds += seconds

    def collect(self) -> Iterator[Metric]:
        """Tell the figures, in a thread of Prometheus'."""
        ended = CounterMetricFamily("stockledger_rpc", "Calls that ended, by RPC and gRPC code.", labels=["rpc", "code"])
        took = HistogramMetricFamily("stockledger_rpc_seconds", "From the arrival of a request to its answer.", labels=["rpc"])
        for rpc, calls in list(self._by_rpc.items()):
            for code, count in list(calls.by_code.items()):
                ended.add_metric([rpc, code], count)
            limits = [*map(floatToGoString, _SECONDS_BUCKETS), "+Inf"]
            took.add_metric([rpc], list(zip(limits, itertools.accumulate(calls.by_bucket), strict=True)), calls.seconds)
        yield ended
        yield took
        yield GaugeMetricFamily("stockledger_rpc_in_flight", "Calls and streams under way.", self.in_flight)


class Metrics:
    """Figures of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = Calls()
        self.registry.register(self.calls)
        self._groups = Histogram("stockledger_group_jobs", "Requests that shared a flush.", buckets=_COUNT_BUCKETS, registry=self.registry)
        self._commands = Counter("stockledger_commands", "Commands decided.", registry=self.registry)
        self._commit_seconds = Histogram(
            "stockledger_commit_seconds", "From a group's first decision to its flush.", buckets=_SECONDS_BUCKETS, registry=self.registry
        )
        self._faults = Counter("stockledger_faults", "Exceptions that nobody expected.", registry=self.registry)

    def group(self, jobs: int, commands: int, seconds: float) -> None:
        """Count a group that was committed."""
        self._groups.observe(jobs)
        self._commands.inc(commands)
        self._commit_seconds.observe(seconds)

    def standing(self, size: Callable[[], int], leads: Callable[[], bool], lag_seconds: Callable[[], float]) -> None:
        """Tell how far the books are, and of leading and following, asked whenever somebody looks."""
        entries = Gauge("stockledger_log_entries", "Size of the log.", registry=self.registry)
        entries.set_function(size)
        leading = Gauge("stockledger_leading", "1 while this server books, 0 while it follows.", registry=self.registry)
        leading.set_function(lambda: float(leads()))
        lag = Gauge("stockledger_lag_seconds", "Age of the books: since they were last as far as the store.", registry=self.registry)
        lag.set_function(lag_seconds)

    def fault(self) -> None:
        self._faults.inc()

    def serve(self, port: int) -> Any:
        """Answer Prometheus on loopback; return what `stop` takes."""
        return start_http_server(port, addr="127.0.0.1", registry=self.registry)[0]


class Span(Protocol):
    """One step of a trace that is under way."""

    def step(self, name: str, start_ns: int, end_ns: int, **attributes: Any) -> None: ...
    def fail(self, code: str) -> None: ...


class NoSpan:
    """What is traced where nothing is."""

    def step(self, name: str, start_ns: int, end_ns: int, **attributes: Any) -> None:
        """Tell nobody."""

    def fail(self, code: str) -> None:
        """Tell nobody."""


NO_SPAN: Final = NoSpan()


class Tracing:
    """OpenTelemetry spans from the RPC to the flush. `stockledger serve` sends them on (span_export.py); who embeds us has a provider.

    Of an exception its type is told, not its message, in which names of accounts may stand.
    """

    def __init__(self) -> None:
        from opentelemetry import trace  # noqa: PLC0415 - only where it is installed and wanted
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._trace = trace
        self._tracer = trace.get_tracer("stockledger")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def span(self, rpc: str, metadata: Mapping[str, str]) -> Iterator[Span]:
        """Trace one call, as part of its caller's trace if it says so (W3C Trace Context)."""
        context = self._propagator.extract(metadata)
        service, _, method = rpc.partition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": f"stockledger.v1.{service}", "rpc.method": method}
        kind = self._trace.SpanKind.SERVER
        with self._tracer.start_as_current_span(
            rpc, context=context, kind=kind, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            made = _OpenTelemetrySpan(self._tracer, span, self._trace)
            try:
                yield made
            except Exception as error:
                if not made.failed:
                    made.fail(type(error).__name__)
                raise


class _OpenTelemetrySpan:
    def __init__(self, tracer: Any, span: Any, trace: Any) -> None:
        self._tracer = tracer
        self._span = span
        self._trace = trace
        self.failed = False

    def step(self, name: str, start_ns: int, end_ns: int, **attributes: Any) -> None:
        context = self._trace.set_span_in_context(self._span)
        self._tracer.start_span(name, context=context, start_time=start_ns, attributes=attributes).end(end_time=end_ns)

    def fail(self, code: str) -> None:
        self.failed = True
        self._span.set_attribute("rpc.grpc.status", code)
        self._span.set_status(self._trace.StatusCode.ERROR, code)


def tracing_if_installed() -> Tracing | None:
    """Return what makes spans, or None where the packages are missing."""
    try:
        return Tracing()
    except ImportError:
        logging.getLogger(LOGGER).warning("tracing is set, but OpenTelemetry is not installed")
        return None

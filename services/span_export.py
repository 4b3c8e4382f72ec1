"""Where the spans of `stockledger serve` go, as OpenTelemetry's own variables say: to a collector by OTLP, or to stderr.

    OTEL_TRACES_EXPORTER            otlp (the default), console, or both: otlp,console
    OTEL_EXPORTER_OTLP_PROTOCOL     grpc, or http/protobuf; told nothing, whichever is installed, grpc first
    OTEL_EXPORTER_OTLP_ENDPOINT     and all others: as the packages read them

A process that embeds a server has its own way, and sets a provider of its own.
"""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from services.observability import LOGGER
from services.settings import SettingsError, refused_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

EXPORTER_VARIABLE: Final = "OTEL_TRACES_EXPORTER"
PROTOCOL_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
SERVICE_NAME: Final = "stockledger"
FLUSH_SECONDS: Final = 5.0
"""How long a stop waits for a collector to take the last spans; what it has not taken by then is lost."""
_PACKAGES: Final = {
    "grpc": ("opentelemetry.exporter.otlp.proto.grpc.trace_exporter", "stockledger[tracing]"),
    "http/protobuf": ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry-exporter-otlp-proto-http"),
}
"""Protocol -> (module, what to install)."""


@contextmanager
def exporting(environment: Mapping[str, str], source: str) -> Iterator[None]:
    """Send the spans of this process on their way while it lasts. `source` says where the setting `tracing` came from.

    Raises: SettingsError where a package is missing, or a variable is not understood.
    """
    try:
        from opentelemetry import trace  # noqa: PLC0415 - only where it is wanted
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise _missing(source, "OpenTelemetry's SDK", "stockledger[server]") from error
    _log_as_json()
    try:
        exporters = [_exporter(name.strip(), environment, source) for name in (environment.get(EXPORTER_VARIABLE) or "otlp").split(",")]
        resource = Resource.create()
        if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):  # neither OTEL_SERVICE_NAME nor an attribute
            resource = resource.merge(Resource({"service.name": SERVICE_NAME}))
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        for exporter in exporters:
            provider.add_span_processor(BatchSpanProcessor(exporter))
    except (OSError, RuntimeError, ValueError) as error:
        raise SettingsError(f"spans cannot be exported as the OTEL_* variables say: {error}") from error
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        flush = threading.Thread(target=provider.shutdown, name="stockledger-spans", daemon=True)
        flush.start()
        flush.join(FLUSH_SECONDS)


def _exporter(name: str, environment: Mapping[str, str], source: str) -> Any:
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter  # noqa: PLC0415

        return ConsoleSpanExporter(out=sys.stderr, formatter=lambda span: f"{span.to_json(indent=None)}\n")
    if name != "otlp":
        raise SettingsError(f"{EXPORTER_VARIABLE} has {name!r}, it must be otlp, console, or both with a comma")
    variable = next((each for each in PROTOCOL_VARIABLES if environment.get(each)), "")
    protocol = environment.get(variable, "")
    if protocol and protocol not in _PACKAGES:
        raise SettingsError(f"{variable} is {protocol!r}, it must be {' or '.join(_PACKAGES)}")
    for each in [protocol] if protocol else _PACKAGES:
        try:
            return importlib.import_module(_PACKAGES[each][0]).OTLPSpanExporter()
        except ImportError:
            continue
    wanted = protocol or "grpc"
    raise _missing(source, f"the exporter for OTLP over {wanted}", _PACKAGES[wanted][1])


def _missing(source: str, what: str, package: str) -> SettingsError:
    return SettingsError(refused_value("tracing", True, source, f"false, or {what} installed: pip install '{package}'"))


def _log_as_json() -> None:
    """Have the packages' own complaints, of a collector that is away, in this program's log."""
    theirs = logging.getLogger("opentelemetry")
    theirs.handlers[:] = logging.getLogger(LOGGER).handlers
    theirs.propagate = False

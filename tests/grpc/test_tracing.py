"""Spans from the RPC to the flush, of single calls and of streams; and where `stockledger serve` sends them."""

from __future__ import annotations

import json
import sys
import time
from concurrent import futures

import grpc
import pytest
from grpc_server_thread import Client, RunningServer, give, market, request_id
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from server_process import ServerProcess, wait_until

from services.settings import SettingsError
from services.span_export import exporting
from stockledger.v1.transfers_pb2 import StreamTransfersRequest, TransferUnitsRequest

NO_EXPORTER = "the OTLP exporter is not installed: pip install 'stockledger[tracing]'"
TRANSFER, STREAM = "TransferService/TransferUnits", "TransferService/StreamTransfers"
STEPS = ["decide and flush", "wait"]
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = [("traceparent", f"00-{TRACE_ID}-b7ad6b7169203331-01")]


def transfer(units=1, **changes):
    fields = {"instrument": "AAPLx", "source": "book:broker-a/alice", "destination": "book:broker-a/bob", "units": units}
    return TransferUnitsRequest(**(fields | changes))


def stream_of(messages, transfers):
    for _ in range(messages):
        yield StreamTransfersRequest(transfers=[transfer(request_id=request_id()) for _ in range(transfers)])


@pytest.fixture(scope="module")
def exporter():
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)  # for ever: a process has one
    return exporter


@pytest.fixture
def client(exporter):
    exporter.clear()
    with market() as books, RunningServer(books, tracing=True) as server, Client(server.address) as client:
        client.metadata = PARENT
        yield client


def steps_of(spans, root):
    return [span for span in spans if span.parent and span.parent.span_id == root.context.span_id]


def ended(exporter, name):
    """Return the spans once that of an RPC, which ends behind its answer, is among them."""
    wait_until(lambda: any(span.name == name for span in exporter.get_finished_spans()))
    spans = exporter.get_finished_spans()
    return spans, next(span for span in spans if span.name == name)


def test_spans_go_from_the_rpc_to_the_flush(client, exporter):
    client.call(TRANSFER, transfer())
    spans, root = ended(exporter, TRANSFER)
    assert f"{root.context.trace_id:032x}" == TRACE_ID
    flush, wait = sorted(steps_of(spans, root), key=lambda span: span.name)
    assert [flush.name, wait.name] == STEPS
    assert wait.start_time <= wait.end_time == flush.start_time <= flush.end_time


def test_what_a_stream_acknowledges_together_has_the_steps_of_a_call(client, exporter):
    answers = list(client.call(STREAM, stream_of(3, 20)))
    spans, root = ended(exporter, STREAM)
    assert f"{root.context.trace_id:032x}" == TRACE_ID
    steps = steps_of(spans, root)
    assert sorted(step.name for step in steps) == sorted(STEPS * len(answers))
    flushes = [step for step in steps if step.name == "decide and flush"]
    assert [flush.attributes["acknowledged_count"] for flush in flushes] == [answer.acknowledged_count for answer in answers]
    assert all(0 < step.start_time <= step.end_time for step in steps)


def test_a_refusal_is_told_by_its_code_and_nothing_of_what_the_request_says(client, exporter):
    client.refused(TRANSFER, transfer(units=10**12))
    spans, root = ended(exporter, TRANSFER)
    assert (root.status.status_code.name, root.status.description) == ("ERROR", "FAILED_PRECONDITION")
    text = "".join(span.to_json() for span in spans)
    assert "alice" not in text
    assert "AAPLx" not in text


# ---- the command ---------------------------------------------------------------------------------------------------------------------


def traced_calls(store, **settings):
    """Make one call and one stream on a process, stop it, and return what it wrote to standard error."""
    with market(store) as books:
        give(books, "AAPLx", "book:house", 1)
    with ServerProcess(store, tracing="true", **settings) as server:
        with Client(server.address) as client:
            client.metadata = PARENT
            client.refused(TRANSFER, transfer())
            assert list(client.call(STREAM, stream_of(2, 5)))[-1].acknowledged_count == 10
        assert server.stop() == 0
        wait_until(lambda: not server._process.stderr or server._process.stderr.closed)
    return server.told


def test_serve_writes_spans_to_the_console(tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    told = traced_calls(f"sqlite:///{tmp_path}/books.db")
    spans = [line for line in map(json.loads, (line for line in told if line.startswith("{"))) if "context" in line]
    for rpc in (TRANSFER, STREAM):
        root = next(span for span in spans if span["name"] == rpc)
        assert root["context"]["trace_id"] == f"0x{TRACE_ID}"
        assert root["resource"]["attributes"]["service.name"] == "stockledger"
        assert {span["name"] for span in spans if span["parent_id"] == root["context"]["span_id"]} == set(STEPS)


class Collector(grpc.GenericRpcHandler):
    """Takes what comes by OTLP."""

    def __init__(self):
        self.taken = []

    def service(self, details):
        assert details.method == "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
        return grpc.unary_unary_rpc_method_handler(lambda raw, _: (self.taken.append(raw), b"")[1])


def test_serve_sends_spans_to_a_collector(tmp_path, monkeypatch):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc.trace_exporter", reason=NO_EXPORTER)
    service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason=NO_EXPORTER)
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((collector,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "books-1")
    traced_calls(f"sqlite:///{tmp_path}/books.db")
    server.stop(None)
    groups = [group for raw in collector.taken for group in service.ExportTraceServiceRequest.FromString(raw).resource_spans]
    assert {a.value.string_value for group in groups for a in group.resource.attributes if a.key == "service.name"} == {"books-1"}
    names = [span.name for group in groups for scope in group.scope_spans for span in scope.spans]
    assert {TRANSFER, STREAM, *STEPS} <= set(names)


def test_a_collector_that_is_away_holds_up_no_stop(tmp_path, monkeypatch):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc.trace_exporter", reason=NO_EXPORTER)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    began = time.monotonic()
    told = traced_calls(f"sqlite:///{tmp_path}/books.db")
    assert time.monotonic() - began < 25
    assert all(line.startswith(("{", "stockledger serves")) for line in told), told
    assert any("collector" in line or "127.0.0.1:1" in line for line in told), told


NOT_HERE = "tracing of --tracing is True, it must be false, or the exporter for OTLP over {} installed: pip install '{}'"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, NOT_HERE.format("grpc", "stockledger[tracing]")),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            NOT_HERE.format("http/protobuf", "opentelemetry-exporter-otlp-proto-http"),
        ),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json', it must be grpc or http/protobuf"),
        ({"OTEL_TRACES_EXPORTER": "console,zipkin"}, "OTEL_TRACES_EXPORTER has 'zipkin', it must be otlp, console, or both with a comma"),
        ({"OTEL_TRACES_EXPORTER": "none"}, "OTEL_TRACES_EXPORTER has 'none', it must be otlp, console, or both with a comma"),
    ],
)
def test_tracing_that_cannot_be_had_is_told(monkeypatch, environment, message):
    for protocol in ("grpc", "http"):
        monkeypatch.setitem(sys.modules, f"opentelemetry.exporter.otlp.proto.{protocol}.trace_exporter", None)
    with pytest.raises(SettingsError) as caught, exporting(environment, "flag --tracing"):
        pass
    assert str(caught.value) == message

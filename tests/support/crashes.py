"""Kill a busy ledger at random moments, and hold what comes back against what it had acknowledged."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import load
from durable import booked_requests, open_funded, request_id, url_of
from load import NUMBERS_PER_THREAD, THREADS, command_of
from scenario import check_invariants

from ledger import Ledger
from ledger.replay import latest_state
from stockledger.v1.audit_pb2 import FindRequestRequest

ENDLESS = NUMBERS_PER_THREAD - 1
NUMBERS_PER_ROUND = NUMBERS_PER_THREAD * len(THREADS)
RETRIED = 30


def start_load(
    url: str, base_us: int, first: int, count: int = ENDLESS, *, before: tuple[str, ...] = (), snapshot: str = ""
) -> subprocess.Popen[bytes]:
    """Start load.py; `before` is what runs it (a tracer), `snapshot` where it writes snapshots if not beside the store's file."""
    command = [*before, sys.executable, str(Path(load.__file__)), url, str(base_us), str(first), str(count), snapshot]
    support = str(Path(load.__file__).parent)
    return subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": support})


def read_acknowledgements(output: bytes) -> dict[int, tuple[int, int]]:
    """Return number -> (index, position); a line cut off by the kill was not received."""
    lines = output.decode().split("\n")[:-1]
    return {number: (index, position) for number, index, position in (map(int, line.split()) for line in lines if line != "ready")}


def crash_once(url: str, chance: random.Random, base_us: int, first: int, snapshot: str) -> dict[int, tuple[int, int]]:
    """Run the load, kill it at a random moment (while it opens, or at work), and return what it acknowledged."""
    process = start_load(url, base_us, first, snapshot=snapshot)
    assert process.stdout is not None
    output = b""
    if chance.random() < 0.1:
        time.sleep(chance.uniform(0.1, 0.6))
    else:
        output = process.stdout.readline()
        assert output == b"ready\n", "the load did not start"
        end = time.monotonic() + chance.uniform(0, 0.5)
        os.set_blocking(process.stdout.fileno(), False)
        while time.monotonic() < end:
            output += process.stdout.read1() or b""  # a full pipe would stop the load
            time.sleep(0.002)
        os.set_blocking(process.stdout.fileno(), True)
    process.kill()
    output += process.stdout.read()
    process.stdout.close()
    assert process.wait() == -9, "it ended before it was killed"
    return read_acknowledgements(output)


def check_after_crash(books: Ledger, acknowledged: dict[int, tuple[int, int]], base_us: int, first: int, chance: random.Random) -> None:
    """Every acknowledged request is there once and where it was said to be, and asking again books nothing twice."""
    assert latest_state(books.log) == books._state, "replay gives another state"
    check_invariants(books._state)
    books.log.check()
    found: dict[str, int] = {}
    for _, request, index in booked_requests(books):
        assert request not in found, f"{request} is booked at {found[request]} and at {index}"
        found[request] = index
    for number, (index, _) in acknowledged.items():
        assert found.get(request_id(number, base_us)) == index, f"number {number} was acknowledged at {index}"
    for number in chance.sample(sorted(acknowledged), min(3, len(acknowledged))):
        answer = books.execute(FindRequestRequest(request_id=request_id(number, base_us)))
        assert (answer.found, answer.index, answer.position) == (True, *acknowledged[number])
    retry(books, found, acknowledged, base_us, first)


def retry(books: Ledger, found: dict[str, int], acknowledged: dict[int, tuple[int, int]], base_us: int, first: int) -> None:
    """Ask once more for the last acknowledged and the first unacknowledged commands of each thread."""
    for place, kind in enumerate(THREADS):
        if kind == "snapshot":
            continue
        start = first + place * NUMBERS_PER_THREAD
        heard = [number for number in acknowledged if start <= number < start + NUMBERS_PER_THREAD]
        border = max(heard, default=start)
        for number in range(max(start, border - 3), border + RETRIED):
            answer = books.execute(command_of(number, base_us))
            assert answer.booking.repeated_answer == (request_id(number, base_us) in found), number
            if number in acknowledged:
                assert (answer.booking.index, answer.booking.position) == acknowledged[number]
    times = Counter(request for _, request, _ in booked_requests(books))
    assert not [request for request, count in times.items() if count > 1]
    check_invariants(books._state)


def crash_rounds(folder: Path, rounds: int, seed: int, url: str | None = None) -> int:
    """Crash one ledger (in a file, if not told where) again and again; return how many acknowledgements were held against it."""
    chance = random.Random(seed)
    base_us = time.time_ns() // 1000
    snapshot = str(folder / "books.snapshot") if url else ""
    url = url or url_of(folder)
    open_funded(url).close()
    total = 0
    for number in range(rounds):
        first = number * NUMBERS_PER_ROUND
        acknowledged = crash_once(url, chance, base_us, first, snapshot)
        total += len(acknowledged)
        with Ledger.open(url, snapshot=snapshot or None) as books:
            check_after_crash(books, acknowledged, base_us, first, chance)
            if chance.random() < 0.3:
                books.write_snapshot()
    return total

"""Kill the server that leads, again and again, under load from clients that ask until they are answered."""

from __future__ import annotations

import contextlib
import random
import time
from typing import TYPE_CHECKING

import psycopg
from durable import open_funded
from server_process import ServerProcess
from server_processes import Asker, check_booked_once, first_answer_after, running

from ledger import Ledger
from ledger.log.postgres_sessions import parse_url

if TYPE_CHECKING:
    from collections.abc import Iterator

ASKERS = 6
NUMBERS_PER_ASKER = 10_000_000


@contextlib.contextmanager
def asking(addresses: list[str], base_us: int) -> Iterator[list[Asker]]:
    """Keep clients asking; raise what any of them raised."""
    askers = [Asker(addresses, 1 + place * NUMBERS_PER_ASKER, base_us) for place in range(ASKERS)]
    for asker in askers:
        asker.start()
    try:
        yield askers
    finally:
        for asker in askers:
            asker.stopping.set()
    for asker in askers:
        asker.finish()


def leader_of(url: str) -> str:
    """Return the address of who leads, or nothing while nobody is known to."""
    with psycopg.connect(parse_url(url).connection, autocommit=True) as connection:
        row = connection.execute(
            "SELECT address FROM ledger_acme.leader JOIN pg_stat_activity ON session = pid AND started = backend_start"
        ).fetchone()
    return "" if row is None else str(row[0])


def kill_leaders(url: str, rounds: int, seed: int) -> tuple[int, list[float]]:
    """Kill the leader of two servers at random moments; return how many acknowledgements held, and the seconds to each first answer."""
    chance = random.Random(seed)
    open_funded(url).close()
    base_us = time.time_ns() // 1000
    servers = [ServerProcess(url) for _ in range(2)]
    took = []
    with running(*servers), asking([server.address for server in servers], base_us) as askers:
        first_answer_after(askers, time.monotonic())
        for _ in range(rounds):
            address = leader_of(url)
            leader = next(server for server in servers if server.address == address)
            time.sleep(chance.uniform(0, 0.5))
            leader.kill()
            took.append(first_answer_after(askers, time.monotonic()))
            leader.start()
    with Ledger.open(url, read_only=True) as books:
        return check_booked_once(books, askers, base_us), took


def kill_the_only_one(url: str, rounds: int, seed: int) -> int:
    """Kill the one server of an SQLite file at random moments, also while it starts; return how many acknowledgements held."""
    chance = random.Random(seed)
    open_funded(url).close()
    base_us = time.time_ns() // 1000
    server = ServerProcess(url)
    with running(server), asking([server.address], base_us) as askers:
        for _ in range(rounds):
            first_answer_after(askers, time.monotonic())
            time.sleep(chance.uniform(0, 0.5))
            server.kill()
            if chance.random() < 0.1:
                server.start(wait=False)
                time.sleep(chance.uniform(0, 2))
                server.kill()
            server.start()
        first_answer_after(askers, time.monotonic())
    with Ledger.open(url, read_only=True) as books:
        return check_booked_once(books, askers, base_us)

"""A network that loses replies to COMMIT, and one that loses answers of the server: nothing is lost for it, and nothing booked twice."""

from __future__ import annotations

import random
import time

import pytest
from durable import open_funded, url_of
from grpc_server_thread import RunningServer
from proxies import AnswerLosingProxy, CommitLosingProxy
from psycopg.conninfo import conninfo_to_dict
from server_processes import Asker, check_booked_once

from ledger import Ledger

ASKERS = 4
COUNT = 60


def ask_all(addresses, base_us, count=COUNT):
    askers = [Asker(addresses, 1 + place * 100_000, base_us, count) for place in range(ASKERS)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(200)
        asker.finish()
        assert len(asker.acknowledged) == count
    return askers


@pytest.mark.slow
def test_lost_replies_to_commit(postgres):
    url = postgres.new_url()
    open_funded(url).close()
    base_us = time.time_ns() // 1000
    where = conninfo_to_dict(url.rpartition("ledger=")[0].rstrip("&?"))
    host, port = where["host"], where.get("port", "5432")
    target = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, int(port))
    with CommitLosingProxy(target, random.Random(1), one_in=6) as proxy:
        credentials = f"{where['user']}:{where.get('password', '')}"
        lossy = f"postgresql://{credentials}@127.0.0.1:{proxy.port}/{where['dbname']}?sslmode=disable&gssencmode=disable&ledger=acme"
        with Ledger.open(lossy, contend=True) as books, RunningServer(books) as server:
            askers = ask_all([f"127.0.0.1:{server.server.port}"], base_us)
            proxy.calm = True
        assert proxy.losses >= 5
        assert proxy.replies_lost >= 2
    with Ledger.open(url, read_only=True) as books:
        assert check_booked_once(books, askers, base_us) == ASKERS * COUNT


@pytest.mark.slow
def test_lost_answers(tmp_path):
    with open_funded(url_of(tmp_path)) as books, RunningServer(books) as server:
        base_us = time.time_ns() // 1000
        with AnswerLosingProxy(("127.0.0.1", server.server.port), random.Random(2), one_in=12) as proxy:
            askers = ask_all([f"127.0.0.1:{proxy.port}"], base_us)
            proxy.calm = True
        assert proxy.losses >= 10
        assert check_booked_once(books, askers, base_us) == ASKERS * COUNT
        assert sum(asker.attempts for asker in askers) > ASKERS * COUNT

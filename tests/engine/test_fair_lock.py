"""Who waits for the books gets them after the commit that is under way, not after a hundred more."""

from __future__ import annotations

import threading
import time

from durable import open_funded, transfer, url_of

from ledger.fair_lock import FairLock
from stockledger.v1.accounts_pb2 import GetHoldingRequest


def test_a_busy_writer_lets_others_have_their_turn():
    lock, holds, stop = FairLock(), [0], threading.Event()

    def hold_again_and_again():
        while not stop.is_set():
            with lock:
                holds[0] += 1
                time.sleep(0.0005)

    writer = threading.Thread(target=hold_again_and_again)
    writer.start()
    try:
        for _ in range(50):
            before = holds[0]
            with lock:
                assert holds[0] - before <= 2
    finally:
        stop.set()
        writer.join()


def test_reads_beside_a_busy_writer_see_whole_commits(tmp_path):
    """Two transfers of one batch cancel each other: between commits the holding is always the same."""
    with open_funded(url_of(tmp_path)) as books:
        stop = threading.Event()
        failures = []

        def write():
            while not stop.is_set():
                books.execute_many([transfer(0, 1), transfer(1, 0)] * 10)

        def read():
            request = GetHoldingRequest(instrument="AAPLx", account="book:a1")
            try:
                for _ in range(300):
                    answer = books.execute(request)
                    assert answer.holding.units == 1_000_000
                    assert (answer.size - 10) % 20 == sizes
            except BaseException as failure:  # noqa: BLE001 - told below
                failures.append(failure)

        sizes = (books.size - 10) % 20
        threads = [threading.Thread(target=write), *(threading.Thread(target=read) for _ in range(3))]
        for thread in threads:
            thread.start()
        for thread in threads[1:]:
            thread.join()
        stop.set()
        threads[0].join()
        assert failures == []

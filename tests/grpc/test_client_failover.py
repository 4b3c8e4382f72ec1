"""The client on two servers of one PostgreSQL: it knows one address, finds who leads, and goes along when the leader is killed."""

from __future__ import annotations

import threading
import time

import pytest
from durable import booked_requests, open_funded, transfer
from server_process import ServerProcess

from ledger import Ledger
from stockledger.client import Client, new_request_id


@pytest.mark.slow
def test_the_leader_is_found_and_followed_through_kills(postgres):
    url = postgres.new_url()
    open_funded(url).close()
    acknowledged, streamed, failures, stop = {}, [], [], threading.Event()
    with ServerProcess(url) as first, ServerProcess(url) as second, Client(second.address, seconds=60) as alone:
        assert alone.execute(transfer(request_id=new_request_id())).booking.index > 0
        assert alone.target == first.address, "the one that was started first leads, and was named"
        with Client([second.address, first.address], seconds=60) as client:

            def execute():
                while not stop.is_set():
                    command = transfer(request_id=new_request_id())
                    acknowledged[command.request_id] = client.execute(command).booking.index

            def stream():
                def wanted():
                    while not stop.is_set():
                        time.sleep(0.002)
                        yield transfer(request_id=new_request_id())

                streamed.extend(outcome.transfer.request_id for outcome in client.transfers(wanted(), window=50) if not outcome.refusal)

            def guarded(work):
                def run():
                    try:
                        work()
                    except BaseException as failure:  # noqa: BLE001 - told at the end
                        failures.append(failure)

                thread = threading.Thread(target=run)
                thread.start()
                return thread

            threads = [guarded(execute), guarded(execute), guarded(stream)]
            for leader in (first, second, first):
                time.sleep(1)
                leader.kill()
                time.sleep(1)
                leader.start()
            time.sleep(1)
            stop.set()
            for thread in threads:
                thread.join(90)
    assert failures == []
    assert len(acknowledged) > 20
    assert len(streamed) > 100
    with Ledger.open(url) as books:
        found = {}
        for _, request, index in booked_requests(books):
            assert request not in found, "booked twice"
            found[request] = index
    assert [request for request, index in acknowledged.items() if found.get(request) != index] == []
    assert [request for request in streamed if request not in found] == []

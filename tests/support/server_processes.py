"""Servers that are killed, and clients that ask until they are answered."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc
from durable import ACCOUNTS, booked_requests, request_id, transfer
from grpc_server_thread import Client, Refused
from scenario import check_invariants
from server_process import ServerProcess

from ledger import Ledger
from ledger.replay import latest_state

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TRANSFER = "TransferService/TransferUnits"


@contextlib.contextmanager
def running(*servers: ServerProcess) -> Iterator[None]:
    """Start servers one after the other, so that the first of them leads; kill what runs in the end."""
    with contextlib.ExitStack() as started:
        for server in servers:
            started.enter_context(server)
        yield


class Asker(threading.Thread):
    """A client that asks for one transfer after the other, each until it is answered, wherever the leader is."""

    def __init__(self, addresses: Sequence[str], first: int, base_us: int, count: int | None = None) -> None:
        super().__init__(daemon=True)
        self._addresses = list(addresses)
        self._first = first
        self._base_us = base_us
        self._count = count
        self._clients: dict[str, Client] = {}
        self.stopping = threading.Event()
        self.acknowledged: dict[int, int] = {}
        """Number -> index."""
        self.answered: queue.SimpleQueue[tuple[float, float]] = queue.SimpleQueue()
        """When each answered attempt began, and when its answer came, on the monotonic clock."""
        self.fault: BaseException | None = None
        self.attempts = 0

    def run(self) -> None:
        try:
            number = self._first
            while not self.stopping.is_set() and (self._count is None or number < self._first + self._count):
                self._ask(number)
                number += 1
        except BaseException as fault:  # noqa: BLE001 - raised by `finish`, in the test's own thread
            self.fault = fault
        for client in self._clients.values():
            client.channel.close()

    def finish(self) -> None:
        self.stopping.set()
        self.join(120)
        assert not self.is_alive(), "it is never answered"
        if self.fault is not None:
            raise self.fault

    def _ask(self, number: int) -> None:
        turn = number % len(ACCOUNTS)
        command = transfer(turn, (turn + 1) % len(ACCOUNTS), 1, request_id=request_id(number, self._base_us))
        end = time.monotonic() + 100
        while True:
            assert time.monotonic() < end, f"number {number} is not answered"
            address = self._addresses[0]
            client = self._clients.get(address) or self._clients.setdefault(address, Client(address))
            self.attempts += 1
            began = time.monotonic()
            try:
                answer = client.call(TRANSFER, command, timeout=5)
            except grpc.RpcError as error:
                self._go_elsewhere(address, error)
                continue
            self.acknowledged[number] = answer.booking.index
            self.answered.put((began, time.monotonic()))
            return

    def _go_elsewhere(self, address: str, error: Any) -> None:
        """Ask the leader that is named, or the next one; a broken channel is thrown away, so that nothing waits to connect again."""
        refused = Refused(error)
        assert refused.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED), refused.message
        if not refused.info.reason:
            self._clients.pop(address).channel.close()
        leader = refused.info.metadata.get("leader", "")
        if leader in self._addresses and leader != address:
            self._addresses.remove(leader)
            self._addresses.insert(0, leader)
        else:
            self._addresses.append(self._addresses.pop(0))
            time.sleep(0.02)


def check_booked_once(books: Ledger, askers: Sequence[Asker], base_us: int) -> int:
    """Hold what was acknowledged against the log; return how many acknowledgements there were."""
    found: dict[str, int] = {}
    for _, request, index in booked_requests(books):
        assert request not in found, f"{request} is booked at {found[request]} and at {index}"
        found[request] = index
    count = 0
    for asker in askers:
        for number, index in asker.acknowledged.items():
            assert found.get(request_id(number, base_us)) == index, f"number {number} was acknowledged at {index}"
            count += 1
    assert latest_state(books.log) == books._state, "replay gives another state"
    check_invariants(books._state)
    books.log.check()
    return count


def first_answer_after(askers: Sequence[Asker], moment: float, seconds: float = 60) -> float:
    """Return how many seconds after a moment the first attempt was answered that began after it."""
    while time.monotonic() < moment + seconds:
        for asker in askers:
            with contextlib.suppress(queue.Empty):
                while True:
                    began, at = asker.answered.get_nowait()
                    if began > moment:
                        return at - moment
        time.sleep(0.005)
    raise AssertionError(f"nobody was answered for {seconds} s: {[asker.fault for asker in askers]}")

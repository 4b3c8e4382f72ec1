"""Transfers on a stream of two directions: sent ahead, acknowledged cumulatively, and sent again where a connection broke.

Whatever is not acknowledged is kept, with its request id. A new connection begins with it, so each transfer is booked once: what had
been booked without our hearing of it gets its first answer again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import grpc

from stockledger.client.errors import LedgerError, NoAnswer, error_of, refused
from stockledger.client.request_ids import new_request_id
from stockledger.client.retries import Retries
from stockledger.v1 import transfers_pb2
from stockledger.v1.transfers_pb2 import StreamTransfersRequest, StreamTransfersResponse, TransferUnitsRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stockledger.client.connection import Connections

WINDOW: Final = 10_000
"""Transfers that may wait for their acknowledgement; a server stops reading at 20,000 by default."""
MESSAGE_TRANSFERS_MAX: Final = 1_000
"""Transfers in one message: all that wait, up to this many. About 150 kB."""
LOOK_SECONDS: Final = 0.5
"""How often somebody who waits looks whether the connection still lives."""

_METHOD: Any = transfers_pb2.DESCRIPTOR.services_by_name["TransferService"].methods_by_name["StreamTransfers"]
_PATH: Final = f"/{_METHOD.containing_service.full_name}/{_METHOD.name}"


class Outcome(NamedTuple):
    """What became of a transfer: booked (refusal is None), or refused."""

    position: int
    """Zero-based, in the order in which transfers were sent."""
    transfer: TransferUnitsRequest
    """As it was sent, with its request id."""
    refusal: LedgerError | None


class TransferStream:
    """A stream of transfers. One thread sends and takes outcomes; another, of the stream's own, keeps the connection.

    with books.transfer_stream() as stream:
        for transfer in wanted:
            stream.send(transfer)
            for outcome in stream.outcomes():
                ...
        for outcome in stream.finish():
            ...
    """

    def __init__(self, connections: Connections, *, window: int, seconds: float) -> None:
        self._connections = connections
        self._window = window
        self._seconds = seconds
        self._changed = threading.Condition()
        self._unacknowledged: deque[TransferUnitsRequest] = deque()
        self._acknowledged = 0
        """Of all that were sent; the first of `_unacknowledged` has this position."""
        self._outcomes: deque[Outcome] = deque()
        self._finished = False
        self._failure: BaseException | None = None
        self._call: Any = None
        self._connected = self._heard = time.monotonic()
        """When something was last acknowledged, or when there was last nothing to wait for."""
        self._thread = threading.Thread(target=self._run, name="stockledger-transfers", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for what was sent, unless an exception ends the block; outcomes that nobody took are still there."""
        try:
            if kind is None:
                self._finish()
        finally:
            self.close()

    def send(self, transfer: TransferUnitsRequest) -> int:
        """Put a transfer in line and return its position; wait while as many as the window allows are unacknowledged.

        One without a request id gets one. A program that may be killed makes ids first and stores them: see Client.execute.

        Raises: LedgerError once the stream has failed for good.
        """
        sent = TransferUnitsRequest()
        sent.CopyFrom(transfer)
        sent.request_id = sent.request_id or new_request_id()
        with self._changed:
            if self._finished:
                raise ValueError("the stream is finished")
            if self._failure is not None:
                raise self._failure
            self._wait_while(lambda: len(self._unacknowledged) >= self._window)
            if not self._unacknowledged:
                self._heard = time.monotonic()
            self._unacknowledged.append(sent)
            self._changed.notify_all()
            return self._acknowledged + len(self._unacknowledged) - 1

    def outcomes(self) -> Iterator[Outcome]:
        """Yield the outcomes that have come in, without waiting."""
        while True:
            with self._changed:
                if not self._outcomes:
                    return
                outcome = self._outcomes.popleft()
            yield outcome

    def finish(self) -> Iterator[Outcome]:
        """Say that this was all, and yield every outcome that is left, waiting for it.

        Raises: LedgerError where the stream has failed for good; `unacknowledged` are then the transfers without an outcome.
        """
        with self._changed:
            self._finished = True
            self._changed.notify_all()
        while True:
            yield from self.outcomes()
            with self._changed:
                if not (self._unacknowledged or self._outcomes):
                    return
                self._wait_while(lambda: bool(self._unacknowledged) and not self._outcomes)

    def _finish(self) -> None:
        with self._changed:
            self._finished = True
            self._changed.notify_all()
            self._wait_while(lambda: bool(self._unacknowledged))

    @property
    def unacknowledged(self) -> list[TransferUnitsRequest]:
        """The transfers that have no outcome yet, as they were sent."""
        with self._changed:
            return list(self._unacknowledged)

    def close(self) -> None:
        """End the stream. Transfers that were not acknowledged may be booked or not: send them again with their request ids."""
        with self._changed:
            self._finished = True
            if self._unacknowledged and self._failure is None:
                self._failure = ValueError("the stream is closed")
            call = self._call
            self._changed.notify_all()
        if call is not None:
            call.cancel()
        self._thread.join()

    def _wait_while(self, waits: Any) -> None:
        """Wait, with the lock held. A connection on which nothing is acknowledged for half the time there is gives way to another."""
        while waits():
            if self._failure is not None:
                raise self._failure
            self._changed.wait(LOOK_SECONDS)
            if self._call is not None and time.monotonic() - max(self._heard, self._connected) > self._seconds / 2:
                self._call.cancel()

    # ---- in the stream's own thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        retries = Retries(self._connections, self._seconds)
        try:
            while self._wait_for_work():
                target, channel = retries.begin()
                try:
                    if self._connect(channel, retries):
                        continue
                    error: LedgerError = NoAnswer("", "the server ended the stream", code=grpc.StatusCode.UNAVAILABLE)
                except grpc.RpcError as failed:
                    error = error_of(failed)
                with self._changed:
                    if self._failure is not None:
                        return
                    retries.end = max(retries.end, self._heard + self._seconds)
                retries.after(error, target)
        except BaseException as failure:  # noqa: BLE001 - raised again where the sender waits
            with self._changed:
                self._failure = self._failure or failure
        finally:
            with self._changed:
                self._changed.notify_all()

    def _wait_for_work(self) -> bool:
        """Wait until there is something to send; False when all is said and acknowledged."""
        with self._changed:
            while not self._unacknowledged:
                if self._finished or self._failure is not None:
                    return False
                self._changed.wait()
            return self._failure is None

    def _connect(self, channel: grpc.Channel, retries: Retries) -> bool:
        """Send what is not acknowledged and then what comes, over one connection; return whether all was acknowledged when it ended."""
        call_is_over = threading.Event()
        begun = self._acknowledged
        multicallable = channel.stream_stream(_PATH, _serialised, StreamTransfersResponse.FromString)
        call = multicallable(self._messages(begun, call_is_over), metadata=self._connections.metadata())
        with self._changed:
            self._call, self._connected = call, time.monotonic()
        try:
            for answer in call:
                self._take(answer, begun)
                retries.progressed()
            with self._changed:
                return not self._unacknowledged
        finally:
            call_is_over.set()
            with self._changed:
                self._call = None
                self._changed.notify_all()
            call.cancel()

    def _messages(self, begun: int, call_is_over: threading.Event) -> Iterator[StreamTransfersRequest]:
        """Yield messages from a position on; runs in a thread of gRPC's, which ends with its call."""
        position = begun
        while True:
            with self._changed:
                while position - self._acknowledged >= len(self._unacknowledged):
                    if self._finished or call_is_over.is_set():
                        return
                    self._changed.wait()
                if call_is_over.is_set():
                    return
                skipped = position - self._acknowledged
                stop = min(skipped + MESSAGE_TRANSFERS_MAX, len(self._unacknowledged))
                transfers = [self._unacknowledged[place] for place in range(skipped, stop)]
            position += len(transfers)
            yield StreamTransfersRequest(transfers=transfers)

    def _take(self, answer: StreamTransfersResponse, begun: int) -> None:
        """Turn an acknowledgement into outcomes. Positions of a connection count from where it began."""
        refusals = {begun + each.position: refused(each.reason, each.explanation, each.metadata) for each in answer.refusals}
        with self._changed:
            self._heard = time.monotonic()
            while self._acknowledged < begun + answer.acknowledged_count:
                transfer = self._unacknowledged.popleft()
                refusal = refusals.get(self._acknowledged)
                if refusal is not None:
                    refusal.request_id = transfer.request_id
                self._outcomes.append(Outcome(self._acknowledged, transfer, refusal))
                self._acknowledged += 1
            self._changed.notify_all()


def _serialised(message: StreamTransfersRequest) -> bytes:
    return message.SerializeToString()

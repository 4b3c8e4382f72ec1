"""Sends hostile requests to a real server in a process of its own, many at once, and looks after it while it bears them."""

from __future__ import annotations

import contextlib
import random
from collections import Counter, deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
from grpc_server_thread import METHODS, Refused
from hostile_requests import Hostility
from server_process import ServerProcess

from ledger import Ledger
from ledger.replay import latest_state
from services.grpc_server.errors import DETAILS_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

IN_FLIGHT = 48
PRINCIPALS = (*("operator",) * 8, "broker-a", "broker-a", "enforcer-1", "issuer-1", "custodian-1", "exchange-1", "auditor-1", "nobody")
SETTINGS = {"local_principals": True, "operators": "operator", "log_level": "warning", "principal_streams_max": 64}


class Borne(NamedTuple):
    """What came of it."""

    codes: Counter[str]
    faults: list[str]
    """INTERNAL, UNKNOWN, or a refusal without details, with the request that led to it."""
    resident_kb: list[int]
    """Of the server's memory, at equal distances."""


def bear(store: str, count: int, seed: int, looks: int = 10) -> Borne:
    """Send a number of hostile requests to a server over a store."""
    hostility, codes, faults, resident = Hostility(seed), Counter[str](), [], []
    chance = random.Random(seed)
    with ServerProcess(store, **SETTINGS) as server, channels(server) as open_channels:
        under_way: deque[tuple[str, bytes, Any]] = deque()
        for number in range(count):
            rpc, data = hostility.next()
            under_way.append((rpc, data, _send(chance.choice(open_channels), rpc, data, chance.choice(PRINCIPALS))))
            if len(under_way) >= IN_FLIGHT:
                _settle(*under_way.popleft(), codes, faults)
            if number % max(count // looks, 1) == 0:
                resident.append(resident_kb(server.pid))
        while under_way:
            _settle(*under_way.popleft(), codes, faults)
        resident.append(resident_kb(server.pid))
    return Borne(codes, faults, resident)


@contextlib.contextmanager
def channels(server: ServerProcess) -> Iterator[list[grpc.Channel]]:
    """Open a few connections, without a limit on what may come back."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    opened = [grpc.insecure_channel(server.address, options) for _ in range(4)]
    try:
        yield opened
    finally:
        for channel in opened:
            channel.close()


def _send(channel: grpc.Channel, rpc: str, data: bytes, principal: str) -> Any:
    method = METHODS[rpc]
    path = f"/{method.containing_service.full_name}/{method.name}"
    metadata = [("stockledger-principal", principal)]
    if method.client_streaming:
        return channel.stream_stream(path)(iter([data, data]), timeout=30, metadata=metadata)
    if method.server_streaming:
        return channel.unary_stream(path)(data, timeout=30, metadata=metadata)
    return channel.unary_unary(path).future(data, timeout=30, metadata=metadata)


def _settle(rpc: str, data: bytes, call: Any, codes: Counter[str], faults: list[str]) -> None:
    try:
        if METHODS[rpc].client_streaming:
            for _ in call:
                pass
        elif METHODS[rpc].server_streaming:
            next(call, None)
            call.cancel()
        else:
            call.result()
    except grpc.RpcError as error:
        refused = Refused(error)
        codes[refused.code.name] += 1
        told = any(key == DETAILS_KEY for key, _ in error.trailing_metadata() or ())  # type: ignore[attr-defined]
        if refused.code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE) or not told:
            faults.append(f"{rpc} {data.hex()[:2000]}: {refused.code.name} {refused.message}")
    else:
        codes["OK"] += 1


def resident_kb(pid: int) -> int:
    """Return the memory of a process that is in RAM, in kB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def check_books(store: str) -> int:
    """Replay the log and hold its tree and sums against themselves; return its size."""
    with Ledger.open(store, read_only=True) as books:
        books.log.check()
        state = latest_state(books.log)
        for book in state.books.values():
            assert sum(book.units) == 0
        return books.size

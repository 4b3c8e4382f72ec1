"""The node of a reference chain, as an adapter asks it: one method, one answer, both JSON, in this process or over HTTP on loopback.

head          the newest and the newest final block
header        one block's number, hash, time
blocks        blocks after a number with all that happened, at most BLOCKS_MAX
signer        the next number of a signer, and what it can pay with
values        one-time values
token         a token, but for who holds it
multiplier    how a token's multiplier stood at a block, by all that set it until then
holdings      supply and what accounts hold
simulate      what operations would come to, one after the other
find          what became of a sequence
submit        take a signed transaction

with MemoryNode(chain).listening() as url: ...      "http://127.0.0.1:40123"
"""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, Protocol

from chain_adapters.memory import payloads
from chain_adapters.memory.chain import Block, MemoryChain
from chain_adapters.memory.token import Token
from chain_adapters.protocol import ChainUnavailable, NodeUnfit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCKS_MAX: Final = 64
"""In one answer, as providers limit it."""
ATTEMPT_SECONDS: Final = 5.0


class Node(Protocol):
    """Whatever answers."""

    def ask(self, method: str, **parameters: Any) -> Any:
        """Return the answer to one question.

        Raises: ChainUnavailable, NodeUnfit.
        """
        ...


class MemoryNode:
    """Answers from a chain of this process."""

    def __init__(self, chain: MemoryChain) -> None:
        self.chain = chain
        self._methods: dict[str, Callable[..., Any]] = {
            "head": self._head,
            "header": self._header,
            "blocks": self._blocks,
            "signer": self._signer,
            "values": self._values,
            "token": self._token,
            "multiplier": self._multiplier,
            "holdings": self._holdings,
            "simulate": self._simulate,
            "find": self._find,
            "submit": self._submit,
        }

    def ask(self, method: str, **parameters: Any) -> Any:
        """Return the answer, made of JSON's own types alone."""
        with self.chain.lock:
            return self._methods[method](**parameters)

    # ---- answers --------------------------------------------------------------------------------------------------------------------

    def _head(self) -> dict[str, Any]:
        chain = self.chain
        return {
            "chain": chain.chain,
            "sequences": chain.sequences,
            "base_fee": chain.base_fee,
            "newest": _header_of(chain.head),
            "final": _header_of(chain.blocks[chain.final_number]),
        }

    def _header(self, number: int) -> dict[str, Any] | None:
        blocks = self.chain.blocks
        return _header_of(blocks[number]) if 0 <= number < len(blocks) else None

    def _blocks(self, after: int, through: int) -> list[dict[str, Any]]:
        last = min(through, after + BLOCKS_MAX, self.chain.head.number)
        return [_block_of(self.chain.blocks[number]) for number in range(after + 1, last + 1)]

    def _signer(self, address: str, number: int) -> dict[str, Any]:
        state = self._state(number)[1]
        return {"number": state.numbers.get(address, 0), "coins": state.coins.get(address, 0)}

    def _values(self, accounts: list[str], number: int) -> list[str]:
        state = self._state(number)[1]
        return [self.chain.value_of(account, state) for account in accounts]

    def _token(self, reference: str, number: int) -> dict[str, Any] | None:
        position, state = self._state(number)
        token = state.tokens.get(reference)
        if token is None:
            return None
        return {
            "position": position,
            "decimals": token.decimals,
            "roles": dict(token.roles),
            "capabilities": sorted(token.capabilities),
            "frozen": sorted(token.frozen),
            "frozen_raw": {account: str(raw) for account, raw in token.frozen_raw.items()},
            "paused": sorted(token.paused),
            "multiplier": str(token.multiplier_at(self.chain.blocks[position["number"]].time_us)),
            "multiplier_next": str(token.multiplier_next),
            "multiplier_time_us": token.multiplier_time_us,
            "allotment": str(token.allotment),
            "reserve": token.reserve,
        }

    def _multiplier(self, reference: str, number: int) -> dict[str, Any] | None:
        """Return {multiplier, next_multiplier, next_time_us} of a token; the last two say nothing once they are in force."""
        if reference not in self.chain.state.tokens:
            return None
        token = Token(reference, 0, {}, frozenset())
        for block in self.chain.blocks[1 : number + 1]:
            for event in (each for included in block.transactions for each in included.events):
                if (event["token"], event["kind"]) == (reference, "MULTIPLIER"):
                    token.multiplier = token.multiplier_at(block.time_us)
                    token.multiplier_next, token.multiplier_time_us = int(event["value"]), event["effective_time_us"]
        time_us = self.chain.blocks[number].time_us
        ahead = token.multiplier_time_us > time_us
        return {
            "multiplier": str(token.multiplier_at(time_us)),
            "next_multiplier": str(token.multiplier_next) if ahead else "",
            "next_time_us": token.multiplier_time_us if ahead else 0,
        }

    def _holdings(self, reference: str, accounts: list[str], number: int) -> dict[str, Any] | None:
        position, state = self._state(number)
        token = state.tokens.get(reference)
        if token is None:
            return None
        holdings = [str(token.holdings.get(account, 0)) for account in accounts]
        return {"position": position, "supply": str(token.supply), "holdings": holdings}

    def _simulate(self, under_way: list[str], wanted: list[dict[str, Any]], number: int) -> list[list[str]]:
        """Do what is under way, then each operation wanted; return [failure, text] of each. One that fails changes nothing."""
        chain = self.chain
        position, kept = self._state(number)
        state = kept.copy()
        time_us = position["time_us"]
        for payload in under_way:
            content = payloads.decode(bytes.fromhex(payload))
            chain.carry_out(content["operations"], [content["key"], *content["cosigners"]], state, time_us)
        return [list(chain.carry_out([each["operation"]], each["signers"], state, time_us)[:2]) for each in wanted]

    def _find(self, account: str, value: int | str) -> dict[str, Any]:
        """Return {landed: {payload, number, hash, time_us} or None, waiting: payload or "", used_up: bool} of a sequence."""
        chain = self.chain
        sequence = (account, value)
        landed, waiting = chain.landed(sequence), chain.pool.get(sequence)
        found = None if landed is None else _header_of(chain.blocks[landed[0]]) | {"payload": landed[1].hex()}
        return {"landed": found, "waiting": "" if waiting is None else waiting.hex()}

    def _submit(self, payload: str, signatures: dict[str, str]) -> str:
        return self.chain.submit(bytes.fromhex(payload), {address: bytes.fromhex(each) for address, each in signatures.items()})

    def _state(self, number: int) -> tuple[dict[str, Any], Any]:
        """Return (header, state) at a block, or at the newest final one where that state is not kept any more."""
        chain = self.chain
        state = chain.state_at(number)
        if state is None:
            number = chain.final_number
            state = chain.state_at(number)
            assert state is not None, "the final state is always kept"
        return _header_of(chain.blocks[number]), state

    # ---- over HTTP ------------------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def listening(self, port: int = 0) -> Iterator[str]:
        """Answer on loopback and yield the address, until left."""
        node = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def do_POST(self) -> None:
                question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                text = json.dumps(node.ask(question["method"], **question["parameters"])).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class names it so
                """Tell nobody."""

        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class HttpNode:
    """Asks a node over HTTP; each thread has a connection of its own."""

    def __init__(self, chain: str, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or not parts.port:
            raise ValueError(f"{url!r} is no address of a node, like http://127.0.0.1:8545")
        self._chain = chain
        self._host, self._port = parts.hostname, parts.port
        self._threads = threading.local()

    def ask(self, method: str, **parameters: Any) -> Any:
        body = json.dumps({"method": method, "parameters": parameters}).encode()
        connection = getattr(self._threads, "connection", None)
        if connection is None:
            connection = self._threads.connection = http.client.HTTPConnection(self._host, self._port, timeout=ATTEMPT_SECONDS)
        try:
            connection.request("POST", "/", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise ChainUnavailable(self._chain, f"{method}: {type(error).__name__} {error}") from error
        if response.status != http.client.OK:
            raise ChainUnavailable(self._chain, f"{method}: the node answers {response.status}")
        try:
            return json.loads(text)
        except ValueError as error:
            raise ChainUnavailable(self._chain, f"{method}: the answer breaks off after {len(text)} bytes") from error

    def close(self) -> None:
        """Close this thread's connection; others end with their threads."""
        connection = getattr(self._threads, "connection", None)
        if connection is not None:
            connection.close()


_NODES: Final[dict[str, MemoryNode]] = {}


@contextlib.contextmanager
def known_as(node: MemoryNode, url: str) -> Iterator[str]:
    """Let a node of this process be connected to by a name, "memory:anything"."""
    assert url.startswith("memory:")
    assert url not in _NODES
    _NODES[url] = node
    try:
        yield url
    finally:
        del _NODES[url]


def node_at(chain: str, url: str) -> Node:
    """Return the node of a URL.

    Raises: ValueError; NodeUnfit for a name that no node of this process has.
    """
    if not url.startswith("memory:"):
        return HttpNode(chain, url)
    found = _NODES.get(url)
    if found is None:
        raise NodeUnfit(chain, f"no node of this process is known as {url}")
    return found


def _header_of(block: Block) -> dict[str, Any]:
    return {"number": block.number, "hash": block.hash, "parent": block.parent, "time_us": block.time_us}


def _block_of(block: Block) -> dict[str, Any]:
    included = [
        {
            "payload": each.payload.hex(),
            "failure": each.failure,
            "text": each.text,
            "fee": str(each.fee),
            "events": list(each.events),
        }
        for each in block.transactions
    ]
    return _header_of(block) | {"transactions": included}

"""JSON-RPC to an EVM node: every way in which a node can fail, by the name of what to do about it.

    NodeError
    |-- NodeAway          no answer, a limit, 5xx: the same question later
    |-- NodeNonsense      an answer that cannot be: another node
    `-- NodeRefused       an answer that says no: whoever asked must act
        `-- RangeTooLarge   ask for fewer blocks

Questions are asked again here a few times, with growing pauses, as far as that can help; every method used is one that may be repeated.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import requests
from eth_typing import URI
from requests.utils import get_netrc_auth
from web3.providers.rpc import HTTPProvider
from web3.types import RPCEndpoint, RPCResponse

from chain_adapters.json_depth import is_too_deep

ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 0.2
PAUSE_SECONDS_MAX = 30.0
LIMIT_CODES = {-32005, -32016, -32090, 429}
LIMIT_WORDS = ("rate limit", "too many requests", "request limit", "capacity", "throttl")
RANGE_WORDS = ("more than", "range", "too many results", "response size", "limit exceeded", "query timeout", "too large")
BLOCKS_MAX = 2_000
"""What most providers allow a question for logs."""


class NodeError(Exception):
    """Something with a node."""


class NodeAway(NodeError):
    """The node does not answer now."""

    def __init__(self, message: str, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class NodeNonsense(NodeError):
    """The node answers what cannot be."""


class NodeRefused(NodeError):
    """The node says no; `data` is what a contract reverted with, if it did."""

    def __init__(self, code: int, message: str, data: bytes = b"") -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.data = data


class RangeTooLarge(NodeRefused):
    """The node does not look through so many blocks at once."""


@dataclass(frozen=True, slots=True)
class RawLog:
    """A log entry, checked for form."""

    block: int
    index: int
    transaction: str
    address: str
    topics: tuple[bytes, ...]
    data: bytes


class _Provider(HTTPProvider):
    """web3's provider, for nodes that nobody vouches for."""

    @staticmethod
    def decode_rpc_response(raw_response: bytes) -> RPCResponse:
        if is_too_deep(raw_response):
            raise ValueError("no JSON, or nested too deep")
        return HTTPProvider.decode_rpc_response(raw_response)


class Node:
    """One node, by one HTTP session, whose pool of connections several threads share."""

    def __init__(self, url: str, timeout_seconds: float = 10.0, pause: Callable[[float], None] = time.sleep) -> None:
        self._session = _session_to(url)
        settings = {"timeout": timeout_seconds}
        self._provider = _Provider(URI(url), settings, session=self._session, exception_retry_configuration=None)
        self._pause = pause

    def call(self, method: str, *parameters: Any) -> Any:
        """Ask, again where that can help, and return the result.

        Raises: NodeAway, NodeNonsense, NodeRefused.
        """
        for attempt in range(ATTEMPTS):
            try:
                return self._ask(method, parameters)
            except (NodeAway, NodeNonsense) as error:
                if attempt == ATTEMPTS - 1:
                    raise
                wanted = error.retry_after_seconds if isinstance(error, NodeAway) else 0.0
                self._pause(min(max(wanted, _pause_seconds(attempt)), PAUSE_SECONDS_MAX))
        raise AssertionError("the last attempt returned or raised")

    def close(self) -> None:
        """Let go of the connections. It can be asked again all the same."""
        self._session.close()

    def number(self, method: str, *parameters: Any) -> int:
        """Ask for a number.

        Raises: as `call`, and NodeNonsense for anything else than a number from 0 to 2^256 - 1.
        """
        return read_number(self.call(method, *parameters))

    def logs(self, addresses: Sequence[str], first: int, last: int, blocks_max: int = BLOCKS_MAX) -> Iterator[tuple[int, list[RawLog]]]:
        """Yield (through block, logs of the range up to it) for adjoining ranges from `first` to `last`, in the chain's order.

        A range that a provider finds too large is halved; after one that it takes, the next is larger again, up to `blocks_max`.

        Raises: as `call`; NodeNonsense for logs outside what was asked, out of order, twice, or withdrawn; RangeTooLarge if one block is.
        """
        span = blocks_max
        while first <= last:
            through = min(first + span - 1, last)
            question = {"address": list(addresses), "fromBlock": hex(first), "toBlock": hex(through)}
            try:
                answer = self.call("eth_getLogs", question)
            except RangeTooLarge:
                if through == first:
                    raise
                span = max(1, (through - first + 1) // 2)
                continue
            yield through, _read_logs(answer, {address.lower() for address in addresses}, first, through)
            first, span = through + 1, min(2 * span, blocks_max)

    def _ask(self, method: str, parameters: Sequence[Any]) -> Any:
        try:
            answer: Any = self._provider.make_request(RPCEndpoint(method), list(parameters))
        except requests.HTTPError as error:
            raise _http_fault(error) from error
        except requests.JSONDecodeError as error:
            raise NodeNonsense(f"{method}: the answer is not JSON") from error
        except requests.RequestException as error:
            raise NodeAway(f"{method}: {type(error).__name__}") from error
        except ValueError as error:
            raise NodeNonsense(f"{method}: the answer is not JSON") from error
        if not isinstance(answer, dict) or ("result" in answer) == ("error" in answer):
            raise NodeNonsense(f"{method}: the answer has not one of a result and an error")
        if "error" in answer:
            raise _refusal(method, answer["error"])
        return answer["result"]


def _session_to(url: str) -> requests.Session:
    """Open a session with what the environment says of proxies, certificates and passwords for one host.

    A session looks that up anew for every question otherwise, which takes as long as all else that asking costs here.
    """
    session = requests.Session()
    told = session.merge_environment_settings(url, {}, None, None, None)
    session.proxies, session.verify = told["proxies"], told["verify"]
    session.auth = get_netrc_auth(url)
    session.trust_env = False
    return session


def read_number(value: Any) -> int:
    """Read a quantity of JSON-RPC: "0x" and hex digits.

    Raises: NodeNonsense.
    """
    try:
        assert value[:2] == "0x"
        number = int(value, 16)
        assert 0 <= number < 2**256
    except (AssertionError, TypeError, ValueError, KeyError) as error:
        raise NodeNonsense(f"{value!r} is not a number") from error
    return number


def read_bytes(value: Any) -> bytes:
    """Read bytes of JSON-RPC: "0x" and pairs of hex digits.

    Raises: NodeNonsense.
    """
    try:
        assert value[:2] == "0x"
        return bytes.fromhex(value[2:])
    except (AssertionError, TypeError, ValueError, KeyError) as error:
        raise NodeNonsense(f"{value!r} is not bytes") from error


def _pause_seconds(attempt: int) -> float:
    """Double with each attempt, up to a half more by chance, so that many workers do not come back together."""
    return FIRST_PAUSE_SECONDS * float(1 << attempt) * (1 + random.random() / 2)  # noqa: S311 - no secret


def _http_fault(error: requests.HTTPError) -> NodeError:
    if error.response is None:
        return NodeAway("the node answers with no status")
    status = error.response.status_code
    if status == 429 or status >= 500:
        header = error.response.headers.get("retry-after", "")
        return NodeAway(f"the node answers {status}", float(header) if header.isdecimal() else 1.0)
    return NodeNonsense(f"the node answers {status}: wrong URL or credentials")


def _refusal(method: str, error: Any) -> NodeError:
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return NodeNonsense(f"{method}: the error has no message")
    code, message, data = error.get("code"), error["message"], error.get("data")
    code = code if isinstance(code, int) else 0
    words = message.lower()
    if method == "eth_getLogs" and any(word in words for word in RANGE_WORDS) and not any(word in words for word in LIMIT_WORDS):
        return RangeTooLarge(code, message)
    if code in LIMIT_CODES or any(word in words for word in LIMIT_WORDS):
        return NodeAway(f"{method}: {message}")
    reverted = data if isinstance(data, str) and data.startswith("0x") else "0x"
    try:
        return NodeRefused(code, message, read_bytes(reverted))
    except NodeNonsense:
        return NodeRefused(code, message)


def _read_logs(answer: Any, addresses: set[str], first: int, through: int) -> list[RawLog]:
    if not isinstance(answer, list):
        raise NodeNonsense("logs are not a list")
    logs = []
    for entry in answer:
        try:
            if entry.get("removed"):
                raise NodeNonsense(f"a log of block {entry['blockNumber']} was withdrawn, which must be final")
            topics = tuple(read_bytes(topic) for topic in entry["topics"])
            address = str(entry["address"])
            log = RawLog(
                read_number(entry["blockNumber"]),
                read_number(entry["logIndex"]),
                str(entry["transactionHash"]),
                address,
                topics,
                read_bytes(entry["data"]),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise NodeNonsense(f"a log lacks what a log has: {error!r}") from error
        if not first <= log.block <= through or address.lower() not in addresses:
            raise NodeNonsense(f"asked for logs of {first} to {through}, told one of block {log.block} of {address}")
        logs.append(log)
    places = [(log.block, log.index) for log in logs]
    if any(earlier >= later for earlier, later in itertools.pairwise(places)):
        raise NodeNonsense("logs are out of order, or told twice")
    return logs

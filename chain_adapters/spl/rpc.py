"""A node's JSON-RPC, made usable: every call ends in time, in an answer of the documented shape or in one named error.

Answers are bounded in time and size; what may pass (no connection, 429, 5xx, garbage, a node that lags) is tried again with growing pauses.
Sending is tried again too: a transaction is known by its signature and lands once. The node's address may hold a provider's key, so no
message shows more of it than the host.

Source: solana.com/docs/rpc; the codes of JSON-RPC errors: agave `rpc-client-api/src/custom_error.rs`.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

from solders.pubkey import Pubkey
from solders.signature import Signature

from chain_adapters.json_depth import is_too_deep
from chain_adapters.spl.addresses import CHAIN_REFERENCE_CHARACTERS, SYSTEM_PROGRAM, TOKEN_2022_PROGRAM, chain_id
from chain_adapters.spl.errors import (
    AnswerMalformed,
    HistoryPruned,
    NodeBehind,
    NodeFailed,
    NodeOverloaded,
    NodeUnreachable,
    RequestRefused,
    RpcError,
    TransactionRefused,
    WrongChain,
)

ACCOUNTS_MAX: Final = 100
"""What getMultipleAccounts takes at once."""
SIGNATURES_MAX: Final = 1000
"""What getSignaturesForAddress answers at once."""
SLOT_MAX: Final = (1 << 63) - 1

_NO_SIGNATURE: Final = "1" * 64
_CHUNK_BYTES: Final = 1 << 16
_BLOCKS_MAX: Final = 500_000
_RETRIED: Final = (NodeUnreachable, NodeOverloaded, AnswerMalformed, NodeBehind)
_PREFLIGHT_FAILURE: Final = -32002
_BEHIND: Final = {
    -32004: "the block is not available yet",
    -32005: "the node is unhealthy",
    -32014: "no status of the block yet",
    -32016: "too low a slot",
}
_PRUNED: Final = {
    -32001: "the block was cleaned up",
    -32007: "the slot was skipped or its block is gone",
    -32009: "it is not in long-term storage",
    -32011: "the node keeps no history",
    -32019: "long-term storage is away",
}


@dataclass(frozen=True, slots=True)
class Account:
    """What an account held at a slot."""

    address: Pubkey
    lamports: int
    owner: Pubkey
    data: bytes

    @property
    def is_made(self) -> bool:
        """False where somebody has sent lamports to an address, and nothing stands there."""
        return bool(self.data) or self.owner != SYSTEM_PROGRAM


@dataclass(frozen=True, slots=True)
class SignatureInfo:
    """A transaction in the history of an address. `block_time` in seconds since 1970."""

    signature: str
    slot: int
    failed: bool
    block_time: int | None


@dataclass(frozen=True, slots=True)
class Simulation:
    """What a transaction would do now."""

    slot: int
    error: object
    logs: tuple[str, ...]
    compute_units: int
    return_data: bytes


class RpcClient:
    """One node, by its URL. Threads may share it; calls go one after the other over one kept connection.

    Args:
        url: http or https.
        timeout_seconds: For one try, from connecting to the last byte of the answer.
        tries: How often a call is put before its error is raised.
        pause: Waits some seconds; tests hand in their own.
        answer_bytes_max: A longer answer is refused while it arrives.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float = 15.0,
        tries: int = 6,
        pause: Callable[[float], None] = time.sleep,
        answer_bytes_max: int = 64 << 20,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise NodeUnreachable("connect", "the node's URL must begin with http:// or https:// and name a host")
        assert tries > 0, "a call is put at least once"
        self.host = parts.hostname if parts.port is None else f"{parts.hostname}:{parts.port}"
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._secure = parts.scheme == "https"
        self._endpoint = (parts.hostname, parts.port)
        self._timeout_seconds = timeout_seconds
        self._tries = tries
        self._pause = pause
        self._answer_bytes_max = answer_bytes_max
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None
        self._number = 0

    def close(self) -> None:
        """Give the connection up."""
        with self._lock:
            self._disconnect()

    # The chain

    def check_chain(self, chain: str) -> None:
        """Make sure that the node is one of `chain`, a CAIP-2 name.

        Raises: WrongChain.
        """
        genesis = self.genesis_hash()
        if chain_id(genesis) != chain:
            raise WrongChain("getGenesisHash", f"the node at {self.host} is one of {chain_id(genesis)}, not of {chain}")

    def genesis_hash(self) -> str:
        genesis = self._text("getGenesisHash", self.call("getGenesisHash"))
        if len(genesis) < CHAIN_REFERENCE_CHARACTERS:
            raise AnswerMalformed("getGenesisHash", f"{genesis!r} is no hash")
        return genesis

    def finalized_slot(self) -> int:
        """Return the newest slot that can no longer be undone."""
        return self._slot("getSlot", self.call("getSlot", {"commitment": "finalized"}))

    def latest_slot(self) -> int:
        """Return the newest slot that the node has seen, final or not."""
        return self._slot("getSlot", self.call("getSlot", {"commitment": "processed"}))

    def first_available_slot(self) -> int:
        """Return the oldest slot whose transactions the node still has."""
        return self._slot("getFirstAvailableBlock", self.call("getFirstAvailableBlock"))

    def newest_block(self, first_slot: int, last_slot: int) -> int | None:
        """Return the newest slot of a range that has a block, or None: slots may stay empty."""
        last = last_slot
        while last >= first_slot:
            first = max(first_slot, last - 499)
            found = self._list("getBlocks", self.call("getBlocks", first, last, {"commitment": "finalized"}))
            slots = [self._slot("getBlocks", slot) for slot in found]
            if slots:
                if not first <= max(slots) <= last:
                    raise AnswerMalformed("getBlocks", f"slot {max(slots)} is not among {first} to {last}")
                return max(slots)
            last = first - 1
        return None

    def blocks(self, first_slot: int, last_slot: int) -> list[int]:
        """Return the slots of a range that have a block, in order."""
        found: list[int] = []
        for first in range(first_slot, last_slot + 1, _BLOCKS_MAX):
            last = min(first + _BLOCKS_MAX - 1, last_slot)
            answer = self._list("getBlocks", self.call("getBlocks", first, last, {"commitment": "finalized"}))
            slots = [self._slot("getBlocks", slot) for slot in answer]
            if slots != sorted(set(slots)) or (slots and not first <= slots[0] <= slots[-1] <= last):
                raise AnswerMalformed("getBlocks", f"the slots told are not those of {first} to {last} that have a block, in order")
            found += slots
        return found

    def block_hash(self, slot: int) -> str:
        """Return the hash of the block of a slot.

        Raises: HistoryPruned if the slot has no block, or the node no longer has it.
        """
        config = {"commitment": "finalized", "transactionDetails": "none", "rewards": False, "maxSupportedTransactionVersion": 0}
        answer = self.call("getBlock", slot, config)
        if answer is None:
            raise HistoryPruned("getBlock", f"the node at {self.host} has no block of slot {slot}")
        return self._text("getBlock", self._field("getBlock", answer, "blockhash"))

    def block_time(self, slot: int) -> int | None:
        """Return when a block was made, in seconds since 1970, or None if the node does not know."""
        answer = self.call("getBlockTime", slot)
        return None if answer is None else self._slot("getBlockTime", answer)

    def latest_blockhash(self) -> str:
        """Return a recent blockhash, for an ordinary transaction that is sent at once."""
        _, value = self._with_context("getLatestBlockhash", self.call("getLatestBlockhash", {"commitment": "confirmed"}))
        return self._text("getLatestBlockhash", self._field("getLatestBlockhash", value, "blockhash"))

    def version(self) -> str:
        """Return what the node calls itself. Example: "solana-core 4.1.2"."""
        answer = self.call("getVersion")
        return f"solana-core {self._text('getVersion', self._field('getVersion', answer, 'solana-core'))}"

    def lamports(self, address: Pubkey) -> int:
        """Return the lamports that an address has."""
        _, account = self.account(address)
        return 0 if account is None else account.lamports

    def rent(self, space: int) -> int:
        """Return the lamports that an account of `space` bytes must hold."""
        method = "getMinimumBalanceForRentExemption"
        return self._slot(method, self.call(method, space))

    def recent_priority_fees(self, writable: Sequence[Pubkey]) -> list[int]:
        """Return the lowest priority fee, in microlamports a compute unit, of each recent slot that wrote to these accounts."""
        method = "getRecentPrioritizationFees"
        answer = self._list(method, self.call(method, [str(address) for address in writable]))
        return [self._slot(method, self._field(method, one, "prioritizationFee")) for one in answer]

    # Accounts

    def account(self, address: Pubkey) -> tuple[int, Account | None]:
        """Return the slot the answer holds for, and the account at it, or None if there is none."""
        method = "getAccountInfo"
        answer = self.call(method, str(address), {"encoding": "base64", "commitment": "finalized"})
        slot, value = self._with_context(method, answer)
        return slot, None if value is None else self._account(method, address, value)

    def accounts(self, addresses: Sequence[Pubkey]) -> tuple[int, list[Account | None]]:
        """Return the slot the answer holds for, and each account at it: one look at up to 100 accounts."""
        assert len(addresses) <= ACCOUNTS_MAX, f"{len(addresses)} accounts at once"
        method = "getMultipleAccounts"
        answer = self.call(method, [str(address) for address in addresses], {"encoding": "base64", "commitment": "finalized"})
        slot, values = self._with_context(method, answer)
        found = self._list(method, values)
        if len(found) != len(addresses):
            raise AnswerMalformed(method, f"{len(found)} accounts for {len(addresses)} addresses")
        pairs = zip(addresses, found, strict=True)
        return slot, [None if value is None else self._account(method, address, value) for address, value in pairs]

    def token_accounts(self, mint: Pubkey) -> tuple[int, list[Account]]:
        """Return the slot the answer holds for, and every token account of a mint at it. Nodes of providers may refuse so much."""
        method = "getProgramAccounts"
        of_mint = {"memcmp": {"offset": 0, "bytes": str(mint)}}
        config = {"encoding": "base64", "commitment": "finalized", "withContext": True, "filters": [of_mint]}
        return self._found_accounts(method, self.call(method, str(TOKEN_2022_PROGRAM), config))

    def token_accounts_of(self, owner: Pubkey, mint: Pubkey) -> tuple[int, list[Account]]:
        """Return the slot the answer holds for, and the token accounts of an owner for a mint at it, by the node's own index."""
        method = "getTokenAccountsByOwner"
        config = {"encoding": "base64", "commitment": "finalized"}
        return self._found_accounts(method, self.call(method, str(owner), {"mint": str(mint)}, config))

    # History

    def signatures(self, address: Pubkey, *, before: str | None = None, limit: int = SIGNATURES_MAX) -> list[SignatureInfo]:
        """Return one page of the history of an address, newest first, final or not (compare `slot` with `finalized_slot`)."""
        method = "getSignaturesForAddress"
        config: dict[str, Any] = {"commitment": "finalized", "limit": limit}
        if before is not None:
            config["before"] = before
        answer = self._list(method, self.call(method, str(address), config))
        return [self._signature(method, one) for one in answer]

    def newest_signature(self, address: Pubkey) -> SignatureInfo | None:
        """Return the newest transaction that names an address, final or not, or None if there is none."""
        return next(self.signatures_back_to(address, 0, page=20), None)

    def signatures_back_to(self, address: Pubkey, slot: int, *, page: int = SIGNATURES_MAX) -> Iterator[SignatureInfo]:
        """Yield the history of an address, newest first, page by page, down to and with `slot`.

        The node of the tests lists what it refused too, under a signature of 64 zero bytes, which none can have: left out.

        Raises: AnswerMalformed if the pages are not in falling order: nothing could be concluded from where they end.
        """
        before = None
        last = SLOT_MAX
        while True:
            found = self.signatures(address, before=before, limit=page)
            for one in found:
                if one.slot > last or (one.signature == before and before != _NO_SIGNATURE):
                    raise AnswerMalformed("getSignaturesForAddress", f"slot {one.slot} comes after slot {last}, newest first")
                last = one.slot
                if one.slot < slot:
                    return
                if one.signature != _NO_SIGNATURE:
                    yield one
            if len(found) < page:
                return
            before = found[-1].signature

    def block_signatures(self, slot: int) -> list[str]:
        """Return the signatures of a block in the order its transactions ran."""
        config = {"commitment": "finalized", "transactionDetails": "signatures", "rewards": False, "maxSupportedTransactionVersion": 0}
        answer = self.call("getBlock", slot, config)
        if answer is None:
            raise HistoryPruned("getBlock", f"the node at {self.host} has no block of slot {slot}")
        return [self._text("getBlock", one) for one in self._list("getBlock", self._field("getBlock", answer, "signatures"))]

    def transaction(self, signature: str) -> dict[str, Any] | None:
        """Return a transaction as the node tells it, for `transactions.decode`, or None if it does not know one."""
        config = {"encoding": "base64", "commitment": "finalized", "maxSupportedTransactionVersion": 0}
        answer = self.call("getTransaction", signature, config)
        if answer is not None and not isinstance(answer, dict):
            raise AnswerMalformed("getTransaction", f"{type(answer).__name__} where a transaction was asked for")
        return answer

    # Sending

    def send(self, transaction: bytes, *, skips_trial: bool = False) -> str:
        """Hand a signed transaction to the node, once or often: it lands at most once. Returns its signature.

        Raises: TransactionRefused if the node's trial run fails. That one already landed is no failure.
        """
        method = "sendTransaction"
        signature = str(Signature(transaction[1:65]))
        config = {"encoding": "base64", "skipPreflight": skips_trial, "preflightCommitment": "confirmed", "maxRetries": 0}
        try:
            answer = self._text(method, self.call(method, base64.b64encode(transaction).decode(), config))
        except TransactionRefused as refused:
            if refused.error == "AlreadyProcessed" or "already been processed" in str(refused):
                return signature
            raise
        if answer != signature:
            raise AnswerMalformed(method, f"the node at {self.host} answered {answer[:100]!r} for the transaction {signature}")
        return signature

    def simulate(self, transaction: bytes) -> Simulation:
        """Run a transaction on the newest state without keeping what it does; signatures are not looked at."""
        method = "simulateTransaction"
        config = {"encoding": "base64", "sigVerify": False, "replaceRecentBlockhash": True, "commitment": "processed"}
        slot, value = self._with_context(method, self.call(method, base64.b64encode(transaction).decode(), config))
        logs = tuple(self._text(method, line) for line in self._list(method, self._field(method, value, "logs") or []))
        returned = value.get("returnData")
        data = b"" if returned is None else self._base64(method, self._field(method, returned, "data"))
        return Simulation(slot, self._field(method, value, "err"), logs, self._slot(method, value.get("unitsConsumed") or 0), data)

    # The call itself

    def call(self, method: str, *params: object) -> Any:
        """Put a call and return its result, whatever shape that has.

        Raises: RpcError, once no further try can help or `tries` are used up.
        """
        for attempt in range(1, self._tries + 1):
            try:
                return self._call_once(method, params)
            except (*_RETRIED, NodeFailed) as failed:
                if attempt == self._tries or (isinstance(failed, NodeFailed) and failed.status < 500):
                    raise
                asked = failed.retry_after_seconds if isinstance(failed, NodeOverloaded) else None
                self._pause(min(0.1 * 2 ** (attempt - 1), 5.0) if asked is None else float(min(asked, 30)))
        raise AssertionError("the last try returns or raises")

    def _call_once(self, method: str, params: Sequence[object]) -> Any:
        with self._lock:
            self._number += 1
            number = self._number
            body = json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}).encode()
            status, retry_after, answer = self._exchange(method, body)
        if status in (429, 503):
            seconds = int(retry_after) if retry_after and retry_after.isdecimal() else None
            raise NodeOverloaded(method, f"the node at {self.host} asks us to slow down (HTTP {status})", seconds)
        if status != 200:
            raise NodeFailed(method, f"the node at {self.host} answered with HTTP {status}", status)
        try:
            decoded = None if is_too_deep(answer) else json.loads(answer, parse_float=str, parse_constant=_refuse_constant)
        except ValueError:
            decoded = None
        if decoded is None:
            raise AnswerMalformed(method, f"the node at {self.host} answered {len(answer)} bytes that are no JSON")
        if not isinstance(decoded, dict) or decoded.get("jsonrpc") != "2.0":
            raise AnswerMalformed(method, f"the node at {self.host} answered something that is no JSON-RPC 2.0")
        if "error" in decoded:
            self._raise_error(method, decoded["error"])
        if decoded.get("id") != number or "result" not in decoded:
            raise AnswerMalformed(method, f"the node at {self.host} answered another call than number {number}")
        return decoded["result"]

    def _exchange(self, method: str, body: bytes) -> tuple[int, str | None, bytes]:
        """Send a request and read its whole answer before the deadline."""
        deadline = time.monotonic() + self._timeout_seconds
        timed_out = threading.Event()
        watch = threading.Timer(self._timeout_seconds, self._cut, [timed_out])
        watch.daemon = True
        watch.start()
        try:
            connection = self._connect()
            connection.request("POST", self._path, body, {"Content-Type": "application/json", "Accept": "application/json"})
            response = connection.getresponse()
            answer = bytearray()
            while chunk := response.read1(_CHUNK_BYTES):
                answer += chunk
                if len(answer) > self._answer_bytes_max:
                    self._disconnect()
                    raise AnswerMalformed(method, f"the node at {self.host} answered more than {self._answer_bytes_max} bytes")
            expected = response.headers.get("Content-Length")
            if timed_out.is_set() or time.monotonic() > deadline:
                raise TimeoutError
            if expected is not None and expected.isdecimal() and len(answer) != int(expected):
                self._disconnect()
                raise AnswerMalformed(method, f"the node at {self.host} sent {len(answer)} of {expected} bytes and hung up")
            response.close()  # read to its end, which frees the connection for the next request
            if response.will_close:
                self._disconnect()
            return response.status, response.headers.get("Retry-After"), bytes(answer)
        except (OSError, http.client.HTTPException, ValueError) as failed:
            self._disconnect()
            if timed_out.is_set() or isinstance(failed, TimeoutError):
                reason = f"no whole answer within {self._timeout_seconds} s"
            else:
                reason = f"{type(failed).__name__} {failed}".strip()
            raise NodeUnreachable(method, f"the node at {self.host} gave no answer: {reason}") from None
        finally:
            watch.cancel()

    def _connect(self) -> http.client.HTTPConnection:
        if self._connection is None:
            host, port = self._endpoint
            if self._secure:
                context = ssl.create_default_context()
                self._connection = http.client.HTTPSConnection(host, port, timeout=self._timeout_seconds, context=context)
            else:
                self._connection = http.client.HTTPConnection(host, port, timeout=self._timeout_seconds)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _cut(self, timed_out: threading.Event) -> None:
        """End an exchange that takes too long, from the watch's thread: whoever reads from the socket sees its end."""
        timed_out.set()
        connection = self._connection
        if connection is not None and connection.sock is not None:
            try:
                connection.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # it ended by itself at this very moment

    def _raise_error(self, method: str, error: object) -> NoReturn:
        code = error.get("code") if isinstance(error, dict) else None
        if not isinstance(error, dict) or not isinstance(code, int):
            raise AnswerMalformed(method, f"the node at {self.host} answered an error of unknown shape: {str(error)[:200]}")
        message = str(error.get("message"))[:500]
        data = error.get("data")
        if code == _PREFLIGHT_FAILURE:
            details = data if isinstance(data, dict) else {}
            logs = tuple(str(line) for line in details.get("logs") or ())
            raise TransactionRefused(method, message, details.get("err"), logs)
        if code in _BEHIND:
            raise NodeBehind(method, f"the node at {self.host} has not come that far: {_BEHIND[code]} ({message})")
        if code in _PRUNED:
            raise HistoryPruned(method, f"the node at {self.host} cannot tell any more: {_PRUNED[code]} ({message})")
        if code == 429:
            raise NodeOverloaded(method, f"the node at {self.host} asks us to slow down ({message})")
        raise RequestRefused(method, message, code)

    # Shapes

    def _field(self, method: str, value: object, name: str) -> Any:
        if not isinstance(value, dict) or name not in value:
            raise AnswerMalformed(method, f"the node at {self.host} left out {name!r}: {str(value)[:200]}")
        return value[name]

    def _list(self, method: str, value: object) -> list[Any]:
        if not isinstance(value, list):
            raise AnswerMalformed(method, f"the node at {self.host} answered {type(value).__name__} where a list belongs")
        return value

    def _text(self, method: str, value: object) -> str:
        if not isinstance(value, str):
            raise AnswerMalformed(method, f"the node at {self.host} answered {type(value).__name__} where a text belongs")
        return value

    def _slot(self, method: str, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= SLOT_MAX:
            raise AnswerMalformed(method, f"the node at {self.host} answered {str(value)[:50]!r} where a count from 0 to 2^63 - 1 belongs")
        return value

    def _address(self, method: str, value: object) -> Pubkey:
        try:
            return Pubkey.from_string(self._text(method, value))
        except ValueError:
            raise AnswerMalformed(method, f"the node at {self.host} answered {str(value)[:50]!r} where an address belongs") from None

    def _base64(self, method: str, value: object) -> bytes:
        if not isinstance(value, list) or len(value) != 2 or value[1] != "base64" or not isinstance(value[0], str):
            raise AnswerMalformed(method, f"the node at {self.host} answered data that is not encoded as asked: {str(value)[:100]}")
        try:
            return base64.b64decode(value[0], validate=True)
        except binascii.Error:
            raise AnswerMalformed(method, f"the node at {self.host} answered data that is no base64") from None

    def _with_context(self, method: str, answer: object) -> tuple[int, Any]:
        slot = self._slot(method, self._field(method, self._field(method, answer, "context"), "slot"))
        return slot, self._field(method, answer, "value")

    def _account(self, method: str, address: Pubkey, value: object) -> Account:
        return Account(
            address,
            self._slot(method, self._field(method, value, "lamports")),
            self._address(method, self._field(method, value, "owner")),
            self._base64(method, self._field(method, value, "data")),
        )

    def _found_accounts(self, method: str, answer: object) -> tuple[int, list[Account]]:
        slot, values = self._with_context(method, answer)
        found = []
        for value in self._list(method, values):
            address = self._address(method, self._field(method, value, "pubkey"))
            found.append(self._account(method, address, self._field(method, value, "account")))
        return slot, found

    def _signature(self, method: str, value: object) -> SignatureInfo:
        signature = self._text(method, self._field(method, value, "signature"))
        slot = self._slot(method, self._field(method, value, "slot"))
        block_time = value.get("blockTime") if isinstance(value, dict) else None
        return SignatureInfo(
            signature,
            slot,
            self._field(method, value, "err") is not None,
            None if block_time is None else self._slot(method, block_time),
        )


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


__all__ = ["Account", "RpcClient", "RpcError", "SignatureInfo", "Simulation"]

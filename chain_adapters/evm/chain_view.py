"""One node at one moment, as the verbs ask it: blocks, calls, and what became of a sender's number.

A verb takes one view and asks nothing else: figures of two nodes are never put together. Answers are checked for form, so that garbage
ends in NodeNonsense and never in a figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from eth_utils.address import to_checksum_address
from google.protobuf.timestamp_pb2 import Timestamp

from chain_adapters.evm.codec import decode_answer, encode_call
from chain_adapters.evm.node import Node, NodeAway, NodeNonsense, NodeRefused, read_bytes, read_number
from stockledger.v1.chains_pb2 import ChainPosition

HASH_CHARACTERS: Final = 66
NUMBER_MAX: Final = 2**63 - 1
TIME_SECONDS_MAX: Final = 253_402_300_799
"""The end of the year 9999, where a Timestamp ends."""


class ChainView:
    """What one node says."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._receipts: dict[str, dict[str, Any]] = {}

    # Blocks

    def block(self, which: int | str, *, whole: bool = False) -> dict[str, Any] | None:
        """Return a block by number or tag, with its transactions if `whole`; None where the node has none.

        Raises: NodeNonsense for a block other than the one asked for.
        """
        answer = self.node.call("eth_getBlockByNumber", which if isinstance(which, str) else hex(which), whole)
        if answer is None:
            return None
        position = position_of(answer)
        if isinstance(which, int) and position.number != which:
            raise NodeNonsense(f"asked for block {which}, told block {position.number}")
        return dict(answer)

    def whole_block(self, number: int) -> dict[str, Any]:
        """Return a block that must be there, with its transactions.

        Raises: NodeAway where it is not.
        """
        found = self.block(number, whole=True)
        if found is None:
            raise NodeAway(f"the node does not have block {number}")
        return found

    def position(self, number: int) -> ChainPosition:
        """Return the position of a block that must be there.

        Raises: NodeAway where it is not: the node is behind.
        """
        found = self.block(number)
        if found is None:
            raise NodeAway(f"the node does not have block {number} yet")
        return position_of(found)

    def final(self, depth: int) -> ChainPosition:
        """Return the newest final block: the node's own tag, or so many blocks below the newest.

        Raises: NodeNonsense for a final block above the newest.
        """
        newest = self.newest()
        if depth:
            return self.position(max(0, newest - depth))
        found = self.block("finalized")
        if found is None:
            raise NodeAway("the node tells no finalized block; set a depth where its chain has none")
        position = position_of(found)
        if position.number > newest:
            again = self.newest()  # it may have grown between the two answers
            if position.number > again:
                raise NodeNonsense(f"block {position.number} is called final, and the newest is {again}")
        return position

    def newest(self) -> int:
        """Return the number of the newest block."""
        number = self.node.number("eth_blockNumber")
        if number > NUMBER_MAX:
            raise NodeNonsense(f"{number} is no block number")
        return number

    # Contracts

    def ask(self, contract: str, target: str, signature: str, *arguments: Any, at: int | str | dict[str, Any] = "latest") -> Any:
        """Read from a contract at a block.

        Raises: NodeRefused where it reverts or the node has no state of that block; NotDecodable for the answer of another contract.
        """
        data = encode_call(contract, signature, *arguments)
        return decode_answer(contract, signature, self.call(target, data, at=at))

    def call(self, target: str, data: bytes, *, sender: str = "", gas: int = 0, at: int | str | dict[str, Any] = "latest") -> bytes:
        """Return what a call answers, without sending it; with `gas`, given no more than that.

        Raises: NodeRefused with what the contract reverted with.
        """
        question = {"to": target, "data": "0x" + data.hex()}
        if sender:
            question["from"] = sender
        if gas:
            question["gas"] = hex(gas)
        return read_bytes(self.node.call("eth_call", question, hex(at) if isinstance(at, int) else at))

    def code(self, address: str, at: int | str = "latest") -> bytes:
        """Return the code at an address."""
        return read_bytes(self.node.call("eth_getCode", address, hex(at) if isinstance(at, int) else at))

    # Numbers of a sender

    def count(self, sender: str, at: int | str) -> int:
        """Return how many transactions of a sender there were, so also its next number.

        Raises: NodeRefused where the node has no state of that block.
        """
        return self.node.number("eth_getTransactionCount", sender, hex(at) if isinstance(at, int) else at)

    def sent(self, sender: str, after: int, through: int, least: int = 0) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Yield (block, transaction) of a sender in a range of blocks, in order, as far as its numbers are at least `least`.

        Every block is looked through where the node has forgotten how many it had sent.

        Raises: NodeAway.
        """
        try:
            numbers: Sequence[int] = self.blocks_of(sender, after, through, least)
        except NodeRefused:
            numbers = range(after + 1, through + 1)
        for number in numbers:
            found = self.whole_block(number)
            for entry in transactions_of(found):
                if entry["from"].lower() == sender.lower() and read_number(entry["nonce"]) >= least:
                    yield found, entry

    def blocks_of(self, sender: str, after: int, through: int, least: int) -> list[int]:
        """Return the blocks of a range in which a sender has used numbers from `least` on up, found by halving, by how many it had sent.

        Raises: NodeRefused where the node has forgotten how many those were.
        """
        before, end = self.count(sender, after), self.count(sender, through)
        return [] if end <= max(before, least) else list(self._halve(sender, (after, before), (through, end)))

    def _halve(self, sender: str, low: tuple[int, int], high: tuple[int, int]) -> Iterator[int]:
        if low[1] == high[1]:
            return
        if low[1] > high[1]:
            raise NodeNonsense(f"{sender} had sent {low[1]} transactions at block {low[0]} and {high[1]} at {high[0]}")
        if high[0] - low[0] == 1:
            yield high[0]
            return
        middle = (low[0] + high[0]) // 2
        known = (middle, self.count(sender, middle))
        yield from self._halve(sender, low, known)
        yield from self._halve(sender, known, high)

    def receipt(self, transaction: str) -> dict[str, Any]:
        """Return the receipt of a transaction that is in a final block, asked for once.

        Raises: NodeAway where there is none, NodeNonsense for another's.
        """
        if transaction in self._receipts:
            return self._receipts[transaction]
        found = self.node.call("eth_getTransactionReceipt", transaction)
        if found is None:
            raise NodeAway(f"the node has no receipt of {transaction}")
        if not isinstance(found, dict) or found.get("transactionHash") != transaction or not isinstance(found.get("logs"), list):
            raise NodeNonsense(f"asked for the receipt of {transaction}, told something else")
        self._receipts[transaction] = found
        return found


def position_of(block: Any) -> ChainPosition:
    """Return the position of a block as a node tells it.

    Raises: NodeNonsense.
    """
    try:
        number, seconds, digest = read_number(block["number"]), read_number(block["timestamp"]), block["hash"]
        if number > NUMBER_MAX or seconds > TIME_SECONDS_MAX or len(read_bytes(digest)) != (HASH_CHARACTERS - 2) // 2:
            raise NodeNonsense(f"block {number} of hash {digest} and time {seconds} cannot be")
    except (KeyError, TypeError) as error:
        raise NodeNonsense(f"a block lacks what a block has: {error!r}") from error
    return ChainPosition(number=number, hash=digest, time=Timestamp(seconds=seconds))


def transactions_of(block: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the transactions of a whole block.

    Raises: NodeNonsense.
    """
    found = block.get("transactions")
    if not isinstance(found, list) or any(not isinstance(entry, dict) or not {"from", "nonce", "hash"} <= entry.keys() for entry in found):
        raise NodeNonsense(f"the transactions of block {block.get('number')} are not what was asked for")
    return found


def checksummed(word: bytes) -> str:
    """Return the address at the end of a word of 32 bytes."""
    return str(to_checksum_address(word[-20:]))

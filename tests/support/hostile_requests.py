"""Requests that wish the server ill, from a seed: of valid structure with hostile values, and bytes that are hardly messages at all."""

from __future__ import annotations

import random
from typing import Any

from google.protobuf.message_factory import GetMessageClass
from grpc_server_thread import METHODS, request_id

ACCOUNTS = ("book:broker-a/alice", "book:broker-a/bob", "book:broker-b/alice", "book:house", "ledger:issuance", "eip155:1:0x" + "ab" * 20)
TEXTS = (
    *(
        "",
        " ",
        "AAPLx",
        "USDC",
        "NVDAx",
        "broker-a",
        "broker-a/alice",
        "house",
        "operator",
        "0",
        "-1",
        "2026-11-22",
        "2026-02-30",
        "0001-01-01",
    ),
    *(
        "9999-12-31",
        "\0",
        "a\0b",
        "\N{SNOWMAN}" * 200,
        "\U0001f4a9",
        "\u202e",
        "'; DROP TABLE stored_events; --",
        "%s%n{}{0}",
        "../../etc/passwd",
    ),
    *(
        "x" * 141,
        "x" * 70_000,
        "US0378331005",
        "1" * 50,
        "1e309",
        "NaN",
        "340282366920938463463374607431768211456",
        "{" * 500,
        '{"a":' * 300,
    ),
)
INTEGERS = (0, 1, -1, 2, 7, 16, 17, 99, 1_000, 250_001, 10**8, 2**31 - 1, 2**62, 2**62 + 1, 2**63 - 1, -(2**63))
TAME = {
    **dict.fromkeys(
        ("source", "destination", "account", "fee_account", "loss_account", "proceeds_account", "paying_account"), ACCOUNTS[:4]
    ),
    **dict.fromkeys(("instrument",), ("AAPLx", "AAPLx", "AAPLx", "USDC")),
    **dict.fromkeys(("cash_instrument",), ("USDC",)),
    **dict.fromkeys(("holder",), ("broker-a/alice", "broker-a/bob", "h-1")),
    **dict.fromkeys(("broker", "scope"), ("broker-a", "")),
    **dict.fromkeys(("country", "countries", "barred_countries"), ("DE", "FR")),
    **dict.fromkeys(("currency",), ("USD", "EUR")),
    **dict.fromkeys(
        ("ex_date", "record_date", "payment_date", "effective_date", "trade_date", "settlement_date"), ("2026-11-22", "2026-11-23")
    ),
    **dict.fromkeys(("underlying_isin", "isin"), ("US0378331005",)),
    **dict.fromkeys(("principal", "approvers"), ("broker-a", "issuer-1", "approver-1", "somebody")),
    **dict.fromkeys(("command",), ("IssueUnits", "TransferUnits", "GrantRole")),
    **dict.fromkeys(("page_token",), ("",)),
}
"""Values by which a request gets past the first checks."""
ABSENT = frozenset({"validate_only", "not_after_time", "as_of", "expiry_time", "expires_time"})
DEPTH_MAX = 4


class Hostility:
    """Makes (rpc, bytes) pairs; the same seed makes the same ones, but for request ids of now."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._rpcs = sorted(METHODS)
        self._sent: list[bytes] = []

    def next(self) -> tuple[str, bytes]:
        """Return an RPC and what to send to it."""
        chance = self.random.random()
        rpc = self.random.choice(self._rpcs)
        if chance < 0.15:
            return rpc, self._bytes()
        message = self.tame(METHODS[rpc].input_type) if chance < 0.75 else self.message(METHODS[rpc].input_type)
        if rpc == "AuditService/StreamEntries":
            message.stop_when_caught_up = True
        data = message.SerializeToString()
        if chance < 0.3:
            data = self._damaged(data)
        if len(data) < 2_000:
            self._sent = [*self._sent[-200:], data]
        return rpc, data

    def tame(self, descriptor: Any, depth: int = 0) -> Any:
        """Return a message that may well be right, but for a field or two."""
        found = GetMessageClass(descriptor)()
        for field in descriptor.fields:
            hostile = self.random.random() < 0.06
            if (field.name in ABSENT or field.containing_oneof is not None) and not hostile and self.random.random() < 0.8:
                continue
            if field.message_type is not None:
                if field.message_type.GetOptions().map_entry or depth >= DEPTH_MAX:
                    continue
                inner = self.tame(field.message_type, depth + 1)
                if field.is_repeated:
                    getattr(found, field.name).append(inner)
                else:
                    getattr(found, field.name).CopyFrom(inner)
            elif field.is_repeated:
                getattr(found, field.name).append(self._value(field) if hostile else self._tame_value(field))
            else:
                setattr(found, field.name, self._value(field) if hostile else self._tame_value(field))
        return found

    def _tame_value(self, field: Any) -> Any:
        chance, kind = self.random, field.type
        if field.name == "request_id":
            return request_id()
        if kind == field.TYPE_STRING:
            return chance.choice(
                TAME.get(field.name) or (f"broker-a/f{chance.randrange(10**9)}", f"book:broker-a/f{chance.randrange(10**9)}", "1")
            )
        if kind == field.TYPE_BYTES:
            return chance.randbytes(32)
        if kind == field.TYPE_BOOL:
            return chance.random() < 0.2
        if kind == field.TYPE_ENUM:
            return chance.choice((1, 1, 2, 3))
        if field.name in ("sources", "destinations"):
            return chance.randrange(16, 22)
        return chance.choice((1, 2, 3, 5, 8))

    def message(self, descriptor: Any, depth: int = 0) -> Any:
        """Return a message of a type with some of its fields set."""
        found = GetMessageClass(descriptor)()
        density = self.random.choice((0.3, 0.8, 1.0))
        for field in descriptor.fields:
            if self.random.random() > density:
                continue
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                continue
            if field.is_repeated:
                for _ in range(self.random.choice((0, 1, 1, 2, 5, 40))):
                    if field.message_type is None:
                        getattr(found, field.name).append(self._value(field))
                    elif depth < DEPTH_MAX:
                        getattr(found, field.name).append(self.message(field.message_type, depth + 1))
            elif field.message_type is None:
                setattr(found, field.name, self._value(field))
            elif depth < DEPTH_MAX:
                getattr(found, field.name).CopyFrom(self.message(field.message_type, depth + 1))
        return found

    def _value(self, field: Any) -> Any:
        chance, kind = self.random, field.type
        if kind == field.TYPE_STRING:
            if field.name == "request_id":
                return chance.choice((request_id(), request_id(), request_id(), "", "00000000-0000-7000-8000-000000000000", "x"))
            if field.name in ("source", "destination", "account") and chance.random() < 0.7:
                return chance.choice(ACCOUNTS)
            if field.name in ("instrument", "cash_instrument") and chance.random() < 0.7:
                return chance.choice(("AAPLx", "USDC"))
            return chance.choice(TEXTS)
        if kind == field.TYPE_BYTES:
            return chance.choice(
                (b"", b"\0" * 32, chance.randbytes(64), chance.randbytes(32), b'{"settled_shares_e8": 1e999}', b"[" * 2_000)
            )
        if kind == field.TYPE_BOOL:
            return chance.random() < 0.5
        if kind == field.TYPE_ENUM:
            return chance.choice((0, 1, 2, 3, 5, 99, -1, 2**31 - 1))
        width = 32 if kind in (field.TYPE_INT32, field.TYPE_SFIXED32, field.TYPE_SINT32) else 64
        value = chance.choice(INTEGERS) if chance.random() < 0.8 else chance.getrandbits(width - 1)
        return max(min(value, 2 ** (width - 1) - 1), -(2 ** (width - 1)))

    def _bytes(self) -> bytes:
        chance = self.random
        if self._sent and chance.random() < 0.5:  # somebody else's message
            return chance.choice(self._sent)
        return chance.choice(
            (chance.randbytes(chance.randrange(60)), b"\x0a" * 500, b"\x0b" * 3_000, b"\xff" * 20, b"\x0a\xff\xff\xff\xff\x0f")
        )

    def _damaged(self, data: bytes) -> bytes:
        if not data:
            return b"\xfa\xff\x01\x01\x61"  # a field that nobody knows
        chance, changed = self.random, bytearray(data)
        for _ in range(chance.randrange(1, 5)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        if chance.random() < 0.3:
            del changed[chance.randrange(len(changed)) :]
        return bytes(changed)

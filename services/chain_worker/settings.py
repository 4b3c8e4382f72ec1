"""What a worker can be set to."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


def _setting(default: Any, meaning: str) -> Any:
    return dataclasses.field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """The settings of `stockledger work`. Items that belong to a chain begin with its CAIP-2 id and an equals sign."""

    ledger_addresses: tuple[str, ...] = _setting(("127.0.0.1:8080",), "servers of the ledger, host:port")
    ledger_authorities: str = _setting("", "file with the authorities of the server's certificate (PEM); set: TLS")
    ledger_certificate: str = _setting("", "file with our own certificate (PEM), for mTLS")
    ledger_private_key: str = _setting("", "file with its private key (PEM)")
    ledger_token: str = _setting("", "file with a bearer token; read again for every request")
    worker_principal: str = _setting("worker", "who we say we are, where a server on loopback lets callers name themselves")
    chains: tuple[str, ...] = _setting(
        (), "chains and their nodes, the preferred one first: eip155:1=http://127.0.0.1:8545 http://127.0.0.1:8546"
    )
    chain_keys: tuple[str, ...] = _setting((), "keys that sign: eip155:1=minter.json, or eip155:1=env:NAME for an environment variable")
    chain_key_passphrase: str = _setting("", "opens keys that are encrypted")
    chain_options: tuple[str, ...] = _setting((), "settings of adapters: eip155:1=name=value")
    chain_poll_ms: int = _setting(500, "how often a quiet chain is looked at")
    chain_reconcile_seconds: int = _setting(60, "how often supply and holdings are held against the books")
    worker_metrics_port: int = _setting(0, "port on loopback for Prometheus (0: none)")

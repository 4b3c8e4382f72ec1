"""What a worker can be set to."""

from __future__ import annotations

from dataclasses import dataclass

from services.setting import DAY_SECONDS, PORT_MAX, PRINCIPAL, setting


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """The settings of `stockledger work`. Items that belong to a chain begin with its CAIP-2 id and an equals sign."""

    ledger_addresses: tuple[str, ...] = setting(("127.0.0.1:8080",), "servers of the ledger, host:port")
    ledger_authorities: str = setting("", "file with the authorities of the server's certificate (PEM); set: TLS")
    ledger_certificate: str = setting("", "file with our own certificate (PEM), for mTLS")
    ledger_private_key: str = setting("", "file with its private key (PEM)")
    ledger_token: str = setting("", "file with a bearer token; read again for every request")
    worker_principal: str = setting("worker", "who we say we are, where a server on loopback lets callers name themselves", form=PRINCIPAL)
    chains: tuple[str, ...] = setting(
        (), "chains and their nodes, the preferred one first: eip155:1=http://127.0.0.1:8545 http://127.0.0.1:8546"
    )
    chain_keys: tuple[str, ...] = setting((), "keys that sign: eip155:1=minter.json, or eip155:1=env:NAME for an environment variable")
    chain_key_passphrase: str = setting("", "opens keys that are encrypted")
    chain_options: tuple[str, ...] = setting((), "settings of adapters: eip155:1=name=value")
    chain_poll_ms: int = setting(500, "how often a quiet chain is looked at", most=DAY_SECONDS * 1000)
    chain_reconcile_seconds: int = setting(60, "how often supply and holdings are held against the books", most=DAY_SECONDS)
    worker_metrics_port: int = setting(0, "port on loopback for Prometheus", most=PORT_MAX, zero="none")

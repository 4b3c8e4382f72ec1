"""What a server can be set to. The defaults need nothing: SQLite, loopback only, the local caller is the operator."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


def _setting(default: Any, meaning: str) -> Any:
    return dataclasses.field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The settings of `stockledger serve`. A count of 0 means no limit, a time of 0 never; empty texts and lists mean none."""

    address: str = _setting("127.0.0.1:8080", "where to listen; anything but loopback needs TLS")
    advertised_address: str = _setting("", "host:port at which clients reach this server, told to them while it leads (empty: address)")
    read_lag_seconds_max: int = _setting(10, "a server that follows and has not reached the store for so long answers no reads")
    tls_certificate: str = _setting("", "file with the server's certificate chain (PEM); read again when it changes")
    tls_private_key: str = _setting("", "file with its private key (PEM)")
    tls_client_authorities: str = _setting("", "file with the authorities of client certificates (PEM); set: every client must show one")
    token_keys: str = _setting("", "public keys of token issuers: a JWKS file, or a directory of them; read again when it changes")
    token_issuer: str = _setting("", "the iss a token must have")
    token_audience: str = _setting("", "the aud a token must have")
    operators: tuple[str, ...] = _setting((), "principals who are operators whatever the log says: they grant the first roles")
    local_operator: str = _setting("operator", "who a caller without credentials is, on loopback without TLS (empty: nobody)")
    local_principals: bool = _setting(
        False, "a caller on loopback without TLS may name itself (metadata stockledger-principal): for trying out"
    )
    reflection: bool = _setting(True, "tell the protos to whoever asks; they are public, and nobody's data is told")
    message_bytes_max: int = _setting(8 * 1024 * 1024, "bytes of one request")
    batch_length_max: int = _setting(250_000, "items of one request: legs, trades, transfers")
    requests_in_flight_max: int = _setting(2_000, "requests at once, of all principals")
    principal_requests_in_flight_max: int = _setting(256, "requests at once, of one principal")
    principal_streams_max: int = _setting(16, "streams at once, of one principal")
    principal_requests_per_second: int = _setting(20_000, "requests and stream messages a second, of one principal, in the long run")
    principal_requests_burst: int = _setting(40_000, "requests of one principal that may come at once after a quiet time")
    stream_unanswered_max: int = _setting(20_000, "transfers of one stream that may wait for their acknowledgement")
    stream_report_seconds: int = _setting(15, "how often a stream of entries tells how far it is when there is nothing to send")
    keepalive_seconds: int = _setting(30, "a quiet connection is asked for a sign of life this often; half-open ones end so")
    connection_age_seconds: int = _setting(
        3600, "a connection is asked to come again after this time, so that certificates are checked anew"
    )
    stop_seconds: int = _setting(20, "how long a stop waits for what was accepted")
    reader_threads: int = _setting(4, "reads at once")
    snapshot_entries: int = _setting(100_000, "a snapshot of the books is written after so many entries")
    snapshot_seconds: int = _setting(600, "and after this time, if there are new ones")
    checkpoint_seconds: int = _setting(5, "how often checkpoint_file is renewed, if there are new entries")
    metrics_port: int = _setting(0, "port on loopback for Prometheus (0: none)")
    tracing: bool = _setting(False, "make OpenTelemetry spans, if its packages are installed")
    page_token_secret: str = _setting("", "seals page tokens, the same on all servers of a ledger (empty: new at every start)")
    log_level: str = _setting("info", "debug, info, warning or error")

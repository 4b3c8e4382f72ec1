"""What a server can be set to. The defaults need nothing: SQLite, loopback only, the local caller is the operator."""

from __future__ import annotations

from dataclasses import dataclass

from services.setting import ADDRESS, ADDRESS_OR_NONE, DAY_SECONDS, LOG_LEVEL, PORT_MAX, PRINCIPAL, WEEK_SECONDS, setting


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The settings of `stockledger serve`. What a 0 means is said with each that may be 0; empty texts and lists mean none."""

    address: str = setting("127.0.0.1:8080", "where to listen; anything but loopback needs TLS", form=ADDRESS)
    advertised_address: str = setting(
        "", "host:port at which clients reach this server, told to them while it leads (empty: address)", form=ADDRESS_OR_NONE
    )
    read_lag_seconds_max: int = setting(
        10, "a server that follows and has not reached the store for so long answers no reads", most=DAY_SECONDS, zero="it always does"
    )
    tls_certificate: str = setting("", "file with the server's certificate chain (PEM); read again when it changes")
    tls_private_key: str = setting("", "file with its private key (PEM)")
    tls_client_authorities: str = setting("", "file with the authorities of client certificates (PEM); set: every client must show one")
    token_keys: str = setting("", "public keys of token issuers: a JWKS file, or a directory of them; read again when it changes")
    token_issuer: str = setting("", "the iss a token must have")
    token_audience: str = setting("", "the aud a token must have")
    operators: tuple[str, ...] = setting(
        (), "principals who are operators whatever the log says: they grant the first roles", form=PRINCIPAL
    )
    local_operator: str = setting(
        "operator", "who a caller without credentials is, on loopback without TLS (empty: nobody)", form=PRINCIPAL
    )
    local_principals: bool = setting(
        False, "a caller on loopback without TLS may name itself (metadata stockledger-principal): for trying out"
    )
    reflection: bool = setting(True, "tell the protos to whoever asks; they are public, and nobody's data is told")
    message_bytes_max: int = setting(8 * 1024 * 1024, "bytes of one request", most=2**30 - 1, zero="no limit")
    batch_length_max: int = setting(250_000, "items of one request: legs, trades, transfers", zero="no limit")
    requests_in_flight_max: int = setting(2_000, "requests at once, of all principals", zero="no limit")
    principal_requests_in_flight_max: int = setting(256, "requests at once, of one principal", zero="no limit")
    principal_streams_max: int = setting(16, "streams at once, of one principal", zero="no limit")
    principal_requests_per_second: int = setting(
        20_000, "requests and stream messages a second, of one principal, in the long run", zero="no limit"
    )
    principal_requests_burst: int = setting(40_000, "requests of one principal that may come at once after a quiet time")
    stream_unanswered_max: int = setting(20_000, "transfers of one stream that may wait for their acknowledgement")
    stream_report_seconds: int = setting(
        15, "how often a stream of entries tells how far it is when there is nothing to send", most=DAY_SECONDS
    )
    keepalive_seconds: int = setting(
        30, "a quiet connection is asked for a sign of life this often; half-open ones end so", most=WEEK_SECONDS, zero="never"
    )
    connection_age_seconds: int = setting(
        3600,
        "a connection is asked to come again after this time, so that certificates are checked anew",
        most=WEEK_SECONDS,
        zero="never",
    )
    stop_seconds: int = setting(20, "how long a stop waits for what was accepted", most=DAY_SECONDS)
    reader_threads: int = setting(4, "reads at once", most=256)
    snapshot_entries: int = setting(100_000, "a snapshot of the books is written after so many entries", zero="never for that")
    snapshot_seconds: int = setting(600, "and after this time, if there are new ones", zero="never for that")
    checkpoint_seconds: int = setting(5, "how often checkpoint_file is renewed, if there are new entries", most=DAY_SECONDS)
    metrics_port: int = setting(0, "port on loopback for Prometheus", most=PORT_MAX, zero="none")
    tracing: bool = setting(False, "make OpenTelemetry spans; the variables OTEL_* say where they go")
    page_token_secret: str = setting("", "seals page tokens, the same on all servers of a ledger (empty: new at every start)")
    log_level: str = setting("info", LOG_LEVEL.words, form=LOG_LEVEL)

"""`stockledger serve` with settings that cannot be had: one line that says which, from where, and what it must be; nothing is opened."""

from __future__ import annotations

import contextlib
import json
import socket

import pytest
from command_line import run_process
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from grpc_certificates import Authority, TokenIssuer, write_keys

from ledger.rules import checks
from services.grpc_server import authentication
from services.setting import PRINCIPAL_PATTERN

USAGE = 64
ID = "1 to 64 of letters, digits, '.', '_', '/' and '-'"
PEM = "a file of certificates (PEM)"
KEY = "a file with a private key (PEM) that is not encrypted"
JWKS = "a JWKS file or a directory of them"
ISSUED = ("--token-issuer=i", "--token-audience=a")
TLS = ("--tls-certificate=server.crt", "--tls-private-key=server.key")
MUTUAL = (*TLS, "--tls-client-authorities=clients.crt")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    # a certificate with its key, another's, and what is none
    folder = tmp_path_factory.mktemp("files")
    authority = Authority("acme clients")
    key, certificate = authority.issue("server", dns=("localhost",))
    sealed = authority.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    issuer = TokenIssuer("EdDSA", "k")
    write_keys(folder / "keys.json", issuer)
    contents = {
        "server.key": key,
        "server.crt": certificate,
        "clients.crt": authority.pem,
        "other.key": authority.issue("other")[0],
        "sealed.key": sealed,
        "junk": b"-----BEGIN CERTIFICATE-----\njunk\n-----END CERTIFICATE-----\n",
        "empty": b"",
        "binary": b"\xff\xfe\0",
        "five.json": b'{"keys": 5}',
        "deep.json": b"[" * 100_000,
        "nameless.json": json.dumps({"keys": [issuer.public() | {"kid": ""}]}).encode(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def taken():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield str(listener.getsockname()[1])


WRONG = [
    # numbers, levels and names
    (["--log-level", "foo"], "log_level of --log-level is 'foo', it must be debug, info, warning or error"),
    (["--metrics-port", "70000"], "metrics_port of --metrics-port is 70000, it must be a whole number, 0 to 65535"),
    (["--reader-threads", "0"], "reader_threads of --reader-threads is 0, it must be a whole number, 1 to 256"),
    (
        ["--message-bytes-max", "4294967296"],
        "message_bytes_max of --message-bytes-max is 4294967296, it must be a whole number, 0 to 1073741823",
    ),
    (["--keepalive-seconds", "10000000"], "keepalive_seconds of --keepalive-seconds is 10000000, it must be a whole number, 0 to 604800"),
    (
        ["--connection-age-seconds", "10000000"],
        "connection_age_seconds of --connection-age-seconds is 10000000, it must be a whole number, 0 to 604800",
    ),
    (["--operators", "bad name!"], f"operators of --operators is 'bad name!', it must be {ID}"),
    (["--operators", "good,a b"], f"operators of --operators is 'good, a b', it must be {ID}"),
    (["--local-operator", "a b"], f"local_operator of --local-operator is 'a b', it must be {ID}"),
    # where to listen
    (["--address", "127.0.0.1"], "address of --address is '127.0.0.1', it must be host:port, like 127.0.0.1:8080"),
    (["--address", "127.0.0.1:65536"], "address of --address is '127.0.0.1:65536', it must be host:port, like 127.0.0.1:8080"),
    (["--address", "::1"], "address of --address is '::1', it must be host:port, like 127.0.0.1:8080"),
    (["--address", ""], "address of --address is '', it must be host:port, like 127.0.0.1:8080"),
    (
        ["--address", "0.0.0.0:0"],
        "address of --address is '0.0.0.0:0', it must be on loopback, since it can be reached from other machines; or set",
    ),
    (
        ["--address", "no-such-host.invalid:1"],
        "address of --address is 'no-such-host.invalid:1', it must be an address of this machine: its host is not found",
    ),
    (["--address", "127.0.0.1:{taken}"], "address of --address is '127.0.0.1:{taken}', it must be an address of this machine that is free"),
    (
        ["--advertised-address", "ledger"],
        "advertised_address of --advertised-address is 'ledger', it must be host:port, like ledger-1.example:8080",
    ),
    (
        ["--metrics-port", "{taken}"],
        "metrics_port of --metrics-port is {taken}, it must be a port on loopback that can be had (Address already in use)",
    ),
    # tokens
    (
        ["--token-keys", "/nonexistent", *ISSUED],
        f"token_keys of --token-keys is '/nonexistent', it must be {JWKS} (No such file or directory)",
    ),
    (
        ["--token-keys", "five.json", *ISSUED],
        f"token_keys of --token-keys is 'five.json', it must be {JWKS} (five.json: keys is not a list (RFC 7517 section 5.1))",
    ),
    (["--token-keys", "junk", *ISSUED], f"token_keys of --token-keys is 'junk', it must be {JWKS} ("),
    (["--token-keys", "binary", *ISSUED], f"token_keys of --token-keys is 'binary', it must be {JWKS} ("),
    (
        ["--token-keys", "nameless.json", *ISSUED],
        f"token_keys of --token-keys is 'nameless.json', it must be {JWKS} (nameless.json has a key without kid, which is a text)",
    ),
    (["--token-keys", "keys.json", ISSUED[0]], "token_audience is '', it must be set along with token_keys"),
    (["--token-keys", "keys.json", ISSUED[1]], "token_issuer is '', it must be set along with token_keys"),
    ([ISSUED[0]], "token_issuer of --token-issuer is 'i', it must be set along with token_keys: without them no token is taken"),
    ([ISSUED[1]], "token_audience of --token-audience is 'a', it must be set along with token_keys: without them no token is taken"),
    # TLS
    ([TLS[0]], "tls_certificate of --tls-certificate is 'server.crt', it must be set along with tls_private_key"),
    ([TLS[1]], "tls_private_key of --tls-private-key is 'server.key', it must be set along with tls_certificate"),
    ([MUTUAL[2]], "tls_client_authorities of --tls-client-authorities is 'clients.crt', it must be set along with tls_certificate"),
    (TLS, "tls_certificate of --tls-certificate is 'server.crt', it must be set along with tls_client_authorities or token_keys"),
    ([*MUTUAL, "--local-principals=true"], "local_principals of --local-principals is True, it must be left out with TLS"),
    ([*MUTUAL, "--local-operator=carol"], "local_operator of --local-operator is 'carol', it must be left out with TLS"),
    (
        [*MUTUAL, "--tls-private-key=nope.key"],
        f"tls_private_key of --tls-private-key is 'nope.key', it must be {KEY} (No such file or directory)",
    ),
    ([*MUTUAL, "--tls-private-key=junk"], f"tls_private_key of --tls-private-key is 'junk', it must be {KEY}"),
    ([*MUTUAL, "--tls-private-key=sealed.key"], f"tls_private_key of --tls-private-key is 'sealed.key', it must be {KEY}"),
    (
        [*MUTUAL, "--tls-private-key=other.key"],
        "tls_private_key of --tls-private-key is 'other.key', it must be the private key of the first certificate in tls_certificate",
    ),
    ([*MUTUAL, "--tls-certificate=."], f"tls_certificate of --tls-certificate is '.', it must be {PEM} (Is a directory)"),
    ([*MUTUAL, "--tls-certificate=junk"], f"tls_certificate of --tls-certificate is 'junk', it must be {PEM}"),
    ([*MUTUAL, "--tls-certificate=empty"], f"tls_certificate of --tls-certificate is 'empty', it must be {PEM}"),
    ([*MUTUAL, "--tls-client-authorities=junk"], f"tls_client_authorities of --tls-client-authorities is 'junk', it must be {PEM}"),
    (
        [*MUTUAL, "--tls-client-authorities=nope"],
        f"tls_client_authorities of --tls-client-authorities is 'nope', it must be {PEM} (No such",
    ),
]


@pytest.mark.parametrize(("flags", "message"), WRONG, ids=[" ".join(flags) for flags, _ in WRONG])
def test_what_cannot_be_had_is_told_in_one_line(run, files, taken, flags, message):
    with contextlib.chdir(files):
        done = run("serve", "--store=sqlite:///wrong.db", "--address=127.0.0.1:0", *(flag.format(taken=taken) for flag in flags))
    assert (done.code, done.out) == (USAGE, "")
    assert done.err.startswith(f"stockledger: {message.format(taken=taken)}")
    assert done.err.count("\n") == 1


def test_where_a_setting_came_from_is_told(run, place, monkeypatch):
    (place / "stockledger.toml").write_text('reader_threads = 0\naddress = "127.0.0.1"\n')
    assert "reader_threads of stockledger.toml is 0," in run("serve").err
    (place / "stockledger.toml").write_text('token_audience = "a"\n')
    assert "token_audience of stockledger.toml is 'a'," in run("serve").err
    monkeypatch.setenv("STOCKLEDGER_TOKEN_AUDIENCE", "b")
    assert "token_audience of STOCKLEDGER_TOKEN_AUDIENCE is 'b'," in run("serve").err
    assert not list(place.glob("*.db*")), "no ledger is made before the settings are known to be good"


def test_serve_warns_of_variables_that_are_no_settings(run, monkeypatch):
    monkeypatch.setenv("STOCKLEDGER_TLS_CERTIFICAT", "x")
    done = run("serve", "--reader-threads=4", "--token-issuer=i")
    warning, refusal = done.err.splitlines()
    explanation = "STOCKLEDGER_TLS_CERTIFICAT is not a setting (did you mean STOCKLEDGER_TLS_CERTIFICATE?)"
    assert (json.loads(warning)["level"], json.loads(warning)["explanation"]) == ("warning", explanation)
    assert (done.code, refusal.partition(" of ")[0]) == (USAGE, "stockledger: token_issuer")


@pytest.mark.parametrize("flags", [["--metrics-port=70000"], ["--token-keys=deep.json", *ISSUED]])
def test_the_process_ends_with_the_code_for_settings(files, flags):
    with contextlib.chdir(files):
        done = run_process("serve", "--store=sqlite:///wrong.db", *flags)
    assert (done.code, done.err.count("\n")) == (USAGE, 1)


def test_the_figures_of_a_worker_need_a_port_too(run, taken):
    done = run("work", "--chain=eip155:1=http://127.0.0.1:1", f"--worker-metrics-port={taken}")
    assert (done.code, done.err.count("\n")) == (USAGE, 1)
    assert f"worker_metrics_port of --worker-metrics-port is {taken}, it must be a port on loopback that can be had" in done.err


def test_a_principal_is_the_same_everywhere():
    assert PRINCIPAL_PATTERN.pattern == checks._ID.pattern == authentication._PRINCIPAL.pattern

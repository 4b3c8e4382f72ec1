"""Who is let in, and as whom: certificates and tokens, the good beside the bad, over real TLS."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from grpc_certificates import AUDIENCE, ISSUER, Authority, TokenIssuer, write_keys
from grpc_server_thread import Client, RunningServer, market

from services.grpc_server.authentication import PRINCIPAL_URI, TokenKeys
from services.grpc_server.settings import ServerSettings
from services.grpc_server.settings_check import ServerSettingsError, check_settings, is_loopback
from stockledger.v1.accounts_pb2 import GetAccountRequest

GET = "AccountService/GetAccount"
MINE = GetAccountRequest(account="book:broker-a/alice")
OTHERS = GetAccountRequest(account="book:broker-b/alice")


@pytest.fixture(scope="module")
def authority():
    return Authority("acme clients")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, authority):
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = authority.issue("server", dns=("localhost",))
    (folder / "server.key").write_bytes(key)
    (folder / "server.crt").write_bytes(certificate)
    (folder / "clients.crt").write_bytes(authority.pem)
    return folder


@pytest.fixture(scope="module")
def issuers():
    return {algorithm: TokenIssuer(algorithm, f"key-{algorithm}") for algorithm in ("EdDSA", "ES256", "RS256")}


def tls(folder, **more):
    return {"tls_certificate": str(folder / "server.crt"), "tls_private_key": str(folder / "server.key")} | more


def tokens(path):
    return {"token_keys": str(path), "token_issuer": ISSUER, "token_audience": AUDIENCE}


@pytest.fixture(scope="module")
def mutual(folder):
    """A server that asks every client for a certificate."""
    with market() as books, RunningServer(books, **tls(folder, tls_client_authorities=str(folder / "clients.crt"))) as running:
        yield running


@pytest.fixture(scope="module")
def bearer(folder, issuers):
    """A server that takes tokens over TLS."""
    write_keys(folder / "keys.json", *issuers.values())
    with market() as books, RunningServer(books, **tls(folder), **tokens(folder / "keys.json")) as running:
        yield running


def with_certificate(server, authority, key=None, certificate=None):
    return Client(server.address, credentials=grpc.ssl_channel_credentials(authority.pem, key, certificate))


# ---- certificates --------------------------------------------------------------------------------------------------------------------

URI = PRINCIPAL_URI
GOOD = [("anything at all!", (f"{URI}broker-a",)), ("broker-a", ()), ("broker-b", (f"{URI}broker-a", "https://a.example"))]


@pytest.mark.parametrize(("common_name", "uris"), GOOD)
def test_a_certificate_names_its_principal(mutual, authority, common_name, uris):
    with with_certificate(mutual, authority, *authority.issue(common_name, uris=uris)) as client:
        assert client.reason(GET, MINE) == "OK"
        assert client.reason(GET, OTHERS) == "NOT_PERMITTED"


@pytest.mark.parametrize(
    ("common_name", "uris"),
    [
        ("", ()),
        ("two words", ()),
        ("broker-a", (f"{URI}broker-a", f"{URI}broker-b")),
        ("broker-a", (f"{URI}not a name",)),
        ("x" * 64, (URI,)),
    ],
)
def test_a_certificate_that_names_nobody_or_two_is_refused(mutual, authority, common_name, uris):
    uris = tuple(uri.replace(" ", "%20") for uri in uris)
    with with_certificate(mutual, authority, *authority.issue(common_name, uris=uris)) as client:
        assert client.reason(GET, MINE) == "UNAUTHENTICATED"


def test_a_principal_without_a_role_is_known_and_may_nothing(mutual, authority):
    with with_certificate(mutual, authority, *authority.issue("stranger")) as client:
        assert client.reason(GET, MINE) == "NOT_PERMITTED"


def test_no_certificate_another_authoritys_and_an_expired_one_do_not_connect(mutual, authority):
    for pair in ((None, None), Authority("acme clients").issue("broker-a"), authority.issue("broker-a", days=-1)):
        with with_certificate(mutual, authority, *pair) as client:
            assert client.reason(GET, MINE) == "UNAVAILABLE"


def test_a_client_that_expects_another_server_does_not_connect(mutual, authority):
    with with_certificate(mutual, Authority("other"), *authority.issue("broker-a")) as client:
        assert client.reason(GET, MINE) == "UNAVAILABLE"


def test_plaintext_does_not_reach_a_tls_server(mutual):
    with Client(mutual.address) as client:
        assert client.reason(GET, MINE) == "UNAVAILABLE"


def test_a_name_in_the_metadata_counts_for_nothing(mutual, authority):
    with with_certificate(mutual, authority, *authority.issue("broker-a")) as client:
        client.metadata.append(("stockledger-principal", "auditor-1"))
        assert client.reason(GET, OTHERS) == "NOT_PERMITTED"


def test_a_token_is_refused_where_none_are_taken(mutual, authority, issuers):
    with with_certificate(mutual, authority, *authority.issue("broker-a")) as client:
        client.metadata.append(("authorization", f"Bearer {issuers['EdDSA'].token('broker-a')}"))
        assert client.reason(GET, MINE) == "UNAUTHENTICATED"


def test_a_renewed_server_certificate_is_used_for_the_next_connection(folder, tmp_path, authority):
    for name in ("server.key", "server.crt", "clients.crt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    other = Authority("acme renewed")
    with market() as books, RunningServer(books, **tls(tmp_path, tls_client_authorities=str(tmp_path / "clients.crt"))) as server:
        key, certificate = other.issue("server", dns=("localhost",))
        (tmp_path / "server.key").write_bytes(key)
        (tmp_path / "server.crt").write_bytes(certificate)
        with with_certificate(server, other, *authority.issue("broker-a")) as client:
            assert client.reason(GET, MINE) == "OK"


def test_a_certificate_that_cannot_be_renewed_leaves_the_last_in_force_and_is_told_once(folder, tmp_path, authority, caplog):
    names = ("server.key", "server.crt", "clients.crt")
    for name in names:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    _, other = authority.issue("server", dns=("localhost",))
    broken = [(name, content) for name in names for content in (None, b"", b"no PEM", other)]
    with market() as books, RunningServer(books, **tls(tmp_path, tls_client_authorities=str(tmp_path / "clients.crt"))) as server:
        for name, content in broken:
            if (name, content) == ("clients.crt", other):
                continue  # an authority like any other
            good = (tmp_path / name).read_bytes()
            (tmp_path / name).unlink()
            if content is not None:
                (tmp_path / name).write_bytes(content)
            for _ in range(2):
                with with_certificate(server, authority, *authority.issue("broker-a")) as client:
                    assert client.reason(GET, MINE) == "OK", (name, content)
            assert len(warnings_of(caplog, "certificate not renewed")) == 1, (name, content)
            (tmp_path / name).write_bytes(good)
            with with_certificate(server, authority, *authority.issue("broker-a")) as client:
                assert client.reason(GET, MINE) == "OK"
            caplog.clear()


# ---- tokens --------------------------------------------------------------------------------------------------------------------------


def with_token(server, authority, token):
    return Client(server.address, token=token, credentials=grpc.ssl_channel_credentials(authority.pem))


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
def test_a_token_names_its_principal(bearer, authority, issuers, algorithm):
    with with_token(bearer, authority, issuers[algorithm].token()) as client:
        assert client.reason(GET, MINE) == "OK"
        assert client.reason(GET, MINE) == "OK"
        assert client.reason(GET, OTHERS) == "NOT_PERMITTED"


def unsigned(issuers):
    now = int(time.time())
    claims = {"sub": "broker-a", "iss": ISSUER, "aud": AUDIENCE, "exp": now + 600}
    return jwt.encode(claims, None, "none", {"kid": "key-EdDSA"})


def signed_with_the_public_key(issuers):
    """The classic: HS256 with the public key, known to all, as the secret."""
    header, claims = (
        {"alg": "HS256", "kid": "key-RS256"},
        {"sub": "broker-a", "iss": ISSUER, "aud": AUDIENCE, "exp": int(time.time()) + 600},
    )

    def part(content):
        return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=")

    body = part(header) + b"." + part(claims)
    secret = json.dumps(issuers["RS256"].public()).encode()
    return (body + b"." + base64.urlsafe_b64encode(hmac.new(secret, body, hashlib.sha256).digest()).rstrip(b"=")).decode()


def tampered(issuers):
    header, claims, signature = issuers["EdDSA"].token("broker-a").split(".")
    raised = json.loads(base64.urlsafe_b64decode(claims + "=="))
    raised["sub"] = "operator-1"
    return f"{header}.{base64.urlsafe_b64encode(json.dumps(raised).encode()).rstrip(b'=').decode()}.{signature}"


def with_header(issuers, **changes):
    header, claims, signature = issuers["EdDSA"].token().split(".")
    changed = json.loads(base64.urlsafe_b64decode(header + "==")) | changes
    return f"{base64.urlsafe_b64encode(json.dumps(changed).encode()).rstrip(b'=').decode()}.{claims}.{signature}"


HOUR = 3600
BAD = {
    "unsigned": unsigned,
    "signed with the public key": signed_with_the_public_key,
    "tampered": tampered,
    "expired": lambda i: i["EdDSA"].token(exp=int(time.time()) - 60),
    "not yet": lambda i: i["EdDSA"].token(nbf=int(time.time()) + HOUR),
    "no exp": lambda i: i["EdDSA"].token(drop=("exp",)),
    "no aud": lambda i: i["EdDSA"].token(drop=("aud",)),
    "no iss": lambda i: i["EdDSA"].token(drop=("iss",)),
    "no sub": lambda i: i["EdDSA"].token(drop=("sub",)),
    "another audience": lambda i: i["EdDSA"].token(aud="another"),
    "another issuer": lambda i: i["EdDSA"].token(iss="https://evil.example"),
    "an unknown key": lambda _: TokenIssuer("EdDSA", "key-unknown").token(),
    "another key under a known id": lambda _: TokenIssuer("EdDSA", "key-EdDSA").token(),
    "another algorithm under a known id": lambda _: TokenIssuer("ES256", "key-EdDSA").token(),
    "an exp beyond every clock": lambda i: i["EdDSA"].token(exp=10**400),
    "an exp beyond the calendar": lambda i: i["EdDSA"].token(exp=10**15),
    "an exp without end": lambda i: i["EdDSA"].token(exp=float("inf")),
    "an exp that is no number": lambda i: i["EdDSA"].token(exp=float("nan")),
    "an exp that is a text": lambda i: i["EdDSA"].token(exp=str(int(time.time()) + HOUR)),
    "an exp that is a list": lambda i: i["EdDSA"].token(exp=[int(time.time()) + HOUR]),
    "an nbf beyond every clock": lambda i: i["EdDSA"].token(nbf=10**400),
    "an aud that is a number": lambda i: i["EdDSA"].token(aud=5),
    "a header with a strange crit": lambda i: i["EdDSA"].token(headers={"crit": 5}),
    "a header with a strange alg": lambda i: with_header(i, alg=["EdDSA"]),
    "a header with a strange kid": lambda i: with_header(i, kid={"key-EdDSA": 1}),
    "a sub that is no principal": lambda i: i["EdDSA"].token("two words"),
    "a sub that is no text": lambda i: i["EdDSA"].token(drop=("sub",), extra=1),
    "no token": lambda _: "x",
    "too long": lambda _: "x" * 9_000,
}


@pytest.mark.parametrize("kind", BAD)
def test_a_token_that_does_not_hold_is_refused(bearer, authority, issuers, kind):
    with with_token(bearer, authority, BAD[kind](issuers)) as client:
        refused = client.refused(GET, MINE)
    assert (refused.code, refused.info.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")


def test_no_token_two_tokens_and_another_scheme_are_refused(bearer, authority, issuers):
    good = issuers["EdDSA"].token()
    for metadata in ([], [("authorization", f"Bearer {good}")] * 2, [("authorization", f"Basic {good}")], [("authorization", good)]):
        with with_token(bearer, authority, "") as client:
            client.metadata = metadata
            assert client.reason(GET, MINE) == "UNAUTHENTICATED"


def test_keys_are_rotated_without_a_restart(folder, tmp_path, authority):
    old, new = TokenIssuer("EdDSA", "2026-10"), TokenIssuer("EdDSA", "2026-11")
    keys = tmp_path / "keys"
    keys.mkdir()
    write_keys(keys / "a.json", old)
    with (
        market() as books,
        RunningServer(books, **tls(folder), **tokens(keys)) as server,
        with_token(server, authority, old.token()) as with_old,
        with_token(server, authority, new.token()) as with_new,
    ):
        assert (with_old.reason(GET, MINE), with_new.reason(GET, MINE)) == ("OK", "UNAUTHENTICATED")
        write_keys(keys / "b.json", new)
        assert eventually(lambda: with_new.reason(GET, MINE)) == "OK"
        assert with_old.reason(GET, MINE) == "OK"
        (keys / "a.json").unlink()
        assert eventually(lambda: with_old.reason(GET, MINE), wanted="UNAUTHENTICATED") == "UNAUTHENTICATED"


def eventually(ask, wanted="OK"):
    deadline = time.monotonic() + 5
    while (answer := ask()) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer


BROKEN = (
    *("half a file", "[]", "{", '{"keys":5}', '{"keys":null}', '{"keys":{"kid":"k"}}', '{"keys":"k"}', '{"keys":[null]}', "null"),
    *('{"keys":[{"kty":"OKP","crv":[],"kid":"k"}]}', '{"keys":[{"kty":{},"kid":"k"}]}', "[" * 100_000, '{"keys":[{"kty":"OKP","kid":5}]}'),
)


def warnings_of(caplog, event):
    return [record.explanation for record in caplog.records if record.getMessage() == event]


def test_a_broken_key_file_leaves_the_last_keys_in_force_and_is_told_once(tmp_path, caplog):
    now = [0.0]
    good = TokenIssuer("EdDSA", "k")
    path = tmp_path / "keys.json"
    write_keys(path, good)
    keys = TokenKeys(str(path), lambda: now[0])
    keys.refresh()
    for content in BROKEN:
        path.write_text(content, encoding="utf-8")
        for _ in range(3):
            now[0] += 10
            keys.refresh()
            assert keys.find("k")[0] == "EdDSA"
        assert len(warnings_of(caplog, "token keys not renewed")) == 1, content
        caplog.clear()
    path.unlink()
    for _ in range(2):
        now[0] += 10
        keys.refresh()
    assert ["keys.json" in why for why in warnings_of(caplog, "token keys not renewed")] == [True]
    write_keys(path, TokenIssuer("EdDSA", "other"))
    now[0] += 10
    keys.refresh()
    assert keys.find("other")


def test_no_key_stands_in_what_is_told_of_one(tmp_path):
    for entry in ({"kty": "what", "kid": "k", "x": "secret"}, {"kty": "OKP", "crv": "secret", "kid": "k", "x": "secret"}):
        (tmp_path / "keys.json").write_text(json.dumps({"keys": [entry]}), encoding="utf-8")
        with pytest.raises(ValueError, match="not understood") as caught:
            TokenKeys(str(tmp_path / "keys.json")).refresh()
        assert "secret" not in str(caught.value)


def test_a_token_holds_while_the_key_file_does_not(folder, tmp_path, authority, monkeypatch, caplog):
    monkeypatch.setattr("services.grpc_server.authentication.RELOAD_SECONDS", 0)
    issuer = TokenIssuer("EdDSA", "k")
    write_keys(tmp_path / "keys.json", issuer)
    with (
        market() as books,
        RunningServer(books, **tls(folder), **tokens(tmp_path / "keys.json")) as server,
        with_token(server, authority, issuer.token()) as client,
    ):
        for content in ('{"keys":5}', '{"keys": null}'):
            (tmp_path / "keys.json").write_text(content, encoding="utf-8")
            assert [client.reason(GET, MINE) for _ in range(3)] == ["OK"] * 3
    assert len(warnings_of(caplog, "token keys not renewed")) == 2


def test_a_key_that_is_not_public_or_too_weak_is_not_taken(tmp_path):
    private = jwt.algorithms.OKPAlgorithm.to_jwk(TokenIssuer("EdDSA", "k").key, as_dict=True) | {"kid": "k"}
    weak = jwt.algorithms.RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True) | {"kid": "k"}
    secret = {"kty": "oct", "k": "c2VjcmV0", "kid": "k"}
    nameless = TokenIssuer("EdDSA", "k").public() | {"kid": ""}
    for content in (private, weak, secret, nameless, {"kty": "what", "kid": "k"}):
        (tmp_path / "keys.json").write_text(json.dumps({"keys": [content]}), encoding="utf-8")
        with pytest.raises(ValueError, match="key"):
            TokenKeys(str(tmp_path / "keys.json")).refresh()


# ---- loopback ------------------------------------------------------------------------------------------------------------------------


def test_the_local_caller_is_the_operator():
    with market() as books, RunningServer(books) as server, Client(server.address) as client:
        assert client.reason(GET, OTHERS) == "OK"
        client.metadata = [("stockledger-principal", "broker-a")]
        assert client.reason(GET, OTHERS) == "OK"  # the name is not taken unless a setting says so
        client.metadata = [("authorization", "Bearer x")]
        assert client.reason(GET, OTHERS) == "UNAUTHENTICATED"  # a credential that is shown is checked


def test_without_a_local_operator_a_local_caller_is_nobody():
    with market() as books, RunningServer(books, local_operator="") as server, Client(server.address) as client:
        assert client.reason(GET, MINE) == "UNAUTHENTICATED"


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "8.8.8.8:1", ":8080"])
def test_without_tls_only_loopback_is_listened_on(address):
    assert not is_loopback(address)
    with pytest.raises(ServerSettingsError, match="other machines"):
        check_settings(ServerSettings(address=address))


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0", "127.8.9.1:5"])
def test_loopback_is_recognised(address):
    assert is_loopback(address)


@pytest.mark.parametrize(
    "settings",
    [
        {"tls_certificate": "a"},
        {"tls_private_key": "a"},
        {"tls_client_authorities": "a"},
        {"tls_certificate": "a", "tls_private_key": "b"},
        {"token_keys": "a"},
        {"token_keys": "a", "token_issuer": "b"},
        {"tls_certificate": "a", "tls_private_key": "b", "tls_client_authorities": "c", "local_principals": True},
    ],
)
def test_settings_that_leave_a_door_open_are_refused(settings):
    with pytest.raises(ServerSettingsError):
        check_settings(ServerSettings(**settings))

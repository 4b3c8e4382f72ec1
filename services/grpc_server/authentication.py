"""Who asks: the holder of a certificate, the bearer of a token, or the local operator.

A credential that is shown is checked, always: one that does not hold is refused, and never falls back to something else. A token wins
over the certificate of the connection it comes by.

    a client certificate    the one URI among its alternative names that starts with urn:stockledger:principal:, else its common name
    a bearer token          the `sub` of a JWT signed with EdDSA, ES256 or RS256 by one of the configured keys
    neither                 on loopback without TLS the local operator; anywhere else nobody
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from chain_adapters.json_depth import is_too_deep
from ledger.errors import LedgerError, refusal
from services.observability import LOGGER
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from services.grpc_server.settings import ServerSettings

PRINCIPAL_URI: Final = "urn:stockledger:principal:"
PRINCIPAL_KEY: Final = "stockledger-principal"
ALGORITHMS: Final = ("EdDSA", "ES256", "RS256")
LEEWAY_SECONDS: Final = 10
"""By how much the clocks of a token's issuer and of this server may differ."""
TOKENS_REMEMBERED: Final = 4_096
TOKEN_BYTES_MAX: Final = 8_192
RELOAD_SECONDS: Final = 1.0
"""How often key files are looked at."""
RSA_BITS_MIN: Final = 2_048
EXPIRY_MAX: Final = 253_402_300_799
"""The last second of the year 9999."""

_log = logging.getLogger(f"{LOGGER}.server")
_PRINCIPAL = re.compile(r"[A-Za-z0-9._/-]{1,64}")


class Identity(NamedTuple):
    """Who asks, and until when that is known, in seconds since 1970 (0: for as long as the connection)."""

    principal: str
    expires_at: float = 0.0


def unauthenticated(why: str) -> LedgerError:
    """Make the refusal of a caller who is nobody here."""
    return refusal(Reason.REASON_UNAUTHENTICATED, why)


def _checked(principal: object, where: str) -> str:
    if not isinstance(principal, str) or _PRINCIPAL.fullmatch(principal) is None:
        raise unauthenticated(f"{where} names no principal: 1 to 64 of letters, digits, '.', '_', '/' and '-'")
    return principal


def principal_of_certificate(alternative_names: Iterable[bytes], common_names: Iterable[bytes]) -> str:
    """Return the principal that a verified certificate is for.

    Raises: NotPermitted UNAUTHENTICATED if it names none, or more than one.
    """
    texts = [name.decode(errors="replace") for name in alternative_names]
    named = [text.removeprefix(PRINCIPAL_URI) for text in texts if text.startswith(PRINCIPAL_URI)]
    if not named:
        named = [name.decode(errors="replace") for name in common_names]
    if len(named) != 1:
        raise unauthenticated(f"the certificate names {len(named)} principals")
    return _checked(named[0], "the certificate")


class TokenKeys:
    """Public keys of token issuers, by key id, from a JWKS file or a directory of them; read again when a file changes."""

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = Path(path)
        self._clock = clock
        self._looked_at = -RELOAD_SECONDS
        self._seen: tuple[Any, ...] = ()
        self._told: Any = None
        """Files that could not be taken, and why: told once for each change of them."""
        self._keys: dict[str, tuple[str, Any]] = {}
        self.version = 0
        """Grows with every change, so that what was verified before is verified anew."""

    def refresh(self) -> None:
        """Look at the files, at most once in a while.

        Raises: OSError or ValueError if they cannot be read the first time; later the keys read last stay in force.
        """
        now = self._clock()
        if now - self._looked_at < RELOAD_SECONDS:
            return
        self._looked_at = now
        seen: tuple[Any, ...] = ()
        try:
            files = sorted(self._path.glob("*.json")) if self._path.is_dir() else [self._path]
            seen = tuple((str(file), stat.st_mtime_ns, stat.st_size, stat.st_ino) for file in files for stat in (file.stat(),))
            if seen != self._seen:
                self._keys = {key_id: key for file in files for key_id, key in _keys_of(file).items()}
        except (OSError, ValueError) as error:
            if not self.version:
                raise
            if (seen, str(error)) != self._told:
                self._told = seen, str(error)
                _log.warning("token keys not renewed", extra={"explanation": str(error)})
            return
        self._told = None
        if seen != self._seen:
            self._seen = seen
            self.version += 1

    def find(self, key_id: str) -> tuple[str, Any]:
        """Return (algorithm, public key) of a key id.

        Raises: NotPermitted UNAUTHENTICATED.
        """
        key = self._keys.get(key_id)
        if key is None:
            raise unauthenticated("the token is signed by a key that is not known here")
        return key


def _keys_of(file: Path) -> dict[str, tuple[str, Any]]:
    """Return the keys of a JWKS file (RFC 7517): public ones, with ids, for the algorithms that are understood.

    Raises: OSError; ValueError, which says what is wrong and nothing of what stands in a key.
    """
    data = file.read_bytes()
    if is_too_deep(data):
        raise ValueError(f"{file} is no JWKS")
    content = json.loads(data.decode("utf-8"))
    entries = content["keys"] if isinstance(content, dict) and "keys" in content else [content]
    if not isinstance(entries, list):
        raise ValueError(f"{file}: keys is not a list (RFC 7517 section 5.1)")  # noqa: TRY004 - what stands in a file is a value
    return dict(_key_of(file, entry) for entry in entries)


def _key_of(file: Path, entry: Any) -> tuple[str, tuple[str, Any]]:
    """Return (key id, (algorithm, public key)) of one JWK."""
    if not isinstance(entry, dict) or "d" in entry or entry.get("kty") == "oct":
        raise ValueError(f"{file} has a key that is not public")
    key_id = entry.get("kid")
    if not key_id or not isinstance(key_id, str):
        raise ValueError(f"{file} has a key without kid, which is a text")
    try:
        key: Any = jwt.PyJWK(entry).key
    except Exception as error:  # noqa: BLE001 - the library takes every member for what it should be
        raise ValueError(f"{file}: key {key_id} is not understood: {type(error).__name__}") from None
    if isinstance(key, Ed25519PublicKey):
        return key_id, ("EdDSA", key)
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name == "secp256r1":
        return key_id, ("ES256", key)
    if isinstance(key, RSAPublicKey) and key.key_size >= RSA_BITS_MIN:
        return key_id, ("RS256", key)
    raise ValueError(f"{file}: key {key_id} is not for {', '.join(ALGORITHMS)}, or too short")


class Tokens:
    """Verifies bearer tokens, and remembers those that held: a signature costs more than a whole transfer."""

    def __init__(self, keys: TokenKeys, issuer: str, audience: str, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        self._held: OrderedDict[bytes, tuple[int, Identity]] = OrderedDict()

    def verify(self, token: str) -> Identity:
        """Return who a token is for.

        Raises: NotPermitted UNAUTHENTICATED for anything that is not a token of the configured issuer, for this server, now.
        """
        if len(token) > TOKEN_BYTES_MAX:
            raise unauthenticated("the token is too long")
        self._keys.refresh()
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        version, identity = self._held.get(digest, (0, None))
        if identity is None or version != self._keys.version:
            identity = self._decode(token)
            self._held[digest] = (self._keys.version, identity)
            if len(self._held) > TOKENS_REMEMBERED:
                self._held.popitem(last=False)
        if self._clock() >= identity.expires_at:
            raise unauthenticated("the token has expired")
        return identity

    def _decode(self, token: str) -> Identity:
        try:
            header = jwt.get_unverified_header(token)
            algorithm, key = self._keys.find(str(header.get("kid", "")))
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "aud", "iss", "sub"]},
            )
        except jwt.ExpiredSignatureError as error:
            raise unauthenticated("the token has expired") from error
        except jwt.PyJWTError as error:
            raise unauthenticated(f"the token does not hold: {type(error).__name__}") from error
        return Identity(_checked(claims["sub"], "the token's sub"), _expiry(claims["exp"]) + LEEWAY_SECONDS)


def _expiry(claim: object) -> float:
    """Return an expiry as seconds since 1970: a number (RFC 7519 section 2, NumericDate) that a moment can have."""
    if isinstance(claim, bool) or not isinstance(claim, (int, float)) or not 0 < claim <= EXPIRY_MAX:
        raise unauthenticated("the token's exp is no moment: seconds since 1970, at most to the year 9999")
    return float(claim)


class Authentication:
    """Finds out who asks. `local` says that the listener is on loopback and has no TLS."""

    def __init__(self, settings: ServerSettings, *, local: bool) -> None:
        self._local_operator = settings.local_operator if local else ""
        self._local_principals = local and settings.local_principals
        self._certificates = bool(settings.tls_client_authorities)
        self._tokens: Tokens | None = None
        if settings.token_keys:
            keys = TokenKeys(settings.token_keys)
            keys.refresh()
            self._tokens = Tokens(keys, settings.token_issuer, settings.token_audience)

    def identify(self, metadata: Iterable[tuple[str, str | bytes]], connection: Callable[[], Mapping[str, Iterable[bytes]]]) -> Identity:
        """Return who makes a call. `connection` gives what TLS found out about the peer.

        Raises: NotPermitted UNAUTHENTICATED.
        """
        shown: list[str] = []
        named = ""
        for key, value in metadata:
            if key == "authorization":
                shown.append(value if isinstance(value, str) else "")
            elif key == PRINCIPAL_KEY and self._local_principals:
                named = _checked(value, PRINCIPAL_KEY)
        if shown:
            return self._of_token(shown)
        if self._certificates:
            peer = connection()
            return Identity(principal_of_certificate(peer.get("x509_subject_alternative_name", ()), peer.get("x509_common_name", ())))
        if named or self._local_operator:
            return Identity(named or self._local_operator)
        raise unauthenticated("no credentials: send a bearer token, or connect with a client certificate")

    def _of_token(self, shown: list[str]) -> Identity:
        scheme, _, token = shown[0].partition(" ")
        if len(shown) > 1 or scheme.lower() != "bearer" or not token:
            raise unauthenticated("authorization must be one bearer token")
        if self._tokens is None:
            raise unauthenticated("this server takes no tokens (token_keys is not set)")
        return self._tokens.verify(token.strip())

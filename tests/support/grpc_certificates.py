"""Real certificates and token keys, made for one test run."""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ISSUER, AUDIENCE = "https://login.acme.example", "stockledger"
_ALGORITHMS = {"EdDSA": jwt.algorithms.OKPAlgorithm, "ES256": jwt.algorithms.ECAlgorithm, "RS256": jwt.algorithms.RSAAlgorithm}


def pem(key: Any) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


class Authority:
    """An authority that signs certificates of servers and clients."""

    def __init__(self, name: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(self.name, self.key, [], authority=True)
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM)

    def _sign(
        self, subject: x509.Name, key: Any, names: list[x509.GeneralName], *, authority: bool = False, days: int = 1
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=3))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if not authority:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, common_name: str, *, uris: tuple[str, ...] = (), dns: tuple[str, ...] = (), days: int = 1) -> tuple[bytes, bytes]:
        """Return (private key, certificate), both PEM; days below zero: expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        names += [x509.DNSName(name) for name in dns]
        certificate = self._sign(subject, key, names, days=days)
        return pem(key), certificate.public_bytes(serialization.Encoding.PEM)


class TokenIssuer:
    """Signs tokens, and writes the public keys as a JWKS."""

    def __init__(self, algorithm: str, key_id: str) -> None:
        self.algorithm, self.key_id = algorithm, key_id
        if algorithm == "EdDSA":
            self.key: Any = ed25519.Ed25519PrivateKey.generate()
        elif algorithm == "ES256":
            self.key = ec.generate_private_key(ec.SECP256R1())
        else:
            self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def public(self) -> dict[str, Any]:
        return json.loads(_ALGORITHMS[self.algorithm].to_jwk(self.key.public_key())) | {"kid": self.key_id}

    def token(self, subject: str = "broker-a", *, drop: tuple[str, ...] = (), headers: dict[str, Any] | None = None, **changes: Any) -> str:
        now = int(time.time())
        claims = {"sub": subject, "iss": ISSUER, "aud": AUDIENCE, "exp": now + 600, "nbf": now - 5} | changes
        for name in drop:
            del claims[name]
        return jwt.encode(claims, self.key, self.algorithm, {"kid": self.key_id} | (headers or {}))


def write_keys(path: Path, *issuers: TokenIssuer) -> None:
    """Write a JWKS at once, as a rotation would."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"keys": [issuer.public() for issuer in issuers]}), encoding="utf-8")
    fresh.rename(path)

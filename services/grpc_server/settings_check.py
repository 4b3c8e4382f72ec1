"""Whether a server can be had with its settings: looked at in one place, before the store is opened.

What a value must be by itself stands with the setting. Here it is held against the other settings, the files it names, and this machine.
"""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from services.grpc_server.authentication import TokenKeys
from services.settings import SERVER_SETTINGS, SettingsError, check_value, refused_value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from services.grpc_server.settings import ServerSettings

_LOCAL_ONLY: Final = "left out with TLS: it is for loopback without"


class ServerSettingsError(SettingsError):
    """The settings of a server do not go together, or cannot be had; the message says which, from where, and what it must be."""


def is_loopback(address: str) -> bool:
    """Return whether an address to listen on can be reached from this machine alone."""
    found = _found(address)
    return bool(found) and all(each.is_loopback for each in found)


def check_settings(settings: ServerSettings, sources: Mapping[str, str] | None = None) -> bool:
    """Return whether the listener is local: on loopback, without TLS. `sources` says where each setting came from, if that is known.

    Raises: ServerSettingsError where a setting is not what it must be, would leave a door open, or does nothing.
    """
    return _Check(settings, sources or {}).local()


def refuse(settings: ServerSettings, sources: Mapping[str, str], name: str, expected: str) -> ServerSettingsError:
    """Make the refusal of one setting. Example: "metrics_port of --metrics-port is 9100, it must be a port that is free"."""
    return ServerSettingsError(refused_value(name, getattr(settings, name), sources.get(name, ""), expected))


class _Check:
    def __init__(self, settings: ServerSettings, sources: Mapping[str, str]) -> None:
        self._settings = settings
        self._sources = sources

    def local(self) -> bool:
        settings = self._settings
        for name in SERVER_SETTINGS:
            try:
                check_value(name, getattr(settings, name), self._sources.get(name, ""))
            except SettingsError as error:
                raise ServerSettingsError(str(error)) from None
        tls = bool(settings.tls_certificate)
        self._check_listener(tls=tls)
        self._check_tokens()
        if tls:
            self._check_tls()
        return not tls

    def _wrong(self, name: str, expected: str) -> ServerSettingsError:
        return refuse(self._settings, self._sources, name, expected)

    def _check_listener(self, *, tls: bool) -> None:
        settings = self._settings
        if tls and not settings.tls_private_key:
            raise self._wrong("tls_certificate", "set along with tls_private_key")
        for name in ("tls_private_key", "tls_client_authorities"):
            if getattr(settings, name) and not tls:
                raise self._wrong(name, "set along with tls_certificate")
        if not tls and not is_loopback(settings.address):
            if settings.address.rpartition(":")[0] and not _found(settings.address):
                raise self._wrong("address", "an address of this machine: its host is not found")
            raise self._wrong(
                "address", "on loopback, since it can be reached from other machines; or set tls_certificate and tls_private_key"
            )

    def _check_tokens(self) -> None:
        settings = self._settings
        for name in ("token_issuer", "token_audience"):
            if settings.token_keys and not getattr(settings, name):
                raise self._wrong(name, "set along with token_keys: a token for somebody else must not hold here")
            if getattr(settings, name) and not settings.token_keys:
                raise self._wrong(name, "set along with token_keys: without them no token is taken")
        if not settings.token_keys:
            return
        try:
            TokenKeys(settings.token_keys).refresh()
        except OSError as error:
            raise self._wrong("token_keys", f"a JWKS file or a directory of them ({error.strerror})") from error
        except ValueError as error:
            raise self._wrong("token_keys", f"a JWKS file or a directory of them ({error})") from error

    def _check_tls(self) -> None:
        settings = self._settings
        if not (settings.tls_client_authorities or settings.token_keys):
            raise self._wrong("tls_certificate", "set along with tls_client_authorities or token_keys: somebody must be let in")
        if settings.local_principals:
            raise self._wrong("local_principals", _LOCAL_ONLY)
        if settings.local_operator not in ("", SERVER_SETTINGS["local_operator"].default):
            raise self._wrong("local_operator", _LOCAL_ONLY)
        chain = self._read("tls_certificate", "a file of certificates (PEM)", x509.load_pem_x509_certificates)
        key = self._read(
            "tls_private_key", "a file with a private key (PEM) that is not encrypted", lambda data: load_pem_private_key(data, None)
        )
        if key.public_key() != chain[0].public_key():
            raise self._wrong("tls_private_key", "the private key of the first certificate in tls_certificate")
        if settings.tls_client_authorities:
            self._read("tls_client_authorities", "a file of certificates (PEM)", x509.load_pem_x509_certificates)

    def _read(self, name: str, expected: str, parse: Callable[[bytes], Any]) -> Any:
        """Return what a file holds that a setting names."""
        try:
            return parse(Path(getattr(self._settings, name)).read_bytes())
        except OSError as error:
            raise self._wrong(name, f"{expected} ({error.strerror})") from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: the key is encrypted
            raise self._wrong(name, expected) from error


def _found(address: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Return the IP addresses of an address to listen on; none where its host is empty, or not found."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)} if host else set()
    except (OSError, UnicodeError):
        return []
    return [ipaddress.ip_address(each.partition("%")[0]) for each in found]

"""A server's certificate, which follows its files: renewed ones are used for the next connection, others leave the last in force."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from services.observability import LOGGER

if TYPE_CHECKING:
    from services.grpc_server.settings import ServerSettings

_log = logging.getLogger(f"{LOGGER}.server")


class CertificateFiles:
    """The private key, the certificate, and the authorities of clients where there are any."""

    def __init__(self, settings: ServerSettings) -> None:
        self._key = Path(settings.tls_private_key)
        self._certificate = Path(settings.tls_certificate)
        self._authorities = Path(settings.tls_client_authorities) if settings.tls_client_authorities else None
        self._seen: Any = None
        self._told: Any = None
        """Files that could not be taken, or why there are none: told once for each change of them."""

    def credentials(self) -> grpc.ServerCredentials:
        """Return the server's credentials.

        Raises: OSError if the files cannot be read.
        """
        self._seen = self._stamp()
        first, ask_clients = self._configuration(), self._authorities is not None
        return grpc.dynamic_ssl_server_credentials(first, self.renewed, require_client_authentication=ask_clients)  # type: ignore[arg-type]

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what the files say if they have changed and can be used, else None. Asked at every connection."""
        now: Any = None
        try:
            now = self._stamp()
            if now == self._seen:
                self._told = None
                return None
            if now == self._told:
                return None
            fresh = self._configuration()
            self._check()
        except OSError as error:
            told = now or str(error)
            if told != self._told:
                self._told = told
                _log.warning("certificate not renewed", extra={"explanation": str(error)})
            return None
        self._seen, self._told = now, None
        return fresh

    def _stamp(self) -> tuple[tuple[int, int], ...]:
        paths = [self._key, self._certificate, *([self._authorities] if self._authorities else [])]
        return tuple((stat.st_mtime_ns, stat.st_ino) for stat in (path.stat() for path in paths))

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        pair = self._key.read_bytes(), self._certificate.read_bytes()
        authorities = self._authorities.read_bytes() if self._authorities else None
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=authorities)

    def _check(self) -> None:
        """Refuse files that make no certificate: gRPC goes on with the last ones by itself, but without authorities lets nobody in.

        Raises: ssl.SSLError, an OSError.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificate, self._key, password="")
        if self._authorities:
            context.load_verify_locations(self._authorities)

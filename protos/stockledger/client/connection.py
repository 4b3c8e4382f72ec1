"""Where the servers are, how they are reached, and what is shown to them."""

from __future__ import annotations

import ipaddress
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MESSAGE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of one answer. The server keeps its own well below 4 MB; this is room for others."""
RECONNECT_MS: Final = 100
RECONNECT_MS_MAX: Final = 500
"""How soon a broken connection is made anew. gRPC's own default waits up to two minutes, long after another server has taken over."""
LEFT_MAX: Final = 4
"""Connections that were left and may still be waited on."""
KEEPALIVE_MS: Final = 20_000
KEEPALIVE_TIMEOUT_MS: Final = 10_000
"""A connection whose other end is gone is noticed within half a minute, also while nothing is sent."""


@dataclass(frozen=True, slots=True)
class Tls:
    """What TLS needs: authorities for the server's certificate (None: the system's); for mTLS our own certificate and its key. All PEM."""

    authorities: bytes | None = None
    certificate: bytes | None = None
    private_key: bytes | None = None
    server_name: str = ""
    """The name in the server's certificate, where it differs from the address."""

    @classmethod
    def from_files(cls, authorities: str = "", certificate: str = "", private_key: str = "", server_name: str = "") -> Self:
        """Read the files.

        Raises: OSError.
        """
        read = [Path(name).read_bytes() if name else None for name in (authorities, certificate, private_key)]
        return cls(read[0], read[1], read[2], server_name)

    def credentials(self) -> grpc.ChannelCredentials:
        """Return them as gRPC wants them.

        Raises: ValueError for a certificate without its key.
        """
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key go together")
        return grpc.ssl_channel_credentials(self.authorities, self.private_key, self.certificate)


class Connections:
    """A channel to each server, made when it is first needed. The first address is where the client begins."""

    def __init__(self, addresses: Sequence[str], tls: Tls | None, token: str | Callable[[], str], principal: str) -> None:
        if not addresses:
            raise ValueError("no address: name at least one server as host:port")
        self._tls = tls
        self._credentials = tls.credentials() if tls is not None else None
        self._token = token
        self._principal = principal
        self._lock = threading.Lock()
        self._addresses = list(addresses)
        self._target = addresses[0]
        self._channels: dict[str, grpc.Channel] = {}
        self._left: list[grpc.Channel] = []
        self.closed = False
        for address in addresses:
            self._check(address)

    @property
    def target(self) -> str:
        """The server that is asked now: the leader, as far as is known."""
        return self._target

    @property
    def renews_token(self) -> bool:
        """Whether a refused token may be followed by a fresh one."""
        return callable(self._token)

    def channel(self, address: str) -> grpc.Channel:
        """Return the channel to a server."""
        with self._lock:
            if self.closed:
                raise ValueError("the client is closed")
            channel = self._channels.get(address)
            if channel is None:
                channel = self._channels[address] = self._open(address)
            return channel

    def leave(self, address: str, channel: grpc.Channel) -> None:
        """Make the next call to a server over a new connection, unless somebody has left this one before.

        A network that is gone tells nobody: the old connection looks well until its keepalive runs out, 30 s later. It is left, not broken,
        since others may wait on it.
        """
        with self._lock:
            if self._channels.get(address) is not channel:
                return
            del self._channels[address]
            self._left.append(channel)
            oldest = self._left.pop(0) if len(self._left) > LEFT_MAX else None
        if oldest is not None:
            oldest.close()

    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Return what is shown with every call; a provider of tokens is asked anew each time."""
        shown = (("stockledger-principal", self._principal),) if self._principal else ()
        token = self._token() if callable(self._token) else self._token
        return (*shown, ("authorization", f"Bearer {token}")) if token else shown

    def may_reach(self, address: str) -> bool:
        """Return whether an address that a server has named is one to speak to."""
        try:
            self._check(address)
        except ValueError:
            return False
        return True

    def follow(self, leader: str) -> bool:
        """Turn to the leader that a server has named; return whether that is another one than before."""
        with self._lock:
            moved = leader != self._target
            self._target = leader
            return moved

    def turn_from(self, address: str) -> None:
        """Turn to the next server, unless somebody else has turned already."""
        with self._lock:
            if address == self._target:
                place = self._addresses.index(address) + 1 if address in self._addresses else 0
                self._target = self._addresses[place % len(self._addresses)]

    def close(self) -> None:
        with self._lock:
            self.closed = True
            channels = [*self._left, *self._channels.values()]
            self._left, self._channels = [], {}
        for channel in channels:
            channel.close()

    def _check(self, address: str) -> None:
        """Without TLS only this machine is spoken to: whoever listens on the way could read and change everything.

        Raises: ValueError.
        """
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError(f"{address!r} is not host:port")
        if self._tls is None and not _is_loopback(host.strip("[]")):
            raise ValueError(f"{address} is another machine: it is reached by TLS only (tls=Tls(...))")

    def _open(self, address: str) -> grpc.Channel:
        options: list[tuple[str, str | int]] = [
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.max_send_message_length", -1),
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS),
            ("grpc.min_reconnect_backoff_ms", RECONNECT_MS),
            ("grpc.max_reconnect_backoff_ms", RECONNECT_MS_MAX),
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
            ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
            ("grpc.http2.max_pings_without_data", 0),
        ]
        if self._credentials is None:
            return grpc.insecure_channel(address, options)
        if self._tls is not None and self._tls.server_name:
            options.append(("grpc.ssl_target_name_override", self._tls.server_name))
        return grpc.secure_channel(address, self._credentials, options)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

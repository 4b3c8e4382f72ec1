"""`stockledger serve`: a server over the store that the settings name, until it is told to stop (SIGTERM, SIGINT)."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ledger import Ledger
from services.cli.stores import signer_of
from services.grpc_server.server import Server, ServerSettingsError
from services.grpc_server.settings import ServerSettings
from services.observability import start_logging

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every setting of a server. A list has commas; a switch takes true or false."""
    for field in dataclasses.fields(ServerSettings):
        default = field.default
        kind: Any = int if type(default) is int else str
        shown = ", ".join(default) if isinstance(default, tuple) else str(default).lower() if isinstance(default, bool) else default
        meaning = field.metadata["meaning"].replace("%", "%%")
        help_text = f"{meaning} (default: {shown})" if shown not in ("", None) else meaning
        parser.add_argument(f"--{field.name.replace('_', '-')}", dest=field.name, type=kind, default=None, metavar="VALUE", help=help_text)


def server_settings(arguments: argparse.Namespace, settings: Any) -> ServerSettings:
    """Return the settings of a server: a flag wins, then what `settings` has under the same name, then the default.

    Raises: ServerSettingsError.
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(ServerSettings):
        value = getattr(arguments, field.name, None)
        if value is None:
            value = getattr(settings, field.name, None)
        if value is not None:
            values[field.name] = _typed(field.name, value, field.default)
    return ServerSettings(**values)


def _typed(name: str, value: Any, default: Any) -> Any:
    if isinstance(default, tuple) and isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    if isinstance(default, bool) and isinstance(value, str):
        if value.lower() not in ("true", "false"):
            raise ServerSettingsError(f"{name} is {value!r}, it must be true or false")
        return value.lower() == "true"
    if type(default) is int and (type(value) is not int or value < 0):
        raise ServerSettingsError(f"{name} is {value!r}, it must be a whole number, not below zero")
    return value


def run(arguments: argparse.Namespace, settings: Any) -> int:
    """Serve until told to stop, and return the exit code. `settings` has the store, the ledger and the signing key.

    Raises: LedgerError if the store cannot be opened, or the signing key is another's; ServerSettingsError; OSError where the address
    cannot be had.
    """
    wanted = server_settings(arguments, settings)
    start_logging(wanted.log_level)
    books = Ledger.open(
        settings.store,
        ledger_id=settings.ledger_id or None,
        origin=settings.origin or None,
        principal=settings.principal,
        request_window_seconds=settings.request_window_seconds,
        request_window_count=settings.request_window_count,
        snapshot=settings.snapshot or None,
    )
    with books:
        books.signer = signer_of(settings, books.origin)
        asyncio.run(_serve(books, wanted))
        if books.size > 1 and ":memory:" not in settings.store:
            books.write_snapshot()
    return 0


async def _serve(books: Ledger, settings: ServerSettings) -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError):
            loop.add_signal_handler(name, told.set)
    server = await Server.start(books, settings)
    host = settings.address.rpartition(":")[0]
    print(f"stockledger serves {books.ledger_id} on {host}:{server.port}", file=sys.stderr, flush=True)  # noqa: T201 - for a person
    await told.wait()
    await server.stop()

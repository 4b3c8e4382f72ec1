"""`stockledger serve`: a server over the store that the settings name, until it is told to stop (SIGTERM, SIGINT)."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Final

from ledger import Ledger
from ledger.snapshots import snapshot_path_of
from services.cli.stores import settings_of, signer_of, verifier_keys_of
from services.grpc_server.server import Server
from services.grpc_server.settings_check import check_settings
from services.grpc_server.upkeep import Upkeep
from services.kept_checkpoint import check_kept, keep
from services.observability import LOGGER, start_logging
from services.settings import unknown_variables
from services.span_export import exporting

if TYPE_CHECKING:
    import argparse

    from services.settings import Settings


OBJECTS_BETWEEN_COLLECTIONS: Final = 50_000

_log = logging.getLogger(f"{LOGGER}.server")


def run(options: argparse.Namespace) -> int:
    """Serve until told to stop, and return the exit code.

    Raises: LedgerError if the store cannot be opened, or the signing key is another's; SettingsError.
    """
    settings = settings_of(options)
    start_logging(settings.server.log_level)
    for stranger in unknown_variables(os.environ):
        _log.warning("unknown variable", extra={"explanation": stranger})
    check_settings(settings.server, settings.sources)
    with exporting(os.environ, settings.sources["tracing"]) if settings.server.tracing else nullcontext():
        _serve_books(settings)
    return 0


def _serve_books(settings: Settings) -> None:
    books = Ledger.open(
        settings.store,
        ledger_id=settings.ledger_id or None,
        origin=settings.origin or None,
        principal=settings.principal,
        request_window_seconds=settings.request_window_seconds,
        request_window_count=settings.request_window_count,
        snapshot=settings.snapshot or None,
        contend=True,
    )
    with books:
        books.signer = signer_of(settings, books.origin)
        if settings.checkpoint_file:
            check_kept(books.log, settings.checkpoint_file, verifier_keys_of(settings))
        asyncio.run(_serve(books, settings))
        if settings.checkpoint_file:
            keep(books, settings.checkpoint_file)
        if books.size > 1 and (settings.snapshot or snapshot_path_of(settings.store)):
            books.write_snapshot()


def _calm_collector() -> None:
    """Let the collector of cycles leave the books alone, and look less often: as Python has it, it took a sixth of a stream's time.

    Little of what a call makes is in cycles, so hardly more memory is in use between two looks.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)


async def _serve(books: Ledger, settings: Settings) -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError):
            loop.add_signal_handler(name, told.set)
    server = await Server.start(books, settings.server, settings.sources)
    upkeep = asyncio.ensure_future(Upkeep(books, settings).run())
    _calm_collector()
    host = settings.server.address.rpartition(":")[0]
    print(f"stockledger serves {books.ledger_id} on {host}:{server.port}", file=sys.stderr, flush=True)  # noqa: T201 - for a person
    await told.wait()
    upkeep.cancel()
    with suppress(asyncio.CancelledError):
        await upkeep
    await server.stop()

"""What a server does now and then: snapshots, so that the next start is quick, and the checkpoint that is kept outside the store.

A snapshot is folded from the log by a process of its own, with the lowest priority: it takes nothing of the interpreter that the writer
needs, only a second copy of the books in memory while it lasts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Final

from ledger import snapshots
from ledger.errors import LedgerError
from ledger.log.store import open_log
from services.kept_checkpoint import keep
from services.observability import LOGGER

if TYPE_CHECKING:
    from ledger import Ledger
    from services.settings import Settings

LOOK_SECONDS: Final = 1.0
_NICENESS: Final = 19

_log = logging.getLogger(f"{LOGGER}.upkeep")


class Upkeep:
    """Looks once a second whether something is due."""

    def __init__(self, books: Ledger, settings: Settings) -> None:
        self._books = books
        self._settings = settings
        self._snapshot_path = settings.snapshot or snapshots.snapshot_path_of(settings.store)
        self._snapshot_size = books.size
        self._snapshot_at = self._kept_at = time.monotonic()
        self._kept_size = 0

    async def run(self) -> None:
        """Go on until cancelled. What fails is told, and tried again when it is due again."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now, size, server = time.monotonic(), self._books.size, self._settings.server
            if self._settings.checkpoint_file and size > self._kept_size and now - self._kept_at >= server.checkpoint_seconds:
                self._kept_at = now
                await asyncio.get_running_loop().run_in_executor(None, self._keep)
            grown = size - self._snapshot_size
            many = 0 < server.snapshot_entries <= grown
            late = 0 < server.snapshot_seconds <= now - self._snapshot_at and grown > 0
            if self._snapshot_path is not None and (many or late):
                self._snapshot_size, self._snapshot_at = size, now
                await self._write_snapshot(self._snapshot_path)

    def _keep(self) -> None:
        try:
            self._kept_size = keep(self._books, self._settings.checkpoint_file)
        except LedgerError as error:
            _log.warning("no checkpoint kept", extra={"reason": error.reason_name, "explanation": error.message})

    async def _write_snapshot(self, path: str) -> None:
        """Have a process write it. The store's URL, which may hold a password, goes by standard input."""
        task = json.dumps([self._settings.store, self._books.ledger_id, path]).encode()
        started = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.grpc_server.upkeep"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, trouble = await process.communicate(task)
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        if process.returncode:
            last = trouble.decode(errors="replace").strip().rpartition("\n")[2]
            _log.warning("no snapshot", extra={"explanation": last})
        else:
            _log.info("snapshot", extra={"size": int(out), "seconds": round(time.monotonic() - started, 3)})


def main() -> None:
    """Write one snapshot, as standard input says: [store, ledger id, path]."""
    os.nice(_NICENESS)
    store, ledger_id, path = json.load(sys.stdin)
    with open_log(store, read_only=True, ledger_id=ledger_id) as log:
        size = snapshots.write_latest(log, path)
    sys.stdout.write(f"{size}\n")


if __name__ == "__main__":
    main()

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

import pytest

from ledger.errors import Unavailable
from ledger.log.checkpoint import Signer, sign_checkpoint
from ledger.log.store import open_log

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ledger.log.log import Log


class Sample:
    """A log of made-up entries, the same in every test."""

    ledger = "acme"
    topics = ("example.Opened", "example.Moved", "example.Closed")

    def entry(self, index: int) -> bytes:
        """Make an entry that tells its index and its topic, of 40 to 320 bytes."""
        seed = hashlib.sha256(f"entry {index}".encode()).digest()
        return f"{index} {self.topic(index)} ".encode() + (seed * 10)[: seed[0] + 20]

    def topic(self, index: int) -> str:
        return self.topics[index % 3]

    def topic_of(self, entry: bytes) -> str:
        return entry.split(b" ", 2)[1].decode()

    def append(self, log: Log, count: int, batch: int = 1000) -> None:
        stop = log.size + count
        while log.size < stop:
            indexes = range(log.size, min(stop, log.size + batch))
            log.append(self.ledger, [self.topic(index) for index in indexes], [self.entry(index) for index in indexes])

    def open_when_left(self, url: str) -> Log:
        """Open a log whose last writer is gone; a busy PostgreSQL takes a moment to see that."""
        end = time.monotonic() + 30
        while True:
            try:
                return open_log(url)
            except Unavailable as refused:
                if "another process" not in refused.message or time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def checkpoint(self, log: Log, signer: Signer) -> str:
        text = sign_checkpoint(signer.name, log.size, log.tree.root(), signer)
        log.save_checkpoint(log.size, text)
        return text


@pytest.fixture(scope="session")
def sample() -> Sample:
    return Sample()


@pytest.fixture(scope="session")
def signer() -> Signer:
    return Signer("example.com/acme", bytes(range(32)))


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/books.db"


@pytest.fixture
def log(url: str) -> Iterator[Log]:
    with open_log(url) as opened:
        yield opened

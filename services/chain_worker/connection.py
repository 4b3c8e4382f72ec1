"""The ledger's owner over gRPC, as the loops call it: one function, with the exceptions of `ledger.errors`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ledger.errors import refusal
from stockledger.client import Client, LedgerError, Tls
from stockledger.v1.audit_pb2 import ListEntriesRequest
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.events_pb2 import Entry

if TYPE_CHECKING:
    from services.chain_worker.settings import WorkerSettings

CALL_SECONDS = 15.0
"""All attempts of one call together; after that the loop waits, and begins again with what the log says."""


class LedgerConnection:
    """Asks the ledger. May be shared by threads."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Read what is needed; nothing is asked yet.

        Raises: OSError for files that cannot be read; ValueError for addresses that are none.
        """
        tls = None
        if settings.ledger_authorities:
            tls = Tls.from_files(settings.ledger_authorities, settings.ledger_certificate, settings.ledger_private_key)
        token = Path(settings.ledger_token) if settings.ledger_token else None
        self._client = Client(
            settings.ledger_addresses,
            tls=tls,
            token="" if token is None else lambda: token.read_text(encoding="utf-8").strip(),
            principal="" if tls is not None or token is not None else settings.worker_principal,
            seconds=CALL_SECONDS,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def call(self, request: Any) -> Any:
        """Carry out one request.

        Raises: ledger.errors.LedgerError, whatever broke: what may or may not have been booked shows in the next round.
        """
        try:
            return self._client.execute(request)
        except LedgerError as error:
            reason = error.reason or Reason.REASON_STORE_UNAVAILABLE
            text = error.message if error.reason else f"{error.code.name}: {error.message}"
            raise refusal(reason, text, **error.metadata) from error

    def ledger_id(self) -> str:
        """Return the id of the ledger, from its first entry."""
        (first,) = self.call(ListEntriesRequest(start_index=0, page_size=1)).entries
        return Entry.FromString(first.data).ledger_opened.ledger

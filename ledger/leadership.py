"""Several servers on one store: one leads, the others follow, and one of those takes over when the leader is gone.

    with Ledger.open("postgresql://...", contend=True) as books:
        leadership = Leadership(books)
        leadership.start("10.0.0.7:8080")

A thread beside the books does all of it; the loop of the engine knows no more than that a ledger which does not lead books nothing.

- **Following**: it hears of the leader's appends (LISTEN, and a look ten times a second), folds them into the books, and asks for the
  lead each time. Reads and streams are answered from these books, at the size they have.
- **Taking over**: the lead taken, it commits something of its own, so that all before is durable; folds up to the end; and only then lets
  commands in. Requests that the last leader booked are in the books by then, so a repeated one gets its first answer.
- **Leading**: it says something in the session twice a second. A session that is lost, or was not heard for LEAD_SECONDS_MAX, books
  nothing: first that, then everything else.

The books are right without any of this: the primary key of the store refuses the second of two writers.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

from ledger.errors import LedgerError, refusal
from ledger.log.backend import Contested
from ledger.log.log import AppendConflict, AppendDoubtful
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from ledger.engine import Ledger

LOOK_SECONDS: Final = 0.1
"""How long a follower waits for news before it looks by itself, and asks for the lead."""
KEEP_SECONDS: Final = 0.5
LEAD_SECONDS_MAX: Final = 4
"""A leader that has not heard its session for so long books nothing. Others may end the session after 5 s of silence: later than this."""
LAG_SECONDS_MAX: Final = 10
"""A follower that has not reached the store for so long answers no reads."""

_log = logging.getLogger("stockledger.leadership")


class Leadership:
    """Follows, takes over and leads, for the books of one process."""

    def __init__(self, books: Ledger, *, lag_seconds_max: float = LAG_SECONDS_MAX) -> None:
        """Have the books lead or follow."""
        self._books = books
        self._address = ""
        self._lag_seconds_max = lag_seconds_max
        self._seen_at = time.monotonic()
        """When the books were last known to be as far as the store."""
        store = books.log.backend
        self._store = store if isinstance(store, Contested) and store.contends else None
        """None: a store that cannot be shared, or was not opened to be, has one writer."""
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def leads(self) -> bool:
        return not self._books.read_only

    @property
    def leader(self) -> str:
        """The address of who leads, or nothing while nobody does."""
        return self._address if self._store is None else self._store.leader() or ""

    @property
    def lag_seconds(self) -> float:
        """How old the books may be: 0 for the leader, else the time since they were last as far as the store."""
        return 0 if self._store is None or self.leads else time.monotonic() - self._seen_at

    @property
    def is_late(self) -> bool:
        """True where the books may be too old to be read."""
        return bool(self._lag_seconds_max) and self.lag_seconds > self._lag_seconds_max

    def start(self, address: str) -> None:
        """Begin; `address`, "host:port", is where clients reach this process."""
        self._address = address
        if self._store is not None:
            self._books.leadership = self
            self._store.advertise(self._address)
            self._thread = threading.Thread(target=self._run, args=(self._store,), name="stockledger-leadership", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread; the lead goes with the store when that is closed."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        self._books.leadership = None

    def refuse_to_book(self) -> None:
        """Raise what a command gets where this process does not lead, or cannot be sure that it does.

        Raises: Unavailable NOT_LEADER with the leader's address, if there is one; Unavailable STORE_UNAVAILABLE.
        """
        if not self.leads:
            leader = self.leader
            if leader:
                raise refusal(Reason.REASON_NOT_LEADER, f"this server follows; {leader} leads", leader=leader)
            raise refusal(Reason.REASON_NOT_LEADER, "this server follows, and nobody leads at this moment")
        if self._store is not None and self._store.lead_age_seconds() > LEAD_SECONDS_MAX:
            message = f"the store has not been heard for {self._store.lead_age_seconds():.1f} s, so another may lead by now"
            raise refusal(Reason.REASON_STORE_UNAVAILABLE, message, store=self._books.log.url)

    def refuse_to_read(self) -> None:
        """Raise what a read gets where the books may be too old.

        Raises: Unavailable STORE_UNAVAILABLE.
        """
        if self.is_late:
            message = f"this server follows, and has not reached the store for {self.lag_seconds:.0f} s; ask another"
            raise refusal(Reason.REASON_STORE_UNAVAILABLE, message, store=self._books.log.url)

    # ---- in the thread --------------------------------------------------------------------------------------------------------------

    def _run(self, store: Contested) -> None:
        told = ""
        while not self._stopping.is_set():
            try:
                if store.read_only:
                    self._follow(store)
                else:
                    self._lead(store)
                told = ""
            except (LedgerError, AppendConflict, AppendDoubtful) as trouble:
                if str(trouble) != told:
                    told = str(trouble)
                    _log.warning("trouble", extra={"trouble": told})
                self._stopping.wait(LOOK_SECONDS)
            except Exception:  # noqa: BLE001 - a fault of ours, told; without the thread nobody would follow any more
                _log.exception("fault")
                self._stopping.wait(LOOK_SECONDS)

    def _follow(self, store: Contested) -> None:
        store.await_news(LOOK_SECONDS)
        now = time.monotonic()
        self._books.follow()
        self._seen_at = now
        if not self._stopping.is_set() and store.try_to_lead():
            try:
                self._books.take_over(store.lead)
            except BaseException:
                store.follow()
                raise
            _log.info("leads", extra={"size": self._books.size, "milliseconds": round((time.monotonic() - now) * 1000)})

    def _lead(self, store: Contested) -> None:
        if store.keep_lead():
            self._books.settle()
            self._stopping.wait(KEEP_SECONDS)
            return
        self._books.step_down(store.follow)
        self._seen_at = time.monotonic()
        _log.warning("lost the lead", extra={"size": self._books.size})

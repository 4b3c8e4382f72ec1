"""The ledger: command -> decide -> event(s) -> append (durable) -> answer.

    with Ledger.open("sqlite:///books.db") as books:
        answer = books.execute(TransferUnitsRequest(instrument="AAPLx", source="book:alice", destination="book:bob", units=5))

Whoever calls, the commands of all threads that wait are decided one after the other on the provisional state, their entries are
appended in one transaction, and only then does anybody get an answer: booked, refused or repeated. If the append fails, the state is
put back from its old values and nobody was told anything. Who reads while a batch is flushed puts it back for that time too.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from ledger import audit, replay, snapshots
from ledger.answers import Answers, answer_of
from ledger.batch import Batch
from ledger.clock import Reckoning, SystemClock, read_time_us
from ledger.digest import state_digest
from ledger.errors import LedgerError, refusal
from ledger.fair_lock import FairLock
from ledger.log.log import AppendConflict, AppendDoubtful
from ledger.log.store import open_log
from ledger.reads import READS
from ledger.reads.books import holding_units
from ledger.request_ids import RequestIds
from ledger.rules import RULES, TOPICS, fold
from ledger.rules.checks import check_id, time_us
from ledger.rules.opening import FORMAT_VERSION
from ledger.state import State
from ledger.unknown_fields import find_unknown_field
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.events_pb2 import Entry, LedgerOpened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from ledger.clock import Clock
    from ledger.leadership import Leadership
    from ledger.log.checkpoint import Signer
    from ledger.log.log import Log

    Choose = Callable[[State], Sequence[Any]]
    """Gives the commands of a batch, by the state that they are decided on; it must not keep or change anything of it."""

_T = TypeVar("_T")

DEFAULT_PRINCIPAL: Final = "operator"
REQUEST_WINDOW_SECONDS: Final = 7 * 24 * 3600
REQUEST_WINDOW_COUNT: Final = 10_000_000
COMMANDS_PER_CALL_MAX: Final = 100_000
POLL_SECONDS: Final = 0.05
"""How often a read-only ledger that waits looks at the store."""
FIRST_ENTRY_SECONDS: Final = 5
_CATCH_UPS_MAX: Final = 5


def _await_first_entry(log: Log) -> None:
    """Wait until whoever makes this ledger has written its first entry.

    Raises: Unavailable STORE_UNAVAILABLE.
    """
    end = time.monotonic() + FIRST_ENTRY_SECONDS
    while log.refresh() == 0:
        if time.monotonic() > end:
            message = f"{log.url} is empty, and another process that was to write its first entry does not"
            raise refusal(Reason.REASON_STORE_UNAVAILABLE, message, store=log.url)
        time.sleep(POLL_SECONDS)


class _Submission:
    """Commands of one caller on their way to the log."""

    outcomes: Sequence[Any] = ()
    """Of each command: Booked, a LedgerError, or the run that it is in."""
    size = 0
    error: BaseException | None = None
    done = False

    def __init__(self, choose: Choose, principal: str, *, pack: bool) -> None:
        self.choose = choose
        self.principal = principal
        self.pack = pack


class Ledger:
    """The books over one log. Thread-safe; commands of several threads share a flush."""

    def __init__(self, log: Log, state: State, *, clock: Clock | None, signer: Signer | None, principal: str) -> None:
        """Use `Ledger.open`."""
        self._log = log
        self._state = state
        self._clock = clock or SystemClock()
        self._reckoning = Reckoning(self._clock)
        self._request_ids = RequestIds()
        self.principal = principal
        self.signer = signer
        self._queue: deque[_Submission] = deque()
        """Filled by any thread, and emptied from the left by who holds `_writing`: so whoever is last in it is done last."""
        self._writing = FairLock()
        self._books = FairLock()
        """Held by who changes the state, but for the time in which a batch is flushed, and by who reads it while it may change."""
        self._epoch = 0
        """Odd while the state is provisional: what is read then may never have happened."""
        self._settled_size = state.size
        """Of the books when nothing was provisional last."""
        self._unsettled = False
        """True after an append of which nobody knows whether it happened."""
        self._grown = threading.Condition()
        self._waiting_count = 0
        """How many wait for the log to grow. Whoever does counts himself before he looks at the size, so that none is left asleep."""
        self._closed = False
        self._past = State()
        """The last state that a read as of a size or time asked for: the next one is often later."""
        self._looking_back = threading.Lock()
        self.leadership: Leadership | None = None
        """What keeps the books up to date where others may write them (`ledger.leadership`); None: every read looks for itself."""
        self._snapshot_path: str | None = None
        self.opened_from = "the whole log"
        """What the books were folded from: "a snapshot of size 5000", or "the whole log: " and why no snapshot was used."""

    @classmethod
    def open(
        cls,
        url: str,
        *,
        ledger_id: str | None = None,
        origin: str | None = None,
        read_only: bool = False,
        contend: bool = False,
        principal: str = DEFAULT_PRINCIPAL,
        signer: Signer | None = None,
        clock: Clock | None = None,
        request_window_seconds: int = REQUEST_WINDOW_SECONDS,
        request_window_count: int = REQUEST_WINDOW_COUNT,
        snapshot: str | None = None,
        progress: replay.Progress | None = None,
    ) -> Self:
        """Open the ledger in a store, or make one in an empty store.

        `url` is "sqlite:///relative.db", "sqlite:////absolute.db", "sqlite:///:memory:" or
        "postgresql://user@host/database?ledger=acme". `ledger_id` guards against the wrong store; a
        new ledger takes it, or the file's name. `principal` is who asks where `execute` is not told. `signer` signs checkpoints. The
        request window (seconds, and a count) is fixed when the ledger is made. `snapshot` is where the snapshot is, if not beside the
        store's file; one that does not match the log is not used, and `opened_from` says why. With `contend`, a ledger that somebody else
        writes is opened all the same, to be followed by a `Leadership`.

        Raises: Unavailable STORE_UNAVAILABLE (another writer, read-only, full); NotFound LEDGER_NOT_FOUND (another ledger's store);
        DataLoss LOG_CORRUPT with the first bad index.
        """
        log = open_log(url, read_only=read_only, ledger_id=ledger_id, contend=contend)
        try:
            if contend and log.read_only:
                _await_first_entry(log)
            path = snapshot or snapshots.snapshot_path_of(url)
            state, opened_from = snapshots.open_state(log, path, progress)
            books = cls(log, state, clock=clock, signer=signer, principal=principal)
            books._snapshot_path, books.opened_from = path, opened_from
            if log.size == 0 and not log.read_only:
                new_id = log.expected_id or Path(url.rpartition("/")[2]).stem.strip(":") or "ledger"
                books._make(new_id, origin or f"stockledger.local/{new_id}", request_window_seconds, request_window_count)
        except BaseException:
            log.close()
            raise
        return books

    def _make(self, ledger_id: str, origin: str, window_seconds: int, window_count: int) -> None:
        """Write the first entry of a new ledger."""
        check_id("ledger_id", ledger_id)
        opened = LedgerOpened(
            ledger=ledger_id,
            origin=origin,
            request_window_seconds=window_seconds,
            request_window_count=window_count,
            format_version=FORMAT_VERSION,
        )
        entry = Entry(decision_time_us=self._clock.wall_us(), principal=self.principal, ledger_opened=opened)
        data = entry.SerializeToString()
        self._log.append(ledger_id, [TOPICS[LedgerOpened]], [data])
        fold(self._state, entry, data)
        self._settled_size = self._state.size

    # ---- who and what ---------------------------------------------------------------------------------------------------------------

    @property
    def ledger_id(self) -> str:
        return self._state.ledger_id

    @property
    def origin(self) -> str:
        """The origin line of the ledger's checkpoints."""
        return self._state.origin

    @property
    def size(self) -> int:
        """The number of durable entries that are in the books. It never falls, whatever is provisional meanwhile."""
        return self._settled_size

    def state_digest(self) -> str:
        """Return the digest of the books as they stand, to be compared with a replay's."""
        return self.look(state_digest)

    @property
    def log(self) -> Log:
        """The log under the books, for auditors' tools."""
        return self._log

    @property
    def read_only(self) -> bool:
        return self._log.read_only

    # ---- commands -------------------------------------------------------------------------------------------------------------------

    def execute(self, request: Any, *, principal: str | None = None) -> Any:
        """Carry out one request message and return its response message; what was booked is durable by then.

        Commands are decided in the order in which they come; reads see everything durable. `principal` is who asks.

        Raises: LedgerError, with the reason and the numbers behind it.
        """
        if type(request) not in RULES:
            return self._read(request)
        submission = _Submission(lambda _: (request,), self.principal if principal is None else principal, pack=False)
        self._carry_out_in_turn((submission,))
        if submission.error is not None:
            raise submission.error
        outcome = submission.outcomes[0]
        if isinstance(outcome, LedgerError):
            raise outcome
        return answer_of(outcome, submission.size)

    def execute_many(self, commands: Sequence[Any], *, principal: str | None = None, pack: bool = False) -> Answers:
        """Carry out many commands with one flush; each has a result of its own, and a refused one does not stop the others.

        With `pack`, runs of single transfers become one entry each, several times faster; a receipt then covers the run.

        Raises: LedgerError only where no command can be carried out at all.
        """
        if len(commands) > COMMANDS_PER_CALL_MAX:
            message = f"{len(commands)} commands in one call, at most {COMMANDS_PER_CALL_MAX} may be"
            raise refusal(Reason.REASON_TOO_MANY_ITEMS, message, field="commands", count=len(commands), limit=COMMANDS_PER_CALL_MAX)
        submission = _Submission(lambda _: commands, self.principal if principal is None else principal, pack=pack)
        self._carry_out_in_turn((submission,))
        if submission.error is not None:
            raise submission.error
        return Answers(submission.outcomes, submission.size)

    def execute_group(self, batches: Sequence[tuple[Choose, str, bool]]) -> list[Answers | BaseException]:
        """Carry out batches of several principals, each (choose, principal, pack), in this order and with one flush.

        For a server, whose callers do not wait in a thread each. `choose` gives a batch's commands just before they are decided, by the
        state that everything before them has left, so that it can leave out what is not permitted then; in the thread of whoever carries
        out what waits. It is asked again where they are decided again, because another writer was faster or a batch beside it met a fault.
        What it gave last gets its answers as `execute_many` would give them, or what that would have raised.

        Raises: LedgerError only where nothing can be carried out at all.
        """
        submissions = [_Submission(choose, principal, pack=pack) for choose, principal, pack in batches]
        self._carry_out_in_turn(submissions)
        return [submission.error or Answers(submission.outcomes, submission.size) for submission in submissions]

    def refuse_to_book(self) -> None:
        """Raise what every command would get now, if nothing can be booked: cheap, and before anything is looked at.

        Raises: Unavailable NOT_LEADER, STORE_UNAVAILABLE.
        """
        if self._closed:
            raise refusal(Reason.REASON_NOT_LEADER, "the ledger is closed")
        if self.leadership is not None:
            self.leadership.refuse_to_book()
        elif self._log.backend.read_only:
            raise refusal(Reason.REASON_NOT_LEADER, "the ledger was opened read-only")

    def _carry_out_in_turn(self, mine: Sequence[_Submission]) -> None:
        """Wait until another has carried out these submissions, or do it along with all others that wait."""
        self.refuse_to_book()
        if not mine:
            return
        queue, last = self._queue, mine[-1]
        queue.extend(mine)
        with self._writing:
            if not last.done:
                submissions = []
                while queue:
                    submissions.append(queue.popleft())
                self._carry_out(submissions)
        assert last.done, "whoever had the turn carried out all that waited"

    def _carry_out(self, submissions: list[_Submission]) -> None:
        """Decide, append and settle; a fault of one submission must not take the others with it."""
        error: Exception | None = None
        try:
            self._commit(submissions)
        except Exception as failure:  # noqa: BLE001 - raised again, in the thread of each caller
            if not isinstance(failure, LedgerError) and len(submissions) > 1 and not self._unsettled:
                for submission in submissions:
                    self._carry_out([submission])
            error = failure
        finally:
            for submission in submissions:
                if not submission.done:
                    interrupted = "the writer was interrupted"
                    submission.error = error or refusal(Reason.REASON_STORE_UNAVAILABLE, interrupted, store=self._log.url)
                    submission.done = True

    def _commit(self, submissions: list[_Submission]) -> None:
        """Put the submissions through: decide on the provisional state, append, and only then let the answers go."""
        self.refuse_to_book()  # again: the lead may have been lost while this waited
        if self._unsettled:
            self._settle()
        with self._books:
            self._decide_and_append(submissions)
        if self._waiting_count:
            with self._grown:
                self._grown.notify_all()

    def _decide_and_append(self, submissions: list[_Submission]) -> None:
        state, log = self._state, self._log
        for _ in range(_CATCH_UPS_MAX):
            batch = Batch(state, log, self._request_ids.make, self._reckoning.now_us(state.last_decision_time_us))
            self._epoch += 1
            state.begin()
            try:
                for submission in submissions:
                    commands = submission.choose(state)
                    submission.outcomes = batch.decide(commands, submission.principal, pack=submission.pack)
                if batch.entries:
                    self._append(batch)
            except AppendConflict:
                state.undo()
                self._catch_up()
                continue
            except AppendDoubtful as doubt:
                state.undo()
                message = f"the store is away, and whether the last batch was stored is not known yet: {doubt}"
                raise refusal(Reason.REASON_STORE_UNAVAILABLE, message, store=self._log.url) from doubt
            except BaseException:
                state.undo()
                raise
            else:
                state.keep()
                self._settled_size = state.size
            finally:
                self._epoch += 1
            size = state.size
            assert size == log.size, "the books and the log have the same size"
            for submission in submissions:
                submission.size, submission.done = size, True
            return
        message = f"another writer was faster {_CATCH_UPS_MAX} times in a row"
        raise refusal(Reason.REASON_STORE_UNAVAILABLE, message, store=self._log.url)

    def _append(self, batch: Batch) -> None:
        """Store a batch. Any fault but a plain answer of the store leaves it unsettled: the next commit asks first what is there.

        Meanwhile the books are let go: who reads puts them back as they were before the batch, and here it is put in again.
        """
        self._unsettled = True
        self._books.release()
        try:
            self._log.append(self._state.ledger_id, batch.topics, batch.entries)
        except (LedgerError, AppendConflict):
            self._unsettled = False
            raise
        finally:
            self._books.acquire()
            if self._state.as_before:
                self._state.swap()
        self._unsettled = False

    def _settle(self) -> None:
        """Find out what became of a doubtful append; the requests in it are booked or not, and their repeats will tell."""
        try:
            self._log.resolve()
        except AppendConflict:
            pass
        except AppendDoubtful as doubt:
            raise refusal(Reason.REASON_STORE_UNAVAILABLE, str(doubt), store=self._log.url) from doubt
        with self._books:
            self._epoch += 1
            try:
                self._catch_up()
            finally:
                self._epoch += 1

    def _follow(self) -> None:
        """Where another process writes, and nothing else keeps these books up to date, come to where it is."""
        if self.read_only and self.leadership is None and not self._closed:
            with self._writing:
                self._settle()

    def follow(self) -> None:
        """Come to where the log is, if it has grown. The store is asked without the lock, so that no read waits for its answer."""
        if self._unsettled or self._log.backend.extent()[1] != self._log.size or self._log.size != self._state.size:
            with self._writing:
                if not self._closed:
                    self._settle()
            with self._grown:
                self._grown.notify_all()

    def settle(self) -> None:
        """Find out what became of an append that nobody knows of, without waiting for the next command.

        Raises: Unavailable STORE_UNAVAILABLE.
        """
        if self._log.in_doubt:
            with self._writing:
                self._settle()

    def take_over(self, lead: Callable[[], None]) -> None:
        """Come to the end of the log, and let commands in: `lead` lets the store take appends."""
        with self._writing:
            self._settle()
            lead()

    def step_down(self, follow: Callable[[], None]) -> None:
        """Let no further command in: `follow` makes the store read-only."""
        with self._writing:
            follow()

    def _catch_up(self) -> None:
        """Fold what is in the log and not in the books; until that is done, nothing can be decided."""
        self._unsettled = True
        self._log.refresh()
        replay.fold_log(self._state, self._log, self._log.size)
        self._settled_size = self._state.size
        self._unsettled = False

    # ---- reads ----------------------------------------------------------------------------------------------------------------------

    def holding(self, instrument: str, account: str) -> int:
        """Return the units an account holds of an instrument, as of everything durable. The fast way; GetHolding tells more.

        Raises: NotFound INSTRUMENT_NOT_FOUND, ACCOUNT_NOT_FOUND.
        """
        epoch = self._epoch
        if not epoch & 1:
            state = self._state
            try:
                column = state.books[state.instruments[instrument].number].units
                number = state.accounts[account].number
                units = column[number] if number < len(column) else 0
            except KeyError:
                pass
            else:
                if self._epoch == epoch:
                    return units
        return self.look(lambda state: holding_units(state, instrument, account))

    def look(self, ask: Callable[[State], _T]) -> _T:
        """Return what a question finds in the books, as of everything durable. It must not keep or change anything of them.

        Asked without a lock if the books stand still meanwhile, else once more with it; so it may be asked twice. It waits for commands
        being decided, not for their flush: until that is over, the books are put back as they were before.
        """
        epoch = self._epoch
        if not epoch & 1:
            try:
                answer = ask(self._state)
            except Exception:
                if self._epoch == epoch:
                    raise
            else:
                if self._epoch == epoch:
                    return answer
        with self._books:
            if self._state.journal is not None and not self._state.as_before:
                self._state.swap()
            return ask(self._state)

    def state_at(self, *, size: int | None = None, time_us: int | None = None) -> State:
        """Return the state after `size` entries, or after the last entry decided at or before a moment.

        It is the caller's: reads do not change it.

        Raises: BeyondLog INDEX_BEYOND_LOG.
        """
        with self._past_state(size, time_us) as state:
            self._past = State()
            return state

    @contextmanager
    def _past_state(self, size: int | None, time_us: int | None) -> Iterator[State]:
        """Lend the state as of a size or moment; it folds on to the next one asked for when it is given back. Writing goes on meanwhile."""
        with self._looking_back:
            wanted = replay.size_at(self._log, size=size, time_us=time_us)
            state, self._past = self._past, State()
            if state.size > wanted:
                state = State()
            replay.fold_log(state, self._log, wanted)
            self._past = state
            yield state

    def tail(self, from_index: int = 0, *, follow: bool = False, timeout: float | None = None) -> Iterator[tuple[int, Entry]]:
        """Yield (index, entry) from an index on, as far as the log is durable; with `follow`, go on with what comes.

        A following tail ends when the ledger is closed, or after `timeout` seconds without a new entry.
        """
        self._follow()
        index = from_index
        if not 0 <= index <= self.size:
            message = f"index {index} is beyond the log of {self.size}"
            raise refusal(Reason.REASON_INDEX_BEYOND_LOG, message, index=index, size=self.size)
        while True:
            size = self.size
            for stored, _, data in self._log.read(index, size):
                yield stored, Entry.FromString(data)
            index = max(index, size)
            if not follow or not self._wait_for_entry(index, timeout):
                return

    def _wait_for_entry(self, index: int, timeout: float | None) -> bool:
        """Wait until there is an entry at an index; False once the ledger is closed or the time is over."""
        end = None if timeout is None else time.monotonic() + timeout
        with self._grown:
            self._waiting_count += 1
            try:
                while not self._closed and self.size <= index:
                    left = None if end is None else end - time.monotonic()
                    if left is not None and left <= 0:
                        return False
                    if self.read_only and self.leadership is None:  # another process writes, and cannot wake us
                        self._grown.wait(POLL_SECONDS if left is None else min(left, POLL_SECONDS))
                        self._follow()
                    else:
                        self._grown.wait(left)
                return not self._closed
            finally:
                self._waiting_count -= 1

    def _read(self, request: Any) -> Any:
        """Answer a read request."""
        unknown = find_unknown_field(request)
        if unknown is not None:
            raise refusal(Reason.REASON_FIELD_MALFORMED, f"field {unknown} is not known to this version", field=unknown)
        if type(request) in audit.READS:
            return audit.READS[type(request)](self, request)
        read = READS.get(type(request))
        if read is None:
            raise TypeError(f"{type(request).__name__} is neither a command nor a read")
        as_of = request.as_of if "as_of" in request.DESCRIPTOR.fields_by_name and request.HasField("as_of") else None
        which = as_of.WhichOneof("state") if as_of is not None else None
        self._follow()
        if as_of is None or which is None:
            return self.look(lambda state: read(state, request, read_time_us(self._clock.wall_us(), state.last_decision_time_us)))
        size = as_of.size if which == "size" else None
        moment_us = time_us("as_of.time", as_of.time) if size is None else None
        with self._past_state(size, moment_us) as state:
            now_us = read_time_us(self._clock.wall_us(), state.last_decision_time_us, size=size, time_us=moment_us)
            return read(state, request, now_us)

    # ---- end ------------------------------------------------------------------------------------------------------------------------

    def write_snapshot(self, progress: replay.Progress | None = None) -> int:
        """Write a snapshot of everything durable, so that the next `open` is quick, and return its size. Commands go on meanwhile.

        Raises: RuleViolated STATE_UNFIT for a store in memory; Unavailable STORE_UNAVAILABLE when the file cannot be written.
        """
        if self._snapshot_path is None:
            raise refusal(Reason.REASON_STATE_UNFIT, f"{self._log.url} has no place for a snapshot", needed="a file")
        return snapshots.write_latest(self._log, self._snapshot_path, progress)

    def close(self) -> None:
        """Let go of the store. What was answered is durable already."""
        with self._writing:
            self._closed = True
            self._log.close()
        with self._grown:
            self._grown.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

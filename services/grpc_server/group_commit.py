"""Group commit across connections: what waits is decided together, and made durable with one flush.

One thread writes. While it waits for the disk, the event loop gathers what comes next; so the group grows with the load, and a lone
command waits for nobody.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ledger import Answers
from ledger.errors import LedgerError, refusal
from ledger.sent_transfers import SentTransfers
from services.grpc_server.errors import Expired
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ledger import Ledger
    from ledger.state import State
    from services.observability import Metrics

GROUP_MAX: Final = 2_000
"""Jobs in one group, so that the first of them does not wait for ever more."""
GROUP_COMMANDS_MAX: Final = 20_000
"""Commands in one group, for the same reason: about 100 ms of deciding."""
GATHER_SECONDS: Final = 0.003
"""A group waits for the callers of the last one as long as one of them comes back in each of these spans."""
GATHER_SECONDS_MAX: Final = 0.03
"""And no longer than this."""


class Job:
    """Commands of one caller on their way.

    `check` gives for each command why it is not permitted, or None, just before they are decided. `finish` makes what the caller gets, of
    the answers to those that were permitted and what `check` gave; both run in the writer's thread.
    """

    __slots__ = (
        *("abandoned", "check", "commands", "deadline", "finish", "flushed_ns", "future", "pack", "principal", "queued_ns", "started_ns"),
    )

    def __init__(
        self,
        commands: Sequence[Any],
        principal: str,
        check: Callable[[State], list[LedgerError | None]],
        finish: Callable[[Answers, list[LedgerError | None]], Any],
        *,
        pack: bool = False,
        deadline: float | None = None,
    ) -> None:
        self.commands = commands
        self.principal = principal
        self.check = check
        self.finish = finish
        self.pack = pack
        self.deadline = deadline
        self.abandoned = False
        self.queued_ns = time.time_ns()
        self.started_ns = self.flushed_ns = 0
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


class _Checked(NamedTuple):
    """A job that is put through: what `check` gave, and where in which batch its commands are."""

    number: int
    refusals: list[LedgerError | None]
    batch: int
    start: int
    stop: int


class GroupCommit:
    """The writer's thread, and the way to it. All methods but `_run` and what it calls are for the event loop alone.

    A group waits until as many are there as were under way a moment ago, or none has come for 3 ms. Without that, a handful of commands
    takes the interpreter from the loop at every step of the store's driver while their peers wait to be read: 6 commands a flush instead
    of 30. A lone caller is expected alone, and waits for nobody.
    """

    def __init__(self, books: Ledger, metrics: Metrics, grown: Callable[[], None]) -> None:
        self._books = books
        self._metrics = metrics
        self._grown = grown
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Job] = []
        self._group: list[Job] = []
        """What the writer has now; empty when it is idle."""
        self._expected = 1
        self._timer: asyncio.TimerHandle | None = None
        self._gather_until = 0.0
        self._work: SimpleQueue[list[Job] | None] = SimpleQueue()
        self._idle = asyncio.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._run, name="stockledger-writer", daemon=True)
        self._thread.start()

    def enqueue(self, job: Job) -> asyncio.Future[Any]:
        """Put a job in line; jobs are decided in the order in which they were put there."""
        self._waiting.append(job)
        self._idle.clear()
        self._gather()
        return job.future

    async def submit(self, job: Job) -> Any:
        """Return what `job.finish` makes of its outcomes, once they are durable.

        A caller who goes away before the commands are decided has booked nothing; after that, the answer is his for the asking.

        Raises: Expired if its deadline passed before it was decided; LedgerError where nothing could be carried out.
        """
        try:
            return await self.enqueue(job)
        except asyncio.CancelledError:
            job.abandoned = True
            raise

    async def stop(self) -> None:
        """Carry out what was accepted, and end the thread."""
        await self._idle.wait()
        self._work.put(None)
        await self._loop.run_in_executor(None, self._thread.join)

    def _gather(self) -> None:
        """Hand a group over if it is complete; see to it that it is soon."""
        if self._group or not self._waiting:
            return
        if len(self._waiting) >= self._expected:
            self._hand_over()
        elif self._timer is None:
            self._gather_until = self._loop.time() + GATHER_SECONDS_MAX
            self._timer = self._loop.call_later(GATHER_SECONDS, self._wait_on, len(self._waiting))

    def _wait_on(self, known: int) -> None:
        """Hand over what waits unless more of it came in the last span."""
        if len(self._waiting) > known and self._loop.time() < self._gather_until:
            self._timer = self._loop.call_later(GATHER_SECONDS, self._wait_on, len(self._waiting))
        else:
            self._hand_over()

    def _hand_over(self) -> None:
        """Give the writer all that waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._group:
            size = self._group_size()
            self._group, self._waiting = self._waiting[:size], self._waiting[size:]
            self._work.put(self._group)

    def _group_size(self) -> int:
        """Return how many of the waiting jobs make the next group."""
        commands = 0
        for number, job in enumerate(self._waiting[:GROUP_MAX]):
            commands += len(job.commands)
            if commands > GROUP_COMMANDS_MAX:
                return max(number, 1)
        return min(len(self._waiting), GROUP_MAX)

    def _settle(self, results: list[Any]) -> None:
        """Give every caller his own, and go on with what has come meanwhile."""
        jobs, self._group = self._group, []
        self._expected = min(len(jobs) + len(self._waiting), GROUP_MAX)
        for job, result in zip(jobs, results, strict=True):
            if job.future.done():
                continue
            if isinstance(result, BaseException):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)
        self._grown()
        if self._waiting:
            self._gather()
        else:
            self._idle.set()

    # ---- in the writer's thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (jobs := self._work.get()) is not None:
            self._loop.call_soon_threadsafe(self._settle, self._carry_out(jobs))

    def _carry_out(self, jobs: list[Job]) -> list[Any]:
        """Return for each job what its caller gets, or the exception."""
        started_ns, now = time.time_ns(), time.monotonic()
        try:
            self._books.refuse_to_book()  # before permission: a follower's books may not know yet what somebody may do
        except LedgerError as fault:
            return [fault] * len(jobs)
        results: list[Any] = [None] * len(jobs)
        batches: list[tuple[Any, str, bool]] = []
        checked: list[_Checked] = []
        for number, job in enumerate(jobs):
            job.started_ns = started_ns
            if job.abandoned or (job.deadline is not None and now >= job.deadline):
                results[number] = Expired()
                continue
            try:
                refusals = self._books.look(job.check)
            except Exception as fault:  # noqa: BLE001 - raised again where its caller waits
                results[number] = fault
                continue
            checked.append(self._put_into_batch(number, job, refusals, batches))
        if checked:
            self._commit(jobs, batches, checked, results)
        flushed_ns = time.time_ns()
        for job in jobs:
            job.flushed_ns = flushed_ns
        self._metrics.group(len(jobs), sum(len(batch[0]) for batch in batches), (flushed_ns - started_ns) / 1e9)
        return results

    @staticmethod
    def _put_into_batch(number: int, job: Job, refusals: list[LedgerError | None], batches: list[tuple[Any, str, bool]]) -> _Checked:
        """Add a job's permitted commands to the batches.

        What follows one another of one principal is decided together, and packed together where it comes by streams: 25 single transfers
        in one batch take 40 % less time than in batches of their own.
        """
        permitted = job.commands
        if any(refusals):
            places = [place for place, no in enumerate(refusals) if no is None]
            permitted = permitted.picked(places) if isinstance(permitted, SentTransfers) else [permitted[place] for place in places]
        if not (batches and batches[-1][1:] == (job.principal, job.pack)):
            batches.append((SentTransfers([]) if isinstance(permitted, SentTransfers) else [], job.principal, job.pack))
        commands = batches[-1][0]
        start = len(commands)
        commands += permitted
        return _Checked(number, refusals, len(batches) - 1, start, len(commands))

    def _commit(self, jobs: list[Job], batches: list[tuple[Any, str, bool]], checked: list[_Checked], results: list[Any]) -> None:
        try:
            answers: list[Answers | BaseException] = (
                self._books.execute_group(batches) if any(batch[0] for batch in batches) else [Answers([], self._books.size)] * len(batches)
            )
        except Exception as fault:  # noqa: BLE001 - raised again where each caller waits
            answers = [fault] * len(batches)
        jobs_in = Counter(each.batch for each in checked)
        for each in checked:
            answer = answers[each.batch]
            commands, principal, pack = batches[each.batch]
            start, stop = each.start, each.stop
            if isinstance(answer, BaseException) and not isinstance(answer, LedgerError) and jobs_in[each.batch] > 1:
                answer = self._put_through_alone(commands[start:stop], principal, answer, pack=pack)
                start, stop = 0, stop - start
            if isinstance(answer, BaseException):
                results[each.number] = answer
                continue
            try:
                results[each.number] = jobs[each.number].finish(answer[start:stop], each.refusals)
            except Exception as fault:  # noqa: BLE001 - raised again where its caller waits
                results[each.number] = fault

    def _put_through_alone(self, commands: Sequence[Any], principal: str, fault: BaseException, *, pack: bool) -> Answers | BaseException:
        """Put one job's commands through again whose batch met a fault of ours that was perhaps another's.

        Whether the batch was booked may be in doubt, so this is for commands with request ids only.
        """
        if not commands:
            return Answers([], self._books.size)
        if not all(command.request_id for command in commands):
            return fault
        try:
            return self._books.execute_group([(commands, principal, pack)])[0]
        except Exception as again:  # noqa: BLE001 - raised again where its caller waits
            return again


def stopping() -> LedgerError:
    """Make the refusal of a server that stops: the same request may go to another one, or to this one later."""
    return refusal(Reason.REASON_STORE_UNAVAILABLE, "the server is stopping; what was acknowledged is booked", retry_ms=1_000)

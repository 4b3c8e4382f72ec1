"""Group commit across connections: what waits is decided together, and made durable with one flush.

One thread writes. While it waits for the disk, the event loop gathers what comes next; so the group grows with the load, and a lone
command waits for nobody.
"""

from __future__ import annotations

import asyncio
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ledger import Answers
from ledger.errors import LedgerError
from ledger.sent_transfers import SentTransfers
from services.grpc_server.errors import Expired, Stopping
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.transfers_pb2 import TransferUnitsRequest

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

    `check` gives for each command why it is not permitted, or None, by the state that it is decided on. It is asked again where the command
    is decided again, and in the thread of whoever carries out what waits. `finish` makes what the caller gets, of the answers to those that
    were permitted and what `check` gave last, in the writer's thread.
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
    """A job as it was judged last: what `check` gave, and where its permitted commands are in its batch."""

    refusals: list[LedgerError | None]
    start: int
    stop: int


class _Batch:
    """Jobs of one principal that follow one another and are decided together.

    Only transfers share a batch: all of it is checked before any of it is decided, and a transfer changes nothing that the check of
    another one looks at. Others would gain nothing by it, while 25 single transfers in one batch take 40 % less time than in batches of
    their own.
    """

    __slots__ = ("_checked", "_shared", "jobs", "pack", "principal")

    def __init__(self, number: int, job: Job) -> None:
        self.principal = job.principal
        self.pack = job.pack
        self.jobs = [(number, job)]
        """With their places in the group."""
        self._shared = _has_only_transfers(job)
        self._checked: list[_Checked | Exception] = []

    def takes(self, job: Job) -> bool:
        return self._shared and (self.principal, self.pack) == (job.principal, job.pack) and _has_only_transfers(job)

    def choose(self, state: State) -> Sequence[Any]:
        """Return the commands that are permitted by this state, and note whose they are."""
        self._checked = []
        commands: Any = SentTransfers([]) if isinstance(self.jobs[0][1].commands, SentTransfers) else []
        for _, job in self.jobs:
            start = len(commands)
            try:
                refusals = job.check(state)
                commands += _permitted(job.commands, refusals)
                self._checked.append(_Checked(refusals, start, len(commands)))
            except Exception as fault:  # noqa: BLE001 - raised again where its caller waits
                self._checked.append(fault)
        chosen: Sequence[Any] = commands
        return chosen

    @property
    def commands_count(self) -> int:
        """The number of commands that were decided."""
        return sum(each.stop - each.start for each in self._checked if isinstance(each, _Checked))

    def finish(self, answers: Answers, results: list[Any]) -> None:
        """Put what each caller gets at the place of his job."""
        for (number, job), checked in zip(self.jobs, self._checked, strict=True):
            if isinstance(checked, Exception):
                results[number] = checked
                continue
            try:
                results[number] = job.finish(answers[checked.start : checked.stop], checked.refusals)
            except Exception as fault:  # noqa: BLE001 - raised again where its caller waits
                results[number] = fault


def _has_only_transfers(job: Job) -> bool:
    return isinstance(job.commands, SentTransfers) or all(type(command) is TransferUnitsRequest for command in job.commands)


def _permitted(commands: Sequence[Any], refusals: list[LedgerError | None]) -> Sequence[Any]:
    if not any(refusals):
        return commands
    places = [place for place, no in enumerate(refusals) if no is None]
    return commands.picked(places) if isinstance(commands, SentTransfers) else [commands[place] for place in places]


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
        results: list[Any] = [None] * len(jobs)
        batches: list[_Batch] = []
        for number, job in enumerate(jobs):
            job.started_ns = started_ns
            if job.abandoned or (job.deadline is not None and now >= job.deadline):
                results[number] = Expired()
            elif batches and batches[-1].takes(job):
                batches[-1].jobs.append((number, job))
            else:
                batches.append(_Batch(number, job))
        if batches:
            self._commit(batches, results)
        flushed_ns = time.time_ns()
        for job in jobs:
            job.flushed_ns = flushed_ns
        commands = sum(batch.commands_count for batch in batches)
        self._metrics.group(len(jobs), commands, (flushed_ns - started_ns) / 1e9)
        return results

    def _commit(self, batches: list[_Batch], results: list[Any]) -> None:
        """Have batches carried out, and put what comes of them where their jobs are in the group."""
        try:
            answers = self._books.execute_group([(batch.choose, batch.principal, batch.pack) for batch in batches])
        except Exception as fault:  # noqa: BLE001 - raised again where each caller waits
            answers = [fault] * len(batches)
        for batch, answer in zip(batches, answers, strict=True):
            if not isinstance(answer, BaseException):
                batch.finish(answer, results)
            elif isinstance(answer, LedgerError) or len(batch.jobs) == 1:
                for number, _ in batch.jobs:
                    results[number] = answer
            else:
                self._put_through_alone(batch, answer, results)

    def _put_through_alone(self, batch: _Batch, fault: BaseException, results: list[Any]) -> None:
        """Put jobs through again, each alone, whose batch met a fault of ours that was perhaps another's.

        Whether the batch was booked may be in doubt, so this is for commands with request ids only.
        """
        for number, job in batch.jobs:
            if all(command.request_id for command in job.commands):
                self._commit([_Batch(number, job)], results)
            else:
                results[number] = fault


def stopping() -> LedgerError:
    """Make the refusal of a server that stops: the same request may go to another one, or to this one later."""
    return Stopping(Reason.REASON_STORE_UNAVAILABLE, "the server is stopping; what was acknowledged is booked", retry_ms=1_000)

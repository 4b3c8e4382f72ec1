"""Commands with their approvals: ask as one principal, and approve at once as others.

Every approval has a request id made from that of the command it approves, so that a file applied again approves nothing twice.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ledger.errors import LedgerError
from ledger.reads.pages import PAGE_SIZE_MAX
from ledger.request_ids import format_request_id, parse_request_id
from ledger.rules.approvals import command_name
from stockledger.v1.approvals_pb2 import ApproveCommandRequest, ListApprovalPoliciesRequest
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.reserves_pb2 import EvidenceKind, RecordEvidenceRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.engine import Ledger


STATES: Final = ("booked", "acceptable", "booked before", "no longer waiting", "waiting for approval", "refused")
"""What may become of a command; "acceptable" is said in a dry run, "no longer waiting" of one that was approved, or declined, before."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a command, one of STATES; of a refused one, why."""

    state: str
    approval: int = 0
    error: LedgerError | None = None


def derived_request_id(base: bytes, *context: str) -> str:
    """Return a UUIDv7 of the same moment as `base`, whose other bits are made from it and the context: the same for the same."""
    digest = hashlib.sha256(b"\0".join([base, *(text.encode() for text in context)])).digest()
    tail = int.from_bytes(digest[:10], "big")
    return format_request_id(base[:6] + (7 << 76 | (tail >> 62 & 0xFFF) << 64 | 2 << 62 | tail & ((1 << 62) - 1)).to_bytes(10, "big"))


class Clerk:
    """Asks for commands in their order, and has what waits approved before it goes on."""

    def __init__(self, books: Ledger, principal: str, approvers: Sequence[str], *, pack: bool = False) -> None:
        self._books = books
        self._principal = principal
        self._approvers = approvers
        self._pack = pack

    def ask(self, commands: Sequence[Any]) -> list[Outcome]:
        """Carry out commands. Where approvers are given, one that waits is approved before the next is decided: it may build on it."""
        if not self._approvers:
            return self.ask_together(commands)
        waiting = self._waiting_commands()
        outcomes: list[Outcome] = []
        run: list[Any] = []
        for command in commands:
            if not self._waits(command, waiting):
                run.append(command)
                continue
            outcomes += self.ask_together(run) + self.ask_together([command])
            run = []
            waiting = self._waiting_commands()
        return outcomes + self.ask_together(run)

    def ask_together(self, commands: Sequence[Any]) -> list[Outcome]:
        """Carry out commands with one flush, and approve those that wait with another one for each approver."""
        if not commands:
            return []
        answers = self._books.execute_many(commands, principal=self._principal, pack=self._pack)
        outcomes = [_outcome(answer) for answer in answers]
        for approver in self._approvers:
            self._approve(answers, outcomes, approver)
        return outcomes

    def approve(self, approval: int) -> Outcome:
        """Approve one command that waits since an earlier run."""
        outcome = Outcome("waiting for approval", approval)
        for approver in self._approvers:
            if outcome.state == "waiting for approval":
                given = self._books.execute_many([ApproveCommandRequest(approval=approval)], principal=approver)[0]
                outcome = _given(given, approval)
        return outcome

    def _approve(self, answers: Sequence[Any], outcomes: list[Outcome], approver: str) -> None:
        """Give one approver's approval to what still waits, and note what became of it."""
        positions = [position for position, outcome in enumerate(outcomes) if outcome.state == "waiting for approval"]
        approvals = []
        for position in positions:
            booking = answers[position].booking
            request_id = derived_request_id(parse_request_id(booking.request_id), "approve", approver)
            approvals.append(ApproveCommandRequest(request_id=request_id, approval=booking.approval))
        if not approvals:
            return
        for position, given in zip(positions, self._books.execute_many(approvals, principal=approver), strict=True):
            outcomes[position] = _approved(answers[position], given)

    def _waiting_commands(self) -> frozenset[str]:
        policies = self._books.execute(ListApprovalPoliciesRequest(page_size=PAGE_SIZE_MAX)).policies  # one a kind of command
        return frozenset(policy.command for policy in policies if policy.approvals_needed)

    def _waits(self, command: Any, waiting: frozenset[str]) -> bool:
        if isinstance(command, RecordEvidenceRequest) and command.kind == EvidenceKind.EVIDENCE_KIND_IMPORTED:
            return True
        return command_name(type(command)) in waiting


def _outcome(answer: Any) -> Outcome:
    if isinstance(answer, LedgerError):
        return Outcome("refused", error=answer)
    booking = answer.booking
    if booking.index < 0:
        return Outcome("acceptable")
    if booking.approval:
        return Outcome("waiting for approval", booking.approval)
    return Outcome("booked before" if booking.repeated_answer else "booked")


def _approved(answer: Any, given: Any) -> Outcome:
    """Say what became of a command that waited, after one more approval was asked for."""
    approval = answer.booking.approval
    if isinstance(given, LedgerError) and given.reason == Reason.REASON_APPROVAL_NOT_FOUND and answer.booking.repeated_answer:
        return Outcome("no longer waiting", approval)
    return _given(given, approval)


def _given(given: Any, approval: int) -> Outcome:
    """Say what an approval that was given, or refused, makes of its command."""
    if isinstance(given, LedgerError):
        if given.reason == Reason.REASON_APPROVED_ALREADY:
            return Outcome("waiting for approval", approval)
        return Outcome("refused", approval, given)
    if not given.event.completed:
        return Outcome("waiting for approval", approval)
    return Outcome("booked before" if given.booking.repeated_answer else "booked", approval)

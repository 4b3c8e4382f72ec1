"""Whether what a list is narrowed down by is there at all: where it is not, "none" would be taken for an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ledger.errors import refusal
from ledger.reads.books import find_any_account
from ledger.rules import COMMAND_TYPES
from ledger.rules.chains.registration import find_chain
from ledger.rules.checks import find_holder, find_instrument
from ledger.rules.custody import find_custodian
from services.cli.outcome import UsageError
from services.settings import suggestion
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ledger.state import State


def with_names_checked(state: State, items: Iterable[Any], filters: Mapping[str, str]) -> Iterator[Any]:
    """Yield items that filters have let through; where there are none, look up what the filters name.

    What the items themselves name is there, and may be no name of the books: a divergence's account can be any address.

    Raises: NotFound, InvalidRequest, UsageError.
    """
    found = False
    for item in items:
        found = True
        yield item
    if not found:
        for field, name in filters.items():
            if field in _LOOKUPS:
                _LOOKUPS[field](state, name)


def _look_up_approval(state: State, text: str) -> None:
    if text not in map(str, state.approvals):
        raise refusal(Reason.REASON_APPROVAL_NOT_FOUND, f"no pending approval {text!r}", approval=text)


def _look_up_command(_state: State, name: str) -> None:
    if name not in COMMAND_TYPES:
        raise UsageError(f"{name} is not a command{suggestion(name, COMMAND_TYPES)}")


_LOOKUPS: Final[dict[str, Callable[[State, str], Any]]] = {
    "instrument": find_instrument,
    "symbol": find_instrument,
    "account": find_any_account,
    "holder": find_holder,
    "chain": find_chain,
    "custodian": find_custodian,
    "approval": _look_up_approval,
    "command": _look_up_command,
}
"""Field of an item -> what refuses a name of nothing. Principals and brokers are registered nowhere: of them there may be nothing."""

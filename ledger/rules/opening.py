"""The first entry of a log: which ledger it is.

It opens the ledger's own accounts and the default approval policies. No command leads to it; the engine writes it into an empty store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ledger.errors import refusal
from ledger.records import Account
from ledger.rules.approvals import default_policies
from ledger.state import OWN_ACCOUNTS
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.events_pb2 import LedgerOpened

if TYPE_CHECKING:
    from ledger.rules.context import Decided
    from ledger.state import State

FORMAT_VERSION: Final = 1


def evolve_opened(state: State, event: LedgerOpened, decided: Decided) -> None:
    if event.format_version != FORMAT_VERSION:
        message = f"the log has format version {event.format_version}, this program reads {FORMAT_VERSION}"
        raise refusal(Reason.REASON_LOG_CORRUPT, message, index=0)
    assert state.size == 0, "a ledger is opened once"
    state.ledger_id = event.ledger
    state.origin = event.origin
    state.request_window_seconds = event.request_window_seconds
    state.request_window_count = event.request_window_count
    state.requests.low_water_second = decided.decision_time_us // 1_000_000 - event.request_window_seconds
    for name, number in OWN_ACCOUNTS.items():
        state.put(state.accounts, name, Account(name=name, number=number, holder=""))
        state.put(state.account_names, number, name)
    for command, policy in default_policies().items():
        state.put(state.approval_policies, command, policy)


COMMANDS: dict[type[Any], tuple[Any, type[Any]]] = {}
EVENTS = {LedgerOpened: evolve_opened}

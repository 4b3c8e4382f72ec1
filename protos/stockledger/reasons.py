"""What kind of refusal each reason is: ledger and client have an exception class of the same name for each kind.

errors.proto numbers its reasons in blocks, one a kind; a reason that is added there needs nothing here.
"""

from __future__ import annotations

from typing import Final

from stockledger.v1.errors_pb2 import Reason

_KIND_OF_REASON: Final[dict[int, str]] = {
    Reason.REASON_ACTION_DUE: "ActionDue",
    Reason.REASON_TOO_MANY_REQUESTS: "Overloaded",
    Reason.REASON_MESSAGE_TOO_LARGE: "Overloaded",
}
"""Those that are not what their block is."""
_KINDS: Final = (
    (9, "NotPermitted"),
    (19, "InvalidRequest"),
    (29, "RequestIdRefused"),
    (49, "NotFound"),
    (99, "RuleViolated"),
    (109, "BeyondLog"),
    (119, "Unavailable"),
    (129, "DataLoss"),
)
"""The last number of each block, and what it is."""


def kind_of(reason: int) -> str:
    """Return the name of a reason's exception class; "LedgerError" for a number of no block.

    Example: INSTRUMENT_NOT_FOUND stands in the block that ends at 49, so it is a "NotFound".
    """
    if reason in _KIND_OF_REASON:
        return _KIND_OF_REASON[reason]
    return next((kind for last, kind in _KINDS if 0 < reason <= last), "LedgerError")

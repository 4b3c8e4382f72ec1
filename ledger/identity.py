"""What stands around every command: the fields nobody knows, its last moment, and the id by which a repeat is recognised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger.errors import refusal
from ledger.records import NEVER
from ledger.request_ids import AHEAD_MS_MAX, parse_request_id, request_id_time_ms
from ledger.rules.checks import check_not_late, time_us, utc_text
from ledger.unknown_fields import find_unknown_field
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.state import State


def identify(state: State, command: Any, principal: str, now_us: int, make_id: Callable[[int], bytes]) -> tuple[bytes, int | None]:
    """Check what stands around a command; return its request id, and where it was booked before, if it was.

    Raises: InvalidRequest FIELD_MALFORMED; RequestIdRefused REQUEST_ID_FROM_FUTURE, REQUEST_ID_EXPIRED; what `check_not_late` does.
    """
    unknown = find_unknown_field(command)
    if unknown is not None:
        message = f"field {unknown} of {command.DESCRIPTOR.name} is not known to this version"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field=unknown)
    not_after_us = time_us("not_after_time", command.not_after_time) if command.HasField("not_after_time") else NEVER
    text = command.request_id
    if not text:
        check_not_late(not_after_us, now_us)
        return make_id(now_us // 1000), None
    request_id = parse_request_id(text)
    id_time_ms = request_id_time_ms(request_id)
    if id_time_ms > now_us // 1000 + AHEAD_MS_MAX:
        message = f"request id {text} is of {utc_text(id_time_ms * 1000)}, more than five minutes ahead"
        raise refusal(Reason.REASON_REQUEST_ID_FROM_FUTURE, message, request_id=text, decision_time=utc_text(now_us))
    requests = state.requests
    if id_time_ms < requests.low_water_second * 1000:
        low_water = utc_text(requests.low_water_second * 1_000_000)
        message = f"request id {text} is older than {low_water}, from when on repeats are recognised; FindRequest tells if it was booked"
        raise refusal(Reason.REASON_REQUEST_ID_EXPIRED, message, request_id=text, low_water_time=low_water)
    location = requests.find(request_id + principal.encode(), id_time_ms)
    if location is None:
        check_not_late(not_after_us, now_us)
    return request_id, location

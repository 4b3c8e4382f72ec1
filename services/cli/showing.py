"""`stockledger show`: what stands in the books, for people and for machines.

Every list that the ledger can read is shown, by its name: ListReceivables is `show receivables`. Three things are put together here, since
no one read gives them: all supplies, holdings of everybody, and the log.
"""

from __future__ import annotations

import itertools
import re
import sys
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message_factory import GetMessageClass

from ledger.clock import SystemClock, read_time_us
from ledger.errors import refusal
from ledger.reads import READS
from ledger.reads.pages import PAGE_SIZE_MAX
from ledger.replay import parse_entry
from ledger.request_ids import format_request_id
from ledger.rules.checks import utc_text
from services.cli.naming import with_names_checked
from services.cli.outcome import DONE, UsageError
from services.cli.output import Column, Progress, json_text, note, print_json, print_table
from services.cli.rendering import Renderer, as_json, detail_of
from services.cli.stores import open_store, parse_time, settings_of, size_of, state_of
from services.settings import suggestion
from stockledger.v1 import accounts_pb2, reserves_pb2
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.events_pb2 import Entry

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator

    from ledger.log.log import Log
    from ledger.state import State

LIMIT_DEFAULT: Final = 100
LOG: Final = "log"
_FILTERS: Final = ("instrument", "account", "holder", "principal", "country", "broker", "chain")
_DETAIL_LENGTH: Final = 100
_INDEX_DIGITS_MAX: Final = 18
"""No log is longer, and Python turns no text of thousands of digits into a number."""


class Books:
    """A state, and the reads of it."""

    def __init__(self, state: State, now_us: int) -> None:
        self.state = state
        self._now_us = now_us

    def read(self, request: Any) -> Any:
        return READS[type(request)](self.state, request, self._now_us)

    def read_all(self, request_type: Any, **fields: Any) -> Iterator[Any]:
        """Yield the items of a list, page after page."""
        request = request_type(**fields)
        paged = "page_size" in request.DESCRIPTOR.fields_by_name
        if paged:
            request.page_size = PAGE_SIZE_MAX
        while True:
            answer = self.read(request)
            yield from getattr(answer, items_field(type(answer)).name)
            if not paged or not answer.next_page_token:
                return
            request.page_token = answer.next_page_token


def items_field(answer_type: Any) -> Any:
    """Return the field of an answer that holds the list."""
    return next(field for field in answer_type.DESCRIPTOR.fields if field.is_repeated)


def _list_reads() -> dict[str, Any]:
    """Return every list there is to read: "approval-policies" -> ListApprovalPoliciesRequest."""
    found = {}
    for request in READS:
        match = re.fullmatch("List(.+)Request", request.DESCRIPTOR.name)
        if match is not None:
            found["-".join(re.findall("[A-Z][a-z]*", match[1])).lower()] = request
    return found


def run(options: argparse.Namespace) -> int:
    """Show what is asked for."""
    lists = _list_reads()
    subjects = sorted({*lists, *_SPECIAL, LOG})
    if options.what not in subjects:
        said = f"{options.what!r} is not among them{suggestion(options.what, subjects)}; " if options.what else ""
        raise UsageError(f"{said}what can be shown: {', '.join(subjects)}")
    settings = settings_of(options)
    with Progress() as progress, open_store(settings) as log:
        if options.what == LOG:
            return _show_log(log, options)
        if options.kind is not None or options.from_index:
            raise UsageError("--kind and --from-index are of the log")
        state = state_of(log, settings, progress, size=options.as_of_size, time_text=options.as_of_time)
    wall_us, moment_us = SystemClock().wall_us(), parse_time(options.as_of_time)
    books = Books(state, read_time_us(wall_us, state.last_decision_time_us, size=options.as_of_size, time_us=moment_us))
    filters = {name: getattr(options, f"of_{name}") for name in _FILTERS if getattr(options, f"of_{name}") is not None}
    _check_filled(options.name, filters)
    if options.what in _SPECIAL:
        message_type, find = _SPECIAL[options.what]
        filters = _with_name(options, filters, message_type)
        items: Iterable[Any] = with_names_checked(state, find(books, filters), filters)
    else:
        message_type, items = _list_items(books, lists[options.what], options, filters)
    return _print_items(options, state, message_type, items)


def _check_filled(name: str | None, filters: dict[str, str]) -> None:
    """Refuse what is given and empty: a list would be all there is. A broker may be: a holder can be of none."""
    if name == "":
        raise UsageError("NAME is empty")
    for field, value in filters.items():
        if not value and field != "broker":
            raise UsageError(f"--{field} is empty")


def _list_items(books: Books, request_type: Any, options: argparse.Namespace, filters: dict[str, str]) -> tuple[Any, Iterable[Any]]:
    """Read a list; what its request cannot be asked to narrow down is narrowed down here, by the items' own fields."""
    answer_type = _response_type(request_type)
    message_type = GetMessageClass(items_field(answer_type).message_type)
    own = [field.name for field in request_type.DESCRIPTOR.fields if field.name not in ("as_of", "page_size", "page_token")]
    if options.name is not None and own:
        filters = {own[0]: options.name, **filters}
    elif options.name is not None:
        filters = {message_type.DESCRIPTOR.fields[0].name: options.name, **filters}
    asked = {name: value for name, value in filters.items() if name in own}
    rest = {name: value for name, value in filters.items() if name not in own}
    _check_filters(options.what, message_type, rest)
    return message_type, with_names_checked(books.state, _matching(books.read_all(request_type, **asked), rest), filters)


def _response_type(request_type: Any) -> Any:
    """Return the message of the answer, which bears the request's name: ListHoldsRequest, ListHoldsResponse."""
    name = request_type.DESCRIPTOR.full_name.removesuffix("Request") + "Response"
    return GetMessageClass(request_type.DESCRIPTOR.file.pool.FindMessageTypeByName(name))


def _with_name(options: argparse.Namespace, filters: dict[str, str], message_type: Any) -> dict[str, str]:
    """Return the filters with NAME among them: of holdings it is the account, otherwise the first field."""
    if options.name is not None:
        field = "account" if options.what == "holdings" else message_type.DESCRIPTOR.fields[0].name
        field = "instrument" if options.what == "supply" else field
        filters = {field: options.name, **filters}
    _check_filters(options.what, message_type, filters)
    return filters


def _check_filters(what: str, message_type: Any, filters: dict[str, str]) -> None:
    for name in filters:
        if name not in message_type.DESCRIPTOR.fields_by_name:
            raise UsageError(f"{what} cannot be narrowed down by {name}")


def _matching(items: Iterable[Any], filters: dict[str, str]) -> Iterator[Any]:
    return (item for item in items if all(str(getattr(item, name)) == value for name, value in filters.items()))


def _holders(books: Books, filters: dict[str, str]) -> Iterator[Any]:
    """Give all holders, or the one whose id is asked for: a list by id cannot be asked to narrow that down."""
    return _matching(books.read_all(accounts_pb2.ListHoldersRequest, country=filters.get("country", "")), filters)


def _supplies(books: Books, filters: dict[str, str]) -> Iterator[Any]:
    symbols = [filters["instrument"]] if "instrument" in filters else sorted(books.state.instruments)
    return (books.read(reserves_pb2.GetSupplyRequest(instrument=symbol)) for symbol in symbols)


def _holdings(books: Books, filters: dict[str, str]) -> Iterator[Any]:
    """Give the holdings of one account, of one holder's accounts, or of everybody, by instrument."""
    if "account" in filters:
        found: Iterable[Any] = books.read_all(accounts_pb2.ListHoldingsRequest, account=filters["account"])
    elif "holder" in filters:
        accounts = books.read_all(accounts_pb2.ListAccountsRequest, holder=filters["holder"])
        found = itertools.chain.from_iterable(
            books.read_all(accounts_pb2.ListHoldingsRequest, account=account.account) for account in accounts
        )
    else:
        symbols = [filters["instrument"]] if "instrument" in filters else sorted(books.state.instruments)
        found = itertools.chain.from_iterable(books.read_all(accounts_pb2.ListRegisterRequest, instrument=symbol) for symbol in symbols)
    return _matching(found, filters)


_SPECIAL: Final[dict[str, tuple[Any, Callable[[Books, dict[str, str]], Iterator[Any]]]]] = {
    "holders": (accounts_pb2.Holder, _holders),
    "supply": (reserves_pb2.GetSupplyResponse, _supplies),
    "holdings": (accounts_pb2.Holding, _holdings),
}


def _limit(options: argparse.Namespace) -> int | None:
    """Return how many lines are shown at most: 100 for people, all for machines, unless told."""
    if options.limit is None:
        return None if options.json else LIMIT_DEFAULT
    if options.limit < 0:
        raise UsageError(f"--limit is {options.limit}, it must not be below zero")
    return min(options.limit, sys.maxsize - 1) or None


def _print_items(options: argparse.Namespace, state: State, message_type: Any, items: Iterable[Any]) -> int:
    limit = _limit(options)
    source = iter(items)
    shown = list(itertools.islice(source, limit))
    more = limit is not None and next(source, None) is not None
    if options.json:
        key = options.what.replace("-", "_")
        print_json({"size": state.size, key: [as_json(item) for item in shown], "more": more})
        return DONE
    decimals = {symbol: instrument.decimals for symbol, instrument in state.instruments.items()}
    renderer = Renderer(message_type, decimals, raw_units=options.units)
    print_table(renderer.columns, [renderer.row(item) for item in shown], f"no {options.what.replace('-', ' ')} after {state.size} entries")
    if more:
        note(f"there are more than these {limit}; --limit 0 shows all")
    return DONE


# ---- the log -----------------------------------------------------------------------------------------------------------------------


def _show_log(log: Log, options: argparse.Namespace) -> int:
    _check_log_options(options)
    size = size_of(log, options.as_of_size, options.as_of_time)
    if options.name is not None:
        return _show_entry(log, size, options)
    start = max(size + options.from_index, 0) if options.from_index < 0 else options.from_index
    if start > size:
        raise refusal(Reason.REASON_INDEX_BEYOND_LOG, f"index {start} is beyond the log of {size}", index=start, size=size)
    if options.kind is not None and options.kind not in Entry.DESCRIPTOR.fields_by_name:
        kinds = [field.name for field in Entry.DESCRIPTOR.oneofs_by_name["event"].fields]
        raise UsageError(f"--kind {options.kind} is not an event{suggestion(options.kind, kinds)}")
    limit = _limit(options)
    entries = _entries(log, start, size, options)
    shown = itertools.islice(entries, limit)
    if options.json:
        for index, entry in shown:
            print(json_text(_entry_document(index, entry)))
        return DONE
    columns = [Column("index", right=True), Column("decided"), Column("principal"), Column("event"), Column("what")]
    print_table(columns, [_log_row(index, entry) for index, entry in shown], f"no such entry among {size}")
    if limit is not None and next(entries, None) is not None:
        note(f"there are more than these {limit}; --from-index and --limit show them")
    return DONE


def _entries(log: Log, start: int, stop: int, options: argparse.Namespace) -> Iterator[tuple[int, Entry]]:
    for index, _, data in log.read_checked(start, stop):
        entry = parse_entry(data, index)
        if options.kind is not None and entry.WhichOneof("event") != options.kind:
            continue
        if options.of_principal is not None and entry.principal != options.of_principal:
            continue
        yield index, entry


def _log_row(index: int, entry: Entry) -> list[str]:
    kind = entry.WhichOneof("event") or ""
    part = f" ({entry.part + 1} of {entry.part_count})" if entry.part_count else ""
    return [str(index), utc_text(entry.decision_time_us), entry.principal, kind + part, detail_of(getattr(entry, kind), _DETAIL_LENGTH)]


def _check_log_options(options: argparse.Namespace) -> None:
    """Refuse what has no meaning for the log: it would be ignored."""
    for name in _FILTERS:
        if name != "principal" and getattr(options, f"of_{name}") is not None:
            raise UsageError(f"log cannot be narrowed down by {name}")
    if options.name is not None and (options.kind is not None or options.of_principal is not None or options.from_index):
        raise UsageError("log INDEX shows one entry, which nothing else can narrow down")


def _show_entry(log: Log, size: int, options: argparse.Namespace) -> int:
    digits = options.name.lstrip("0") or options.name[:1]
    if not (digits.isascii() and digits.isdecimal()):
        raise UsageError(f"the index of an entry is a whole number, not {options.name!r}")
    if len(digits) > _INDEX_DIGITS_MAX or int(digits) >= size:
        raise refusal(Reason.REASON_INDEX_BEYOND_LOG, f"index {digits} is beyond the log of {size}", index=digits, size=size)
    index = int(digits)
    (_, _, data), *_ = log.read_checked(index, index + 1)
    print_json(_entry_document(index, parse_entry(data, index)))
    return DONE


def _entry_document(index: int, entry: Entry) -> dict[str, Any]:
    """Return an entry in JSON, with its time and its request id in the form in which people write them."""
    request_id = format_request_id(entry.request_id) if entry.request_id else ""
    return {"index": index, "decision_time": utc_text(entry.decision_time_us), "request_id": request_id, "entry": as_json(entry)}

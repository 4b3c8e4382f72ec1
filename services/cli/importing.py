"""`stockledger import`: instruments, holders with their accounts, and opening holdings from CSV.

An import may be run again at any time. What stands in the books already is compared with its line and left alone; what is new is asked
for under a request id made from its content, so that two imports at once book nothing twice either. Opening holdings are recognised in
the log itself, by instrument, account and reference.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ledger.arithmetic import UNITS_MAX
from ledger.errors import InvalidRequest, LedgerError, NotFound, refusal
from ledger.rules.instruments import DECIMALS_MAX
from services.cli.applying import Report, batches
from services.cli.approving import Clerk, Outcome, derived_request_id
from services.cli.lines import LIST_SEPARATOR, LineError, NotCsvError, cells_to_fields, csv_records, make_command
from services.cli.outcome import UsageError
from services.cli.output import Progress, parse_decimal_text
from services.cli.stores import open_books, settings_of
from services.settings import suggestion
from stockledger.v1.accounts_pb2 import GetAccountRequest, GetHolderRequest, OpenAccountRequest, RegisterHolderRequest
from stockledger.v1.approvals_pb2 import ListApprovalsRequest
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.instruments_pb2 import GetInstrumentRequest, InstrumentKind, RegisterInstrumentRequest
from stockledger.v1.issuance_pb2 import IssueUnitsRequest

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

    from ledger.engine import Ledger

BATCH: Final = 1000
ISSUE: Final = "IssueUnits"
OPENING_REFERENCE: Final = "opening holding"
Key = tuple[str, str, str]
"""What tells opening holdings apart: instrument, account, reference."""

_COMMON: Final = frozenset({"request_id", "validate_only", "not_after_time"})
_NOT_KEPT: Final = frozenset({"underlying_ticker", "underlying_name", "market_mic"})
"""Columns of lists of instruments that are about the market; the name may become the instrument's."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A command of a line, or what is wrong with the line."""

    where: str
    name: str
    command: Any
    error: str | LedgerError = ""


def run(options: argparse.Namespace) -> int:
    """Import what is given, in the order in which one needs the other, and report."""
    settings = settings_of(options)
    if not (options.instruments or options.holders or options.holdings):
        raise UsageError("nothing to import: give --instruments, --holders or --holdings")
    if not 0 <= options.decimals <= DECIMALS_MAX:
        raise UsageError(f"--decimals is {options.decimals}, it must be 0 to {DECIMALS_MAX}")
    if not 1 <= options.authorised <= UNITS_MAX:
        raise UsageError(f"--authorised is {options.authorised}, it must be 1 to {UNITS_MAX}")
    report = Report()
    with Progress("lines") as progress, contextlib.ExitStack() as opened:
        rows = {kind: _read_rows(getattr(options, kind)) for kind in ("instruments", "holders", "holdings") if getattr(options, kind)}
        books = opened.enter_context(open_books(settings, progress))
        importer = Importer(books, settings.principal, settings.approvers, report, progress)
        if "instruments" in rows:
            defaults = {"decimals": options.decimals, "backing": options.backing, "authorised": options.authorised}
            importer.carry_out("instruments", [_instrument(where, cells, defaults) for where, cells in rows["instruments"]])
        if "holders" in rows:
            importer.carry_out("holders", [_holder(where, cells) for where, cells in rows["holders"]])
            importer.carry_out("accounts", [wish for where, cells in rows["holders"] for wish in _accounts(where, cells)])
        if "holdings" in rows:
            importer.carry_out_issues(_opening_holdings(rows["holdings"], books))
        report.size = books.size
    return report.print(as_json=options.json)


class Importer:
    """Asks for what is not in the books yet."""

    def __init__(self, books: Ledger, principal: str, approvers: tuple[str, ...], report: Report, progress: Progress) -> None:
        self._books = books
        self._clerk = Clerk(books, principal, approvers)
        self._report = report
        self._progress = progress
        self._issued: dict[Key, int] = {}
        self._pending: dict[Key, tuple[int, int]] = {}
        _, first = next(books.tail())
        self._opened_ms = first.decision_time_us // 1000

    def carry_out(self, what: str, wishes: list[Wish]) -> None:
        """Carry out wishes that do not need one another, a batch at a time."""
        done = 0
        for batch in batches(wishes, BATCH):
            new = [wish for wish in batch if self._is_new(wish)]
            for wish, outcome in zip(new, self._ask([wish.command for wish in new]), strict=True):
                self._report.add(wish.where, wish.name, outcome)
            done += len(batch)
            self._progress(what, done, len(wishes))

    def carry_out_issues(self, wishes: list[Wish]) -> None:
        """Issue opening holdings, after looking in the log for those of earlier imports."""
        self._issued, self._pending = issued_before(self._books), waiting_issues(self._books)
        self.carry_out("holdings", wishes)

    def _is_new(self, wish: Wish) -> bool:
        """Say whether a wish must be asked for; report it, if it is in the books already or cannot be."""
        if isinstance(wish.error, LedgerError):
            self._report.add(wish.where, wish.name, Outcome("refused", error=wish.error))
            return False
        if wish.command is None:
            self._report.add_malformed(wish.where, wish.name, wish.error)
            return False
        there = self._in_books(wish.command)
        if there is None:
            return True
        differences = [name for name, value in there.items() if getattr(wish.command, name) != value]
        if differences:
            told = ", ".join(f"{name} is {there[name]!r}, the line says {getattr(wish.command, name)!r}" for name in differences)
            error = refusal(Reason.REASON_ALREADY_EXISTS, f"it is in the books with other content: {told}", field=differences[0])
            self._report.add(wish.where, wish.name, Outcome("refused", error=error))
        elif wish.name == ISSUE and _key(wish.command) in self._pending:
            self._report.add(wish.where, wish.name, self._clerk.approve(self._pending[_key(wish.command)][1]))
        else:
            self._report.add(wish.where, wish.name, Outcome("booked before"))
        return False

    def _in_books(self, command: Any) -> dict[str, Any] | None:
        """Return what the books have of the thing a command would make, by the command's fields; None if there is no such thing.

        Of an id that is none nothing can be there either: the command itself is then refused, with its own reason.
        """
        if isinstance(command, IssueUnitsRequest):
            units = self._issued.get(_key(command)) or self._pending.get(_key(command), (None,))[0]
            return None if units is None else {"units": units}
        read, field = _READS[type(command)]
        try:
            message = getattr(self._books.execute(read(command)), field)
        except (InvalidRequest, NotFound):
            return None
        known = message.DESCRIPTOR.fields_by_name
        return {name.name: getattr(message, name.name) for name, _ in command.ListFields() if name.name in known}

    def _ask(self, commands: list[Any]) -> list[Outcome]:
        """Ask for commands under ids made from their content and the moment the ledger was opened: the same whenever they are asked for.

        Once that moment is beyond the request window, what is in the books alone tells what was imported before.
        """
        base = self._opened_ms.to_bytes(6, "big")
        for command in commands:
            content = command.SerializeToString(deterministic=True).hex()
            command.request_id = derived_request_id(base, "import", command.DESCRIPTOR.full_name, content)
        outcomes = self._clerk.ask_together(commands)
        expired = [n for n, outcome in enumerate(outcomes) if outcome.error and outcome.error.reason == Reason.REASON_REQUEST_ID_EXPIRED]
        for position in expired:
            commands[position].request_id = ""
        for position, outcome in zip(expired, self._clerk.ask_together([commands[n] for n in expired]), strict=True):
            outcomes[position] = outcome
        return outcomes


_READS: Final[dict[type[Any], tuple[Callable[[Any], Any], str]]] = {
    RegisterInstrumentRequest: (lambda command: GetInstrumentRequest(instrument=command.symbol), "instrument"),
    RegisterHolderRequest: (lambda command: GetHolderRequest(holder=command.holder), "holder"),
    OpenAccountRequest: (lambda command: GetAccountRequest(account=command.account), "account"),
}
"""What a command would make -> the read that finds it, and the field of the answer it stands in."""


def _key(command: Any) -> Key:
    return (command.instrument, command.account, command.reference)


def issued_before(books: Ledger) -> dict[Key, int]:
    """Return the units of every direct issue in the log; it is read once, from its first entry."""
    return {_key(entry.units_issued): entry.units_issued.units for _, entry in books.tail() if entry.WhichOneof("event") == "units_issued"}


def waiting_issues(books: Ledger) -> dict[Key, tuple[int, int]]:
    """Return every direct issue that waits for approval: its units, and the number of the approval."""
    found = {}
    token, more = "", True
    while more:
        answer = books.execute(ListApprovalsRequest(page_size=1000, page_token=token))
        for approval in answer.approvals:
            if approval.command == ISSUE:
                command = IssueUnitsRequest.FromString(approval.content)
                found[_key(command)] = (command.units, approval.approval)
        token = answer.next_page_token
        more = bool(token)
    return found


# ---- lines -> wishes ---------------------------------------------------------------------------------------------------------------


def _instrument(where: str, cells: dict[str, str], defaults: dict[str, Any]) -> Wish:
    """Make RegisterInstrument of a line; the columns of an exchange's list of securities are understood as they are."""
    name = "RegisterInstrument"
    try:
        wanted = {column: cell for column, cell in cells.items() if column not in _NOT_KEPT}
        wanted.setdefault("name", cells.get("underlying_name", ""))
        _check_columns(name, wanted, set(RegisterInstrumentRequest.DESCRIPTOR.fields_by_name) - _COMMON)
        fields = cells_to_fields(RegisterInstrumentRequest, {column: cell for column, cell in wanted.items() if cell})
        fields.setdefault("decimals", defaults["decimals"])
        if "backing" not in fields:
            fields |= cells_to_fields(RegisterInstrumentRequest, {"backing": defaults["backing"]})
        fields.setdefault("authorised_units", defaults["authorised"] * 10 ** _decimals(str(fields["decimals"])))
        if fields.get("kind") == InstrumentKind.Name(InstrumentKind.INSTRUMENT_KIND_CASH):
            fields.setdefault("currency", fields.get("symbol", ""))
        return Wish(where, name, make_command(name, fields))
    except (LineError, ValueError) as error:
        return Wish(where, name, None, str(error))


def _decimals(cell: str) -> int:
    """Return decimals that an instrument may have: whoever raises 10 to them must not do it for hours."""
    digits = cell.lstrip("0") or cell[:1]
    if not (len(digits) == 1 and digits.isascii() and digits.isdecimal() and int(digits) <= DECIMALS_MAX):
        raise LineError(f"decimals is {cell}, it must be 0 to {DECIMALS_MAX}")
    return int(digits)


def _holder(where: str, cells: dict[str, str]) -> Wish:
    name = "RegisterHolder"
    try:
        _check_columns(name, cells, {"holder", "country", "investor_class", "accounts"})
        wanted = {column: cell for column, cell in cells.items() if cell and column != "accounts"}
        return Wish(where, name, make_command(name, cells_to_fields(RegisterHolderRequest, wanted)))
    except LineError as error:
        return Wish(where, name, None, str(error))


def _accounts(where: str, cells: dict[str, str]) -> Iterator[Wish]:
    for account in cells.get("accounts", "").split(LIST_SEPARATOR):
        if account.strip():
            yield Wish(where, "OpenAccount", OpenAccountRequest(account=account.strip(), holder=cells.get("holder", "")))


def _opening_holdings(rows: list[tuple[str, dict[str, str]]], books: Ledger) -> list[Wish]:
    """Make IssueUnits of each line; two lines for one thing are refused, since nobody can tell which is meant."""
    wishes: list[Wish] = []
    seen: dict[Key, str] = {}
    for where, cells in rows:
        try:
            command = _issue(cells, books)
            first = seen.setdefault(_key(command), where)
            if first != where:
                raise LineError(f"{first} has an opening holding of {command.instrument} in {command.account} already")  # noqa: TRY301
            wishes.append(Wish(where, ISSUE, command))
        except (InvalidRequest, NotFound) as error:
            wishes.append(Wish(where, ISSUE, None, error))
        except (LineError, ValueError) as error:
            wishes.append(Wish(where, ISSUE, None, str(error)))
    return wishes


def _issue(cells: dict[str, str], books: Ledger) -> Any:
    _check_columns(ISSUE, cells, {"instrument", "account", "units", "quantity", "reference"})
    fields: dict[str, Any] = {column: cell for column, cell in cells.items() if cell and column != "quantity"}
    quantity = cells.get("quantity", "")
    if bool(quantity) == ("units" in fields):
        raise LineError("it must have either units or a quantity")
    if quantity:
        instrument = books.execute(GetInstrumentRequest(instrument=cells.get("instrument", ""))).instrument
        fields["units"] = parse_decimal_text(quantity, instrument.decimals)
    fields.setdefault("reference", OPENING_REFERENCE)
    return make_command(ISSUE, fields)


def _check_columns(name: str, cells: Mapping[str, str], known: set[str]) -> None:
    for column in cells:
        if column not in known:
            raise LineError(f"{name} takes no column {column}{suggestion(column, known)}")


def _read_rows(path: str) -> list[tuple[str, dict[str, str]]]:
    """Read a CSV with a header as (file:line, cells by column)."""
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            records = csv_records(file)
            header = [title.strip() for title in next(records, (1, []))[1]]
            rows = [(f"{Path(path).name}:{number}", cells) for number, cells in records]
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except NotCsvError as error:
        raise UsageError(f"{path}:{error.number} is not CSV: {error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not text in UTF-8: {error}") from error
    for title in header:
        if header.count(title) > 1:
            raise UsageError(f"the header of {path} names the column {title} twice")
    for where, cells in rows:
        if len(cells) != len(header):
            raise UsageError(f"{where} has {len(cells)} cells, the header {len(header)}")
    return [(where, dict(zip(header, map(str.strip, cells), strict=True))) for where, cells in rows]

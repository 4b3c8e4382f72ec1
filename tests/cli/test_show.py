from __future__ import annotations

import json

import pytest
from actions import dividend
from command_line import HOUR_US, entries_of, fill_books
from durable import fund
from on_chains import A, bound, deploy, register
from scenario import FixedClock

from ledger import Ledger
from services.cli.output import decimal_text, parse_decimal_text, ratio_text
from stockledger.v1.accounts_pb2 import FreezeAccountRequest
from stockledger.v1.approvals_pb2 import ApproveCommandRequest
from stockledger.v1.corporate_actions_pb2 import ExecuteActionRequest, FixEntitlementsRequest
from stockledger.v1.instruments_pb2 import SetMultiplierRequest
from stockledger.v1.transfers_pb2 import TransferUnitsRequest


@pytest.fixture
def show(run, books_at):
    """Show something of the small story, as of its end: then nothing depends on the hour of the test."""
    with Ledger.open(books_at, read_only=True) as books:
        size = books.size
    return lambda *arguments: run("show", *arguments, "--as-of-size", size, "--store", books_at)


GOLDEN = {
    ("instruments",): """
symbol  name             kind   underlying isin  decimals  multiplier    authorised units  halted operations  retired
------  ---------------  -----  ---------------  --------  ----------  ------------------  -----------------  -------
AAPLx   AAPLx tokenised  stock  US0378331005            8           1  100,000,000.00000000
USDC    USDC cash        cash                           6           1  10,000,000,000.000000
""",
    ("register", "AAPLx"): """
instrument  account          holder         units  held units  frozen units  free units
----------  ---------------  ------  ------------  ----------  ------------  ----------
AAPLx       ledger:issuance          -10.50000000  0.00000000    0.00000000  0.00000000
AAPLx       book:alice       h-1       9.00000000  0.00000000    0.00000000  9.00000000
AAPLx       book:bob         h-2       1.50000000  0.00000000    0.00000000  1.50000000
""",
    ("holdings", "--holder", "h-2", "--units"): """
instrument  account   holder        units  held units  frozen units   free units
----------  --------  ------  -----------  ----------  ------------  -----------
AAPLx       book:bob  h-2     150,000,000           0             0  150,000,000
""",
    ("supply", "AAPLx"): """
instrument  supply units      authorised units  multiplier
----------  ------------  --------------------  ----------
AAPLx        10.50000000  100,000,000.00000000           1
""",
    ("holders",): """
holder  country  investor class  state   freeze reference  broker
------  -------  --------------  ------  ----------------  ------
h-1     DE       retail          active
h-2     FR       retail          active
""",
    ("accounts", "--holder", "h-1"): """
account     number  holder  closed  freeze reference
----------  ------  ------  ------  ----------------
book:alice      16  h-1
""",
    ("holds",): "no holds after 16 entries",
}


def _words(table: str) -> list[list[str]]:
    """Return the words of a table: what stands where is the business of one test, not of all."""
    return [line.split() for line in table.strip().splitlines() if not line.startswith("---")]


@pytest.mark.parametrize("arguments", GOLDEN, ids=" ".join)
def test_golden_tables(show, arguments):
    done = show(*arguments)
    assert (done.code, done.err) == (0, "")
    assert _words(done.out) == _words(GOLDEN[arguments])


def test_reserves_name_their_evidence(show):
    titles, _, row = show("reserves").lines
    assert titles.split("  ")[0] == "instrument"
    assert row.split("  ")[0] == "AAPLx"
    assert row.endswith("custodian_signed by alpaca until 2026-11-23T18:00:00Z")
    assert row.split()[1:6] == ["1,000", "0", "0", "1,000", "10.5"]


def test_evidence_is_stale_at_the_moment_asked_for(run, books_at):
    def stale(*when):
        (reserve,) = run("show", "reserves", "AAPLx", "--json", "--store", books_at, *when).json["reserves"]
        return reserve["evidence"][0]["stale"]

    assert not stale("--as-of-time", "2026-11-23T17:59:59Z")
    assert stale("--as-of-time", "2026-11-23T18:00:00Z")
    assert stale()
    with Ledger.open(books_at, read_only=True) as books:
        assert not stale("--as-of-size", books.size)


def test_columns_are_aligned_and_numbers_stand_right(show):
    lines = show("supply").lines
    assert lines == [
        "instrument  supply units       authorised units  multiplier",
        "----------  ------------  ---------------------  ----------",
        "AAPLx        10.50000000   100,000,000.00000000           1",
        "USDC            0.000000  10,000,000,000.000000           1",
    ]


def test_every_list_there_is_can_be_shown(run, show):
    told = run("show").err
    names = told.rpartition(": ")[2].strip().split(", ")
    assert {"instruments", "holders", "register", "approvals", "approval-policies", "roles", "log"} <= set(names)
    for name in names:
        arguments = ("AAPLx",) if name in ("register", "eligibility") else ()
        done = show(name, *arguments, "--json")
        assert done.code == 0, done.err
        if name != "log":
            assert done.json["size"] == 16


def test_json_has_everything_in_protobuf_json(show):
    answer = show("register", "AAPLx", "--json").json
    assert answer["more"] is False
    assert answer["register"][2] == {
        "instrument": "AAPLx",
        "account": "book:bob",
        "holder": "h-2",
        "units": "150000000",
        "held_units": "0",
        "frozen_units": "0",
        "free_units": "150000000",
    }


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (("holders", "--json"), 2),
        (("holders", "h-2", "--json"), 1),
        (("holders", "--country", "FR", "--json"), 1),
        (("holders", "--country", "FR", "--holder", "h-1", "--json"), 0),
        (("holders", "--broker", "broker-a", "--json"), 0),
        (("holdings", "--json"), 3),
        (("holdings", "book:bob", "--json"), 1),
        (("holdings", "--instrument", "USDC", "--json"), 0),
        (("holdings", "--instrument", "AAPLx", "--holder", "h-1", "--json"), 1),
        (("register", "--instrument", "AAPLx", "--account", "book:bob", "--json"), 1),
        (("instruments", "USDC", "--json"), 1),
        (("supply", "--json"), 2),
        (("custodians", "alpaca", "--json"), 1),
        (("accounts", "--limit", "3", "--json"), 3),
        (("roles", "nobody", "--json"), 0),
        (("approval-policies", "TransferUnits", "--json"), 0),
        (("reserves", "USDC", "--json"), 0),
        (("holders", "--country", "CH", "--json"), 0),
        (("holders", "--broker", "", "--json"), 2),
        (("instruments", "--limit", "9" * 30, "--json"), 2),
    ],
)
def test_filters(show, arguments, count):
    answer = show(*arguments).json
    assert len(answer[arguments[0].replace("-", "_")]) == count


OF_INSTRUMENTS = (
    *((what, "NOPE") for what in ("instruments", "register", "eligibility", "supply", "reserves", "custody-accounts", "actions", "places")),
    ("multiplier-changes", "NOPE"),
    *(
        (what, "--instrument", "NOPE")
        for what in ("holdings", "deployments", "instructions", "divergences", "receivables", "owed", "holds")
    ),
    ("holdings", "book:bob", "--instrument", "NOPE"),
)
OF_ACCOUNTS = (
    *((what, "9999") for what in ("holds", "holdings", "subscriptions", "redemptions")),
    *((what, "--account", "book:zoe") for what in ("accounts", "divergences", "deposit-addresses", "owed")),
    ("register", "AAPLx", "--account", "book:zoe"),
)
OF_HOLDERS = (
    *((what, "h-9") for what in ("holders", "accounts", "receivables")),
    *((what, "--holder", "h-9") for what in ("holdings", "owed")),
    ("register", "AAPLx", "--holder", "h-9"),
)
OF_CHAINS = (
    *((what, "eip155:7") for what in ("chains", "deployments", "chain-keys", "deposit-addresses", "transactions", "divergences")),
    *((what, "--chain", "eip155:7") for what in ("instructions", "deployments")),
)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("register", "ZZZx"), 1, "INSTRUMENT_NOT_FOUND: no instrument 'ZZZx'"),
        (("register",), 1, "FIELD_MISSING: instrument is empty"),
        (("holdings", "book:zoe"), 1, "ACCOUNT_NOT_FOUND: no account 'book:zoe'"),
        *((what, 1, f"INSTRUMENT_NOT_FOUND: no instrument '{what[-1]}'") for what in OF_INSTRUMENTS),
        *((what, 1, f"ACCOUNT_NOT_FOUND: no account '{what[-1]}'") for what in OF_ACCOUNTS),
        *((what, 1, f"HOLDER_NOT_FOUND: no holder '{what[-1]}'") for what in OF_HOLDERS),
        *((what, 1, f"CHAIN_NOT_FOUND: no chain '{what[-1]}'") for what in OF_CHAINS),
        (("chains", "ethereum"), 1, "FIELD_MALFORMED: chain 'ethereum'"),
        (("custodians", "nobody"), 1, "CUSTODIAN_NOT_FOUND: no custodian 'nobody'"),
        (("owed", "DVCA"), 1, "ACTION_NOT_FOUND: no corporate action 'DVCA'"),
        (("approvals", "abc"), 1, "APPROVAL_NOT_FOUND: no pending approval 'abc'"),
        (("approvals", "1"), 1, "APPROVAL_NOT_FOUND: no pending approval '1'"),
        (("approval-policies", "IssueUnit"), 64, "IssueUnit is not a command (did you mean IssueUnits?)"),
        (("holders", "--country", "Germany"), 1, "FIELD_MALFORMED: country 'Germany' is not two capital letters"),
        (("deployments", "--instrument", ""), 64, "--instrument is empty"),
        (("holders", ""), 64, "NAME is empty"),
        (("supply", "--holder", "h-1"), 64, "supply cannot be narrowed down by holder"),
        (("accounts", "--country", "DE"), 64, "accounts cannot be narrowed down by country"),
        (("holding",), 64, "'holding' is not among them (did you mean holdings?)"),
        (("log", "x"), 64, "the index of an entry is a whole number, not 'x'"),
        (("log", "16"), 1, "INDEX_BEYOND_LOG: index 16 is beyond the log of 16"),
        (("log", "9" * 5000), 1, "INDEX_BEYOND_LOG: index 999"),
        (("log", "--from-index", "17"), 1, "INDEX_BEYOND_LOG: index 17 is beyond the log of 16"),
        (("log", "--kind", "unit_transferred"), 64, "--kind unit_transferred is not an event (did you mean units_transferred?)"),
        (("log", "--instrument", "AAPLx"), 64, "log cannot be narrowed down by instrument"),
        (("log", "3", "--principal", "carol"), 64, "log INDEX shows one entry"),
        (("log", "--as-of-time", "2026-11-22"), 64, "--as-of-size and --as-of-time exclude one another"),
        (("holders", "--kind", "units_issued"), 64, "--kind and --from-index are of the log"),
        (("holders", "--from-index", "-1"), 64, "--kind and --from-index are of the log"),
        (("holders", "--limit", "-1"), 64, "--limit is -1, it must not be below zero"),
    ],
)
def test_what_cannot_be_shown_is_said(show, arguments, code, message):
    done = show(*arguments)
    assert done.code == code
    assert message in done.err


def test_as_of_a_size_and_a_moment(run, books_at):
    shown = lambda *when: run("show", "instruments", "--json", "--store", books_at, *when).json  # noqa: E731
    assert [each["symbol"] for each in shown("--as-of-size", 2)["instruments"]] == ["AAPLx"]
    assert shown("--as-of-time", "2026-11-22T18:00:00.000001Z")["size"] == 2
    assert shown("--as-of-time", "2026-11-22")["size"] == 0
    assert shown("--as-of-time", "2026-11-22T19:00:00+01:00")["size"] == 1
    assert run("show", "holders", "--store", books_at, "--as-of-size", 17).code == 1
    assert run("show", "holders", "--store", books_at, "--as-of-time", "yesterday").code == 64
    assert run("show", "holders", "--store", books_at, "--as-of-time", "2026-11-22", "--as-of-size", 1).code == 64


def test_a_snapshot_is_used_unless_it_is_beyond(run, books_at):
    assert run("snapshot", "--store", books_at).code == 0
    assert len(run("show", "instruments", "--json", "--store", books_at).json["instruments"]) == 2
    assert len(run("show", "instruments", "--json", "--store", books_at, "--as-of-size", 2).json["instruments"]) == 1


def test_more_than_the_limit_is_said(show):
    done = show("accounts", "--limit", 2)
    assert len(done.lines) == 4
    assert done.err == "there are more than these 2; --limit 0 shows all\n"


def test_the_log_is_a_table_or_lines_of_json(run, books_at):
    table = run("show", "log", "--from-index", -1, "--store", books_at)
    assert table.lines[2].split()[:4] == ["15", "2026-11-22T18:00:00.000013Z", "operator", "units_transferred"]
    assert table.lines[2].endswith("instrument=AAPLx source=book:alice destination=book:bob units=150000000 reference=first")
    lines = [json.loads(line) for line in run("show", "log", "--json", "--store", books_at).lines]
    assert [line["index"] for line in lines] == list(range(len(entries_of(books_at))))
    assert lines[0]["entry"]["ledger_opened"]["ledger"] == "acme"
    as_of = lambda *when: run("show", "log", *when, "--json", "--store", books_at)  # noqa: E731
    assert len(as_of("--as-of-size", 2).lines) == len(as_of("--as-of-time", "2026-11-22T18:00:00.000001Z").lines) == 2
    assert (as_of("--as-of-size", 99).code, as_of("--as-of-size", -1).code, as_of(2, "--as-of-size", 2).code) == (1, 1, 1)
    by_kind = run("show", "log", "--kind", "units_issued", "--json", "--store", books_at)
    assert [json.loads(line)["index"] for line in by_kind.lines] == [14]
    by_carol = run("show", "log", "--principal", "carol", "--json", "--store", books_at)
    assert [json.loads(line)["index"] for line in by_carol.lines] == [8, 9, 13, 14]
    one = run("show", "log", 15, "--store", books_at).json
    assert one["entry"]["units_transferred"]["units"] == "150000000"
    assert one["decision_time"] == "2026-11-22T18:00:00.000013Z"
    assert one["request_id"][14] == "7"


@pytest.mark.parametrize(
    ("units", "decimals", "text"),
    [
        (150_000_000, 8, "1.50000000"),
        (-123_456_789_012, 8, "-1,234.56789012"),
        (5, 0, "5"),
        (1_234_567, 0, "1,234,567"),
        (1, 6, "0.000001"),
    ],
)
def test_units_are_written_with_their_decimals(units, decimals, text):
    assert decimal_text(units, decimals) == text
    assert parse_decimal_text(text.replace(",", "").removeprefix("-"), decimals) == abs(units)


@pytest.mark.parametrize(
    ("value", "text"), [(10**18, "1"), (10**19, "10"), (999_500_000_000_000_000, "0.9995"), (10**22, "10,000"), (0, "0"), (1, f"0.{1:018}")]
)
def test_a_ratio_is_written_without_trailing_zeros(value, text):
    assert ratio_text(value, 18) == text


def test_a_number_of_thousands_of_digits_is_refused():
    assert parse_decimal_text("0" * 5000 + "9" * 19 + ".5", 1) == 10**20 - 5
    with pytest.raises(ValueError, match="a number of 5000 digits is more than can be counted"):
        parse_decimal_text("9" * 5000, 8)


@pytest.mark.parametrize("text", ["", ".", "1.", ".5", "1,5", "1e3", "+1", "-1", "1.5.5", "0.000000001", "१"])
def test_what_is_no_decimal_number_is_refused(text):
    with pytest.raises(ValueError, match=r"is not a number such as|has more than 8 decimals"):
        parse_decimal_text(text, 8)


def test_what_actions_owe_is_shown_in_cash(run, place):
    url = f"sqlite:///{place / 'owed.db'}"
    clock = FixedClock()
    with Ledger.open(url, ledger_id="acme", clock=clock) as books:
        fill_books(books, clock.wall_us())
        books.execute(FreezeAccountRequest(account="book:alice", legal_reference="order 7"))
        fund(books, "USDC", "book:bob", 10**9)
        books.execute(dividend({"funding_account": "book:bob", "withholding": []}, action="DVCA"))
        clock.pass_time(HOUR_US)
        books.execute(FixEntitlementsRequest(action="DVCA"))
        clock.pass_time(HOUR_US)
        waiting = books.execute(ExecuteActionRequest(action="DVCA"))
        books.execute(ApproveCommandRequest(approval=waiting.booking.approval), principal="carol")
    done = run("show", "owed", "DVCA", "--store", url, "--as-of-time", "2026-11-23")
    assert (done.code, done.err) == (0, "")
    titles, _, row = done.lines
    assert titles.split("  ")[0] == "action"
    assert row.split()[:8] == ["DVCA", "AAPLx", "book:alice", "h-1", "USDC", "2.250000", "0.000000", "0.000000"]
    assert row.endswith("ACCOUNT_FROZEN  book:alice is frozen (order 7)")
    assert run("show", "owed", "--holder", "h-2", "--store", url, "--json").json["owed"] == []


def test_when_multipliers_took_effect(run, books_at):
    with Ledger.open(books_at) as books:
        request = SetMultiplierRequest(instrument="AAPLx", expected_multiplier=str(10**18), multiplier=str(15 * 10**17), cause="x")
        answer = books.execute(request)
        books.execute(ApproveCommandRequest(approval=answer.booking.approval), principal="approver")
    shown = run("show", "multiplier-changes", "AAPLx", "--store", books_at)
    (row,) = [row for row in _words(shown.out) if row[:1] == ["AAPLx"]]
    assert row[:4] == ["AAPLx", "book", "1", "1.5"]
    assert "old multiplier" in shown.out
    assert "no multiplier changes" in run("show", "multiplier-changes", "USDC", "--store", books_at).out


def test_places_and_what_is_to_be_done_there(run, books_at):
    with Ledger.open(books_at) as books:
        wallet = bound("alice", "h-1", ledger_id=books.ledger_id)
        send = TransferUnitsRequest(instrument="AAPLx", source="book:alice", destination=wallet.account, units=150_000_000)
        for command in (register(), deploy(allotment_units=10**9), wallet, send):
            answer = books.execute(command)
            if answer.booking.approval:
                books.execute(ApproveCommandRequest(approval=answer.booking.approval), principal="approver")
    places = _words(run("show", "places", "AAPLx", "--store", books_at).out)
    assert ["AAPLx", "book", "9.00000000", "0.00000000", "0.00000000"] in places
    assert ["AAPLx", A, "0.00000000", "1.50000000", "0.00000000"] in places
    shown = [row[1:5] for row in _words(run("show", "instructions", "--chain", A, "--store", books_at).out)]
    assert [A, "AAPLx", "set_allotment", "10.00000000"] in shown
    assert [A, "AAPLx", "mint", "1.50000000"] in shown
    assert "no transactions" in run("show", "transactions", "--chain", A, "--store", books_at).out
    for what in ("chains", "deployments", "chain-keys", "deposit-addresses", "transactions", "divergences"):
        assert run("show", what, "--chain", A, "--store", books_at).code == 0

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from command_line import CUSTODIAN_KEY, HOUR_US, evidence
from scenario import FixedClock

from ledger import Ledger
from stockledger.v1.approvals_pb2 import ApproveCommandRequest
from stockledger.v1.reserves_pb2 import OpenCustodyAccountRequest, RegisterCustodianRequest

STORE = ("--store", "sqlite:///books.db", "--json")
LISTED = Path(__file__).resolve().parents[2] / "examples" / "data" / "instruments.csv"
HOLDERS = """holder,country,investor_class,accounts
h-1,DE,retail,book:alice
h-2,FR,INVESTOR_CLASS_PROFESSIONAL,book:bob; book:bob-2
h-3,CH,institution,
"""
HOLDINGS = """instrument,account,quantity,units,reference
AAPLx,book:alice,1.5,,
AAPLx,book:bob,,25,
AAPLx,book:bob,,26,DTC 8841
"""


@pytest.fixture
def files(place):
    shutil.copy(LISTED, place / "instruments.csv")
    (place / "holders.csv").write_text(HOLDERS)
    (place / "holdings.csv").write_text(HOLDINGS)
    return ("--instruments", "instruments.csv", "--holders", "holders.csv")


def counts(done) -> tuple[int, int, int]:
    return (done.json["booked"], done.json["booked_before"], done.json["refused"])


def attest(shares: int) -> None:
    """Record evidence behind AAPLx."""
    with Ledger.open("sqlite:///books.db") as books:
        waiting = books.execute(RegisterCustodianRequest(custodian="alpaca", name="Alpaca", public_key=bytes(CUSTODIAN_KEY.verify_key)))
        books.execute(ApproveCommandRequest(approval=waiting.booking.approval), principal="carol")
        books.execute(
            OpenCustodyAccountRequest(custody_account="alpaca/AAPLx", custodian="alpaca", isin="US0378331005", instrument="AAPLx")
        )
        books.execute(evidence(shares, at_us=time.time_ns() // 1000, ledger_id=books.ledger_id))


def test_the_list_of_an_exchange_is_taken_as_it_is(run, files):
    done = run("import", *files, *STORE)
    assert (done.code, counts(done)) == (0, (77 + 3 + 3, 0, 0))
    with Ledger.open("sqlite:///books.db", read_only=True) as books:
        state = books.state_at(size=books.size)
    apple = state.instruments["AAPLx"]
    assert (apple.name, apple.underlying_isin, apple.decimals, apple.authorised_units) == ("Apple Inc.", "US0378331005", 8, 10**17)
    assert state.accounts["book:bob-2"].holder == "h-2"


def test_a_second_import_changes_nothing(run, files):
    size = run("import", *files, *STORE).json["size"]
    done = run("import", *files, *STORE)
    assert (done.code, counts(done), done.json["size"]) == (0, (0, 83, 0), size)


def test_what_differs_from_the_books_is_refused(run, files, place):
    run("import", *files, *STORE)
    (place / "holders.csv").write_text(HOLDERS.replace("h-1,DE", "h-1,AT"))
    done = run("import", "--holders", "holders.csv", *STORE)
    assert (done.code, counts(done)) == (1, (0, 5, 1))
    (refused,) = done.json["refusals"]
    assert (refused["line"], refused["reason"]) == ("holders.csv:2", "ALREADY_EXISTS")
    assert refused["message"] == "it is in the books with other content: country is 'DE', the line says 'AT'"


def test_columns_may_say_more(run, place):
    (place / "i.csv").write_text(
        "symbol,name,kind,currency,underlying_isin,decimals,backing,authorised_units,split_method\n"
        "USDC,US dollar coin,cash,,,6,omnibus,1000000,\n"
        "AAPLx,Apple,stock,,US0378331005,,,,multiplier\n"
    )
    assert run("import", "--instruments", "i.csv", "--decimals", 4, "--authorised", 7, *STORE).code == 0
    with Ledger.open("sqlite:///books.db", read_only=True) as books:
        instruments = books.state_at(size=books.size).instruments
    dollar, apple = instruments["USDC"], instruments["AAPLx"]
    assert (dollar.currency, dollar.decimals, dollar.backing, dollar.authorised_units) == ("USDC", 6, 3, 1_000_000)
    assert (apple.decimals, apple.authorised_units, apple.split_method) == (4, 70_000, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("symbol,kind\nAAPLx,share\n", "kind is 'share', it must be one of stock"),
        ("symbol,isins\nAAPLx,x\n", "RegisterInstrument takes no column isins (did you mean isin?)"),
        ("symbol,request_id\nAAPLx,x\n", "RegisterInstrument takes no column request_id"),
        ("symbol,name,kind,underlying_isin\nAAPLx,Apple,stock,US0378331006\n", "check digit"),
        ("symbol,decimals\nAAPLx,400000000\n", "decimals is 400000000, it must be 0 to 8"),
        ("symbol,decimals\nAAPLx,9\n", "decimals is 9, it must be 0 to 8"),
        ("symbol,decimals\nAAPLx,-1\n", "decimals is -1, it must be 0 to 8"),
        ("symbol,decimals\nAAPLx,8.0\n", "decimals is 8.0, it must be 0 to 8"),
        (f"symbol,decimals\nAAPLx,{'9' * 5000}\n", "decimals is 999"),
    ],
)
def test_a_bad_line_of_instruments_is_named(run, place, content, message):
    (place / "i.csv").write_text(content)
    done = run("import", "--instruments", "i.csv", *STORE)
    assert done.code == 1
    assert done.json["refusals"][0]["line"] == "i.csv:2"
    assert message in done.json["refusals"][0]["message"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--decimals", "400000000"), "--decimals is 400000000, it must be 0 to 8"),
        (("--decimals", "-1"), "--decimals is -1, it must be 0 to 8"),
        (("--authorised", "0"), "--authorised is 0, it must be 1 to 4611686018427387904"),
        (("--authorised", "9" * 4000), "--authorised is 999"),
    ],
)
def test_an_option_out_of_its_range_is_refused(run, files, place, option, message):
    done = run("import", *files, *option, *STORE)
    assert done.code == 64
    assert done.json["error"]["message"].startswith(message)
    assert not (place / "books.db").exists()


@pytest.mark.parametrize("content", ["a,b\n1\n", "a,b\n1,2,3\n", 'a,b\n"1,2\n'])
def test_a_file_that_is_no_table_is_refused_as_a_whole(run, place, content):
    (place / "i.csv").write_text(content)
    assert run("import", "--instruments", "i.csv", *STORE).code == 64
    assert not (place / "books.db").exists()


@pytest.mark.parametrize("header", ["symbol,name,name", "symbol,name, name"])
def test_a_header_that_names_a_column_twice_is_refused(run, place, header):
    (place / "i.csv").write_text(f"{header}\nAAPLx,Apple,Orange\n")
    done = run("import", "--instruments", "i.csv", *STORE)
    assert (done.code, done.json["error"]["message"]) == (64, "the header of i.csv names the column name twice")
    assert not (place / "books.db").exists()


def test_a_quote_that_is_not_closed_is_named(run, place):
    (place / "h.csv").write_text('holder,country\nh-1,DE\n\nh-2,"FR\nh-3,CH\n')
    message = "h.csv:4 is not CSV: unexpected end of data on line 5; perhaps its quote is not closed"
    assert run("import", "--holders", "h.csv", *STORE).json["error"]["message"] == message


def test_an_empty_id_is_refused_and_the_others_are_booked(run, place):
    (place / "i.csv").write_text("symbol,name,kind,underlying_isin\n,Apple,stock,US0378331005\nAAPLx,Apple,stock,US0378331005\n")
    (place / "h.csv").write_text("holder,country,investor_class,accounts\n,DE,retail,book:alice\nh-2,FR,retail,book:bob\n")
    (place / "o.csv").write_text("instrument,account,quantity\n,book:bob,1\nAAPLx,book:bob,2\n")
    done = run("import", "--instruments", "i.csv", "--holders", "h.csv", "--holdings", "o.csv", *STORE)
    assert (done.code, counts(done)) == (1, (3, 0, 5))
    *empty, other = done.json["refusals"]
    assert (other["line"], other["reason"]) == ("o.csv:3", "ATTESTATION_STALE")
    assert [(each["line"], each["command"], each["reason"], each["message"]) for each in empty] == [
        ("i.csv:2", "RegisterInstrument", "FIELD_MISSING", "symbol is empty"),
        ("h.csv:2", "RegisterHolder", "FIELD_MISSING", "holder is empty"),
        ("h.csv:2", "OpenAccount", "FIELD_MISSING", "holder is empty"),
        ("o.csv:2", "IssueUnits", "FIELD_MISSING", "instrument is empty"),
    ]


def test_opening_holdings_need_evidence(run, files):
    run("import", *files, *STORE)
    done = run("import", "--holdings", "holdings.csv", "--approver", "carol", *STORE)
    assert done.code == 1
    assert {each["reason"] for each in done.json["refusals"]} == {"ATTESTATION_STALE"}


def test_opening_holdings_are_issued_once(run, files, place):
    run("import", *files, *STORE)
    attest(1000)
    holdings = ("--holdings", "holdings.csv", "--approver", "carol")
    done = run("import", *holdings, *STORE)
    assert (done.code, counts(done)) == (0, (3, 0, 0))
    size = done.json["size"]
    done = run("import", *files, *holdings, *STORE)
    assert (done.code, counts(done), done.json["size"]) == (0, (0, 86, 0), size)
    with Ledger.open("sqlite:///books.db", read_only=True) as books:
        assert (books.holding("AAPLx", "book:alice"), books.holding("AAPLx", "book:bob")) == (150_000_000, 51)
    (place / "holdings.csv").write_text(HOLDINGS.replace("1.5", "1.6"))
    done = run("import", *holdings, *STORE)
    assert (done.code, counts(done), done.json["size"]) == (1, (0, 2, 1), size)
    assert "units is 150000000, the line says 160000000" in done.json["refusals"][0]["message"]


def test_holdings_that_wait_are_approved_by_a_later_import(run, files):
    run("import", *files, *STORE)
    attest(1000)
    done = run("import", "--holdings", "holdings.csv", *STORE)
    assert (done.code, done.json["waiting_for_approval"]) == (0, 3)
    done = run("import", "--holdings", "holdings.csv", *STORE)
    assert (done.code, done.json["waiting_for_approval"]) == (0, 3)
    done = run("import", "--holdings", "holdings.csv", "--approver", "carol", *STORE)
    assert (done.code, counts(done)) == (0, (3, 0, 0))


def test_beyond_the_request_window_the_books_tell(run, files):
    """The ledger was opened an hour ago with a window of a minute: ids made from that moment are expired."""
    clock = FixedClock(time.time_ns() // 1000 - HOUR_US)
    Ledger.open("sqlite:///books.db", clock=clock, request_window_seconds=60).close()
    for expected in ((83, 0, 0), (0, 83, 0)):
        assert counts(run("import", *files, *STORE)) == expected
    attest(1000)
    for expected in ((3, 0, 0), (0, 3, 0)):
        assert counts(run("import", "--holdings", "holdings.csv", "--approver", "carol", *STORE)) == expected


def test_two_lines_for_one_holding_are_refused(run, files, place):
    run("import", *files, *STORE)
    (place / "holdings.csv").write_text("instrument,account,units\nAAPLx,book:bob,1\nAAPLx,book:bob,1\n")
    done = run("import", "--holdings", "holdings.csv", *STORE)
    refused = {each["line"]: each["message"] for each in done.json["refusals"]}
    assert refused["holdings.csv:3"] == "holdings.csv:2 has an opening holding of AAPLx in book:bob already"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("AAPLx,book:bob,1.5,25,", "it must have either units or a quantity"),
        ("AAPLx,book:bob,,,", "it must have either units or a quantity"),
        ("ZZZx,book:bob,1.5,,", "no instrument 'ZZZx'"),
        ("AAPLx,book:bob,1.123456789,,", "1.123456789 has more than 8 decimals"),
        (f"AAPLx,book:bob,{'9' * 5000},,", "a number of 5000 digits is more than can be counted"),
        ("AAPLx,book:bob,-1,,", "'-1' is not a number such as 1.5"),
    ],
)
def test_a_bad_line_of_holdings_is_named(run, files, place, line, message):
    run("import", *files, *STORE)
    (place / "holdings.csv").write_text(HOLDINGS.splitlines()[0] + "\n" + line + "\n")
    done = run("import", "--holdings", "holdings.csv", *STORE)
    assert message in done.json["refusals"][0]["message"]

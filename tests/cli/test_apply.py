from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from command_line import fill_books, run_process

from ledger import Ledger
from ledger.request_ids import RequestIds, format_request_id
from services.cli.lines import read_commands
from services.cli.outcome import UsageError
from stockledger.v1.transfers_pb2 import TransferUnitsRequest

STORE = ("--store", "sqlite:///books.db")
COUNTS = ("booked", "acceptable", "booked_before", "no_longer_waiting", "waiting_for_approval", "refused")


@pytest.fixture
def books(place):
    """Make a store by the machine's own clock, so that it can be written on."""
    with Ledger.open("sqlite:///books.db", ledger_id="acme") as books:
        fill_books(books, time.time_ns() // 1000)
        return books.size


@pytest.fixture
def holding():
    def read(account: str, instrument: str = "AAPLx") -> int:
        with Ledger.open("sqlite:///books.db", read_only=True) as books:
            return books.holding(instrument, account)

    return read


def transfer(units: int, **fields: object) -> dict[str, object]:
    return {"command": "TransferUnits", "instrument": "AAPLx", "source": "book:alice", "destination": "book:bob", "units": units, **fields}


def new_id() -> str:
    return format_request_id(RequestIds().make(time.time_ns() // 1_000_000))


def write(path, *lines):
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path


def counts(done) -> dict[str, int]:
    return {name: done.json[name] for name in COUNTS if done.json[name]}


# ---- reading lines -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("{", "it is not JSON: Expecting property name enclosed in double quotes at column 2"),
        ("[]", "it is not a JSON object"),
        ("{}", "it has no command"),
        ('{"command": ""}', "it has no command"),
        ('{"command": 5}', "its command is not a text"),
        ('{"command": null}', "its command is not a text"),
        ('{"command": ["TransferUnits"]}', "its command is not a text"),
        (r'{"command": "\ud800"}', "it has a lone surrogate, which is no character"),
        (r'{"command": "TransferUnits", "\udfff": 1}', "it has a lone surrogate, which is no character"),
        (r'{"command": "RegisterInstrument", "kind": "\ud800"}', "it has a lone surrogate, which is no character"),
        ('{"command": "TransferUnits", "units": %s}' % ("9" * 5000), "it has an integer of too many digits"),
        ("[" * 100_000, "it is nested more than 64 levels deep"),
        ('{"a":' * 100_000, "it is nested more than 64 levels deep"),
        ('{"command": "TransferUnits", "units": NaN}', "it is not JSON: NaN is no number there"),
        ('{"command": "TransferUnits", "units": 1, "units": 2}', "it names units twice"),
        ('{"command": "TransferUnits", "command": "TransferUnits"}', "it names command twice"),
        ('{"command": "TransferUnits", "request_id": "", "requestId": ""}', "it names requestId twice"),
        ('{"command": "SetApprovalPolicy", "policy": {"approvals_needed": 2, "approvals_needed": 0}}', "it names approvals_needed twice"),
        ('{"command": "RegisterInstrument", "kind": 1e999}', "RegisterInstrument: "),
        ('{"command": "TransferUnit"}', "TransferUnit is not a command (did you mean TransferUnits?)"),
        ('{"command": "Zzz"}', "Zzz is not a command"),
        ('{"command": "TransferUnits", "unit": 1}', "TransferUnits has no field unit (did you mean units?)"),
        ('{"command": "TransferUnits", "units": "1.5"}', "TransferUnits: Failed to parse units field: "),
        ('{"command": "TransferUnits", "units": 9223372036854775808}', "TransferUnits: Failed to parse units field: "),
        ('{"command": "RegisterInstrument", "kind": "NONE"}', "RegisterInstrument: Failed to parse kind field: "),
    ],
)
def test_what_is_wrong_with_a_line_of_json_is_said(line, error):
    (found,) = read_commands([line], "jsonl")
    assert found.command is None
    assert found.error.startswith(error)


@pytest.mark.parametrize(
    ("cells", "error"),
    [
        ("TransferUnits,x,,,,,", "TransferUnits: Failed to parse units field: "),
        ("TransferUnits,,maybe,,,,", "validate_only is 'maybe', it must be true or false"),
        ("RegisterInstrument,,,shares,,,", "kind is 'shares', it must be one of stock, etf, bond, reit, fund, commodity_trust, cash"),
        ("TransferUnits,,,stock,,,", "TransferUnits has no field kind"),
        ("SetApprovalPolicy,,,,{,,", "policy is a message and must be JSON: it is not JSON: Expecting"),
        (f"SetApprovalPolicy,,,,{'[' * 100_000},,", "policy is a message and must be JSON: it is nested more than 64 levels deep"),
        (f"SetApprovalPolicy,,,,{'9' * 5000},,", "policy is a message and must be JSON: it has an integer of too many digits"),
        (
            'SetApprovalPolicy,,,,"{""command"": ""A"", ""command"": ""B""}",,',
            "policy is a message and must be JSON: it names command twice",
        ),
        (f"TransferUnits,{'9' * 5000},,,,,", "TransferUnits: Failed to parse units field: "),
        ("TransferUnits,,,,,,,,", "it has 9 cells, the header 7"),
    ],
)
def test_what_is_wrong_with_a_line_of_csv_is_said(cells, error):
    header = "command,units,validate_only,kind,policy,operations,not_after_time"
    (found,) = read_commands([header, cells], "csv")
    assert found.number == 2
    assert found.command is None
    assert found.error.startswith(error)


def test_json_and_csv_say_the_same():
    from_json = read_commands(['{"command": "TransferUnits", "units": "5", "validateOnly": true}'], None)
    from_csv = read_commands(["", "command,units,validate_only", "TransferUnitsRequest,5,yes"], None)
    (one,), (two,) = from_json, from_csv
    assert one.command == two.command == TransferUnitsRequest(units=5, validate_only=True)
    assert (one.number, two.number) == (1, 3)


def test_cells_may_be_lists_enums_messages_and_moments():
    lines = [
        "command,instrument,operations,cause,policy,not_after_time",
        'HaltInstrument,NVDAx,transfer; OPERATION_ISSUE,"news, pending",,2026-11-22T18:00:00Z',
        'SetApprovalPolicy,,,,"{""command"": ""IssueUnits"", ""approvals_needed"": 2}",',
    ]
    halt, policy = (line.command for line in read_commands(lines, None))
    assert (list(halt.operations), halt.cause, halt.not_after_time.seconds) == ([1, 2], "news, pending", 1_795_370_400)
    assert (policy.policy.command, policy.policy.approvals_needed) == ("IssueUnits", 2)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 90_000 + "]" * 90_000])
def test_depth_is_no_matter_of_the_recursion_limit(place, text):
    """A library below web3 sets it to 100,000 for the whole process: there the parser overflows the stack."""
    (place / "c.jsonl").write_text(text)
    code = "import sys; sys.setrecursionlimit(100_000); from services.cli.lines import *; print(*read_commands(open('c.jsonl'), 'jsonl'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "it is nested more than 64 levels deep" in done.stdout


def test_many_brackets_are_not_deep():
    legs = [{"sources": [16], "destinations": [17], "units": [1]}] * 1000
    (found,) = read_commands([json.dumps({"command": "TransferBatch", "legs": legs})], "jsonl")
    assert len(found.command.legs) == 1000


@pytest.mark.parametrize("lines", [["units,command"], ["command,units,units"], ["no header at all"], ['command,"units']])
def test_a_csv_without_its_header_is_refused_as_a_whole(lines):
    with pytest.raises(UsageError):
        list(read_commands(lines, None))


@pytest.mark.parametrize(
    ("lines", "number", "error"),
    [
        (['TransferUnits,1,"a', "TransferUnits,2,b"], 4, "unexpected end of data on line 5; perhaps its quote is not closed"),
        (['TransferUnits,1,"a', 'TransferUnits,2,"b"'], 4, """',' expected after '"' on line 5; perhaps its quote is not closed"""),
        (['TransferUnits,1,"a"b', "TransferUnits,2,b"], 4, "',' expected after '\"'"),
        (["", "TransferUnits,1,a", f"TransferUnits,1,{'a' * 200_000}"], 6, "field larger than field limit (131072)"),
    ],
)
def test_a_quote_that_is_not_closed_swallows_nothing(lines, number, error):
    *good, found = read_commands(["", "command,units,reference", "TransferUnits,9,", *(f"{line}\n" for line in lines)], "csv")
    assert all(line.command is not None for line in good)
    assert (found.number, found.command, found.error) == (number, None, f"it is not CSV: {error}; nothing after it was read")


def test_a_record_is_named_by_the_line_it_begins_on():
    found = list(read_commands(["command,reference\n", 'TransferUnits,"a\n', 'b"\n', "\n", "TransferUnits,c\n"], "csv"))
    assert [(line.number, line.command.reference) for line in found] == [(2, "a\nb"), (5, "c")]


def test_what_stands_before_a_quote_that_is_not_closed_is_booked(run, place, books, holding):
    row = "TransferUnits,AAPLx,book:alice,book:bob"
    file = write(place / "c.csv", "command,instrument,source,destination,units,reference", f"{row},1,", f'{row},2,"b', f"{row},4,")
    done = run("apply", file, *STORE, "--json")
    assert (done.code, counts(done)) == (1, {"booked": 1, "refused": 1})
    assert [each["line"] for each in done.json["refusals"]] == ["3"]
    assert holding("book:bob") == 150_000_001


def test_nothing_is_no_error():
    assert list(read_commands(["", "  "], None)) == []


# ---- carrying them out -------------------------------------------------------------------------------------------------------------


def test_a_refused_line_does_not_stop_the_others(run, place, books, holding):
    file = write(place / "c.jsonl", transfer(1), transfer(10**12), "nonsense", "", transfer(2))
    done = run("apply", file, *STORE, "--json")
    assert done.code == 1
    assert counts(done) == {"booked": 2, "refused": 2}
    assert [(each["line"], each["reason"]) for each in done.json["refusals"]] == [("2", "UNITS_INSUFFICIENT"), ("3", "FIELD_MALFORMED")]
    assert done.json["refusals"][0]["metadata"]["needed"] == str(10**12)
    assert done.json["size"] == books + 2
    assert holding("book:bob") == 150_000_003


def test_no_line_keeps_the_others_from_being_booked(run, place, books, holding):
    odd = ['{"command": "TransferUnits", "units": %s}' % ("9" * 5000), "[" * 100_000, r'{"command": "\ud800"}', '{"command": "\x1b[2J"}']
    done = run("apply", write(place / "c.jsonl", transfer(1), *odd, {"command": "\x1b[2J\n"}, transfer(2)), *STORE, "--json")
    assert (done.code, counts(done)) == (1, {"booked": 2, "refused": 5})
    assert [each["line"] for each in done.json["refusals"]] == ["2", "3", "4", "5", "6"]
    assert holding("book:bob") == 150_000_003


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_printing_never_fails_on_a_character(place, books, encoding):
    lines = [{"command": text} for text in ("\x1b[2J\n", "\N{SNOWMAN}", "\N{GRINNING FACE}")]
    file = write(place / "c.jsonl", *lines)
    done = run_process("apply", file, *STORE, PYTHONIOENCODING=encoding)
    assert (done.code, done.err) == (1, "")
    assert len(done.lines) == 2 + len(lines) + 1
    assert r"\x1b[2J\n is not a command" in done.lines[2]
    as_json = run_process("apply", file, *STORE, "--json", PYTHONIOENCODING=encoding)
    assert [each["command"] for each in json.loads(as_json.out)["refusals"]] == [line["command"] for line in lines]


def test_the_report_for_people(run, place, books):
    done = run("apply", write(place / "c.jsonl", transfer(1), transfer(10**12)), *STORE)
    assert done.lines[0].split() == ["line", "command", "reason", "why"]
    assert "book:alice has 899999999 free AAPLx" in done.lines[2]
    assert done.lines[-1] == f"1 booked, 1 refused; the log has {books + 1} entries"


def test_a_file_with_request_ids_may_be_applied_again(run, place, books, holding):
    file = write(place / "c.jsonl", transfer(1, request_id=new_id()), transfer(2, request_id=new_id()))
    assert counts(run("apply", file, *STORE, "--json")) == {"booked": 2}
    done = run("apply", file, *STORE, "--json")
    assert (done.code, counts(done), done.json["size"]) == (0, {"booked_before": 2}, books + 2)
    assert holding("book:bob") == 150_000_003


def test_stop_at_first_refusal(run, place, books, holding):
    file = write(place / "c.jsonl", transfer(1), transfer(10**12), transfer(2))
    done = run("apply", file, *STORE, "--json", "--stop-at-first-refusal")
    assert (done.code, counts(done)) == (1, {"booked": 1, "refused": 1})
    assert holding("book:bob") == 150_000_001


def test_a_dry_run_books_nothing(run, place, books):
    file = write(place / "c.jsonl", transfer(1), transfer(10**12))
    done = run("apply", file, *STORE, "--json", "--dry-run")
    assert (done.code, counts(done), done.json["size"]) == (1, {"acceptable": 1, "refused": 1}, books)


def test_a_dry_run_makes_no_ledger(run, place):
    done = run("apply", write(place / "c.jsonl", transfer(1)), "--store", "sqlite:///new.db", "--dry-run")
    assert done.code == 3
    assert [path.name for path in place.iterdir()] == ["c.jsonl"]


def test_the_first_apply_makes_the_ledger_and_says_so(run, place):
    line = {"command": "RegisterHolder", "holder": "h-1", "country": "DE", "investor_class": "INVESTOR_CLASS_RETAIL"}
    done = run("apply", write(place / "c.jsonl", line), "--store", "sqlite:///new.db", "--origin", "acme.example/log")
    assert (done.code, done.lines) == (0, ["1 booked; the log has 2 entries"])
    assert "sqlite:///new.db holds the ledger new" in done.err
    assert "acme.example/log" in done.err


@pytest.mark.parametrize("pack", [False, True])
def test_batches_and_packing_come_to_the_same(run, place, books, holding, pack):
    file = write(place / "c.jsonl", *(transfer(1) for _ in range(250)))
    done = run("apply", file, *STORE, "--json", "--batch", 100, *(["--pack"] if pack else []))
    assert (done.code, counts(done)) == (0, {"booked": 250})
    assert done.json["size"] == books + (3 if pack else 250)
    assert holding("book:bob") == 150_000_250


def issue(units: int, **fields: object) -> dict[str, object]:
    return {"command": "IssueUnits", "instrument": "AAPLx", "account": "book:alice", "units": units, **fields}


def test_what_needs_approval_waits_without_an_approver(run, place, books):
    done = run("apply", write(place / "c.jsonl", issue(5)), *STORE, "--json")
    assert (done.code, counts(done)) == (0, {"waiting_for_approval": 1})


def test_with_an_approver_the_next_line_may_build_on_it(run, place, books, holding):
    everything = 900_000_000
    file = write(place / "c.jsonl", transfer(everything), issue(5), transfer(5), issue(6), transfer(6))
    done = run("apply", file, *STORE, "--json", "--approver", "carol")
    assert (done.code, counts(done)) == (0, {"booked": 5})
    assert holding("book:bob") == 1_050_000_011
    assert holding("book:alice") == 0


def test_the_requester_is_no_approver(run, place, books):
    done = run("apply", write(place / "c.jsonl", issue(5)), *STORE, "--json", "--principal", "carol", "--approver", "carol")
    assert (done.code, counts(done)) == (1, {"refused": 1})
    assert done.json["refusals"][0]["reason"] == "APPROVER_IS_REQUESTER"
    assert done.json["refusals"][0]["approval"] == 3


def test_two_approvers_give_two_approvals(run, place, books):
    policy = {"command": "SetApprovalPolicy", "policy": {"command": "IssueUnits", "approvals_needed": 2}}
    file = write(place / "c.jsonl", policy, issue(5))
    done = run("apply", file, *STORE, "--json", "--approver", "carol")
    assert counts(done) == {"booked": 1, "waiting_for_approval": 1}
    done = run("apply", write(place / "d.jsonl", issue(6)), *STORE, "--json", "--approver", "carol", "--approver", "dave")
    assert counts(done) == {"booked": 1}


def test_approvals_may_be_applied_again_and_later(run, place, books, holding):
    file = write(place / "c.jsonl", issue(5, request_id=new_id()))
    assert counts(run("apply", file, *STORE, "--json")) == {"waiting_for_approval": 1}
    assert counts(run("apply", file, *STORE, "--json", "--approver", "carol")) == {"booked": 1}
    assert counts(run("apply", file, *STORE, "--json", "--approver", "carol")) == {"booked_before": 1}
    done = run("apply", file, *STORE, "--json", "--approver", "dave")
    assert (done.code, counts(done)) == (0, {"no_longer_waiting": 1})
    assert holding("book:alice") == 900_000_005


def test_principals_have_requests_of_their_own(run, place, books):
    file = write(place / "c.jsonl", transfer(1, request_id=new_id()))
    for principal in ("alice", "bob"):
        assert counts(run("apply", file, *STORE, "--json", "--principal", principal)) == {"booked": 1}


def test_standard_input_is_a_file_too(books):
    text = "\ufeffcommand,instrument,source,destination,units\nTransferUnits,AAPLx,book:alice,book:bob,7\n"
    done = run_process("apply", "-", "--json", stdin=text, STOCKLEDGER_STORE="sqlite:///books.db")
    assert (done.code, counts(done), done.err) == (0, {"booked": 1}, "")


def test_bytes_that_are_no_text_are_refused(run, place, books):
    (place / "c.jsonl").write_bytes(b'{"command": "\xff"}')
    done = run("apply", place / "c.jsonl", *STORE)
    assert done.code == 64
    assert "is not text in UTF-8" in done.err


def test_a_second_writer_is_told_so(run, place, books):
    with Ledger.open("sqlite:///books.db"):
        done = run("apply", write(place / "c.jsonl", transfer(1)), *STORE)
    assert (done.code, "STORE_UNAVAILABLE" in done.err) == (3, True)


def test_commands_lists_what_can_be_applied(run):
    done = run("commands", "--json")
    assert done.json["IssueUnits"] == {"approvals_by_default": 1}
    assert done.json["TransferUnits"] == {"approvals_by_default": 0}
    fields = run("commands", "TransferUnits", "--json").json["fields"]
    assert (fields["units"], fields["source"], fields["not_after_time"]) == ("whole number", "text", "moment, such as 2026-11-22T18:00:00Z")
    assert "OPERATION_TRANSFER | OPERATION_ISSUE" in run("commands", "HaltInstrument").out

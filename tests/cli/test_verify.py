"""Whatever was done to a log is found, by its first bad index: to its bytes, and to what they say under a tree that is sound."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest
from command_line import ORIGIN, entries_of, fill_books
from google.protobuf.message import DecodeError
from scenario import START_US, FixedClock, Scenario, two_holders

from ledger import DataLoss, Ledger, Signer
from ledger.digest import state_digest
from ledger.log.checkpoint import sign_checkpoint
from ledger.log.store import open_log
from ledger.replay import latest_state
from ledger.state import Book
from ledger.verify import Auditor, verify_store
from stockledger.v1.corporate_actions_pb2 import ActionCompleted, DistributionPaid
from stockledger.v1.events_pb2 import Entry
from stockledger.v1.transfers_pb2 import TransferUnitsRequest

STORY = [
    "ledger_opened",
    "instrument_registered",
    "instrument_registered",
    "holder_registered",
    "holder_registered",
    "account_opened",
    "account_opened",
    "approval_requested",
    "approval_given",
    "custodian_registered",
    "custody_account_opened",
    "evidence_recorded",
    "approval_requested",
    "approval_given",
    "units_issued",
    "units_transferred",
]


@pytest.fixture
def change(books_at, place):
    def execute(statement: str, *arguments: object) -> None:
        with contextlib.closing(sqlite3.connect(place / "books.db", isolation_level=None)) as connection:
            assert connection.execute(statement, arguments).rowcount > 0

    return execute


@pytest.fixture
def forge(books_at, place):
    """Write the small story again, changed, as a store whose bytes and tree are sound."""

    def write(alter, ledger_id: str = "acme") -> str:
        data = entries_of(books_at)
        entries = [Entry.FromString(entry) for entry in data]
        altered = alter(entries)
        stored = [entry if isinstance(entry, bytes) else entry.SerializeToString() for entry in altered or entries]
        topics = [_topic(entry) for entry in stored]
        url = f"sqlite:///{place}/forged.db"
        with open_log(url) as log:
            log.append(ledger_id, topics, stored)
        return url

    return write


def _topic(data: bytes) -> str:
    try:
        entry = Entry.FromString(data)
    except DecodeError:
        return ""
    kind = entry.WhichOneof("event")
    return getattr(entry, kind).DESCRIPTOR.full_name if kind else ""


def test_the_story_is_as_the_forgeries_expect_it(books_at):
    assert [Entry.FromString(entry).WhichOneof("event") for entry in entries_of(books_at)] == STORY


def test_a_sound_store_ends_with_0(run, books_at, signer):
    assert run("checkpoint", "--signing-key", "checkpoint.key", "--store", books_at).code == 0
    for key in ((), ("--key", signer.verifier_key), ("--key", "checkpoint.key")):
        done = run("verify", "--store", books_at, *key, "--json")
        assert (done.code, done.json["sound"], done.json["findings"]) == (0, True, [])
        assert (done.json["size"], done.json["sound_size"], done.json["checkpoint_count"]) == (16, 16, 1)
        assert done.json["signatures_checked"] is bool(key)
    assert "is sound: ledger acme, 16 entries" in run("verify", "--store", books_at).out


def test_verify_replay_and_the_books_agree(run, books_at):
    replayed = run("replay", "--store", books_at, "--json").json
    verified = run("verify", "--store", books_at, "--json").json
    with open_log(books_at, read_only=True) as log:
        digest = state_digest(latest_state(log))
        root = log.tree.root().hex()
    assert (replayed["state_digest"], verified["state_digest"]) == (digest, digest)
    assert (replayed["root"], verified["root"]) == (root, root)
    assert replayed["size"] == 16


def test_replay_as_of_a_size(run, books_at):
    assert run("replay", "--store", books_at, "--as-of-size", 5, "--json").json["size"] == 5
    assert run("replay", "--store", books_at, "--as-of-size", 17).code == 1


def test_a_store_is_verified_beside_its_writer(run, books_at):
    with Ledger.open(books_at, clock=FixedClock()) as books:
        books.execute(TransferUnitsRequest(instrument="AAPLx", source="book:bob", destination="book:alice", units=1))
        assert run("verify", "--store", books_at, "--json").json["size"] == 17


def test_a_changed_byte_ends_with_2_and_its_index(run, books_at, change):
    with Ledger.open(books_at, clock=FixedClock()) as books:
        move = TransferUnitsRequest(instrument="AAPLx", source="book:alice", destination="book:bob", units=1)
        books.execute_many([move] * 500)
    change("UPDATE stored_events SET state = state || x'00' WHERE originator_version = 201")
    done = run("verify", "--store", books_at, "--json")
    assert (done.code, done.json["sound"], done.json["size"]) == (2, False, 516)
    assert (done.json["first_bad_index"], done.json["sound_size"]) == (200, 200)
    told = run("verify", "--store", books_at)
    assert "is damaged; the first bad index is 200" in told.out
    assert "the first 200 of 516 entries can be relied on" in told.out
    for command in (("replay",), ("show", "instruments"), ("show", "log", "--json")):
        done = run(*command, "--store", books_at)
        assert (done.code, "LOG_CORRUPT" in done.err) == (2, True)


def test_a_changed_byte_under_the_newest_checkpoint_is_found_when_opening(run, books_at, change, signer):
    run("checkpoint", "--signing-key", "checkpoint.key", "--store", books_at)
    change("UPDATE stored_events SET state = state || x'00' WHERE originator_version = 11")
    done = run("verify", "--store", books_at, "--json")
    assert (done.code, done.json["sound"], done.json["first_bad_index"]) == (2, False, 10)
    assert "it could not even be opened, so nothing more was checked" in run("verify", "--store", books_at).out


@pytest.mark.usefixtures("signer")
@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("DELETE FROM stored_events WHERE originator_version = 11", "LOG_CORRUPT"),
        ("UPDATE stored_events SET topic = 'x' WHERE originator_version = 11", "LOG_CORRUPT"),
        ("UPDATE stored_events SET originator_id = 'other' WHERE originator_version = 11", "LOG_CORRUPT"),
        ("UPDATE checkpoints SET text = replace(text, '16', '15')", "CHECKPOINT_INCONSISTENT"),
        ("UPDATE right_edge SET hashes = zeroblob(512)", "LOG_CORRUPT"),
    ],
)
def test_any_other_damage_ends_with_2(run, books_at, change, statement, reason):
    run("checkpoint", "--signing-key", "checkpoint.key", "--store", books_at)
    change(statement)
    done = run("verify", "--store", books_at, "--json")
    assert (done.code, done.json["findings"][0]["reason"]) == (2, reason)


def test_a_truncated_file_ends_with_2(run, books_at, place):
    with (place / "books.db").open("r+b") as file:
        file.truncate(5000)
    assert run("verify", "--store", books_at).code == 2


def test_a_checkpoint_by_another_key_is_found(run, books_at, signer):
    run("checkpoint", "--signing-key", "checkpoint.key", "--store", books_at)
    other = Signer.generate(ORIGIN).verifier_key
    done = run("verify", "--store", books_at, "--key", other, "--json")
    assert (done.code, done.json["findings"][0]["reason"]) == (2, "CHECKPOINT_INCONSISTENT")


def test_a_checkpoint_of_another_origin_is_found(books_at):
    stranger = Signer("other.example/log", bytes(32))
    with open_log(books_at) as log:
        log.save_checkpoint(16, sign_checkpoint(stranger.name, 16, log.tree.root(), stranger))
    (finding,) = verify_store(books_at).findings
    assert finding.message == f"the checkpoint of size 16 is of other.example/log, the log's origin is {ORIGIN}"


# ---- forgeries under a sound tree --------------------------------------------------------------------------------------------------


def _set(index: int, **fields: object):
    """Return a change that sets fields of an entry."""

    def alter(entries: list[Entry]) -> None:
        for name, value in fields.items():
            setattr(entries[index], name, value)

    return alter


def _set_event(index: int, **fields: object):
    """Return a change that sets fields of an entry's event."""

    def alter(entries: list[Entry]) -> None:
        event = getattr(entries[index], entries[index].WhichOneof("event"))
        for name, value in fields.items():
            setattr(event, name, value)

    return alter


def _again(entries: list[Entry]) -> None:
    entries[6].request_id = entries[5].request_id


def _future(entries: list[Entry]) -> None:
    entries[6].request_id = ((START_US // 1000 + 301_000) << 80 | 7 << 76 | 2 << 62).to_bytes(16, "big")


def _expired(entries: list[Entry]) -> None:
    entries[6].request_id = ((START_US // 1000 - 8 * 24 * 3_600_000) << 80 | 7 << 76 | 2 << 62).to_bytes(16, "big")


def _authorised(entries: list[Entry]) -> None:
    entries[1].instrument_registered.instrument.authorised_units = 1_049_999_999


def _bad_news(entries: list[Entry]) -> list[Entry]:
    """Record, after all else, that only 10.49999999 shares are left, and raise no shortfall."""
    news = Entry.FromString(entries[11].SerializeToString())
    news.decision_time_us = entries[15].decision_time_us + 1
    news.request_id = entries[11].request_id[:-4] + bytes(4)
    news.evidence_recorded.settled_shares_e8 = 1_049_999_999
    return [*entries, news]


def _stale(entries: list[Entry]) -> None:
    for index in range(12, 16):
        entries[index].decision_time_us += 24 * 3_600_000_000


FORGERIES = {
    "not an entry": (lambda entries: [*entries[:7], b"\xff", *entries[8:]], 7, "entry 7 is not an Entry"),
    "an unknown field": (lambda entries: [*entries[:7], entries[7].SerializeToString() + b"\xf8\x3f\x01"], 7, "entry 7 has field 1023"),
    "no event": (lambda entries: entries[7].ClearField("approval_requested"), 7, "entry 7 has no event this version knows"),
    "a second opening": (lambda entries: [*entries[:3], entries[0]], 3, "entry 3 is ledger_opened"),
    "no opening": (lambda entries: entries[1:], 0, "entry 0 is instrument_registered"),
    "another format": (_set_event(0, format_version=2), 0, "the log has format version 2"),
    "time running back": (_set(5, decision_time_us=START_US), 5, "entry 5 was decided at"),
    "nobody asking": (_set(5, principal=""), 5, "entry 5 has a principal of 0 characters"),
    "a newer arithmetic": (_set(5, arithmetic_version=7), 5, "entry 5 needs arithmetic 7, this version has 0"),
    "a request booked twice": (_again, 6, "of operator again, it was booked at 5"),
    "a request from the future": (_future, 6, "which is outside the window of its time"),
    "a request beyond the window": (_expired, 6, "which is outside the window of its time"),
    "a short request id": (_set(5, request_id=b"\0" * 15), 5, "entry 5 has a request id of 15 bytes"),
    "no digest": (_set(5, request_digest=b""), 5, "with a digest of 0"),
    "one part of one": (_set(5, part_count=1), 5, "entry 5 is part 0 of 1"),
    "a part left out": (lambda entries: [*entries[:9], *entries[10:]], 9, "entry 9 is part 0 of a command, and has another"),
    "parts of two principals": (_set(9, principal="dave"), 9, "entry 9 is part 1 of a command, and has another principal than part 0"),
    "parts out of order": (lambda entries: [*entries[:8], entries[9], entries[8]], 8, "entry 8 is part 1 of 2, part 0 was expected"),
    "an end in the middle of a command": (lambda entries: entries[:14], 13, "the log ends with 1 parts of a command"),
    "more moved than there is": (_set_event(15, units=1_050_000_001), 15, "book:alice has -1 AAPLx"),
    "a movement of nothing": (_set_event(15, units=0), 15, "entry 15 cannot follow the books before it: AssertionError"),
    "a movement to nowhere": (_set_event(15, destination="book:zoe"), 15, "entry 15 cannot follow the books before it: KeyError"),
    "issued beyond reserves": (_set_event(14, units=100_000_000_001), 14, "issues AAPLx to 100000000001 shares (1e-8), "),
    "issued beyond what is authorised": (_authorised, 14, "1049999999 are authorised"),
    "bad news without a shortfall": (_bad_news, 16, "no shortfall is open after entry 16, and reserves of AAPLx are 1049999999 shares"),
    "issued against stale evidence": (_stale, 14, "valid evidence shows 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_found_by_its_first_bad_index(forge, name):
    alter, index, message = FORGERIES[name]
    report = verify_store(forge(alter))
    assert not report.sound
    assert message in report.findings[-1].message
    assert (report.first_bad_index, report.findings[-1].index) == (index, index)
    assert report.sound_size <= index + 1
    assert not report.state_digest


def test_as_much_as_there_are_reserves_may_be_issued(forge):
    assert verify_store(forge(_set_event(14, units=100_000_000_000))).sound


def test_a_store_under_another_name_is_found(forge):
    (finding,) = verify_store(forge(list, ledger_id="other")).findings
    assert finding.message == "the store's rows are of ledger other, its first entry says acme"


def test_packed_requests_are_checked_one_by_one(books_at, place):
    with Ledger.open("sqlite:///packed.db", ledger_id="acme", clock=FixedClock()) as books:
        fill_books(books, START_US)
        move = TransferUnitsRequest(instrument="AAPLx", source="book:alice", destination="book:bob", units=1)
        books.execute_many([move, move, move], pack=True)
    assert verify_store("sqlite:///packed.db").sound
    *before, packed = [Entry.FromString(entry) for entry in entries_of("sqlite:///packed.db")]
    for name, ids in {"short": packed.transfers_packed.request_ids[:47], "twice": packed.transfers_packed.request_ids[:16] * 3}.items():
        changed = Entry.FromString(packed.SerializeToString())
        changed.transfers_packed.request_ids = ids
        url = f"sqlite:///{name}.db"
        with open_log(url) as log:
            entries = [*before, changed]
            topics = [getattr(entry, entry.WhichOneof("event")).DESCRIPTOR.full_name for entry in entries]
            log.append("acme", topics, [entry.SerializeToString() for entry in entries])
        assert verify_store(url).first_bad_index == 16


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, ""),
        ({"declared_units": 14}, "D declared 14 units, and they went: paid_units 11, withheld_units 1"),
        ({"declared_units": 14, "paid_units": 12}, "D says paid_units 12, its payments sum to 11"),
        ({"withheld_units": 0, "fee_units": 1}, "D says withheld_units 0, its payments sum to 1"),
    ],
)
def test_what_an_action_declared_is_what_it_paid(changed, message):
    auditor = Auditor()
    paid = DistributionPaid(action="D", paid_units=[5, 6], withheld_units=[1, 0], remainder_units=1)
    auditor._check_event(Entry(distribution_paid=paid), 6)
    totals = {"action": "D", "declared_units": 13, "paid_units": 11, "withheld_units": 1, "remainder_units": 1}
    completed = Entry(action_completed=ActionCompleted(**(totals | changed)))
    if not message:
        auditor._check_event(completed, 7)
        return
    with pytest.raises(DataLoss) as caught:
        auditor._check_event(completed, 7)
    assert message in caught.value.message
    assert caught.value.metadata["index"] == "7"


# ---- the digest of a state ---------------------------------------------------------------------------------------------------------


def test_equal_states_have_equal_digests():
    one = Scenario().given(*two_holders()).books._state
    before = state_digest(one)
    one.books[1].reach(1000)
    one.holders = dict(reversed(one.holders.items()))
    assert state_digest(one) == before


@pytest.mark.parametrize(
    "alter",
    [
        lambda state: state.books[1].units.__setitem__(1, 1),
        lambda state: state.books[1].held.__setitem__(1, 1),
        lambda state: state.holders.pop("h-1"),
        lambda state: state.counters.__setitem__("hold", 1),
        lambda state: state.books.__setitem__(9, Book()),
        lambda state: setattr(state.requests, "low_water_second", state.requests.low_water_second + 1),
        lambda state: next(iter(state.requests.seconds.values())).popitem(),
        lambda state: setattr(state, "size", state.size + 1),
    ],
)
def test_other_states_have_other_digests(alter):
    state = Scenario().given(*two_holders()).books._state
    before = state_digest(state)
    alter(state)
    assert state_digest(state) != before

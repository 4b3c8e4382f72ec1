"""A snapshot gives back the very state it was folded to, or it is not used and the reason is said."""

from __future__ import annotations

import dataclasses
import json
from array import array

import pytest
from durable import fund, open_funded, request_id, transfer, url_of
from hypothesis import given
from hypothesis import strategies as st
from scenario import account, enforcer, holder, stock

from ledger import Ledger, LedgerError, snapshots
from ledger.log.snapshot import read_snapshot, write_snapshot
from ledger.records import Approval, EligibilityRule, Evidence, Fill, FrozenUnits, Hold, Instrument, Subscription
from ledger.replay import latest_state
from ledger.snapshots import VERSION, decode_state, encode_state, write_latest
from ledger.state import Book, State
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.instruments_pb2 import HaltInstrumentRequest


@pytest.fixture
def url(tmp_path):
    return url_of(tmp_path)


@pytest.fixture
def snapshot(tmp_path):
    return tmp_path / "books.db.snapshot"


@pytest.fixture
def books(url):
    with open_funded(url) as opened:
        yield opened


def busy(books, count=50):
    for number in range(count):
        books.execute(transfer(number % 4, (number + 1) % 4, number + 1, request_id=request_id(books.size, books._clock.wall_us())))
    books.execute_many([transfer(units=3) for _ in range(count)], pack=True)


# ---- the codec -----------------------------------------------------------------------------------------------------------------------

TEXT = st.text(max_size=12)
INT64 = st.integers(-(2**63), 2**63 - 1)
INSTRUMENT = st.builds(
    Instrument,
    symbol=TEXT,
    name=TEXT,
    isin=TEXT,
    underlying_isin=TEXT,
    currency=TEXT,
    multiplier=st.integers(1, 2**128 - 1),
    halted_operations=st.frozensets(st.integers(1, 3)),
    retired=st.booleans(),
    eligibility=st.lists(
        st.builds(
            EligibilityRule,
            effective_date=TEXT,
            allowed_countries=st.frozensets(TEXT),
            barred_countries=st.frozensets(TEXT),
            allowed_classes=st.frozensets(st.integers(0, 5)),
            barred_classes=st.frozensets(st.integers(0, 5)),
        ),
        max_size=3,
    ).map(tuple),
)
INT32 = st.integers(-(2**31), 2**31 - 1)
HOLD = st.builds(Hold, INT64, INT32, INT32, INT32, INT64, TEXT, st.integers(1, 2**63 - 1))
APPROVAL = st.builds(
    Approval,
    command=TEXT,
    content=st.binary(max_size=40),
    approvers=st.lists(TEXT, max_size=3).map(tuple),
    approved_by=st.lists(TEXT, max_size=3).map(tuple),
)
EVIDENCE = st.builds(
    Evidence,
    custody_account=TEXT,
    signer=TEXT,
    confirmed=st.lists(st.tuples(INT64, INT64), max_size=3).map(tuple),
)
SUBSCRIPTION = st.builds(Subscription, fills=st.lists(st.builds(Fill, trade_date=TEXT, settlement_date=TEXT), max_size=3).map(tuple))


def book(units, held):
    made = Book()
    made.reach(max(len(units), len(held)))
    for column, values in ((made.units, units), (made.held, held)):
        for number, value in enumerate(values):
            column[number] = value
    return made


@st.composite
def states(draw):
    state = State(ledger_id=draw(TEXT), size=draw(INT64), parts=draw(st.lists(st.binary(max_size=30), max_size=3)))
    state.counters.update(draw(st.dictionaries(TEXT, INT64, max_size=4)))
    state.instruments.update(draw(st.dictionaries(TEXT, INSTRUMENT, max_size=3)))
    state.accounts_of_holder.update(draw(st.dictionaries(TEXT, st.dictionaries(TEXT, st.none(), max_size=3), max_size=3)))
    columns = st.lists(INT64, max_size=40)
    for number in range(draw(st.integers(0, 3))):
        state.books[number] = book(draw(columns), draw(columns))
    state.profiles.extend(array("i", draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=30))))
    state.frozen_units.update(draw(st.dictionaries(st.tuples(INT64, INT64), st.builds(FrozenUnits, legal_reference=TEXT), max_size=3)))
    state.roles.update(draw(st.dictionaries(st.tuples(TEXT, INT64, TEXT), INT64, max_size=3)))
    for hold in sorted(draw(st.lists(HOLD, max_size=3, unique_by=lambda hold: hold.hold)), key=lambda hold: hold.hold):
        state.holds.units[state.holds.append(hold)] = hold.units
    state.approvals.update(draw(st.dictionaries(INT64, APPROVAL, max_size=3)))
    state.evidence.update(draw(st.dictionaries(TEXT, EVIDENCE, max_size=3)))
    state.subscriptions.update(draw(st.dictionaries(INT64, SUBSCRIPTION, max_size=3)))
    state.owed.update(draw(st.dictionaries(st.tuples(TEXT, INT64), st.tuples(INT64, INT64), max_size=3)))
    requests = state.requests
    keys = st.dictionaries(st.binary(min_size=16, max_size=30), st.integers(0, 2**62), max_size=5)
    requests.seconds.update(draw(st.dictionaries(INT64, keys, max_size=3)))
    requests.count, requests.low_water_second = draw(INT64), draw(INT64)
    return state


@given(states())
def test_any_state_comes_back_as_it_was(state):
    payload = encode_state(state)
    again = decode_state(payload)
    assert again == state
    assert again.profiles == state.profiles
    assert [list(again.books[number].units) for number in again.books] == [list(each.units) for each in state.books.values()]
    assert encode_state(again) == payload
    for name in ("instruments", "accounts_of_holder", "roles", "holds"):
        assert list(getattr(again, name)) == list(getattr(state, name)), "tables keep their order"


def test_every_field_of_the_state_is_kept_but_those_of_a_batch_on_its_way():
    kept = snapshots._STATE.name
    for field in dataclasses.fields(State):
        assert (f"{field.name}: " in kept) == (field.name != "journal" and not field.name.startswith("_")), field.name


def test_a_provisional_state_is_not_kept():
    state = State()
    state.begin()
    with pytest.raises(AssertionError):
        encode_state(state)


def test_a_declaration_that_cannot_be_kept_is_refused():
    for hint in (object, set[int], dict[str, object], int | str):
        with pytest.raises(TypeError, match="no snapshot can keep"):
            snapshots._codec(hint)


# ---- with a ledger -------------------------------------------------------------------------------------------------------------------


def test_a_ledger_opens_from_its_snapshot_and_folds_on(books, url, snapshot):
    assert books.opened_from == "the whole log: there is no snapshot"
    busy(books)
    size = books.write_snapshot()
    assert size == books.size
    assert snapshot.exists()
    busy(books)
    books.execute(account("book:late", "h-1"))
    books.execute(enforcer())
    books.execute(HaltInstrumentRequest(instrument="AAPLx", operations=[Operation.OPERATION_ISSUE], cause="news"))
    expected = latest_state(books.log)
    books.close()
    with Ledger.open(url) as again:
        assert again.opened_from == f"a snapshot of size {size}"
        assert again._state == expected
        assert again._state.profiles == expected.profiles
        fund(again, "AAPLx", "book:late", 5)
        busy(again)
        assert latest_state(again.log) == again._state
        assert again.write_snapshot() == again.size
    with Ledger.open(url, read_only=True) as reader:
        assert reader.opened_from == f"a snapshot of size {reader.size}"
        assert reader._state == latest_state(reader.log)


def test_a_follower_writes_while_the_ledger_goes_on(books, url, snapshot):
    with Ledger.open(url, read_only=True) as follower:
        busy(books)
        assert follower.write_snapshot() == books.size
        busy(books)
        assert write_latest(follower.log, snapshot) == books.size
    assert read_snapshot(snapshot).size == books.size


def test_a_repeat_is_recognised_from_a_snapshot(books, url):
    first = books.execute(transfer(request_id=request_id(1, books._clock.wall_us())))
    books.write_snapshot()
    books.close()
    with Ledger.open(url) as again:
        repeated = again.execute(transfer(request_id=first.booking.request_id))
        assert repeated.booking.repeated_answer
        assert repeated.booking.index == first.booking.index


def test_the_same_log_gives_the_same_bytes(books, snapshot, tmp_path):
    busy(books)
    books.write_snapshot()
    first = read_snapshot(snapshot)
    busy(books)
    books.write_snapshot()
    folded_on = read_snapshot(snapshot)
    write_latest(books.log, tmp_path / "other")
    assert read_snapshot(tmp_path / "other") == folded_on
    assert first != folded_on


def damage_nothing(snapshot):
    snapshot.unlink()


def damage_middle(snapshot):
    content = bytearray(snapshot.read_bytes())
    content[len(content) // 2] ^= 1
    snapshot.write_bytes(content)


def truncate(snapshot):
    snapshot.write_bytes(snapshot.read_bytes()[:-5])


def rewrite(**changes):
    def run(snapshot):
        found = read_snapshot(snapshot)
        fields = {"size": found.size, "root": found.root, "rules_version": found.rules_version, "payload": found.payload}
        write_snapshot(snapshot, **(fields | changes))

    return run


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (damage_nothing, "there is no snapshot"),
        (damage_middle, "the snapshot is damaged"),
        (truncate, "the snapshot is damaged"),
        (lambda snapshot: snapshot.write_text("{}"), "the snapshot is damaged"),
        (lambda snapshot: snapshot.write_bytes(b""), "the snapshot is damaged"),
        (rewrite(size=10_000), "of size 10000, the log has"),
        (rewrite(size=-1), "of size -1, the log has"),
        (rewrite(root=bytes(32)), "of another log"),
        (rewrite(size=5), "of another log"),
        (rewrite(rules_version="0"), f"of rules 0, these are {VERSION}"),
        (rewrite(rules_version=VERSION[:-1]), "these are"),
        (rewrite(payload=b""), "the snapshot is damaged"),
        (rewrite(payload=(2).to_bytes(8, "big") + b"{}"), "the snapshot is damaged"),
        (rewrite(payload=(6).to_bytes(8, "big") + b"[[],5]"), "the snapshot is damaged"),
        (rewrite(payload=encode_state(State(size=7))), "holds a state of 7"),
    ],
)
def test_what_does_not_match_is_not_used_and_the_ledger_opens_right(books, url, snapshot, change, why):
    busy(books, 5)
    books.write_snapshot()
    expected = latest_state(books.log)
    books.close()
    change(snapshot)
    with Ledger.open(url) as again:
        assert again.opened_from.startswith("the whole log: ")
        assert why in again.opened_from
        assert again._state == expected
        assert again.write_snapshot() == again.size
    with Ledger.open(url) as again:
        assert again.opened_from == f"a snapshot of size {again.size}"


def test_a_snapshot_of_another_ledger_is_not_used(books, url, snapshot, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    with open_funded(url_of(other)) as stranger:
        stranger.write_snapshot()
        size = stranger.size
    assert size <= books.size
    books.close()
    (other / "books.db.snapshot").rename(snapshot)
    with Ledger.open(url) as again:
        assert "of another log" in again.opened_from


def test_no_changed_byte_of_a_snapshot_changes_the_books(books, snapshot, tmp_path):
    busy(books, 3)
    books.write_snapshot()
    content = snapshot.read_bytes()
    expected = books._state
    for place in range(0, len(content), 7):
        snapshot.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        state, _ = snapshots.load_state(books.log, snapshot)
        assert state is None or state == expected


def test_the_json_can_be_read_by_people(books):
    payload = encode_state(books._state)
    lengths, value = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "big")])
    assert value[0] == "acme"
    assert len(lengths) >= 2


def test_a_ledger_in_memory_has_no_snapshot():
    with Ledger.open("sqlite:///:memory:") as books:
        assert books.opened_from == "the whole log: no place for a snapshot"
        with pytest.raises(LedgerError, match="no place for a snapshot"):
            books.write_snapshot()


def test_a_snapshot_that_cannot_be_written_is_said(url, tmp_path):
    with Ledger.open(url, snapshot=str(tmp_path / "none" / "snapshot")) as books:
        books.execute_many([stock(), holder()])
        with pytest.raises(LedgerError) as caught:
            books.write_snapshot()
    assert caught.value.reason_name == "STORE_UNAVAILABLE"

"""Around every command: its request id, its last moment, asking without booking, and fields nobody knows."""

from __future__ import annotations

import pytest
from durable import booked_requests, open_funded, request_id, transfer, url_of
from hypothesis import example, given
from hypothesis import strategies as st
from scenario import START_US, FixedClock, account

from ledger import Ledger, LedgerError, vectors
from ledger.answers import timestamp
from ledger.log.store import open_log
from ledger.replay import latest_state, parse_entry
from ledger.request_ids import RequestIds, format_request_id, parse_request_id, parse_request_ids
from ledger.rules import RULES
from ledger.state import State
from stockledger.v1.accounts_pb2 import GetHoldingRequest, OpenAccountRequest
from stockledger.v1.audit_pb2 import FindRequestRequest
from stockledger.v1.common_pb2 import AsOf, LegColumns
from stockledger.v1.eligibility_pb2 import CheckTransferResponse
from stockledger.v1.events_pb2 import Entry, LedgerOpened
from stockledger.v1.transfers_pb2 import TransferBatchRequest, TransfersPacked, UnitsTransferred

SECOND = 1_000_000
HOUR = 3600 * SECOND
UNKNOWN = b"\xf8\x3f\x01"
"""Field 1023, a varint of 1."""


@pytest.fixture
def clock():
    return FixedClock()


@pytest.fixture
def url(tmp_path):
    return url_of(tmp_path)


@pytest.fixture
def books(url, clock):
    with open_funded(url, clock=clock) as opened:
        yield opened


def refused(books, command, reason, **options):
    before, size = latest_state(books.log), books.size
    with pytest.raises(LedgerError) as caught:
        books.execute(command, **options)
    assert caught.value.reason_name == reason, str(caught.value)
    assert books.size == size
    assert books._state == before, "a refusal leaves no trace"
    return caught.value


# ---- request ids ---------------------------------------------------------------------------------------------------------------------


def test_a_repeat_gets_its_first_answer_and_other_content_none(books):
    first = books.execute(transfer(units=5, request_id=request_id(1)))
    size = books.size
    again = books.execute(transfer(units=5, request_id=request_id(1)))
    assert again.booking.repeated_answer
    assert not first.booking.repeated_answer
    assert (again.event, again.booking.index, again.booking.decision_time) == (
        first.event,
        first.booking.index,
        first.booking.decision_time,
    )
    assert books.size == size
    error = refused(books, transfer(units=6, request_id=request_id(1)), "REQUEST_ID_REUSED")
    assert error.metadata["index"] == str(first.booking.index)
    refused(books, OpenAccountRequest(account="book:new", holder="h-1", request_id=request_id(1)), "REQUEST_ID_REUSED")


def test_the_same_id_of_two_principals_is_two_requests(books):
    for principal in ("broker-a", "broker-b"):
        answer = books.execute(transfer(request_id=request_id(1)), principal=principal)
        assert not answer.booking.repeated_answer
    assert [found[0] for found in booked_requests(books) if found[1] == request_id(1)] == ["broker-a", "broker-b"]
    found = [books.execute(FindRequestRequest(request_id=request_id(1), principal=name)) for name in ("broker-a", "broker-b", "broker-c")]
    assert [answer.found for answer in found] == [True, True, False]
    assert found[0].index != found[1].index


def test_an_id_and_a_principal_are_not_run_together(books):
    """The id has a fixed length, so no principal can end where another's id goes on."""
    books.execute(transfer(request_id=request_id(1)), principal="a")
    assert not books.execute(transfer(request_id=request_id(1)), principal="ab").booking.repeated_answer


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "01932b7e-7c00-7000-8000-00000000000",
        "01932B7E-7C00-7000-8000-000000000001",
        "01932b7e-7c00-4000-8000-000000000001",
        "01932b7e-7c00-7000-c000-000000000001",
        "01932b7e7c0070008000000000000001",
        "01932b7e-7c00-7000-8000-000000000001\n",
    ],
)
def test_an_id_of_another_form_is_malformed(books, text):
    assert refused(books, transfer(request_id=text), "FIELD_MALFORMED").metadata["field"] == "request_id"


HEX = "0123456789abcdef"
odd_ids = st.builds(
    lambda text, place, character: text[:place] + character + text[place + 1 :],
    st.just(request_id(7)),
    st.integers(0, 36),
    st.sampled_from([*HEX, "A", "F", "g", "-", " ", "\n", "", "é", "\u0661", "00"]),
)


@pytest.mark.skipif(vectors.numpy is None, reason="columns need numpy")
@given(st.lists(st.one_of(st.just(request_id(5)), st.uuids(version=4).map(str), odd_ids), min_size=1, max_size=4))
@example([request_id(5)[:8] + "0" + request_id(5)[9:-1] + "-"])
def test_many_ids_are_read_as_one_by_one(texts):
    try:
        one_by_one = [parse_request_id(text) for text in texts]
    except LedgerError:
        one_by_one = None
    rows = [text.encode() for text in texts]
    if all(len(row) == 36 for row in rows):
        found = parse_request_ids(vectors.numpy.frombuffer(b"".join(row + b"more" for row in rows), dtype="u1").reshape(-1, 40))
        assert found == one_by_one
    else:
        assert one_by_one is None


def test_an_id_of_a_year_beyond_the_calendar_is_refused_like_any_other(books):
    """48 bits of milliseconds reach to the year 10889, the calendar to 9999."""
    with pytest.raises(LedgerError) as caught:
        books.execute(transfer(request_id="ffffffff-ffff-7000-8000-000000000001"))
    assert caught.value.reason_name == "REQUEST_ID_FROM_FUTURE"
    assert "281474976710 s after 1970" in caught.value.message


def test_an_id_may_be_five_minutes_ahead_and_not_more(books):
    refused(books, transfer(request_id=request_id(1, START_US + 301 * SECOND)), "REQUEST_ID_FROM_FUTURE")
    ahead = transfer(request_id=request_id(1, START_US + 299 * SECOND))
    books.execute(ahead)
    assert books.execute(ahead).booking.repeated_answer


def test_the_id_that_the_ledger_made_does_not_book_a_second_time(books):
    first = books.execute(transfer())
    refused(books, transfer(request_id=first.booking.request_id), "REQUEST_ID_REUSED")


def test_no_command_has_a_map_whose_order_would_change_its_digest():
    def maps(descriptor, seen):
        if descriptor.full_name in seen:
            return []
        seen.add(descriptor.full_name)
        nested = [field for field in descriptor.fields if field.message_type is not None]
        found = [field.full_name for field in nested if field.message_type.GetOptions().map_entry]
        return found + [name for field in nested for name in maps(field.message_type, seen)]

    assert maps(CheckTransferResponse.DESCRIPTOR, set()), "maps are found"
    assert {command.__name__: maps(command.DESCRIPTOR, set()) for command in RULES} == {command.__name__: [] for command in RULES}


def test_made_ids_are_version_seven_and_never_two_alike():
    ids = RequestIds()
    made = [ids.make(START_US // 1000) for _ in range(2000)]
    assert len(set(made)) == 2000
    assert all(parse_request_id(format_request_id(each)) == each for each in made)


def test_the_window_by_time_expires_ids_and_find_request_still_knows_them(url, clock):
    with open_funded(url, clock=clock, request_window_seconds=3600) as books:
        old = transfer(request_id=request_id(1))
        first = books.execute(old)
        clock.pass_time(HOUR)
        assert books.execute(old).booking.repeated_answer
        clock.pass_time(2 * SECOND)
        books.execute(transfer(request_id=request_id(2, clock.now_us)))
        error = refused(books, old, "REQUEST_ID_EXPIRED")
        assert error.metadata["request_id"] == request_id(1)
        found = books.execute(FindRequestRequest(request_id=request_id(1)))
        assert (found.found, found.index) == (True, first.booking.index)
        assert not books.execute(FindRequestRequest(request_id=request_id(77))).found
        never_booked = transfer(request_id=request_id(3, START_US - HOUR))
        refused(books, never_booked, "REQUEST_ID_EXPIRED")


def test_the_window_by_count_raises_the_mark_but_never_into_the_last_minute(url, clock):
    with open_funded(url, clock=clock, request_window_count=10) as books:
        for number in range(50):
            books.execute(transfer(request_id=request_id(number, clock.now_us)))
        requests = books._state.requests
        assert requests.count >= 50, "all of them are of the last minute"
        low = requests.low_water_second
        clock.pass_time(90 * SECOND)
        for number in range(20):
            books.execute(transfer(request_id=request_id(100 + number, clock.now_us)))
        assert requests.count == 20
        assert requests.low_water_second > low
        refused(books, transfer(request_id=request_id(1)), "REQUEST_ID_EXPIRED")
        assert books.execute(transfer(request_id=request_id(100, clock.now_us))).booking.repeated_answer


def test_the_mark_never_falls_not_even_over_a_restart(url, clock):
    marks = []
    books = open_funded(url, clock=clock, request_window_count=5, request_window_seconds=600)
    for step in range(30):
        clock.pass_time((step % 7) * 40 * SECOND)
        clock.jump(-SECOND)
        books.execute(transfer(request_id=request_id(step, clock.wall_us())))
        marks.append(books._state.requests.low_water_second)
        if step % 5 == 4:
            if step % 10 == 4:
                books.write_snapshot()
            books.close()
            books = Ledger.open(url, clock=clock)
            marks.append(books._state.requests.low_water_second)
    books.close()
    assert marks == sorted(marks)
    assert marks[-1] > marks[0]


def test_a_long_quiet_ledger_forgets_at_once(url, clock):
    """Seven days of empty seconds are passed over in one step."""
    with open_funded(url, clock=clock, request_window_count=5) as books:
        for number in range(6):
            books.execute(transfer(request_id=request_id(number, clock.now_us)))
        clock.pass_time(6 * 24 * HOUR)
        books.execute(transfer(request_id=request_id(99, clock.now_us)))
        assert books._state.requests.count == 1


def test_repeats_within_one_call_and_across_packing(books):
    command = transfer(units=2, request_id=request_id(1))
    other = transfer(units=3, request_id=request_id(1))
    for pack in (False, True):
        size = books.size
        answers = books.execute_many([command, transfer(), command, other, transfer()], pack=pack)
        assert [isinstance(answer, LedgerError) for answer in answers] == [False, False, False, True, False]
        assert answers[3].reason_name == "REQUEST_ID_REUSED"
        assert answers[2].booking.repeated_answer
        assert (answers[2].event, answers[2].booking.index, answers[2].booking.position) == (
            answers[0].event,
            answers[0].booking.index,
            answers[0].booking.position,
        )
        assert answers[0].booking.repeated_answer == pack, "the second call repeats the first"
        assert books.size > size
    assert len([found for found in booked_requests(books) if found[1] == request_id(1)]) == 1


def test_a_packed_request_repeated_alone_gets_its_line(books):
    commands = [transfer(units=number + 1, request_id=request_id(number)) for number in range(10)]
    answers = books.execute_many(commands, pack=True)
    assert books.size == answers[0].booking.index + 1
    again = books.execute(commands[7])
    assert again.booking.repeated_answer
    assert (again.event, again.booking.index, again.booking.position) == (answers[7].event, answers[7].booking.index, 7)
    refused(books, transfer(units=99, request_id=request_id(7)), "REQUEST_ID_REUSED")


def test_decision_times_rise_with_every_command(books):
    books.execute_many([transfer(), account("book:x1", "h-1"), transfer(), transfer(), account("book:x2", "h-1"), transfer()], pack=True)
    books.execute_many([transfer(), transfer()])
    times = [entry.decision_time_us for _, entry in books.tail()]
    assert times == sorted(set(times)), "every entry was decided later than the one before"


# ---- not after, validate only --------------------------------------------------------------------------------------------------------


def test_a_delayed_copy_is_refused_and_one_in_time_is_not(books, clock):
    last = timestamp(START_US + 10 * SECOND)
    books.execute(transfer(not_after_time=last))
    clock.pass_time(11 * SECOND)
    error = refused(books, transfer(not_after_time=last), "REQUEST_TOO_LATE")
    assert error.metadata["not_after_time"] == "2026-11-22T18:00:10Z"
    assert books.execute_many([transfer(not_after_time=last)], pack=True)[0].reason_name == "REQUEST_TOO_LATE"


def test_what_was_booked_in_time_keeps_its_answer_however_late_it_is_asked_again(books, clock):
    command = transfer(not_after_time=timestamp(START_US + 10 * SECOND), request_id=request_id(1))
    first = books.execute(command)
    clock.pass_time(HOUR)
    for again in (books.execute(command), books.execute_many([command], pack=True)[0]):
        assert again.booking.repeated_answer
        assert again.booking.index == first.booking.index
    refused(books, transfer(not_after_time=timestamp(START_US), request_id=request_id(2)), "REQUEST_TOO_LATE")


def test_a_last_moment_finer_than_a_microsecond_is_malformed(books):
    command = transfer()
    command.not_after_time.nanos = 1
    command.not_after_time.seconds = 2_000_000_000
    refused(books, command, "FIELD_MALFORMED")


def test_validate_only_books_nothing_and_judges_the_same(books):
    size, before = books.size, latest_state(books.log)
    answer = books.execute(transfer(units=7, validate_only=True, request_id=request_id(1)))
    assert answer.event.units == 7
    assert answer.booking.index == -1
    assert books.size == size
    assert books._state == before
    assert books.execute_many([transfer(validate_only=True)], pack=True)[0].booking.index == -1
    refused(books, transfer(units=10**9, validate_only=True), "UNITS_INSUFFICIENT")
    assert not books.execute(transfer(units=7, request_id=request_id(1))).booking.repeated_answer, "asking does not use the id up"


@pytest.mark.parametrize("principal", ["", "x" * 129, "\ud800"])
def test_who_asks_has_a_name(books, principal):
    size = books.size
    with pytest.raises(LedgerError) as caught:
        books.execute(transfer(), principal=principal)
    assert caught.value.reason_name == "FIELD_MALFORMED"
    assert books.size == size
    books.execute(transfer(), principal="x" * 128)


# ---- unknown fields ------------------------------------------------------------------------------------------------------------------


def with_unknown(message, within=None):
    """Return a message with field 1023 in it, or in the messages of one of its fields."""
    if within is None:
        return type(message).FromString(message.SerializeToString() + UNKNOWN)
    inner = getattr(message, within)
    for each in [inner] if hasattr(inner, "SerializeToString") else inner:
        each.MergeFromString(UNKNOWN)
    return message


@pytest.mark.parametrize(
    ("command", "where"),
    [
        (with_unknown(transfer()), "1023"),
        (with_unknown(transfer(not_after_time=timestamp(START_US + HOUR)), "not_after_time"), "not_after_time.1023"),
        (with_unknown(TransferBatchRequest(legs=[LegColumns(instrument="AAPLx", sources=[16], destinations=[17], units=[1])]), "legs"),
         "legs.1023"),
        (with_unknown(GetHoldingRequest(instrument="AAPLx", account="book:a0", as_of=AsOf(size=1)), "as_of"), "as_of.1023"),
        (with_unknown(GetHoldingRequest(instrument="AAPLx", account="book:a0")), "1023"),
        (with_unknown(FindRequestRequest(request_id=request_id(1))), "1023"),
    ],
)  # fmt: skip
def test_an_unknown_field_anywhere_is_refused(books, command, where):
    assert refused(books, command, "FIELD_MALFORMED").metadata["field"] == where


def test_an_unknown_field_is_refused_in_a_packed_run_too(books):
    answers = books.execute_many([transfer(), with_unknown(transfer()), transfer()], pack=True)
    assert [isinstance(answer, LedgerError) for answer in answers] == [False, True, False]
    assert answers[1].reason_name == "FIELD_MALFORMED"


def stored(url, *entries):
    """Write a log of these bytes, as a program that is not this one would."""
    with open_log(url) as log:
        log.append("acme", [f"entry {number}" for number in range(len(entries))], entries)


OPENED = Entry(
    decision_time_us=START_US,
    principal="operator",
    ledger_opened=LedgerOpened(ledger="acme", origin="x", request_window_seconds=600, request_window_count=10, format_version=1),
)
REOPENED = OPENED.SerializeToString()
MOVED = Entry(decision_time_us=START_US + 1, principal="operator", units_transferred=UnitsTransferred(instrument="AAPLx", source="book:a"))


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (with_unknown(MOVED).SerializeToString(), "1023"),
        (with_unknown(Entry.FromString(MOVED.SerializeToString()), "units_transferred").SerializeToString(), "units_transferred.1023"),
        (b"\xff\xff", "not an Entry"),
        (Entry(decision_time_us=START_US + 1).SerializeToString(), "has no event"),
        (MOVED.SerializeToString(), "cannot follow the books before it"),
        (Entry(part=1, part_count=2, units_transferred=UnitsTransferred()).SerializeToString(), "part 0 was expected"),
        (REOPENED, "opened once"),
        (Entry(transfers_packed=TransfersPacked(instruments=[1], units=[1])).SerializeToString(), "cannot follow"),
    ],
)  # fmt: skip
def test_an_entry_that_is_not_ours_is_refused_with_its_index(url, second, why):
    stored(url, OPENED.SerializeToString(), second)
    with pytest.raises(LedgerError, match=why) as caught:
        Ledger.open(url)
    assert caught.value.reason_name == "LOG_CORRUPT"
    assert caught.value.metadata["index"] == "1"


def test_a_log_of_another_format_is_refused(url):
    other = Entry.FromString(OPENED.SerializeToString())
    other.ledger_opened.format_version = 2
    stored(url, other.SerializeToString())
    with pytest.raises(LedgerError, match="format version 2"):
        Ledger.open(url)


def test_the_parser_names_the_entry():
    with pytest.raises(LedgerError) as caught:
        parse_entry(OPENED.SerializeToString() + UNKNOWN, 41)
    assert caught.value.metadata["index"] == "41"


# ---- the clock -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [6 * SECOND, HOUR, -6 * SECOND, -HOUR])
def test_a_clock_that_jumps_is_not_believed(books, clock, jump):
    clock.jump(jump)
    refused(books, transfer(), "CLOCK_UNSOUND")
    clock.jump(-jump)
    books.execute(transfer())


@pytest.mark.parametrize("jump", [4 * SECOND, -4 * SECOND])
def test_a_clock_that_is_set_a_little_is(books, clock, jump):
    clock.jump(jump)
    before = books._state.last_decision_time_us
    books.execute(transfer())
    assert books._state.last_decision_time_us > before


def test_a_jump_is_believed_when_the_ledger_is_opened_again_but_not_one_behind_the_log(books, url, clock):
    clock.jump(HOUR)
    refused(books, transfer(), "CLOCK_UNSOUND")
    books.close()
    with Ledger.open(url, clock=clock) as again:
        again.execute(transfer())
    clock.jump(-HOUR)
    with Ledger.open(url, clock=clock) as again:
        error = refused(again, transfer(), "CLOCK_UNSOUND")
        assert int(error.metadata["behind_us"]) > 3590 * SECOND


# ---- whose store it is ---------------------------------------------------------------------------------------------------------------


def test_another_ledgers_store_is_refused(books, url):
    books.close()
    with pytest.raises(LedgerError) as caught:
        Ledger.open(url, ledger_id="other")
    assert caught.value.reason_name == "LEDGER_NOT_FOUND"
    assert caught.value.metadata == {"expected": "other", "found": "acme"}
    with Ledger.open(url, ledger_id="acme") as again:
        assert again.ledger_id == "acme"


def test_reads_do_not_write_and_a_reader_does_not_lead(books, url):
    with Ledger.open(url, read_only=True) as reader:
        size = reader.size
        with pytest.raises(LedgerError) as caught:
            reader.execute(transfer())
        assert caught.value.reason_name == "NOT_LEADER"
        books.execute(transfer())
        assert reader.execute(GetHoldingRequest(instrument="AAPLx", account="book:a1")).holding.units == 1_000_001
        assert reader.size == size + 1
        at = GetHoldingRequest(instrument="AAPLx", account="book:a1", as_of=AsOf(size=books.size))
        books.execute(transfer())
        at.as_of.size = books.size
        assert reader.execute(at).holding.units == 1_000_002


def test_a_command_nobody_knows_is_a_mistake_of_the_caller(books):
    for wrong in (State(), transfer, "transfer"):
        with pytest.raises((TypeError, AttributeError)):
            books.execute(wrong)
    with pytest.raises(TypeError):
        books.execute_many([transfer(), GetHoldingRequest()])
    assert latest_state(books.log) == books._state

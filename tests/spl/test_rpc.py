"""What a node may do to us, over real sockets: each ends in time, in a result or in one named error."""

from __future__ import annotations

import base64
import socket
import time

import pytest
from faulty_http import answer, answer_error, answer_raw, faulty_server, hang_up
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import Transaction

from chain_adapters.spl import programs
from chain_adapters.spl.errors import (
    AnswerMalformed,
    HistoryBroken,
    HistoryPruned,
    NodeBehind,
    NodeFailed,
    NodeOverloaded,
    NodeUnreachable,
    RequestRefused,
    TransactionRefused,
    WrongChain,
)
from chain_adapters.spl.fate import fate_of
from chain_adapters.spl.history import read_range
from chain_adapters.spl.rpc import SIGNATURES_MAX, RpcClient

GENESIS = "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d"
ADDRESS = Pubkey.from_string("XsbEhLAtcf6HdfpFZ5xEMdqW8nfAvcsP5bdudRLJzJp")
NOT_JSON = answer_raw("200 OK", b"<html>welcome</html>")


@pytest.fixture
def server():
    with faulty_server() as server:
        yield server


@pytest.fixture
def pauses():
    return []


@pytest.fixture
def client(server, pauses):
    client = RpcClient(server.url, timeout_seconds=1.0, tries=4, pause=pauses.append, answer_bytes_max=200_000)
    yield client
    client.close()


@pytest.mark.parametrize(
    ("behaviour", "error", "words"),
    [
        (hang_up, NodeUnreachable, "gave no answer"),
        (lambda _connection, _request: time.sleep(3), NodeUnreachable, r"no whole answer within 1\.0 s"),
        (answer_raw("429 Too Many Requests", b""), NodeOverloaded, "HTTP 429"),
        (answer_raw("503 Service Unavailable", b""), NodeOverloaded, "HTTP 503"),
        (answer_raw("500 Internal Server Error", b"boom"), NodeFailed, "HTTP 500"),
        (answer_raw("502 Bad Gateway", b"<html>"), NodeFailed, "HTTP 502"),
        (NOT_JSON, AnswerMalformed, "20 bytes that are no JSON"),
        (answer_raw("200 OK", b""), AnswerMalformed, "0 bytes that are no JSON"),
        (answer_raw("200 OK", b'{"jsonrpc":"2.0","id":1,"result":'), AnswerMalformed, "no JSON"),
        (answer_raw("200 OK", b'{"jsonrpc":"2.0","id":1,"res', length=500), AnswerMalformed, "28 of 500 bytes"),
        (answer_raw("200 OK", b"\xff\xfe\x00"), AnswerMalformed, "no JSON"),
        (answer_raw("200 OK", b'{"jsonrpc":"2.0","id":1,"result":NaN}'), AnswerMalformed, "no JSON"),
        (answer_raw("200 OK", b"[" * 90_000), AnswerMalformed, "no JSON"),
        (answer_raw("200 OK", b"[]"), AnswerMalformed, "no JSON-RPC"),
        (answer_raw("200 OK", b'{"jsonrpc":"2.0","id":999,"result":5}'), AnswerMalformed, "another call"),
        (answer_raw("200 OK", b'{"jsonrpc":"2.0","id":1}'), AnswerMalformed, "another call"),
        (answer_raw("200 OK", b"x" * 200_001), AnswerMalformed, "more than 200000 bytes"),
        (answer_raw("200 OK", b'{"jsonrpc":"2.0","id":1,"error":"no"}'), AnswerMalformed, "unknown shape"),
        (answer_error(-32005, "Node is unhealthy", {"numSlotsBehind": 42}), NodeBehind, "unhealthy"),
        (answer_error(-32016, "Minimum context slot has not been reached"), NodeBehind, "come that far"),
    ],
)
def test_what_may_pass_is_tried_again_and_then_named(server, client, pauses, *, behaviour, error, words):
    server.behaviours = [behaviour]
    with pytest.raises(error, match=words):
        client.finalized_slot()
    assert (len(server.requests), pauses) == (4, [0.1, 0.2, 0.4])
    server.behaviours = [behaviour, behaviour, answer(77)]
    assert client.finalized_slot() == 77


@pytest.mark.parametrize(
    ("behaviour", "error", "words"),
    [
        (answer_raw("401 Unauthorized", b""), NodeFailed, "HTTP 401"),
        (answer_raw("404 Not Found", b""), NodeFailed, "HTTP 404"),
        (answer_error(-32601, "Method not found"), RequestRefused, "-32601"),
        (answer_error(-32602, "Invalid param"), RequestRefused, "-32602"),
        (answer_error(-32001, "Block 5 cleaned up"), HistoryPruned, "cleaned up"),
        (answer_error(-32009, "Slot was skipped, or missing in long-term storage"), HistoryPruned, "long-term"),
        (
            answer_error(-32002, "Transaction simulation failed", {"err": "BlockhashNotFound", "logs": []}),
            TransactionRefused,
            "simulation failed",
        ),
    ],
)
def test_what_cannot_pass_is_named_at_once(server, client, pauses, *, behaviour, error, words):
    server.behaviours = [behaviour]
    with pytest.raises(error, match=words):
        client.finalized_slot()
    assert (len(server.requests), pauses) == (1, [])


def test_a_node_that_names_a_time_is_given_it(server, client, pauses):
    slow_down = answer_raw("429 Too Many Requests", b"", "Retry-After: 7")
    server.behaviours = [slow_down, answer_raw("429 Too Many Requests", b"", "Retry-After: 86400"), answer(1)]
    assert client.finalized_slot() == 1
    assert pauses == [7.0, 30.0]


def test_bytes_that_trickle_in_end_with_the_time_allowed(server, client):
    def trickle(connection, request):
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b" " * 1000:
            time.sleep(0.05)
            connection.sendall(bytes([byte]))

    server.behaviours = [trickle, answer(5)]
    begun = time.monotonic()
    assert client.finalized_slot() == 5
    assert time.monotonic() - begun < 3


def test_no_server_at_all(pauses):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    client = RpcClient(f"http://127.0.0.1:{port}", tries=3, pause=pauses.append)
    with pytest.raises(NodeUnreachable, match=f"127.0.0.1:{port} gave no answer: ConnectionRefusedError"):
        client.finalized_slot()
    assert pauses == [0.1, 0.2]


@pytest.mark.parametrize("url", ["", "127.0.0.1:8899", "ftp://example.com", "http://", "file:///etc/passwd"])
def test_a_url_that_names_no_node(url):
    with pytest.raises(NodeUnreachable, match="http"):
        RpcClient(url)


def test_no_message_shows_the_providers_key(server, client):
    server.behaviours = [answer_raw("401 Unauthorized", b"SECRET")]
    with pytest.raises(NodeFailed) as failed:
        client.finalized_slot()
    assert "SECRET" not in str(failed.value)


def test_a_kept_connection_that_was_closed_is_made_anew(server, client):
    server.behaviours = [answer(1), hang_up, answer(2)]
    assert [client.finalized_slot(), client.finalized_slot()] == [1, 2]


@pytest.mark.parametrize("slot", [-1, 1 << 63, "7", None, True, 1.5, [], {}])
def test_a_slot_that_is_none(server, client, slot):
    server.behaviours = [answer(slot)]
    with pytest.raises(AnswerMalformed):
        client.finalized_slot()


GOOD_ACCOUNT = {"lamports": 5, "owner": str(ADDRESS), "data": ["AAE=", "base64"]}


@pytest.mark.parametrize(
    "value",
    [
        5,
        {**GOOD_ACCOUNT, "lamports": -1},
        {**GOOD_ACCOUNT, "owner": "nobody"},
        {**GOOD_ACCOUNT, "data": "AAE="},
        {**GOOD_ACCOUNT, "data": ["AAE=", "base58"]},
        {**GOOD_ACCOUNT, "data": ["?", "base64"]},
        {"lamports": 5},
    ],
)
def test_an_account_that_is_none(server, client, value):
    server.behaviours = [answer({"context": {"slot": 9}, "value": value})]
    with pytest.raises(AnswerMalformed):
        client.account(ADDRESS)
    server.behaviours = [answer({"context": {"slot": 9}, "value": GOOD_ACCOUNT})]
    slot, account = client.account(ADDRESS)
    assert (slot, account.data, account.lamports) == (9, b"\x00\x01", 5)
    server.behaviours = [answer({"context": {"slot": 9}, "value": None})]
    assert client.account(ADDRESS) == (9, None)
    server.behaviours = [answer({"value": None})]
    with pytest.raises(AnswerMalformed, match="context"):
        client.account(ADDRESS)


def test_as_many_accounts_as_were_asked_for(server, client):
    server.behaviours = [answer({"context": {"slot": 9}, "value": [None]})]
    with pytest.raises(AnswerMalformed, match="1 accounts for 2 addresses"):
        client.accounts([ADDRESS, ADDRESS])


def test_a_node_of_another_chain(server, client):
    server.behaviours = [answer(GENESIS)]
    client.check_chain("solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp")
    with pytest.raises(
        WrongChain, match="is one of solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp, not of solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
    ):
        client.check_chain("solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1")


# Sending


@pytest.fixture
def transaction():
    payer = Keypair.from_seed(bytes(32))
    message = Message([programs.memo("x")], payer.pubkey())
    return bytes(Transaction([payer], message, message.recent_blockhash))


def signature(transaction):
    return str(Transaction.from_bytes(transaction).signatures[0])


def test_a_lost_answer_to_sending_is_no_failure(server, client, transaction):
    landed_already = answer_error(
        -32002, "Transaction simulation failed: This transaction has already been processed", {"err": "AlreadyProcessed"}
    )
    server.behaviours = [hang_up, landed_already]
    assert client.send(transaction) == signature(transaction)
    assert [request["method"] for request in server.requests] == ["sendTransaction"] * 2
    assert len({request["params"][0] for request in server.requests}) == 1


def test_a_refused_transaction_says_why(server, client, transaction):
    error = {"err": {"InstructionError": [2, {"Custom": 67}]}, "logs": ["Program log: paused"]}
    server.behaviours = [answer_error(-32002, "Transaction simulation failed", error)]
    with pytest.raises(TransactionRefused) as refused:
        client.send(transaction)
    assert (refused.value.error, refused.value.logs) == ({"InstructionError": [2, {"Custom": 67}]}, ("Program log: paused",))


def test_an_answer_for_another_transaction(server, client, transaction):
    server.behaviours = [answer("1" * 64)]
    with pytest.raises(AnswerMalformed, match="for the transaction"):
        client.send(transaction)


# History


def info(number, slot):
    return {"signature": f"signature-{number}", "slot": slot, "err": None, "blockTime": 1_700_000_000, "memo": None}


def test_a_history_is_read_page_by_page_down_to_its_slot(server, client):
    pages = [
        [info(number, 5_000 - number // 2) for number in range(SIGNATURES_MAX)],
        [info(SIGNATURES_MAX + number, 4_500 - number) for number in range(SIGNATURES_MAX)],
    ]
    server.behaviours = [*(answer(page) for page in pages), answer("never asked for")]
    found = list(client.signatures_back_to(ADDRESS, 4_000))
    assert [found[0].slot, found[-1].slot, len(found)] == [5_000, 4_000, SIGNATURES_MAX + 501]
    assert server.requests[1]["params"][1]["before"] == f"signature-{SIGNATURES_MAX - 1}"


@pytest.mark.parametrize("second", [info(2, 101), info(2, -1), {"signature": "x"}, 7, info(2, 100) | {"blockTime": "soon"}])
def test_a_history_that_rises_or_is_none(server, client, second):
    server.behaviours = [answer([info(1, 100), second])]
    with pytest.raises(AnswerMalformed):
        list(client.signatures_back_to(ADDRESS, 0))


def test_a_page_that_comes_again_ends_the_reading(server, client):
    server.behaviours = [answer([info(number, 5) for number in range(SIGNATURES_MAX)])]
    with pytest.raises(AnswerMalformed):
        list(client.signatures_back_to(ADDRESS, 0))


def test_a_listed_transaction_that_is_not_there(server, client):
    server.behaviours = [answer(0), answer([info(1, 100)]), answer(None)]
    with pytest.raises(HistoryBroken, match="lists signature-1 in slot 100 and does not find it"):
        list(read_range(client, ADDRESS, 0, 100))


def test_a_node_that_does_not_go_back_far_enough(server, client):
    server.behaviours = [answer(51), answer([])]
    with pytest.raises(HistoryPruned, match="goes back to slot 51, needed is 50"):
        list(read_range(client, ADDRESS, 50, 100))
    server.behaviours = [answer(50), answer([])]
    assert list(read_range(client, ADDRESS, 50, 100)) == []


def test_a_block_that_lacks_what_is_listed_in_it(server, client):
    server.behaviours = [answer(0), answer([info(2, 100), info(1, 100)]), answer({"signatures": ["signature-1"]})]
    with pytest.raises(HistoryBroken, match="lacks signature-2"):
        list(read_range(client, ADDRESS, 0, 100))


@pytest.mark.parametrize(
    "change",
    [
        {"transaction": None},
        {"transaction": ["?", "base64"]},
        {"transaction": [base64.b64encode(b"\x01" * 200).decode(), "base64"]},
        {"slot": -1},
        {"slot": "5"},
        {"meta": None},
        {"meta": {"err": None}},
        {
            "meta": {
                "err": None,
                "fee": 1,
                "innerInstructions": [{"index": 0, "instructions": [{"programIdIndex": 99, "accounts": [], "data": ""}]}],
            }
        },
        {
            "meta": {
                "err": None,
                "fee": 1,
                "innerInstructions": [{"index": 0, "instructions": [{"programIdIndex": 0, "accounts": [], "data": "0"}]}],
            }
        },
        {"meta": {"err": None, "fee": 1, "loadedAddresses": {"writable": ["x"], "readonly": []}}},
    ],
)
def test_a_transaction_that_is_none(server, client, transaction, change):
    whole = {
        "slot": 100,
        "blockTime": 1,
        "meta": {"err": None, "fee": 5000},
        "transaction": [base64.b64encode(transaction).decode(), "base64"],
    }
    listed = [info(1, 100) | {"signature": signature(transaction)}]
    server.behaviours = [answer(0), answer(listed), answer(whole)]
    assert [one.memos for one in read_range(client, ADDRESS, 0, 100)] == [("x",)]
    server.behaviours = [answer(0), answer(listed), answer(whole | change)]
    with pytest.raises(AnswerMalformed):
        list(read_range(client, ADDRESS, 0, 100))


def test_another_transaction_than_ours_is_no_answer(server, client, transaction):
    payer = Keypair.from_seed(bytes(32)).pubkey()
    ours = bytes(Message.new_with_nonce([programs.memo("ours")], payer, ADDRESS, payer))
    encoded = base64.b64encode(transaction).decode()
    server.behaviours = [answer({"slot": 100, "blockTime": 1, "meta": {"err": None, "fee": 5000}, "transaction": [encoded, "base64"]})]
    with pytest.raises(HistoryBroken, match="with other content when asked for ours"):
        fate_of(client, ours, "ours", since_slot=0, through_slot=100)

"""The story goes on over gRPC: the book of the exchange is served, and brokers, issuer, custodian, exchange and auditor come with tokens.

Played by demo.py on the store of the first part. Each principal has a client of its own (stockledger.client) and nothing else: no import
of the ledger stands behind what they do. The server is `stockledger serve`, a process that is killed while they are at work.
"""

from __future__ import annotations

import base64
import itertools
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from nacl.signing import SigningKey

from stockledger.client import Client, LedgerError, new_request_id
from stockledger.v1 import (
    accounts_pb2,
    approvals_pb2,
    audit_pb2,
    holds_pb2,
    issuance_pb2,
    reserves_pb2,
    settlement_pb2,
    transfers_pb2,
)

SHARE, DOLLAR = 10**8, 10**6
BROKERS = ("broker-a", "broker-b")
CLIENTS = 20
KILLS = 3
ISSUER, AUDIENCE = "https://login.demo.example", "stockledger-demo"
ROLES = (
    ("issuer", approvals_pb2.ROLE_ISSUER, ""),
    ("compliance", approvals_pb2.ROLE_APPROVER, ""),
    ("custody-desk", approvals_pb2.ROLE_CUSTODIAN, "custodian"),
    ("broker-a", approvals_pb2.ROLE_BROKER, "broker-a"),
    ("broker-b", approvals_pb2.ROLE_BROKER, "broker-b"),
    ("exchange", approvals_pb2.ROLE_EXCHANGE, ""),
    ("auditor", approvals_pb2.ROLE_AUDITOR, ""),
)


class TokenDesk:
    """Who says who somebody is: signs tokens, and publishes the key that the server checks them with."""

    def __init__(self, folder: Path) -> None:
        self._key = Ed25519PrivateKey.generate()
        public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        key = {"kty": "OKP", "crv": "Ed25519", "kid": "demo", "x": base64.urlsafe_b64encode(public).rstrip(b"=").decode()}
        self.file = folder / "token-keys.json"
        self.file.write_text(json.dumps({"keys": [key]}), encoding="ascii")

    def token(self, principal: str, *, valid_seconds: int = 600, key: Ed25519PrivateKey | None = None) -> str:
        claims = {"sub": principal, "iss": ISSUER, "aud": AUDIENCE, "exp": int(time.time()) + valid_seconds}
        return jwt.encode(claims, key or self._key, "EdDSA", {"kid": "demo"})


class Served:
    """`stockledger serve` on the store, on one port for all its lives."""

    def __init__(self, folder: Path, desk: TokenDesk) -> None:
        self._folder = folder
        self._flags = [
            *("serve", "--store", "sqlite:///books.db", "--signing-key", "checkpoint.key", "--log-level", "error"),
            *("--token-keys", str(desk.file), "--token-issuer", ISSUER, "--token-audience", AUDIENCE),
            *("--local-operator", "", "--operators", "operator,second-operator"),
        ]
        self.address = "127.0.0.1:0"
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "services.cli.main", *self._flags, "--address", self.address]
        self._process = subprocess.Popen(command, cwd=self._folder, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None, "its lines are piped"
        line = self._process.stderr.readline()
        if not line.startswith("stockledger serves"):
            raise SystemExit(f"the server did not start: {line}{self._process.stderr.read()}")
        self.address = line.split()[-1]

    def stop(self, how: int) -> None:
        assert self._process is not None, "it runs"
        self._process.send_signal(how)
        self._process.wait()
        assert self._process.stderr is not None, "its lines are piped"
        self._process.stderr.close()
        self._process = None

    def close(self) -> None:
        """End it if it runs."""
        if self._process is not None:
            self.stop(signal.SIGTERM)


class BrokersStory:
    """The second part. `acknowledged` is what all were told is booked: (principal, request id) -> index, None where none was told."""

    def __init__(self, folder: Path) -> None:
        self.desk = TokenDesk(folder)
        self.server = Served(folder, self.desk)
        self.acknowledged: dict[tuple[str, str], int | None] = {}
        self.repeats = 0
        self.refusals = 0
        self._lock = threading.Lock()
        everybody = ("operator", "second-operator", *(name for name, _, _ in ROLES))
        self.clients = {name: Client(self.server.address, token=self._token_of(name), seconds=60) for name in everybody}

    def _token_of(self, principal: str) -> Callable[[], str]:
        token = self.desk.token(principal)
        return lambda: token

    def close(self) -> None:
        for client in self.clients.values():
            client.close()

    def do(self, principal: str, command: Any, approver: str = "compliance") -> Any:
        """Have a command booked, and approved by somebody else where that is needed."""
        command.request_id = new_request_id()
        answer = self.clients[principal].execute(command)
        with self._lock:
            self.acknowledged[principal, command.request_id] = answer.booking.index
            self.repeats += answer.booking.repeated_answer
        if answer.booking.approval:
            self.do(approver, approvals_pb2.ApproveCommandRequest(approval=answer.booking.approval))
        return answer

    def refused(self, what: str, ask: Callable[[], Any]) -> LedgerError:
        """Ask for what must not be, and show how it is refused."""
        try:
            ask()
        except LedgerError as error:
            self.refusals += 1
            print(f"   refused, {what}:\n      {error}")
            return error
        raise SystemExit(f"{what}: was not refused")

    # ---- chapters -------------------------------------------------------------------------------------------------------------------

    def roles(self) -> None:
        """Who may do what: roles are commands in the log, and take two people."""
        for principal, role, scope in ROLES:
            grant = approvals_pb2.GrantRoleRequest(principal=principal, role=role, scope=scope)
            self.do("operator", grant, approver="second-operator")
            name = approvals_pb2.Role.Name(role).removeprefix("ROLE_").lower()
            print(f"   {principal:<13} {name}{f', acting for {scope} alone' if scope else ''}")

    def onboarding(self) -> None:
        """Brokers bring their clients; the custodian attests; the issuer issues, and somebody else approves."""
        for broker in BROKERS:
            for number in range(CLIENTS):
                holder, account = f"{broker}/{number:03}", account_of(broker, number)
                retail = accounts_pb2.INVESTOR_CLASS_RETAIL
                register = accounts_pb2.RegisterHolderRequest(holder=holder, broker=broker, country="DE", investor_class=retail)
                self.do(broker, register)
                self.do(broker, accounts_pb2.OpenAccountRequest(account=account, holder=holder))
        self.do("custody-desk", attestation("custodian/AAPLx", "US0378331005", 40_000))
        for instrument, broker, units in (("AAPLx", "broker-a", 8_000 * SHARE), ("USDC", "broker-b", 4_000_000 * DOLLAR)):
            issue = issuance_pb2.IssueUnitsRequest(instrument=instrument, account=account_of(broker, 0), units=units, reference="in kind")
            self.do("issuer", issue)
            part = units // CLIENTS
            wanted = [move(instrument, broker, 0, number, part) for number in range(1, CLIENTS)]
            assert not [o for o in self.clients[broker].transfers(wanted) if o.refusal], "all are booked"
        print(f"   {2 * CLIENTS} clients of two brokers; 8,000 AAPLx for those of broker-a, 4,000,000 USDC for those of broker-b")

    def subscription(self) -> None:
        """A client of broker-b subscribes: his cash is held, the order is filled, settled, and what was too much comes back."""
        asked = issuance_pb2.RequestSubscriptionRequest(
            instrument="AAPLx", account=account_of("broker-b", 3), cash_instrument="USDC", cash_units=50_000 * DOLLAR
        )
        number = self.do("broker-b", asked).event.subscription
        dates = {"trade_date": "2026-11-20", "settlement_date": "2026-11-23"}
        fill = issuance_pb2.FillSubscriptionRequest(
            subscription=number, shares_e8=100 * SHARE, price_e8=250 * 10**8, proceeds_account="book:issuer-cash", last=True, **dates
        )
        self.do("issuer", fill)
        self.do("issuer", issuance_pb2.SettleFillRequest(subscription=number, fill=1))
        held = self.holding("broker-b", "AAPLx", account_of("broker-b", 3))
        cash = self.holding("broker-b", "USDC", account_of("broker-b", 3))
        print(f"   50,000 USDC held, 100 AAPLx at 250 settled: the client has {held // SHARE} AAPLx and {cash // DOLLAR:,} USDC")

    def settlement(self) -> None:
        """Both brokers place orders, each on his own clients' accounts; the exchange settles across them."""
        sells = [self.order("broker-a", number, "AAPLx", 5 * SHARE) for number in range(CLIENTS)]
        buys = [self.order("broker-b", number, "USDC", 1_000 * DOLLAR) for number in range(CLIENTS)]
        settle = settlement_pb2.SettleTradesRequest(
            instrument="AAPLx",
            cash_instrument="USDC",
            sell_holds=sells,
            buy_holds=buys,
            units=[4 * SHARE] * CLIENTS,
            cash_units=[1_000 * DOLLAR] * CLIENTS,
        )
        index = self.do("exchange", settle).booking.index
        print(f"   {CLIENTS} trades of 4 AAPLx at 250, delivery versus payment, in one command at index {index}")

    def order(self, broker: str, number: int, instrument: str, units: int) -> int:
        place = holds_pb2.PlaceHoldRequest(
            instrument=instrument, account=account_of(broker, number), units=units, purpose=holds_pb2.HOLD_PURPOSE_ORDER
        )
        return int(self.do(broker, place).event.hold.hold)

    def holding(self, principal: str, instrument: str, account: str) -> int:
        request = accounts_pb2.GetHoldingRequest(instrument=instrument, account=account)
        return int(self.clients[principal].execute(request).holding.units)

    def refused_across_brokers(self) -> None:
        """What one may not know of another, and may not do to him."""
        own, foreign, unknown = account_of("broker-a", 1), account_of("broker-b", 1), "book:broker-b/nobody"
        as_a = self.clients["broker-a"]
        look = accounts_pb2.GetHoldingRequest
        there = self.refused("broker-a reads an account of broker-b", lambda: as_a.execute(look(instrument="AAPLx", account=foreign)))
        away = self.refused("... and one that does not exist", lambda: as_a.execute(look(instrument="AAPLx", account=unknown)))
        assert str(there) == str(away), "nobody learns whether it exists"
        take = transfers_pb2.TransferUnitsRequest(instrument="AAPLx", source=foreign, destination=own, units=SHARE)
        self.refused("broker-a takes from an account of broker-b", lambda: as_a.execute(take))
        listing = accounts_pb2.ListAccountsRequest(page_size=5)
        token = self.clients["broker-b"].execute(listing).next_page_token
        stolen = accounts_pb2.ListAccountsRequest(page_size=5, page_token=token)
        self.refused("broker-a reads on with a page token of broker-b's", lambda: as_a.execute(stolen))
        self.refused("the auditor moves units", lambda: self.clients["auditor"].execute(take))
        self.refused("broker-a reads the log itself", lambda: as_a.execute(audit_pb2.ListEntriesRequest()))
        issue = issuance_pb2.IssueUnitsRequest(instrument="AAPLx", account=own, units=SHARE)
        self.refused("a broker issues", lambda: as_a.execute(issue))
        for what, shown in (
            ("a token that has expired", self.desk.token("broker-a", valid_seconds=-60)),
            ("a token signed by somebody else", self.desk.token("broker-a", key=Ed25519PrivateKey.generate())),
            ("no token at all", ""),
        ):
            with Client(self.server.address, token=shown) as nobody:
                self.refused(what, lambda nobody=nobody: nobody.execute(listing))
        seen = [v for piece in as_a.entries(stop_when_caught_up=True) for v in piece.visible_entries]
        assert "broker-b" not in str([v.entry for v in seen]), "nothing of broker-b is seen"
        total = self.clients["auditor"].execute(audit_pb2.ListEntriesRequest(page_size=1)).size
        print(f"   the log as broker-a sees it: {len(seen):,} of {total:,} entries, and in none of them the name of a client of broker-b's")

    def killed(self) -> None:
        """SIGKILL while everybody is at work: single requests, streams, settlements, and an auditor who follows."""
        before = len(self.acknowledged), self.repeats
        stop, failures = threading.Event(), []
        follower = Follower(self.clients["auditor"])

        def guarded(work: Callable[[], None]) -> threading.Thread:
            def run() -> None:
                try:
                    work()
                except BaseException as failure:  # noqa: BLE001 - told where it is joined
                    failures.append(failure)

            thread = threading.Thread(target=run)
            thread.start()
            return thread

        threads = [guarded(lambda broker=broker: self.transfer_until(broker, stop)) for broker in BROKERS for _ in range(3)]
        threads += [guarded(lambda broker=broker: self.stream_until(broker, stop)) for broker in BROKERS]
        threads.append(guarded(lambda: self.settle_until(stop)))
        down: list[float] = []
        for _ in range(KILLS):
            time.sleep(random.uniform(0.7, 1.5))
            self.server.stop(signal.SIGKILL)
            start = time.perf_counter()
            print(f"   *** SIGKILL after {len(self.acknowledged):,} acknowledged answers; started again ***", flush=True)
            self.server.start()
            down.append(time.perf_counter() - start)
        time.sleep(1)
        stop.set()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        follower.finish(self.clients["auditor"].execute(audit_pb2.ListEntriesRequest(page_size=1)).size)
        acknowledged, repeats = len(self.acknowledged) - before[0], self.repeats - before[1]
        print(f"   {acknowledged:,} requests were acknowledged meanwhile")
        print(f"   {repeats} of them had been booked without their sender hearing of it, and got their first answer when he asked again")
        print(f"   the server was away {KILLS} times, {max(down):.1f} s at most; nobody was told of an error")
        print(f"   the auditor's stream broke {KILLS} times and went on where it was: {follower.count:,} entries, none missing, none twice")

    def transfer_until(self, broker: str, stop: threading.Event) -> None:
        chance = random.Random()
        while not stop.is_set():
            source = chance.randrange(CLIENTS)
            self.do(broker, move("AAPLx" if broker == "broker-a" else "USDC", broker, source, (source + 1) % CLIENTS, 1))

    def stream_until(self, broker: str, stop: threading.Event) -> None:
        for outcome in self.clients[broker].transfers(without_end(broker, stop), window=500, seconds=60):
            assert outcome.refusal is None, outcome.refusal
            with self._lock:
                self.acknowledged[broker, outcome.transfer.request_id] = None

    def settle_until(self, stop: threading.Event) -> None:
        while not stop.is_set():
            sell, buy = self.order("broker-a", 5, "AAPLx", SHARE // 100), self.order("broker-b", 5, "USDC", 3 * DOLLAR)
            settle = settlement_pb2.SettleTradesRequest(
                instrument="AAPLx",
                cash_instrument="USDC",
                sell_holds=[sell],
                buy_holds=[buy],
                units=[SHARE // 100],
                cash_units=[5 * DOLLAR // 2],
            )
            self.do("exchange", settle)
            self.do("broker-b", holds_pb2.ReleaseHoldRequest(hold=buy))

    def download(self) -> tuple[list[tuple[str, bytes]], str]:
        """Fetch as the auditor a checkpoint that the ledger has signed, and stream the whole log, as far as that at least."""
        auditor = self.clients["auditor"]
        checkpoint = str(auditor.execute(audit_pb2.GetCheckpointRequest()).checkpoint)
        return [(e.topic, e.data) for piece in auditor.entries(stop_when_caught_up=True) for e in piece.entries], checkpoint


class Follower:
    """An auditor who follows the log while it is written, in a thread of his own."""

    def __init__(self, client: Client) -> None:
        self.count = 0
        self._size: int | None = None
        self._thread = threading.Thread(target=self._follow, args=(client,))
        self._thread.start()

    def _follow(self, client: Client) -> None:
        for piece in client.entries(seconds=60):
            for entry in piece.entries:
                assert entry.index == self.count, "one after the other"
                self.count += 1
            if self._size is not None and self.count >= self._size:
                return

    def finish(self, size: int) -> None:
        self._size = size
        self._thread.join()


def account_of(broker: str, number: int) -> str:
    return f"book:{broker}/{number:03}"


def move(instrument: str, broker: str, source: int, destination: int, units: int) -> Any:
    return transfers_pb2.TransferUnitsRequest(
        request_id=new_request_id(),
        instrument=instrument,
        source=account_of(broker, source),
        destination=account_of(broker, destination),
        units=units,
    )


def without_end(broker: str, stop: threading.Event) -> Iterator[Any]:
    """Make transfers, some 3,000 a second, until it is enough."""
    instrument = "AAPLx" if broker == "broker-a" else "USDC"
    for number in itertools.count():
        if number % 100 == 0 and stop.wait(0.03):
            return
        yield move(instrument, broker, number % CLIENTS, (number + 1) % CLIENTS, 1)


def attestation(custody_account: str, isin: str, shares: int, share_basis: int = 0) -> Any:
    """Make the command that records what the custodian holds, signed with his key (that of the first part)."""
    now = int(time.time())
    statement = json.dumps(
        {
            "ledger": "demo",
            "custody_account": custody_account,
            "isin": isin,
            "settled_shares_e8": shares * SHARE,
            "pending_shares_e8": 0,
            "encumbered_shares_e8": 0,
            "as_of_time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
            "valid_until_time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + 86_400)),
            "share_basis": share_basis,
        }
    ).encode()
    key = SigningKey(bytes(range(32)))
    return reserves_pb2.RecordEvidenceRequest(
        kind=reserves_pb2.EVIDENCE_KIND_CUSTODIAN_SIGNED,
        signer="custodian",
        statement=statement,
        signature=key.sign(statement).signature,
    )


CHAPTERS = ("roles", "onboarding", "subscription", "settlement", "refused_across_brokers", "killed")

"""The story of a small exchange and issuer, as its own process would live it.

Run by demo.py as a child process: it opens the store, plays every chapter from the first one on, and writes one line to standard output for
every answer it gets. Each command carries a request id that depends on nothing but its place in the story, so when the process is
killed and started again it simply says everything once more: what was booked gets its first answer, and the rest is booked now.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from ledger import Ledger, LedgerError, Signer
from ledger.answers import timestamp
from stockledger.v1 import (
    accounts_pb2,
    approvals_pb2,
    audit_pb2,
    corporate_actions_pb2,
    eligibility_pb2,
    holds_pb2,
    instruments_pb2,
    issuance_pb2,
    redemptions_pb2,
    reserves_pb2,
    settlement_pb2,
    transfers_pb2,
)
from stockledger.v1.common_pb2 import Movement, Operation

DATA = Path(__file__).parent / "data"
CLIENTS = 400
MAKERS = ("book:maker-1", "book:maker-2", "book:maker-3")
TRADES_PER_ROUND = 80
SHARE = 10**8
"""One share is 10^8 units: instruments have 8 decimals, and shares are told at the same scale."""
DOLLAR = 10**6
"""USDC has 6 decimals."""

COUNTRIES = ("DE", "FR", "CH", "GB", "SG", "AE", "BR", "JP")
KINDS = {
    "stock": instruments_pb2.INSTRUMENT_KIND_STOCK,
    "etf": instruments_pb2.INSTRUMENT_KIND_ETF,
    "reit": instruments_pb2.INSTRUMENT_KIND_REIT,
    "commodity_trust": instruments_pb2.INSTRUMENT_KIND_COMMODITY_TRUST,
}


class Story:
    """One telling of the story. `say` writes a line for whoever watches."""

    def __init__(self, books: Ledger, folder: Path) -> None:
        self.books = books
        self.folder = folder
        self.random = random.Random(20261122)
        self.said = 0
        self.refusals_seen = 0
        self.started_ms = self.remembered("started_ms", lambda: time.time_ns() // 1_000_000)
        with (DATA / "instruments.csv").open(encoding="utf-8") as file:
            self.securities = list(csv.DictReader(file))
        self.prices = {row["symbol"]: self.random.randrange(20_00, 900_00) for row in self.securities}
        """Made-up prices in cents."""
        self.custodian_key = SigningKey(bytes(range(32)))
        self.bank_key = SigningKey(bytes(range(32, 64)))

    def remembered(self, name: str, make: Any) -> Any:
        """Return something that must be the same in every telling: made once, kept in a file."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            path.write_text(json.dumps(make()), encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))

    def next_request_id(self) -> str:
        """Return the request id of the next command: a UUIDv7 made of the story's start and the command's place in it."""
        self.said += 1
        number = self.started_ms << 80 | 7 << 76 | (self.said & 0xFFF) << 64 | 2 << 62 | self.said
        digits = f"{number:032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    def say(self, **line: Any) -> None:
        """Tell the parent; what was acknowledged must survive everything."""
        print(json.dumps(line), flush=True)

    def do(self, command: Any, principal: str = "exchange", approver: str = "compliance") -> Any:
        """Have one command booked, and approved by somebody else where that is needed."""
        command.request_id = self.next_request_id()
        answer = self.books.execute(command, principal=principal)
        self.say(ack=command.request_id, principal=principal, index=answer.booking.index, repeated=answer.booking.repeated_answer)
        if answer.booking.approval:
            self.do(approvals_pb2.ApproveCommandRequest(approval=answer.booking.approval), approver)
        return answer

    def do_many(self, commands: list[Any], principal: str = "exchange") -> list[Any]:
        """Have many commands booked with one flush."""
        for command in commands:
            command.request_id = self.next_request_id()
        answers = list(self.books.execute_many(commands, principal=principal))
        for command, answer in zip(commands, answers, strict=True):
            if isinstance(answer, LedgerError):
                raise answer
            self.say(ack=command.request_id, principal=principal, index=answer.booking.index, repeated=answer.booking.repeated_answer)
        return answers

    def refused(self, what: str, command: Any, principal: str = "exchange") -> None:
        """Ask for something that must not be, and tell how it was refused."""
        command.request_id = self.next_request_id()
        try:
            self.books.execute(command, principal=principal)
        except LedgerError as error:
            self.refusals_seen += 1
            self.say(refused=what, reason=error.reason_name, message=error.message)
        else:
            raise AssertionError(f"{what}: was booked")

    # ---- chapters -------------------------------------------------------------------------------------------------------------------

    def tell(self, names: Sequence[str]) -> None:
        for chapter in (getattr(self, name) for name in names):
            start = time.perf_counter()
            self.say(chapter=chapter.__name__, about=(chapter.__doc__ or "").strip())
            facts = chapter()
            self.books.execute(audit_pb2.GetCheckpointRequest())
            self.say(done=chapter.__name__, facts=facts, seconds=time.perf_counter() - start, size=self.books.size)
        self.say(state_digest=self.books.state_digest())

    def instruments(self) -> dict[str, Any]:
        """Register the 77 instruments and USDC; bar the US from holding NVDAx."""
        commands: list[Any] = [
            instruments_pb2.RegisterInstrumentRequest(
                symbol=row["symbol"],
                name=row["underlying_name"],
                kind=KINDS[row["kind"]],
                underlying_isin=row["underlying_isin"],
                decimals=8,
                backing=instruments_pb2.BACKING_CUSTODIED,
                authorised_units=10_000_000 * SHARE,
                dividend_method=instruments_pb2.ACTION_METHOD_HOLDINGS,
            )
            for row in self.securities
        ]
        commands.append(
            instruments_pb2.RegisterInstrumentRequest(
                symbol="USDC",
                name="USD Coin",
                kind=instruments_pb2.INSTRUMENT_KIND_CASH,
                currency="USDC",
                decimals=6,
                backing=instruments_pb2.BACKING_CUSTODIED,
                authorised_units=10**12 * DOLLAR,
            )
        )
        self.do_many(commands, "issuer")
        rule = eligibility_pb2.EligibilityRule(effective_date="2026-01-01", barred_countries=["US"])
        self.do(eligibility_pb2.SetEligibilityRequest(instrument="NVDAx", rule=rule), "issuer")
        return {"instruments": len(commands)}

    def holders(self) -> dict[str, Any]:
        """Register clients of nine countries, market makers and the house, and open their accounts."""
        people: list[tuple[str, str, Any, str]] = [
            (f"h-{n:04}", COUNTRIES[n % len(COUNTRIES)], accounts_pb2.INVESTOR_CLASS_RETAIL, f"book:client-{n:04}")
            for n in range(1, CLIENTS + 1)
        ]
        people.append(("h-0777-us", "US", accounts_pb2.INVESTOR_CLASS_RETAIL, "book:client-us"))
        institution = accounts_pb2.INVESTOR_CLASS_INSTITUTION
        people += [(f"h-{name[5:]}", "CH", institution, name) for name in MAKERS]
        people += [(f"h-{name}", "CH", institution, f"book:{name}") for name in ("issuer-cash", "fees")]
        register = [accounts_pb2.RegisterHolderRequest(holder=h, country=c, investor_class=k) for h, c, k, _ in people]
        self.do_many(register)
        self.do_many([accounts_pb2.OpenAccountRequest(account=account, holder=h) for h, _, _, account in people])
        return {"holders": len(people), "countries": len(COUNTRIES) + 1}

    def statement(self, custody_account: str, isin: str, shares: int, share_basis: int = 0, as_of_s: int | None = None) -> bytes:
        """Write what a custodian says he holds: `shares` at scale 1e8."""
        moment = self.started_ms // 1000 - 60 if as_of_s is None else as_of_s
        text = {
            "ledger": self.books.ledger_id,
            "custody_account": custody_account,
            "isin": isin,
            "settled_shares_e8": shares,
            "pending_shares_e8": 0,
            "encumbered_shares_e8": 0,
            "as_of_time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment)),
            "valid_until_time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment + 86_400)),
            "share_basis": share_basis,
        }
        return json.dumps(text).encode()

    def attest(self, key: SigningKey, signer: str, statement: bytes) -> Any:
        """Make the command that records a custodian's signed statement."""
        return reserves_pb2.RecordEvidenceRequest(
            kind=reserves_pb2.EVIDENCE_KIND_CUSTODIAN_SIGNED, signer=signer, statement=statement, signature=key.sign(statement).signature
        )

    def custody(self) -> dict[str, Any]:
        """Register the custodian and the bank with their keys (two people), and record what each says it holds, signed."""
        for custodian, name, key in (("custodian", "A Custodian plc", self.custodian_key), ("bank", "A Bank AG", self.bank_key)):
            command = reserves_pb2.RegisterCustodianRequest(custodian=custodian, name=name, public_key=bytes(key.verify_key))
            self.do(command, "issuer")
        accounts: list[Any] = [
            reserves_pb2.OpenCustodyAccountRequest(
                custody_account=f"custodian/{row['symbol']}", custodian="custodian", isin=row["underlying_isin"], instrument=row["symbol"]
            )
            for row in self.securities
        ]
        accounts.append(
            reserves_pb2.OpenCustodyAccountRequest(custody_account="bank/USDC", custodian="bank", isin="USDC", instrument="USDC")
        )
        self.do_many(accounts, "issuer")
        evidence = [
            self.attest(
                self.custodian_key, "custodian", self.statement(f"custodian/{row['symbol']}", row["underlying_isin"], 20_000 * SHARE)
            )
            for row in self.securities
        ]
        evidence.append(self.attest(self.bank_key, "bank", self.statement("bank/USDC", "USDC", 200_000_000 * SHARE)))
        self.do_many(evidence, "custodian-feed")
        return {"custody accounts": len(accounts), "signed statements": len(evidence)}

    def issue(self, instrument: str, account: str, units: int) -> None:
        """Create units; somebody else approves."""
        self.do(issuance_pb2.IssueUnitsRequest(instrument=instrument, account=account, units=units, reference="demo"), "issuer")

    def cash(self) -> dict[str, Any]:
        """Bring USDC in: to the makers and the house first, and from there to every client in one batch of transfers."""
        self.issue("USDC", MAKERS[0], 60_000_000 * DOLLAR)
        self.issue("USDC", "book:issuer-cash", 20_000_000 * DOLLAR)
        listing = self.books.execute(accounts_pb2.ListAccountsRequest(page_size=1000))
        numbers = {account.account: account.number for account in listing.accounts}
        clients = [number for name, number in sorted(numbers.items()) if name.startswith("book:client")]
        legs = transfers_pb2.TransferBatchRequest(reference="opening cash")
        columns = legs.legs.add(instrument="USDC")
        columns.sources.extend([numbers[MAKERS[0]]] * len(clients))
        columns.destinations.extend(clients)
        columns.units.extend([100_000 * DOLLAR] * len(clients))
        self.do(legs)
        return {"USDC": 80_000_000, "legs": len(clients)}

    def primary_market(self) -> dict[str, Any]:
        """Create units: in kind for the makers, and for three clients by subscription: cash held, filled, settled, excess back."""
        for place, row in enumerate(self.securities):
            self.issue(row["symbol"], MAKERS[place % len(MAKERS)], 10_000 * SHARE)
        for client, shares in (("book:client-0001", 10), ("book:client-0002", 25), ("book:client-0003", 3)):
            asked = issuance_pb2.RequestSubscriptionRequest(
                instrument="AAPLx", account=client, cash_instrument="USDC", cash_units=50_000 * DOLLAR, reference=f"{client} wants AAPL"
            )
            subscription = self.do(asked, "broker-a").event.subscription
            fill = issuance_pb2.FillSubscriptionRequest(
                subscription=subscription,
                shares_e8=shares * SHARE,
                price_e8=self.prices["AAPLx"] * 10**6,
                fee_units=DOLLAR,
                trade_date="2026-11-20",
                settlement_date="2026-11-23",
                proceeds_account="book:issuer-cash",
                fee_account="book:fees",
                last=True,
            )
            self.do(fill, "issuer")
            self.do(issuance_pb2.SettleFillRequest(subscription=subscription, fill=1), "issuer")
        return {"issued in kind": len(self.securities), "subscriptions": 3}

    def trading(self) -> dict[str, Any]:
        """Match and settle, delivery versus payment against the holds of the orders. This is when the process gets killed."""
        trades = 0
        volume = 0
        for place, row in enumerate(self.securities):
            symbol = row["symbol"]
            maker = MAKERS[place % len(MAKERS)]
            eligible = [f"book:client-{n:04}" for n in self.random.sample(range(1, CLIENTS + 1), TRADES_PER_ROUND)]
            units = [self.random.randrange(1, 500) * SHARE // 100 for _ in eligible]
            cash_units = [amount * self.prices[symbol] * DOLLAR // (100 * SHARE) for amount in units]
            fees = [amount // 2000 for amount in cash_units]
            order = holds_pb2.HOLD_PURPOSE_ORDER
            holds: list[Any] = [
                holds_pb2.PlaceHoldRequest(instrument=symbol, account=maker, units=sum(units), purpose=order, reference=f"sell {symbol}")
            ]
            holds += [
                holds_pb2.PlaceHoldRequest(instrument="USDC", account=client, units=paid + fee, purpose=order, reference=f"buy {symbol}")
                for client, paid, fee in zip(eligible, cash_units, fees, strict=True)
            ]
            placed = [answer.event.hold.hold for answer in self.do_many(holds)]
            settle = settlement_pb2.SettleTradesRequest(
                instrument=symbol,
                cash_instrument="USDC",
                sell_holds=[placed[0]] * len(eligible),
                buy_holds=placed[1:],
                units=units,
                cash_units=cash_units,
                buyer_fee_units=fees,
                fee_account="book:fees",
                reference=f"match run {symbol}",
            )
            self.do(settle)
            trades += len(eligible)
            volume += sum(cash_units)
            self.say(round=place + 1, of=len(self.securities))
        return {"trades": trades, "volume USDC": volume // DOLLAR}

    def refusals(self) -> dict[str, Any]:
        """Ask for what must not be."""
        give: dict[str, Any] = {"instrument": "AAPLx", "source": "book:client-0001", "destination": "book:client-0002", "units": SHARE}
        transfer = transfers_pb2.TransferUnitsRequest
        self.refused("more than there is", transfer(**(give | {"units": 10_000 * SHARE})))
        self.refused("zero units", transfer(**(give | {"units": 0})))
        self.refused("to himself", transfer(**(give | {"destination": "book:client-0001"})))
        self.refused("an unknown instrument", transfer(**(give | {"instrument": "ENRNx"})))
        self.refused("the ledger's own account", transfer(**(give | {"source": "ledger:issuance"})))
        self.refused(
            "NVDAx to a US person", transfer(**(give | {"instrument": "NVDAx", "source": MAKERS[2], "destination": "book:client-us"}))
        )
        wrong = instruments_pb2.RegisterInstrumentRequest(
            symbol="ZZZx",
            name="Wrong check digit",
            kind=instruments_pb2.INSTRUMENT_KIND_STOCK,
            underlying_isin="US0378331006",
            decimals=8,
            backing=instruments_pb2.BACKING_CUSTODIED,
            authorised_units=1,
        )
        self.refused("an ISIN with a wrong check digit", wrong, "issuer")
        issue = issuance_pb2.IssueUnitsRequest(instrument="TSLAx", account=MAKERS[0], units=15_000 * SHARE, reference="too much")
        self.refused("more TSLAx than the custodian holds shares", issue, "issuer")
        statement = self.statement("custodian/TSLAx", "US88160R1014", 90_000 * SHARE, as_of_s=self.started_ms // 1000 - 30)
        self.refused("evidence signed by somebody else", self.attest(self.bank_key, "custodian", statement), "custodian-feed")
        force = transfers_pb2.ForceTransferRequest(**give, legal_reference="none", cause="greed")
        self.refused("force without the role", force, "trader")
        asked = self.do(approvals_pb2.GrantRoleRequest(principal="enforcer", role=approvals_pb2.ROLE_ENFORCER), "exchange", "board")
        assert asked.booking.approval, "roles take two people"
        pending = self.do_without_approval(approvals_pb2.GrantRoleRequest(principal="trader", role=approvals_pb2.ROLE_ENFORCER), "trader")
        self.refused("to approve what he asked for himself", approvals_pb2.ApproveCommandRequest(approval=pending), "trader")
        self.do(approvals_pb2.DeclineCommandRequest(approval=pending, cause="no"), "board")
        batch = settlement_pb2.SettleDeliveryRequest(
            movements=[
                Movement(instrument="AAPLx", source="book:client-0001", destination="book:client-0002", units=SHARE),
                Movement(instrument="USDC", source="book:client-0002", destination="book:client-0001", units=10**9 * DOLLAR),
            ]
        )
        self.refused("delivery against a payment that is not there", batch)
        return {"refused": self.refusals_seen}

    def do_without_approval(self, command: Any, principal: str) -> int:
        """Ask for something that then waits; return the number of its approval."""
        command.request_id = self.next_request_id()
        answer = self.books.execute(command, principal=principal)
        self.say(ack=command.request_id, principal=principal, index=answer.booking.index, repeated=answer.booking.repeated_answer)
        return int(answer.booking.approval)

    def redemptions(self) -> dict[str, Any]:
        """Turn units back: one client into cash; another in kind, whole shares delivered and the fraction in cash."""
        redeem = redemptions_pb2.RequestRedemptionRequest
        sell = {"price_e8": self.prices["AAPLx"] * 10**6, "trade_date": "2026-11-20", "settlement_date": "2026-11-23"}
        asked = redeem(instrument="AAPLx", account="book:client-0002", units=5 * SHARE, cash_instrument="USDC")
        number = self.do(asked, "broker-a").event.redemption
        self.do(redemptions_pb2.FillRedemptionRequest(redemption=number, shares_e8=5 * SHARE, fee_units=DOLLAR, **sell), "issuer")
        pay = {"paying_account": "book:issuer-cash", "fee_account": "book:fees"}
        self.do(redemptions_pb2.SettleRedemptionRequest(redemption=number, fill=1, **pay), "issuer")
        asked = redeem(
            instrument="AAPLx",
            account="book:client-0001",
            units=250_000_000,
            cash_instrument="USDC",
            in_kind=True,
            delivery_reference="DTC 0226 account 99",
        )
        number = self.do(asked, "broker-a").event.redemption
        deliver = redemptions_pb2.DeliverRedemptionRequest(
            redemption=number,
            shares=2,
            custody_account="custodian/AAPLx",
            settled_time=timestamp(self.started_ms * 1000),
            reference="DTC 8841",
        )
        self.do(deliver, "issuer")
        self.do(redemptions_pb2.FillRedemptionRequest(redemption=number, shares_e8=SHARE // 2, **sell), "issuer")
        self.do(redemptions_pb2.SettleRedemptionRequest(redemption=number, fill=1, **pay), "issuer")
        return {"redeemed AAPLx": "7.5"}

    def halt(self) -> dict[str, Any]:
        """Halt NVDAx for news, and resume it."""
        halt = instruments_pb2.HaltInstrumentRequest(instrument="NVDAx", operations=[Operation.OPERATION_TRANSFER], cause="news pending")
        self.do(halt)
        give = transfers_pb2.TransferUnitsRequest(
            instrument="NVDAx", source=MAKERS[2], destination="book:client-0001", units=SHARE, reference="during the halt"
        )
        self.refused("NVDAx while it is halted", give)
        self.do(instruments_pb2.ResumeInstrumentRequest(instrument="NVDAx", operations=[Operation.OPERATION_TRANSFER], cause="published"))
        return {}

    def corporate_actions(self) -> dict[str, Any]:
        """Split NVDA 10 for 1 with an order on hold, and pay AAPL's dividend of 0.25, taxed by country."""
        first_seen_us = self.remembered("announced_us", lambda: time.time_ns() // 1000)
        fixing_us, execution_us = first_seen_us + 1_500_000, first_seen_us + 2_000_000
        dates = {"ex_date": "2026-11-22", "record_date": "2026-11-22", "payment_date": "2026-11-22"}
        times = {"fixing_time": timestamp(fixing_us), "execution_time": timestamp(execution_us)}
        announce, terms = corporate_actions_pb2.AnnounceActionRequest, corporate_actions_pb2.ActionTerms
        split = corporate_actions_pb2.StockSplit(new_shares=10, old_shares=1)
        self.do(announce(action="NVDA-SPLF", instrument="NVDAx", terms=terms(stock_split=split), **dates, **times), "issuer")
        dividend = corporate_actions_pb2.CashDividend(
            cash_instrument="USDC",
            cash_per_share_e8=25_000_000,
            withholding=[{"country": "DE", "rate_bps": 1500}, {"country": "CH", "rate_bps": 1500}, {"country": "SG", "rate_bps": 3000}],
            funding_account="book:issuer-cash",
        )
        self.do(announce(action="AAPL-DVCA", instrument="AAPLx", terms=terms(cash_dividend=dividend), **dates, **times), "issuer")
        seller = self.remembered("seller", lambda: self.largest_client("NVDAx"))
        order = holds_pb2.PlaceHoldRequest(
            instrument="NVDAx", account=seller, units=SHARE // 100, purpose=holds_pb2.HOLD_PURPOSE_ORDER, reference="sell through the split"
        )
        hold = self.do(order).event.hold.hold
        before = self.remembered("nvda_before", lambda: self.books.holding("NVDAx", seller))
        time.sleep(max(0, execution_us / 1_000_000 - time.time()))
        give = transfers_pb2.TransferUnitsRequest(instrument="NVDAx", source=seller, destination=MAKERS[0], units=1)
        if self.books.holding("NVDAx", seller) == before:
            self.refused("a transfer at yesterday's terms", give)
        else:
            self.next_request_id()
        for action in ("NVDA-SPLF", "AAPL-DVCA"):
            self.do(corporate_actions_pb2.FixEntitlementsRequest(action=action), "issuer")
            self.do(corporate_actions_pb2.ExecuteActionRequest(action=action), "issuer")
        held = self.books.execute(holds_pb2.GetHoldRequest(hold=hold)).hold.units
        renewed = self.statement("custodian/NVDAx", "US67066G1040", 200_000 * SHARE, share_basis=1, as_of_s=first_seen_us // 1_000_000)
        self.do(self.attest(self.custodian_key, "custodian", renewed), "custodian-feed")
        paid = self.books.execute(corporate_actions_pb2.GetActionRequest(action="AAPL-DVCA")).totals
        after = self.books.holding("NVDAx", seller)
        return {
            "NVDAx of one client": f"{before / SHARE:.2f} -> {after / SHARE:.2f}, on hold {SHARE // 100 / SHARE:.2f} -> {held / SHARE:.2f}",
            "dividend": f"{paid.declared_units / DOLLAR:,.6f} USDC declared = {paid.paid_units / DOLLAR:,.6f} paid"
            f" + {paid.withheld_units / DOLLAR:,.6f} withheld + {paid.remainder_units / DOLLAR:.6f} remainder,"
            f" to {paid.account_count} accounts",
        }

    def largest_client(self, symbol: str) -> str:
        """Return the client who holds most of an instrument."""
        register = self.books.execute(accounts_pb2.ListRegisterRequest(instrument=symbol, page_size=1000)).holdings
        clients = [holding for holding in register if holding.account.startswith("book:client")]
        return str(max(clients, key=lambda holding: holding.units).account)


CHAPTERS = (
    "instruments", "holders", "custody", "cash", "primary_market", "trading", "refusals", "redemptions", "halt", "corporate_actions",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", help="URL of the store, sqlite:////absolute/path.db")
    parser.add_argument("folder", type=Path, help="where the story keeps what must be the same in every telling")
    parser.add_argument("chapters", nargs="*", help="only these, in this order")
    arguments = parser.parse_args()
    signer = Signer.from_secret_text((arguments.folder / "checkpoint.key").read_text(encoding="ascii").strip())
    with Ledger.open(arguments.store, ledger_id="demo", origin=signer.name, signer=signer) as books:
        story = Story(books, arguments.folder)
        story.say(opened=books.size)
        story.tell(arguments.chapters or CHAPTERS)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The main job, from an empty folder to an audited book, first in process and then over gRPC: `make demo`.

A small exchange and issuer comes to life (exchange_story.py, in a process of its own, on the embedded store), is killed with SIGKILL in
the middle of its trading, started again, and nothing it acknowledged is missing. The log is replayed and verified with the command line,
and a receipt is proved and checked. Then the same book is served over gRPC (brokers_story.py): issuer, custodian, two brokers, an
exchange and an auditor each with a token, refusals across brokers, the server killed while brokers retry. Then its units go on two chains
(chains_story.py), a real EVM node and a real Solana node: to wallets and back, from chain to chain, by force and past an owner who is
faster, to a holder who is frozen meanwhile (in_flight_story.py), through a halt and a split, beside another issuer's token in an
exchange's wallets (omnibus_story.py), with the worker killed, until somebody mints behind the ledger's back. The auditor streams the log,
replays it and verifies it. At the end stand the books.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from brokers_story import CHAPTERS, BrokersStory
from chain_nodes import check_programs
from chains_story import CHAPTERS as CHAIN_CHAPTERS
from chains_story import ChainsStory

from ledger import Ledger, Signer, VerifierKey
from ledger.log.checkpoint import open_note, parse_checkpoint
from ledger.log.store import open_log
from ledger.request_ids import format_request_id
from stockledger.v1 import accounts_pb2, reserves_pb2

HERE = Path(__file__).resolve().parent
ORIGIN = "demo.example/stockledger"
WIDTH = 100
BEFORE_CHAINS = ("instruments", "holders", "custody", "cash", "primary_market")
"""Chapters of the exchange's story on which that of the chains builds."""


def headline(text: str) -> None:
    print(f"\n{'=' * WIDTH}\n{text}\n{'=' * WIDTH}")


def table(titles: list[str], rows: list[list[str]]) -> None:
    """Print rows under titles; columns after the first are aligned right."""
    widths = [max(len(row[column]) for row in [titles, *rows]) for column in range(len(titles))]
    for number, row in enumerate([titles, *rows]):
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("   " + "  ".join(cells).rstrip())
        if number == 0:
            print("   " + "  ".join("-" * width for width in widths))


def decimal(units: int, decimals: int) -> str:
    """Write units with their decimals. Example: `decimal(150_000_000, 8) == "1.50000000"`."""
    whole, rest = divmod(units, 10**decimals)
    return f"{whole:,}.{rest:0{decimals}}" if decimals else f"{whole:,}"


class Teller:
    """Starts the story's process, prints what it tells, and remembers what it was told is booked."""

    def __init__(self, store: str, folder: Path, chapters: Sequence[str] = ()) -> None:
        self.store = store
        self.chapters = chapters
        self.folder = folder
        self.acknowledged: dict[tuple[str, str], int] = {}
        self.repeats = 0
        self.seconds: dict[str, float] = {}
        self.state_digest = ""
        self._heading: str | None = None
        self._repeats_at_heading = 0

    def lines(self) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
        """Run the process and yield each line it writes."""
        command = [sys.executable, str(HERE / "exchange_story.py"), self.store, str(self.folder), *self.chapters]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None, "the story's lines are piped"
            for line in process.stdout:
                if line.endswith("\n"):
                    yield process, json.loads(line)
        if process.returncode not in (0, -signal.SIGKILL):
            raise SystemExit(f"the story ended with exit status {process.returncode}")

    def listen(self, kill_in_round: int | None = None) -> bool:
        """Print the story; with a round given, kill the process at a random moment of it. Returns whether it was killed."""
        rounds_seen = 0
        for process, line in self.lines():
            if "ack" in line:
                key = (line["principal"], line["ack"])
                assert self.acknowledged.setdefault(key, line["index"]) == line["index"], "an answer never changes"
                self.repeats += line["repeated"]
                if not line["repeated"]:
                    self.show_heading()
            elif "chapter" in line:
                self._heading = f"{line['chapter'].replace('_', ' ')}: {line['about']}"
                self._repeats_at_heading = self.repeats
            elif "refused" in line:
                self.show_heading()
                print(f"   refused, {line['refused']}:\n      {line['reason']}: {line['message']}")
            elif "done" in line:
                self.show_facts(line)
            elif "round" in line:
                rounds_seen = line["round"]
                if rounds_seen == kill_in_round:
                    time.sleep(random.random() * 0.01)
                    process.send_signal(signal.SIGKILL)
            elif "state_digest" in line:
                self.state_digest = line["state_digest"]
        return kill_in_round is not None and rounds_seen >= kill_in_round

    def show_heading(self) -> None:
        """Print a chapter's heading as soon as something new happens in it."""
        if self._heading is not None:
            print(f"\n-- {self._heading}")
            self._heading = None

    def show_facts(self, line: dict[str, Any]) -> None:
        self.seconds[line["done"]] = self.seconds.get(line["done"], 0.0) + line["seconds"]
        if self._heading is not None:
            print(f"\n-- {line['done'].replace('_', ' ')}: all {self.repeats - self._repeats_at_heading:,} requests were booked before")
            self._heading = None
            return
        facts = [f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}" for name, value in line["facts"].items()]
        print("   " + "\n   ".join([*facts, f"log size {line['size']:,}, {line['seconds']:.2f} s"]))


def check_acknowledged(store: str, acknowledged: Mapping[tuple[str, str], int | None]) -> None:
    """Read the log itself: every acknowledged request is there, at its index where one was told, and no request is there twice."""
    found: dict[tuple[str, str], int] = {}
    times: Counter[tuple[str, str]] = Counter()
    with Ledger.open(store, read_only=True) as books:
        for index, entry in books.tail():
            together = entry.transfers_packed.request_ids
            ids = [entry.request_id] if entry.request_id else [together[n : n + 16] for n in range(0, len(together), 16)]
            for request_id in ids if entry.part == 0 else []:
                key = (entry.principal, format_request_id(request_id))
                found[key] = index
                times[key] += 1
    missing = [key for key, index in acknowledged.items() if key not in found or index not in (None, found[key])]
    twice = [key for key, count in times.items() if count > 1]
    print(f"   acknowledged answers: {len(acknowledged):,}; missing from the log: {len(missing)}; booked twice: {len(twice)}")
    if missing or twice:
        raise SystemExit("something acknowledged is missing, or doubled")


def stockledger(folder: Path, *arguments: str) -> str:
    """Run the command line as its user would, in the folder of the store, and show it."""
    print(f"\n$ stockledger {' '.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "services.cli.main", *arguments]
    done = subprocess.run(command, check=False, cwd=folder, stdout=subprocess.PIPE, text=True)
    print("".join(f"  {line}\n" for line in done.stdout.splitlines()), end="")
    if done.returncode:
        raise SystemExit(f"stockledger ended with exit status {done.returncode}")
    return done.stdout


def serve(folder: Path, store: str, key: str, chapters: Sequence[str] = CHAPTERS) -> dict[str, float]:
    """Play the second and the third part, and check what came of them; return the seconds of each chapter."""
    story = BrokersStory(folder)
    print(f"   stockledger serve --store sqlite:///books.db ...   on {story.server.address}")
    seconds: dict[str, float] = {}
    with contextlib.ExitStack() as ending:
        ending.callback(story.server.close)
        ending.callback(story.close)
        chains = ChainsStory(folder, story)
        ending.callback(chains.close)
        play_chapters(story, chapters, seconds)

        headline("5. Two chains: the same units as tokens on Ethereum and Solana")
        go_on_chains(folder, story, chains, seconds)
        chains.stop_worker(signal.SIGTERM)  # it books what it reconciles: from now on nobody writes

        headline("6. The auditor streams the log, and believes nobody")
        start = time.perf_counter()
        entries, checkpoint = story.download()
        seconds["download"] = time.perf_counter() - start
    check_acknowledged(store, story.acknowledged)
    audit(folder, entries, checkpoint, key)
    return seconds


def play_chapters(story: Any, names: Sequence[str], seconds: dict[str, float]) -> None:
    for name in names:
        chapter = getattr(story, name)
        print(f"\n-- {name.replace('_', ' ')}: {(chapter.__doc__ or '').strip()}")
        start = time.perf_counter()
        chapter()
        seconds[name] = time.perf_counter() - start


def go_on_chains(folder: Path, story: BrokersStory, chains: ChainsStory, seconds: dict[str, float]) -> None:
    """Register the tokens, and play the third part; then somebody mints behind the ledger's back."""
    start = time.perf_counter()
    print("   A node of each runs on loopback since the brokers began; the tokens were put there meanwhile, as follows.")
    print("   Below, each flow is decided first; then a transaction is signed, and it counts in the books once it is final.")
    chains.deploy()
    chains.start_worker()
    story.server.stop(signal.SIGTERM)
    where = ("--store", "sqlite:///books.db", "--principal", "operator", "--approver", "second-operator")
    stockledger(folder, "apply", "chains.jsonl", *where)
    print("\n$ stockledger serve ... &  stockledger work --config worker.toml &")
    story.server.start()
    seconds["deploy"] = time.perf_counter() - start
    play_chapters(chains, CHAIN_CHAPTERS, seconds)
    chains.settle()
    print("\n-- what stands where: units in the ledger, and what the chains answer somebody else who asks")
    rows = chains.place_rows()
    table(["place", "ledger", "on chain", "in transit", "difference"], rows)
    if any(row[-1] not in ("", "0") for row in rows):
        raise SystemExit("the ledger and a chain differ")
    play_chapters(chains, ["stolen_key"], seconds)


def audit(folder: Path, entries: list[tuple[str, bytes]], checkpoint: str, key: str) -> None:
    """Build a copy of the log from what was streamed, hold it against the signed checkpoint, verify and replay it."""
    with open_log(f"sqlite:///{folder}/auditor.db") as log:
        for first in range(0, len(entries), 1000):
            part = entries[first : first + 1000]
            log.append("demo", [topic for topic, _ in part], [data for _, data in part])
        told = parse_checkpoint(open_note(checkpoint, [VerifierKey.parse(key)]).text)
        assert log.size >= told.size, "the log does not shrink"
        assert log.tree.root_at(told.size) == told.root, "what was streamed is what was signed"
        log.save_checkpoint(told.size, checkpoint)
    print(f"   {len(entries):,} entries streamed; their root is that of the checkpoint the ledger signed at size {told.size:,}")
    where = ("--store", "sqlite:///auditor.db")
    stockledger(folder, "verify", *where, "--key", key)
    ours, theirs = (stockledger(folder, "replay", "--store", f"sqlite:///{name}.db") for name in ("auditor", "books"))
    digests = {line.split()[-1] for text in (ours, theirs) for line in text.splitlines() if "digest" in line}
    if len(digests) != 1:
        raise SystemExit("the auditor's books differ from those of the ledger")
    print("  (both replay to the same books)")


def show_books(store: str) -> None:
    """Print a register, and supply against reserves."""
    with Ledger.open(store, read_only=True) as books:
        register = books.execute(accounts_pb2.ListRegisterRequest(instrument="NVDAx", page_size=1000)).holdings
        own = [holding for holding in register if holding.units > 0]
        own.sort(key=lambda holding: -holding.units)
        print(f"\nRegister of NVDAx after its split: {len(own)} accounts, the largest six")
        rows = [[h.account, h.holder, decimal(h.units, 8), decimal(h.held_units, 8)] for h in own[:6]]
        table(["account", "holder", "NVDAx", "on hold"], rows)

        reserves = books.execute(reserves_pb2.ListReservesRequest(page_size=1000)).reserves
        covered = sum(int(reserve.needed_shares_e8) <= reserve.reserve_shares_e8 for reserve in reserves)
        print(f"\nSupply against reserves: {covered} of {len(reserves)} instruments are covered; eight of them")
        rows = []
        for reserve in [r for r in reserves if r.instrument in ("AAPLx", "NVDAx", "TSLAx", "MSFTx", "AMZNx", "METAx", "SPYx", "USDC")]:
            needed = int(reserve.needed_shares_e8)
            share = needed * 30 // reserve.reserve_shares_e8 if reserve.reserve_shares_e8 else 30
            kind = "signed by " + reserve.evidence[0].signer if reserve.evidence else "-"
            bar = "#" * min(share, 30) + "." * max(30 - share, 0)
            rows.append([reserve.instrument, decimal(needed, 8), decimal(reserve.reserve_shares_e8, 8), bar, kind])
        table(["instrument", "supply in shares", "reserve in shares", "used", "evidence"], rows)


def show_time(seconds: dict[str, float]) -> None:
    """Print where the time went."""
    longest = max(seconds.values())
    rows = [[name.replace("_", " "), f"{spent:6.2f} s", "#" * round(40 * spent / longest)] for name, spent in seconds.items()]
    print("\nWhere the time went")
    for name, spent, bar in rows:
        print(f"   {name:<24} {spent}  {bar}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the store, keys and receipt in this new folder")
    parser.add_argument("--chains", action="store_true", help="play only what the chains need, and the chains")
    arguments = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # it is told as it happens, also into a pipe
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that everything started here is ended
    check_programs()
    part = play_chains if arguments.chains else play
    if arguments.keep is not None:
        arguments.keep.mkdir(parents=True)
        return part(arguments.keep.resolve())
    with tempfile.TemporaryDirectory(prefix="stockledger-demo-") as folder:
        return part(Path(folder))


def make_key(folder: Path) -> str:
    """Write the key that signs the log's checkpoints; return its public side."""
    signer = Signer.generate(ORIGIN)
    file = folder / "checkpoint.key"
    file.touch(mode=0o600)
    file.write_text(signer.secret_text + "\n", encoding="ascii")
    return str(signer.verifier_key)


def play_chains(folder: Path) -> int:
    """Bring the book to life without its trading, and go on chains."""
    store, key = f"sqlite:///{folder}/books.db", make_key(folder)
    headline("A book of 77 instruments comes to life")
    teller = Teller(store, folder, BEFORE_CHAINS)
    teller.listen()
    show_time(teller.seconds | serve(folder, store, key, ("roles",)))
    return 0


def play(folder: Path) -> int:
    start = time.perf_counter()
    store, key = f"sqlite:///{folder}/books.db", make_key(folder)
    teller = Teller(store, folder)

    headline("1. A book of 77 instruments comes to life")
    round_to_die = random.randrange(20, 60)
    if not teller.listen(kill_in_round=round_to_die):
        raise SystemExit("the story ended before it could be killed")
    print(f"\n   *** SIGKILL in trading round {round_to_die}, after {len(teller.acknowledged):,} acknowledged answers ***")

    headline("2. Started again: the same commands with the same request ids")
    first_telling = len(teller.acknowledged)
    teller.listen()
    print(f"\n   {first_telling:,} answers were acknowledged before the kill; {teller.repeats:,} requests now got their first answer again")
    check_acknowledged(store, teller.acknowledged)

    headline("3. An auditor looks at it, with the store alone")
    where = ("--store", "sqlite:///books.db")
    replayed = stockledger(folder, "replay", *where)
    if teller.state_digest not in replayed:
        raise SystemExit("the replayed books differ from those of the living process")
    print(f"  (the living process ended with state digest {teller.state_digest[:16]}..., the same)")
    stockledger(folder, "verify", *where, "--key", key)
    stockledger(folder, "prove", "100", *where, "--signing-key", "checkpoint.key")
    stockledger(folder, "verify-receipt", "entry-100.tlog-proof", "entry-100.entry", "--key", key)

    headline("4. The same book, served over gRPC to those who have a token")
    teller.seconds |= serve(folder, store, key)

    headline("7. The books")
    show_books(store)
    show_time(teller.seconds)
    print(f"\nDone in {time.perf_counter() - start:.1f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

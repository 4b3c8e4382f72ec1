"""What may be said to `stockledger`: commands, their options, and help with examples.

Nothing of the ledger is imported here. Each command names the function that carries it out as "module:function".
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any, Final, NoReturn

from services.chain_worker.settings import WorkerSettings
from services.cli.outcome import EXIT_CODES, USAGE
from services.grpc_server.settings import ServerSettings
from services.setting import meaning_of

PROGRAM: Final = "stockledger"
ANCHORED: Final = "a file with the signed note as it was anchored, or SIZE:ROOT, the root in hex, as a contract answers"

DESCRIPTION: Final = """The stock ledger for tokenised stock: one append-only, provable log of who holds what.

A store holds one ledger: sqlite:///books.db is a file in the current directory. The first `apply` or `import` makes it.
"""
OVERVIEW: Final = r"""a first quarter of an hour, in an empty folder:
  export STOCKLEDGER_STORE=sqlite:///books.db STOCKLEDGER_ORIGIN=acme.example/stockledger STOCKLEDGER_SIGNING_KEY=checkpoint.key
  stockledger keys generate checkpoint.key --name acme.example/stockledger
  printf 'symbol,name,kind,underlying_isin
AAPLx,Apple,stock,US0378331005
' > instruments.csv
  printf 'holder,country,investor_class,accounts
h-1,DE,retail,book:alice
' > holders.csv
  stockledger import --instruments instruments.csv --holders holders.csv
  stockledger commands FreezeAccount              # what a command needs
  echo '{"command": "FreezeAccount", "account": "book:alice", "legal_reference": "order 7"}' > commands.jsonl
  stockledger apply commands.jsonl                # carry commands out
  stockledger show accounts --holder h-1          # what stands in the books
  stockledger verify                              # check every byte and every rule
  stockledger prove 4                             # a receipt that anybody can check offline
  stockledger verify-receipt entry-4.tlog-proof entry-4.entry

Every setting may stand in stockledger.toml, in the environment (STOCKLEDGER_STORE, ...) or in a flag; `stockledger config` shows which.
"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints end with the exit code for usage."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(USAGE)


class _Commands:
    """Adds commands, each with the options that all of them share."""

    def __init__(self, into: Any) -> None:
        self._into = into

    def add(
        self, name: str, run: str, summary: str, examples: str, *, details: str = "", store: bool = True, answers: bool = True
    ) -> argparse.ArgumentParser:
        """Add a command; `run` is the function that carries it out, "module:function" below services.cli."""
        parser: argparse.ArgumentParser = self._into.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.\n\n{details}".rstrip(),
            epilog=f"examples:\n{examples.rstrip()}\n\n{EXIT_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.set_defaults(run=run if run.startswith("services.") else f"services.cli.{run}")
        if answers:
            parser.add_argument("--json", action="store_true", help="answer with one JSON document, for machines")
        if store:
            parser.add_argument("--store", metavar="URL", help="the store, such as sqlite:///books.db")
            parser.add_argument("--ledger-id", metavar="ID", help="id of the ledger: guards against the wrong store, or names a new one")
            parser.add_argument("--config", metavar="FILE", help="read settings from this file instead of ./stockledger.toml")
        return parser


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog=f"{OVERVIEW}\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = _Commands(parser.add_subparsers(title="commands", metavar="COMMAND", required=True))
    _add_booking(commands)
    _add_showing(commands)
    _add_checking(commands)
    _add_proving(commands)
    _add_keys(commands)
    _add_serving(commands)
    _add_working(commands)
    _add_chain(commands)
    return parser


def _add_booking(commands: _Commands) -> None:
    apply = commands.add(
        "apply",
        "applying:run",
        "carry out commands from a file, a batch at a time",
        """  stockledger apply commands.jsonl --store sqlite:///books.db
  stockledger apply transfers.csv --principal alice --approver carol
  generate | stockledger apply - --json

a line of JSON:  {"command": "TransferUnits", "instrument": "AAPLx", "source": "book:alice", "destination": "book:bob", "units": 150000000}
the same as CSV: command,instrument,source,destination,units
                 TransferUnits,AAPLx,book:alice,book:bob,150000000""",
        details="""FILE holds one command a line: JSON (protobuf JSON: bytes are base64, times ISO 8601), or CSV whose header's
first column is `command` and whose others are names of fields; in a CSV cell a list is separated by ';' and a message is JSON.
A line that is refused does not stop the others. With a request_id in each line (a UUIDv7) a file may safely be applied again: what was
booked before is not booked twice.""",
    )
    apply.add_argument("file", metavar="FILE", help="JSON lines or CSV; - is standard input")
    _add_principal(apply)
    apply.add_argument("--format", choices=("jsonl", "csv"), help="form of FILE, where its name and first line do not tell")
    apply.add_argument("--batch", type=int, default=1000, metavar="N", help="commands a flush (1000)")
    apply.add_argument("--pack", action="store_true", help="book runs of single transfers as one entry each: faster, one receipt a run")
    apply.add_argument("--stop-at-first-refusal", action="store_true", help="carry out nothing after the first refused line")
    apply.add_argument("--dry-run", action="store_true", help="check each line against the books as they are now, and book nothing")

    importing = commands.add(
        "import",
        "importing:run",
        "bring in instruments, holders with their accounts, and opening holdings from CSV",
        """  stockledger import --instruments instruments.csv
  stockledger import --instruments i.csv --holders h.csv --holdings o.csv --principal operator --approver carol""",
        details="""Import as often as you like: what is in the books already is left alone, and what differs from them is refused.
  instruments  symbol, underlying_isin, kind (stock, etf, reit, cash, ...), and name or underlying_name; perhaps isin, currency, decimals,
               backing, authorised_units, issue_policy, split_method, dividend_method; underlying_ticker and market_mic are not kept
  holders      holder (a pseudonym), country, investor_class (retail, professional, institution); perhaps accounts, separated by ';'
  holdings     instrument, account, and units (smallest units) or quantity (1.5); perhaps reference. Issued against reserves, so record
               evidence first; `stockledger keys sign-statement` helps""",
    )
    importing.add_argument("--instruments", metavar="FILE", help="CSV of instruments")
    importing.add_argument("--holders", metavar="FILE", help="CSV of holders and their accounts")
    importing.add_argument("--holdings", metavar="FILE", help="CSV of opening holdings, booked as issued units")
    _add_principal(importing)
    importing.add_argument("--decimals", type=int, default=8, metavar="N", help="of instruments whose line does not say (8)")
    importing.add_argument("--backing", default="custodied", metavar="NAME", help="of instruments whose line does not say (custodied)")
    importing.add_argument(
        "--authorised", type=int, default=1_000_000_000, metavar="N", help="whole units authorised, where a line does not say (1000000000)"
    )

    describing = commands.add(
        "commands",
        "describing:run",
        "list the commands that `apply` understands, or the fields of one",
        "  stockledger commands\n  stockledger commands TransferUnits",
        store=False,
    )
    describing.add_argument("name", nargs="?", metavar="NAME", help="a command, such as TransferUnits")


def _add_principal(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--principal", metavar="NAME", help="who asks (operator)")
    parser.add_argument(
        "--approver",
        dest="approvers",
        action="append",
        metavar="NAME",
        help="approve at once what waits, as this principal; repeatable",
    )
    parser.add_argument("--origin", metavar="LINE", help="origin of a new ledger's checkpoints: the name of its signing key")


def _add_showing(commands: _Commands) -> None:
    show = commands.add(
        "show",
        "showing:run",
        "show what stands in the books, now or as of a size or time",
        """  stockledger show instruments
  stockledger show register AAPLx --limit 20
  stockledger show holdings book:alice --as-of-time 2026-11-22T18:00:00Z
  stockledger show places AAPLx
  stockledger show instructions --chain eip155:1
  stockledger show log --from-index -20
  stockledger show log 41""",
        details="""WHAT is log, instruments, holders, accounts, holdings, register, supply, reserves, holds, actions, approvals, or
another list; `show` without WHAT names them all.
NAME narrows it down: the instrument of a register, the account of holdings, the index of an entry of the log.""",
    )
    show.add_argument("what", nargs="?", default="", metavar="WHAT", help="what to show")
    show.add_argument("name", nargs="?", metavar="NAME", help="of which instrument, account, holder, action or number")
    for name in ("instrument", "account", "holder", "principal", "country", "broker", "chain"):
        show.add_argument(f"--{name}", dest=f"of_{name}", metavar="NAME", help=f"only of this {name}")
    show.add_argument("--kind", metavar="EVENT", help="log: only entries of this event, such as units_transferred")
    show.add_argument("--from-index", type=int, default=0, metavar="N", help="log: from this index on; -20 is the last twenty")
    show.add_argument("--as-of-size", type=int, metavar="N", help="the books after N entries")
    show.add_argument("--as-of-time", metavar="TIME", help="the books as of a moment, such as 2026-11-22T18:00:00Z")
    show.add_argument("--limit", type=int, metavar="N", help="at most N lines; 0: all (100, with --json all)")
    show.add_argument("--units", action="store_true", help="smallest units instead of decimals")

    commands.add(
        "config",
        "configuring:run",
        "show which settings are in force and from where, secrets hidden",
        "  stockledger config\n  STOCKLEDGER_STORE=sqlite:///books.db stockledger config --json",
    )


def _add_checking(commands: _Commands) -> None:
    replay = commands.add(
        "replay",
        "checking:run_replay",
        "fold the log from its first entry and say what comes out",
        "  stockledger replay\n  stockledger replay --as-of-size 1000",
        details="No snapshot is used. Two replays of one log give the same state digest, on every machine.",
    )
    replay.add_argument("--as-of-size", type=int, metavar="N", help="only the first N entries")

    verify = commands.add(
        "verify",
        "checking:run_verify",
        "check a store: bytes, tree, checkpoints, every entry and every rule of the books",
        "  stockledger verify --store sqlite:///books.db --key acme.example/stockledger+a020c344+AQOh...",
        details="Works offline and beside a running writer. Signatures of checkpoints are checked with --key, or the key of `signing_key`.",
    )
    _add_key(verify)
    verify.add_argument("--checkpoint-file", metavar="FILE", help="a checkpoint kept outside the store, all of which must be in it")

    audit = commands.add(
        "audit",
        "checking:run_audit",
        "check an exported directory of tiles as `verify` checks a store, without the store",
        "  stockledger audit export/ --key acme.example/stockledger+a020c344+AQOh...",
        store=False,
    )
    audit.add_argument("directory", metavar="DIR", help="what `export` has written")
    audit.add_argument(
        "--anchored",
        action="append",
        default=[],
        metavar="CHECKPOINT",
        help=f"what stood on a chain or with a witness must be its beginning: {ANCHORED}; repeatable",
    )
    _add_key(audit)
    audit.add_argument("--config", metavar="FILE", help="read settings from this file instead of ./stockledger.toml")

    snapshot = commands.add(
        "snapshot",
        "checking:run_snapshot",
        "keep the books beside the log, so that the next start need not replay all of it",
        "  stockledger snapshot",
        details="A snapshot is a cache: it may be deleted at any time, and is not used if it does not match the log.",
    )
    snapshot.add_argument("snapshot", nargs="?", metavar="FILE", help="where (beside the store's file)")

    backup = commands.add(
        "backup",
        "backing_up:run",
        "copy an SQLite store to a new file, while it is written",
        "  stockledger backup books-2026-11-22.db --store sqlite:///books.db",
        details="To restore, stop the server and name the copy, or a copy of it, as the store; never copy over a store's file.",
    )
    backup.add_argument("file", metavar="FILE", help="where to; it must not be there yet")

    commands.add(
        "migrate",
        "migrating:run",
        "bring the tables of an older store to this program's layout",
        "  stockledger migrate --store postgresql://ledger@db/books?ledger=acme",
        details="Stop all who write the store first, and back it up. Entries are not touched: what was signed stays true.",
    )


def _add_proving(commands: _Commands) -> None:
    checkpoint = commands.add(
        "checkpoint",
        "proving:run_checkpoint",
        "sign a checkpoint of the log, keep it in the store, and print it",
        "  stockledger checkpoint --signing-key checkpoint.key > checkpoint.txt",
        details="Send checkpoints elsewhere, often: whoever keeps one can tell later whether the log before it was changed.",
    )
    _add_signing_key(checkpoint)
    checkpoint.add_argument("--no-save", action="store_true", help="do not keep it in the store, as while another process writes it")

    export = commands.add(
        "export",
        "proving:run_export",
        "write the log as static C2SP tiles that any auditor reads, or extend what is there",
        "  stockledger export export/ --signing-key checkpoint.key",
        details="Without a signing key the export ends with the newest checkpoint that the store keeps.",
    )
    export.add_argument("directory", metavar="DIR", help="the directory")
    _add_signing_key(export)

    prove = commands.add(
        "prove",
        "proving:run_prove",
        "write a receipt that one entry is in the log, and the entry's bytes",
        "  stockledger prove 41 --signing-key checkpoint.key        writes entry-41.tlog-proof and entry-41.entry",
        details="Without a signing key the receipt stands under the newest checkpoint that the store keeps.",
    )
    prove.add_argument("index", type=int, metavar="INDEX", help="index of the entry, from 0")
    prove.add_argument("--out", metavar="FILE", help="the receipt (entry-INDEX.tlog-proof); the bytes go beside it, ending in .entry")
    prove.add_argument("--anchored", metavar="FILE", help="stand under this checkpoint, as it stood on a chain or with a witness")
    _add_signing_key(prove)

    growth = commands.add(
        "prove-consistency",
        "proving:run_prove_consistency",
        "write the proof that the log only grew since a checkpoint that stands on a chain",
        """  stockledger prove-consistency anchored.txt --signing-key checkpoint.key      up to now
  stockledger prove-consistency 1000:0x9c22...4f --to later.txt                from one anchor to a later one""",
        details="""Without a signing key it leads to the newest checkpoint that the store keeps. The hashes that --json gives are
what `prove` of a CheckpointAnchor takes; the file is the body that a C2SP witness is asked with.""",
    )
    growth.add_argument("anchored", metavar="ANCHORED", help=ANCHORED)
    growth.add_argument("--to", metavar="FILE", help="a later checkpoint of the log, signed, instead of one of now")
    growth.add_argument("--out", metavar="FILE", help="where to (log-OLD-NEW.tlog-consistency)")
    _add_signing_key(growth)

    grown = commands.add(
        "verify-consistency",
        "proving:run_verify_consistency",
        "check that the log only grew since a checkpoint that stands on a chain, with the log's public key",
        "  stockledger verify-consistency log-1000-1200.tlog-consistency anchored.txt --key acme.example/stockledger+a020c344+AQOh...",
        store=False,
    )
    grown.add_argument("proof", metavar="PROOF", help="the .tlog-consistency file")
    grown.add_argument("anchored", metavar="ANCHORED", help=ANCHORED)
    _add_key(grown)
    grown.add_argument("--config", metavar="FILE", help="read settings from this file instead of ./stockledger.toml")

    verify = commands.add(
        "verify-receipt",
        "proving:run_verify_receipt",
        "check a receipt and an entry's bytes, with nothing but the log's public key",
        "  stockledger verify-receipt entry-41.tlog-proof entry-41.entry --key acme.example/stockledger+a020c344+AQOh...",
        store=False,
    )
    verify.add_argument("receipt", metavar="RECEIPT", help="the .tlog-proof file")
    verify.add_argument("entry", metavar="ENTRY", help="the file with the entry's bytes")
    _add_key(verify)
    verify.add_argument("--config", metavar="FILE", help="read settings from this file instead of ./stockledger.toml")


def _add_signing_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--signing-key", metavar="FILE", help="the key that signs checkpoints")


def _add_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key",
        dest="verifier_keys",
        action="append",
        metavar="KEY",
        help="a public key to trust: a file, or name+id+key; repeatable",
    )


def _add_keys(commands: _Commands) -> None:
    keys = commands.add(
        "keys",
        "keys:run_show",
        "make, show and convert keys of checkpoints and custodians, and sign statements of reserves",
        """  stockledger keys generate checkpoint.key --name acme.example/stockledger
  stockledger keys show checkpoint.key
  stockledger keys convert checkpoint.key --to public-pem
  stockledger keys sign-statement alpaca.key --ledger-id acme --custody-account alpaca/AAPL-1 --isin US0378331005 --settled 1000""",
        store=False,
        answers=False,
    )
    actions = _Commands(keys.add_subparsers(title="what to do", metavar="ACTION", required=True))

    generate = actions.add(
        "generate",
        "keys:run_generate",
        "make a new Ed25519 key; its file is readable by you alone and never overwritten",
        """  stockledger keys generate checkpoint.key --name acme.example/stockledger     signs checkpoints; the name is the ledger's origin
  stockledger keys generate alpaca.key --name alpaca                           signs a custodian's statements; the name is its id""",
        store=False,
    )
    generate.add_argument("file", metavar="FILE", help="where to write the secret key, in the text form of Go's sumdb/note")
    generate.add_argument("--name", required=True, help="who signs: the origin of a ledger, or the id of a custodian; no space, no '+'")

    show = actions.add("show", "keys:run_show", "show the public side of a key", "  stockledger keys show checkpoint.key", store=False)
    show.add_argument("file", metavar="FILE", help="a secret or public key, in any form that `convert` writes")
    show.add_argument("--name", help="who signs, where the form does not say")

    convert = actions.add(
        "convert",
        "keys:run_convert",
        "write a key in another form",
        """  stockledger keys convert checkpoint.key --to verifier
  stockledger keys convert other.pem --name alpaca --to note --out alpaca.key""",
        store=False,
    )
    convert.add_argument("file", metavar="FILE", help="a key: note (PRIVATE+KEY+...), verifier (name+id+key) or PEM")
    convert.add_argument("--to", required=True, choices=("note", "pem", "verifier", "public-pem", "public-hex", "public-base64"))
    convert.add_argument("--name", help="who signs, where the form does not say")
    convert.add_argument("--out", metavar="FILE", help="where to write it; required for secret forms")

    sign = actions.add(
        "sign-statement",
        "keys:run_sign_statement",
        "sign a custodian's statement of what it holds, as a line for `apply`",
        """  stockledger keys sign-statement alpaca.key --ledger-id acme --custody-account alpaca/AAPL-1 \\
    --isin US0378331005 --settled 1000 > evidence.jsonl
  stockledger keys sign-statement alpaca.key --statement statement.json | stockledger apply -""",
        store=False,
    )
    sign.add_argument("file", metavar="KEY", help="the custodian's secret key; its name is the custodian's id")
    sign.add_argument("--statement", metavar="FILE", help="the statement's bytes as they are; otherwise it is made of the options below")
    sign.add_argument("--ledger-id", metavar="ID", help="id of the ledger whose units the shares are to back; it counts in no other")
    sign.add_argument("--custody-account", metavar="ID", help="such as alpaca/AAPL-1")
    sign.add_argument("--isin", help="ISIN of the shares, or the currency of cash")
    sign.add_argument("--settled", metavar="SHARES", help="settled shares, such as 1000 or 12.5")
    sign.add_argument("--pending", metavar="SHARES", default="0", help="bought and not settled (0)")
    sign.add_argument("--encumbered", metavar="SHARES", default="0", help="pledged or lent (0)")
    sign.add_argument("--as-of", metavar="TIME", help="the moment it speaks of (now)")
    sign.add_argument("--valid-hours", type=int, default=24, metavar="N", help="hours after which it is stale (24)")
    sign.add_argument("--share-basis", type=int, default=0, metavar="N", help="how many splits the shares have been through (0)")
    sign.add_argument("--agent", action="store_true", help="signed by an agent, who holds nothing itself")


def _add_serving(commands: _Commands) -> None:
    serve = commands.add(
        "serve",
        "services.grpc_server.command:run",
        "serve the books over gRPC until told to stop (SIGTERM, SIGINT)",
        "  stockledger serve\n  stockledger serve --store sqlite:///books.db --signing-key checkpoint.key --address 127.0.0.1:8080",
        details="Without configuration: SQLite, loopback only, reflection on, and a local caller without credentials is the operator.",
        answers=False,
    )
    _add_signing_key(serve)
    serve.add_argument(
        "--checkpoint-file", metavar="FILE", help="keep the last checkpoint there, outside the store, and refuse older backups"
    )
    for field in dataclasses.fields(ServerSettings):
        _add_setting(serve, field)


def _add_working(commands: _Commands) -> None:
    work = commands.add(
        "work",
        "services.chain_worker.command:run",
        "work on chains until told to stop: send what the ledger decided, book what chains finalised",
        """  stockledger work --chain eip155:1=http://127.0.0.1:8545 --chain-key eip155:1=minter.json --ledger-address 127.0.0.1:8080
  stockledger work --chain eip155:1=http://127.0.0.1:8545 --chain solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp=http://127.0.0.1:8899""",
        details="""It writes only through the ledger's server, and keeps nothing: stop it, or kill it, whenever you like. The flags --chain,
--chain-key, --chain-option and --ledger-address may be given several times. A worker without keys only reads and reconciles.""",
        store=False,
        answers=False,
    )
    work.add_argument("--config", metavar="FILE", help="read settings from this file instead of ./stockledger.toml")
    work.add_argument("--log-level", metavar="VALUE", help="debug, info, warning or error (info)")
    for field in dataclasses.fields(WorkerSettings):
        _add_setting(work, field)

    reread = commands.add(
        "reread",
        "rereading:run",
        "read a chain again from another node, and book the movements that the first one left out",
        """  stockledger reread --chain eip155:1=https://other-node.example/v2 --first 23456000 --ledger-address 127.0.0.1:8080
  stockledger reread --chain eip155:1=http://127.0.0.1:8545 --validate-only""",
        details="""When a holding or the supply on chain is not the ledger's, and nobody here moved it, a node has hidden something. It runs
beside the worker and may be run again and again: what is in the books is left alone, and what is not is booked only where it
makes supply and holdings agree. It needs the role of a worker, and no keys.""",
        store=False,
    )
    reread.add_argument("--first", type=int, default=0, metavar="NUMBER", help="the first block or slot to read again (all of them)")
    reread.add_argument("--validate-only", action="store_true", help="say what is missing, and book nothing")
    reread.add_argument("--config", metavar="FILE", help="read settings from this file instead of ./stockledger.toml")
    for field in dataclasses.fields(WorkerSettings):
        if field.name in _REREADING:
            _add_setting(reread, field)


def _add_chain(commands: _Commands) -> None:
    chain = commands.add(
        "chain",
        "deploying:run",
        "put tokens on a chain, and hold what stands there against what is registered",
        """  stockledger chain deploy ethereum.toml > ethereum.jsonl && stockledger apply ethereum.jsonl --approver carol
  stockledger chain inspect --chain eip155:1=http://127.0.0.1:8545""",
        store=False,
        answers=False,
    )
    actions = _Commands(chain.add_subparsers(title="what to do", metavar="ACTION", required=True))
    deploy = actions.add(
        "deploy",
        "deploying:run",
        "make what a chain lacks, and print the commands that register it, as lines for `apply`",
        """  stockledger chain deploy ethereum.toml --dry-run                    what is missing, and what it costs at most
  stockledger chain deploy ethereum.toml > ethereum.jsonl
  stockledger apply ethereum.jsonl --approver carol""",
        details="""FILE names a chain, its nodes, who does what there, and the tokens; docs/operations.md shows one for EVM and one for
Solana. Addresses follow from the keys and the symbols: begun again, it goes on where it stopped, and what stands is not made twice. It ends
when all is final. What is done and what it costs is told on stderr.""",
        store=False,
    )
    deploy.add_argument("file", metavar="FILE", help="TOML: the chain, keys, tokens")
    deploy.add_argument("--config", metavar="FILE", help="read settings from this file instead of ./stockledger.toml")
    deploy.add_argument("--dry-run", action="store_true", help="tell what is missing and what it costs at most, and send nothing")

    inspect = actions.add(
        "inspect",
        "inspecting:run",
        "hold chains, tokens and keys as registered against what their nodes say",
        """  stockledger chain inspect --store sqlite:///books.db --chain eip155:1=http://127.0.0.1:8545
  stockledger chain inspect                                   with the store and the chains of stockledger.toml""",
        details="""It reads the store beside the running server, asks the nodes, and changes nothing. Told are: the node and its chain,
how far the books are behind it, what each token can do against its registration, what registered keys lack there, and whether they are
here.""",
    )
    for field in dataclasses.fields(WorkerSettings):
        if field.name in ("chains", "chain_keys", "chain_key_passphrase", "chain_options"):
            _add_setting(inspect, field)


def _add_setting(parser: argparse.ArgumentParser, field: dataclasses.Field[Any]) -> None:
    """Add the flag of a setting; one of a worker's that is a list is named for one item, and may be given several times."""
    default = field.default
    shown = ", ".join(default) if isinstance(default, tuple) else str(default).lower() if isinstance(default, bool) else default
    meaning = meaning_of(field).replace("%", "%%")
    help_text = meaning if shown == "" else f"{meaning} ({shown})"
    flag = f"--{field.name.replace('_', '-')}"
    if field.name in _ITEMS:
        parser.add_argument(f"--{_ITEMS[field.name]}", dest=field.name, action="append", metavar="VALUE", help=help_text)
    else:
        parser.add_argument(flag, metavar="VALUE", help=help_text)


_ITEMS: Final = {"ledger_addresses": "ledger-address", "chains": "chain", "chain_keys": "chain-key", "chain_options": "chain-option"}
"""Setting that is a list -> the flag that gives one item of it."""
_REREADING: Final = frozenset(
    {"ledger_addresses", "ledger_authorities", "ledger_certificate", "ledger_private_key", "ledger_token", "worker_principal"}
    | {"chains", "chain_options"}
)
"""What a worker is set to that `reread` needs too."""

"""`stockledger keys`: Ed25519 keys of checkpoints and custodians.

One text form serves both, that of Go's sumdb/note: a name, the key's id, and the key. For a checkpoint the name is the ledger's origin, for
a custodian its id. PEM is PKCS #8 and SubjectPublicKeyInfo as RFC 8410 writes them, which openssl reads.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nacl.signing import SigningKey

from ledger.errors import LedgerError
from ledger.log.checkpoint import Signer, VerifierKey, encode_base64
from ledger.request_ids import RequestIds, format_request_id
from ledger.rules.statements import parse_statement
from services.cli.outcome import DONE, UsageError
from services.cli.output import note, parse_decimal_text, print_json
from services.cli.stores import as_key, read_secret, read_text
from services.settings import SECRET_KEY_START

if TYPE_CHECKING:
    import argparse

SECRET_MODE: Final = 0o600
SHARES_DECIMALS: Final = 8
_PEM_PRIVATE: Final = "PRIVATE KEY"
_PEM_PUBLIC: Final = "PUBLIC KEY"
_PKCS8_START: Final = bytes.fromhex("302e020100300506032b657004220420")
"""RFC 8410 section 7: what stands before the 32 bytes of the seed."""
_SPKI_START: Final = bytes.fromhex("302a300506032b6570032100")
"""RFC 8410 section 4: what stands before the 32 bytes of the public key."""
_SECRET_FORMS: Final = ("note", "pem")


@dataclass(frozen=True, slots=True)
class Key:
    """A key as read; `seed` is None of a public one."""

    name: str
    public_key: bytes
    seed: bytes | None

    def needed_name(self) -> str:
        if not self.name:
            raise UsageError("this form does not say who signs: give --name")
        return self.name

    def verifier_key(self) -> VerifierKey:
        return VerifierKey(self.needed_name(), self.public_key)

    def needed_seed(self) -> bytes:
        if self.seed is None:
            raise UsageError("this is a public key; the secret one is needed")
        return self.seed

    def signer(self) -> Signer:
        seed = self.needed_seed()
        signer: Signer = as_key(lambda name: Signer(name, seed), self.needed_name(), "name")
        return signer


def run_generate(options: argparse.Namespace) -> int:
    """Make a key, and print its public side."""
    signer: Signer = as_key(Signer.generate, options.name, "name")
    _write_new(options.file, signer.secret_text + "\n", SECRET_MODE)
    _print_public(Key(signer.name, signer.verifier_key.public_key, None), options.file, as_json=options.json)
    return DONE


def run_show(options: argparse.Namespace) -> int:
    """Print the public side of a key, never the secret one."""
    _print_public(read_key(options.file, options.name), options.file, as_json=options.json)
    return DONE


def run_convert(options: argparse.Namespace) -> int:
    """Write a key in another form; a secret one only into a new file."""
    key = read_key(options.file, options.name)
    text = _in_form(key, options.to)
    if options.out is not None:
        _write_new(options.out, text + "\n", SECRET_MODE if options.to in _SECRET_FORMS else 0o644)
        note(f"wrote {options.out}")
    elif options.to in _SECRET_FORMS:
        raise UsageError(f"{options.to} is a secret form and goes into a file only: give --out")
    elif options.json:
        print_json({options.to: text})
    else:
        print(text)
    return DONE


def run_sign_statement(options: argparse.Namespace) -> int:
    """Sign a statement of reserves, and print the command that records it."""
    key = read_key(options.file, None)
    name, seed = key.needed_name(), key.needed_seed()
    statement = _read_statement(options.statement) if options.statement is not None else _make_statement(options)
    try:
        parse_statement(statement)
    except LedgerError as error:
        raise UsageError(f"the statement would be refused: {error.message}") from error
    kind = "AGENT" if options.agent else "CUSTODIAN"
    command = {
        "command": "RecordEvidence",
        "request_id": format_request_id(RequestIds().make(time.time_ns() // 1_000_000)),
        "kind": f"EVIDENCE_KIND_{kind}_SIGNED",
        "signer": name,
        "statement": encode_base64(statement),
        "signature": encode_base64(SigningKey(seed).sign(statement).signature),
    }
    print(json.dumps(command))
    return DONE


def read_key(path: str, name: str | None) -> Key:
    """Read a key in any of its forms. `name` stands in where the form has none.

    Raises: UsageError.
    """
    text = read_text(path, "key").strip()
    if text.startswith(SECRET_KEY_START) or f"BEGIN {_PEM_PRIVATE}" in text:
        text = read_secret(path)
    if text.startswith(SECRET_KEY_START):
        signer: Signer = as_key(Signer.from_secret_text, text, "key")
        seed = base64.b64decode(signer.secret_text.split("+", 4)[4])[1:]
        return Key(signer.name, signer.verifier_key.public_key, seed)
    if text.startswith("-----BEGIN "):
        return _read_pem(text, name or "")
    verifier: VerifierKey = as_key(VerifierKey.parse, text, "key")
    return Key(verifier.name, verifier.public_key, None)


def _read_pem(text: str, name: str) -> Key:
    first, *lines, last = text.splitlines()
    try:
        der = base64.b64decode("".join(lines), validate=True)
    except binascii.Error as error:
        raise UsageError(f"the key is not PEM: {error}") from error
    for label, start in ((_PEM_PRIVATE, _PKCS8_START), (_PEM_PUBLIC, _SPKI_START)):
        if (
            (first, last) == (f"-----BEGIN {label}-----", f"-----END {label}-----")
            and der.startswith(start)
            and len(der) == len(start) + 32
        ):
            content = der[len(start) :]
            return Key(name, content, None) if label == _PEM_PUBLIC else Key(name, bytes(SigningKey(content).verify_key), content)
    raise UsageError("the key is PEM, but not of an Ed25519 key as RFC 8410 writes it")


def _in_form(key: Key, form: str) -> str:
    match form:
        case "note":
            return key.signer().secret_text
        case "pem":
            return _pem(_PEM_PRIVATE, _PKCS8_START + key.needed_seed())
        case "verifier":
            return str(key.verifier_key())
        case "public-pem":
            return _pem(_PEM_PUBLIC, _SPKI_START + key.public_key)
        case "public-hex":
            return key.public_key.hex()
        case _:
            return encode_base64(key.public_key)


def _pem(label: str, der: bytes) -> str:
    return f"-----BEGIN {label}-----\n{encode_base64(der)}\n-----END {label}-----"


def _print_public(key: Key, path: str, *, as_json: bool) -> None:
    answer = {"file": path, "name": key.name, "public_key_hex": key.public_key.hex(), "public_key_base64": encode_base64(key.public_key)}
    if key.name:
        answer |= {"verifier_key": str(key.verifier_key()), "key_id": key.verifier_key().key_id.hex()}
    if as_json:
        print_json(answer)
        return
    width = max(map(len, answer))
    for title, value in answer.items():
        print(f"{title.replace('_', ' '):<{width}}  {value}")


def _write_new(path: str, content: str, mode: int) -> None:
    """Write a file that must not be there yet, with this mode from its first byte on."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise UsageError(f"{path} is there already, and a key is never overwritten") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _read_statement(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"statement {path} cannot be read: {error.strerror}") from error


def _make_statement(options: argparse.Namespace) -> bytes:
    """Write the statement that the options describe."""
    missing = [
        f"--{name.replace('_', '-')}" for name in ("ledger_id", "custody_account", "isin", "settled") if getattr(options, name) is None
    ]
    if missing:
        raise UsageError(f"a statement needs {', '.join(missing)}, or --statement FILE")
    as_of = _moment(options.as_of)
    try:
        shares = {
            f"{name}_shares_e8": parse_decimal_text(getattr(options, name), SHARES_DECIMALS)
            for name in ("settled", "pending", "encumbered")
        }
        until = as_of + datetime.timedelta(hours=options.valid_hours)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"the statement is not understood: {error}") from error
    statement = {
        "ledger": options.ledger_id,
        "custody_account": options.custody_account,
        "isin": options.isin,
        **shares,
        "as_of_time": _utc(as_of),
        "valid_until_time": _utc(until),
        "share_basis": options.share_basis,
    }
    return json.dumps(statement).encode()


def _moment(text: str | None) -> datetime.datetime:
    """Return the moment given, or now, in UTC, cut to whole seconds."""
    if text is None:
        return datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is not a moment such as 2026-11-22T18:00:00Z") from error
    if moment.tzinfo is None:
        raise UsageError(f"{text!r} does not say its time zone; Z is UTC")
    try:
        return moment.astimezone(datetime.UTC).replace(microsecond=0)
    except OverflowError as error:
        raise UsageError(f"{text!r} is not between the years 1 and 9999 in UTC") from error


def _utc(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

"""The settings file of `stockledger chain deploy`: one chain, who does what on it, and what is to stand there.

    chain = "eip155:1"                      CAIP-2 id
    name = "Ethereum"
    nodes = ["http://127.0.0.1:8545"]       the preferred one first
    finality_depth = 0                      0: what the chain itself calls final
    origin = "acme.example/stockledger"     keep checkpoints of this log there (EVM: an anchor); left out: none

    [keys]                                  every party that the chain's setup needs: a key's file, env:NAME, or
    deployer = "keys/deployer.json"         an account (CAIP-10) whose key is elsewhere
    admin = "eip155:1:0x71C7656EC7ab88b098defB751B7401B5f6d8976F"

    [[tokens]]                              tokens of our own
    instrument = "AAPLx"
    name = "Apple tokenised"
    decimals = 8
    allotment_units = 500_000_000_000       what the ledger lets there at most
    multiplier = "1000000000000000000"      at scale 1e18; 1 if left out
    reserve_feed = true
    uri = "https://acme.example/AAPLx.json"
    halt_on_divergence = true

    [[omnibus]]                             somebody else's tokens, in wallets of ours
    instrument = "MSFTx"
    token = "eip155:1/erc20:0x9d275685dC284C8eB1C79f6ABA7a63Dc75ec890a"
    decimals = 18
    wallets = ["keys/hot.json"]             withdrawals are sent from the first
    units_per_withdrawal_max = 0            0: any
    units_per_day_max = 0

    [options]                               of the adapter and the setup, by the names that they document
    admin_delay_seconds = "86400"

A name that is not among these is refused.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ledger.caip import check_chain, parse_account
from services.cli.outcome import UsageError
from services.settings import suggestion

if TYPE_CHECKING:
    from collections.abc import Mapping

_ONE: Final = str(10**18)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TokenEntry:
    """One of [[tokens]]."""

    instrument: str
    name: str
    decimals: int
    allotment_units: int = 0
    multiplier: str = _ONE
    reserve_feed: bool = False
    uri: str = ""
    halt_on_divergence: bool = False


@dataclass(frozen=True, slots=True)
class OmnibusEntry:
    """One of [[omnibus]]."""

    instrument: str
    token: str
    decimals: int
    wallets: tuple[str, ...]
    units_per_withdrawal_max: int = 0
    units_per_day_max: int = 0
    halt_on_divergence: bool = False


@dataclass(frozen=True, slots=True)
class ChainFile:
    """The whole file."""

    chain: str
    name: str
    nodes: tuple[str, ...]
    finality_depth: int = 0
    origin: str = ""
    keys: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tokens: tuple[TokenEntry, ...] = ()
    omnibus: tuple[OmnibusEntry, ...] = ()
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def is_account(self, reference: str) -> bool:
        """Tell an account, whose key is elsewhere, from the name of a key."""
        return reference.startswith(f"{self.chain}:")

    def key_references(self) -> list[str]:
        """Return the keys that can be opened here, each once."""
        named = [*self.keys.values(), *(wallet for entry in self.omnibus for wallet in entry.wallets)]
        return list(dict.fromkeys(reference for reference in named if not self.is_account(reference)))


def read_chain_file(path: str) -> ChainFile:
    """Read the file; what is not known in it is refused, as everywhere in settings.

    Raises: UsageError.
    """
    import tomllib  # noqa: PLC0415 - no other command reads TOML before it knows that there is some

    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # TOML or UTF-8 that it is not, an integer of thousands of digits, nesting without end
        raise UsageError(f"{path} is not TOML: {error}") from error
    for name, kind in (("tokens", TokenEntry), ("omnibus", OmnibusEntry)):
        if name in content:
            content[name] = tuple(_made(kind, entry, f"{path}, {name}") for entry in _list(content[name], f"{path}, {name}"))
    file = _made(ChainFile, content, path)
    check_chain("chain", file.chain)
    for reference in (*file.keys.values(), *(wallet for entry in file.omnibus for wallet in entry.wallets)):
        if file.is_account(reference):
            parse_account("keys", reference)
    if not file.nodes:
        raise UsageError(f"{path} names no node of {file.chain}")
    if not (file.tokens or file.omnibus or file.origin):
        raise UsageError(f"{path} names nothing that is to stand on {file.chain}: no tokens, no omnibus, no origin")
    return file


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise UsageError(f"{where}: it must be a list of tables")
    return value


def _made(kind: type[T], content: dict[str, Any], where: str) -> T:
    """Make one of the tables of its entries, each of the type that its field says."""
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in content:
        if name not in fields:
            raise UsageError(f"{where}: {name} is not known{suggestion(name, fields)}")
    required = [
        field.name for field in fields.values() if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in content]
    if missing:
        raise UsageError(f"{where}: {', '.join(missing)} must be there")
    return kind(**{name: _value(name, str(fields[name].type), value, where) for name, value in content.items()})


def _value(name: str, declared: str, value: Any, where: str) -> Any:
    if declared.startswith("tuple[str") and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if declared.startswith("Mapping") and isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
        return value
    if declared.startswith("tuple") and isinstance(value, tuple):
        return value
    if declared == "int" and type(value) is int and value >= 0:
        return value
    if (declared, type(value)) in (("str", str), ("bool", bool)):
        return value
    wanted = _WORDS.get(declared, "a list of texts" if "tuple" in declared else "texts by name")
    raise UsageError(f"{where}: {name} is {value!r}, it must be {wanted}")


_WORDS: Final = {"int": "a whole number from 0 on", "str": "a text", "bool": "true or false"}

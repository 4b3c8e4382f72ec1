"""Keys that sign: each item of the setting is opened by the adapter of its chain's namespace.

    eip155:1=keys/minter.json         the file's content, with `chain_key_passphrase` if it is encrypted
    solana:5eykt...=env:MINTER_KEY    an environment variable's

What opens a key stands under the entry-point group `stockledger.chain_signers`, by CAIP-2 namespace:
`open_signer(chain, content, passphrase) -> Signer`. The content may as well be the name of a key in a KMS.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from services.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from chain_adapters.protocol import Signer

    OpenSigner = Callable[[str, bytes, str], Signer]

ENTRY_POINTS: Final = "stockledger.chain_signers"
_ENVIRONMENT: Final = "env:"


def split_item(item: str, setting: str) -> tuple[str, str]:
    """Return the chain and the rest of an item.

    Raises: SettingsError.
    """
    chain, equals, rest = item.partition("=")
    if not equals or ":" not in chain or not rest.strip():
        raise SettingsError(f"{setting} has {item!r}; it must begin with a chain's id and an equals sign, like eip155:1=...")
    return chain.strip(), rest.strip()


def open_signers(
    items: Sequence[str],
    passphrase: str,
    environment: Mapping[str, str],
    installed: Collection[importlib.metadata.EntryPoint] | None = None,
) -> dict[str, dict[str, Signer]]:
    """Return the signers of each chain by account.

    Raises: SettingsError for a key that is not there or cannot be opened; it never shows what is in one.
    """
    points = importlib.metadata.entry_points(group=ENTRY_POINTS) if installed is None else installed
    signers: dict[str, dict[str, Signer]] = {}
    for item in items:
        chain, reference = split_item(item, "chain_keys")
        opener = next((point for point in points if point.name == chain.partition(":")[0]), None)
        if opener is None:
            raise SettingsError(f"chain_keys has a key for {chain}, and nothing that is installed opens keys of that kind")
        try:
            open_signer: OpenSigner = opener.load()
        except ModuleNotFoundError as error:
            extra = f"stockledger[{','.join(opener.extras)}]"
            raise SettingsError(f"keys for {chain} need the module {error.name!r}; try: pip install '{extra}'") from error
        try:
            signer = open_signer(chain, _content(reference, environment), passphrase)
        except ValueError as error:
            raise SettingsError(f"the key {reference} for {chain} cannot be opened: {error}") from None
        signers.setdefault(chain, {})[signer.account] = signer
    return signers


def _content(reference: str, environment: Mapping[str, str]) -> bytes:
    if reference.startswith(_ENVIRONMENT):
        name = reference.removeprefix(_ENVIRONMENT)
        if not environment.get(name):
            raise SettingsError(f"chain_keys names the environment variable {name}, which is not set")
        return environment[name].encode()
    try:
        return Path(reference).read_bytes()
    except OSError as error:
        raise SettingsError(f"the key {reference} cannot be read: {error.strerror}") from error

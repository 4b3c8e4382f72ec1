"""`stockledger chain deploy`: put an issuer's tokens on a chain, and write the commands that tell the ledger of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.json_format import MessageToDict

from chain_adapters.protocol import ChainSettings, find_adapter
from chain_adapters.setting_up import Terms, TokenTerms, find_setup
from services.chain_worker.keys import open_signers
from services.cli.chain_file import read_chain_file
from services.cli.outcome import DONE, UsageError
from services.cli.output import note, print_json, ratio_text
from services.cli.stores import settings_of
from services.settings import suggestion
from stockledger.v1.chains_pb2 import Chain, ChainKey, ChainKeyRole, Deployment, DeploymentKind, FinalityRule, WithdrawalLimits

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

    from google.protobuf.message import Message

    from chain_adapters.protocol import ChainAdapter, Signer
    from chain_adapters.setting_up import ChainSetup, Coin, Part
    from services.cli.chain_file import ChainFile, OmnibusEntry

POLL_SECONDS: Final = 0.5
_MULTIPLIER_DIGITS_MAX: Final = 39
"""Of 2^128 - 1."""


def run(options: argparse.Namespace) -> int:
    """Make what is missing, wait until it is final, and print what the ledger and its worker are to be told."""
    file = read_chain_file(options.file)
    opened = _open_keys(file, settings_of(options).worker.chain_key_passphrase)
    accounts = {reference: signer.account for reference, signer in opened.items()}
    signers = {signer.account: signer for signer in opened.values()}
    settings = ChainSettings(file.chain, file.nodes, signers, file.finality_depth, options=file.options)
    with contextlib.ExitStack() as closing:
        setup = closing.enter_context(contextlib.closing(_opened(find_setup(file.chain), settings)))
        terms = _terms(file, setup, accounts)
        plan = _planned(setup, terms)
        _tell_plan(file, setup.coin, plan)
        if options.dry_run:
            _print(options, file, setup.coin, plan, {})
            return DONE
        made = []
        for part in setup.make(terms):
            made.append(part)
            _tell_part(setup.coin, part)
        if not setup.is_final(terms):
            note(f"waiting until {file.chain} has finalised it; interrupted, and begun again, nothing is made twice")
            while not setup.is_final(terms):
                time.sleep(POLL_SECONDS)
        settings = dataclasses.replace(settings, options={**file.options, **setup.options(terms)})
        adapter = closing.enter_context(contextlib.closing(find_adapter(file.chain)(settings)))
        checked = closing.enter_context(contextlib.closing(find_setup(file.chain)(settings)))
        commands, faults = _commands(file, accounts, terms, checked, adapter)
    for fault in faults:
        note(f"still to be done: {fault}")
    worker = _worker(file, accounts, settings.options, commands)
    by_address = {part.address: part for part in made}
    parts = [by_address.get(part.address, part) for part in plan]
    _print(options, file, setup.coin, parts, {"faults": faults, "commands": commands, "worker": worker})
    return DONE


def _opened(open_setup: Any, settings: ChainSettings) -> ChainSetup:
    try:
        setup: ChainSetup = open_setup(settings)
    except ValueError as error:
        raise UsageError(f"{settings.chain}: {error}") from error
    return setup


def _planned(setup: ChainSetup, terms: Terms) -> list[Part]:
    try:
        return setup.plan(terms)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _open_keys(file: ChainFile, passphrase: str) -> dict[str, Signer]:
    """Return the signer of each key that the file names."""
    found = {}
    for reference in file.key_references():
        (signer,) = open_signers([f"{file.chain}={reference}"], passphrase, os.environ)[file.chain].values()
        found[reference] = signer
    return found


def _terms(file: ChainFile, setup: ChainSetup, accounts: Mapping[str, str]) -> Terms:
    """Return what is to stand, with every party that is needed.

    Raises: UsageError for parties that are missing or unknown, and multipliers that are no numbers.
    """
    for token in file.tokens:
        digits = token.multiplier
        if not (digits.isascii() and digits.isdecimal() and len(digits) <= _MULTIPLIER_DIGITS_MAX and int(digits)):
            raise UsageError(f"the multiplier of {token.instrument} is {token.multiplier!r}, it must be a whole number at scale 1e18")
    tokens = tuple(
        TokenTerms(token.instrument, token.name, token.decimals, int(token.multiplier), token.uri, token.reserve_feed)
        for token in file.tokens
    )
    parties = {name: accounts.get(reference, reference) for name, reference in file.keys.items()}
    terms = Terms(parties, tokens, file.origin)
    needed = setup.needed(terms)
    for name in parties:
        if name not in needed:
            raise UsageError(f"keys has {name}, which is no party on {file.chain}{suggestion(name, needed)}; needed: {', '.join(needed)}")
    missing = [name for name in needed if name not in parties]
    if missing:
        raise UsageError(f"keys lacks {', '.join(missing)}")
    return terms


def _commands(
    file: ChainFile, accounts: Mapping[str, str], terms: Terms, setup: ChainSetup, adapter: ChainAdapter
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the lines for `apply`, and what keys still lack."""
    cursor = adapter.finalised()
    roles: dict[str, set[ChainKeyRole.ValueType]] = {}
    for name, signs_for in setup.needed(terms).items():
        roles.setdefault(terms.parties[name], set()).update(signs_for)
    for wallet in (wallet for entry in file.omnibus for wallet in entry.wallets):
        roles.setdefault(accounts.get(wallet, wallet), set()).add(ChainKeyRole.CHAIN_KEY_ROLE_WALLET)
    keys = [ChainKey(key=key, roles=sorted(each), consumed_count=setup.count(key, cursor)) for key, each in roles.items() if each]
    deployments = [*_native(file, setup.tokens(terms)), *(_omnibus(file, accounts, entry) for entry in file.omnibus)]
    for deployment in deployments:
        deployment.capabilities.extend(sorted(adapter.inspect(deployment)))
    rule = FinalityRule.FINALITY_RULE_DEPTH if file.finality_depth else FinalityRule.FINALITY_RULE_CHAIN
    chain = Chain(chain=file.chain, name=file.name, finality_rule=rule, finality_depth=file.finality_depth, cursor=cursor)
    lines = [_line("RegisterChain", chain)]
    lines += [_line("SetChainKey", key) for key in keys]
    lines += [_line("RegisterDeployment", deployment) for deployment in deployments]
    return lines, setup.faults(deployments, keys)


def _native(file: ChainFile, tokens: Sequence[Deployment]) -> Iterator[Deployment]:
    for entry, deployment in zip(file.tokens, tokens, strict=True):
        deployment.allotment_units = entry.allotment_units
        deployment.halt_on_divergence = entry.halt_on_divergence
        yield deployment


def _omnibus(file: ChainFile, accounts: Mapping[str, str], entry: OmnibusEntry) -> Deployment:
    limits = WithdrawalLimits(units_per_withdrawal_max=entry.units_per_withdrawal_max, units_per_day_max=entry.units_per_day_max)
    return Deployment(
        chain=file.chain,
        instrument=entry.instrument,
        token=entry.token,
        decimals=entry.decimals,
        kind=DeploymentKind.DEPLOYMENT_KIND_OMNIBUS,
        wallets=[accounts.get(wallet, wallet) for wallet in entry.wallets],
        withdrawal_limits=limits if limits.ByteSize() else None,
        halt_on_divergence=entry.halt_on_divergence,
    )


def _line(command: str, content: Message) -> dict[str, Any]:
    """Return a line for `apply`: what is registered has the names of the command's own fields."""
    return {"command": command, **MessageToDict(content, preserving_proto_field_name=True)}


def _worker(
    file: ChainFile, accounts: Mapping[str, str], options: Mapping[str, str], commands: Sequence[Mapping[str, Any]]
) -> dict[str, list[str]]:
    """Return the settings with which a worker works on this chain: its nodes, the keys that sign, and what stands beside the tokens."""
    registered = {line["key"] for line in commands if line["command"] == "SetChainKey"}
    return {
        "chains": [f"{file.chain}={' '.join(file.nodes)}"],
        "chain_keys": [f"{file.chain}={reference}" for reference, account in accounts.items() if account in registered],
        "chain_options": [f"{file.chain}={name}={value}" for name, value in options.items() if name not in _SETUP_OPTIONS],
    }


# ---- what is told ------------------------------------------------------------------------------------------------------------------


def _tell_plan(file: ChainFile, coin: Coin, plan: Sequence[Part]) -> None:
    missing = [part for part in plan if not part.stands]
    if not missing:
        note(f"{file.chain}: all {len(plan)} parts stand already")
        return
    cost = _coins(coin, sum(part.cost for part in missing))
    note(f"{file.chain}: {len(missing)} of {len(plan)} parts are missing, which cost {cost} at most")


def _tell_part(coin: Coin, part: Part) -> None:
    note(f"  {part.name:<24} {part.address}  {_coins(coin, part.cost)}")


def _coins(coin: Coin, cost: int) -> str:
    """Write what something costs, for people: six decimals, rounded up."""
    millionths = -(-cost // 10 ** (coin.decimals - _COIN_DECIMALS_SHOWN))
    return f"{ratio_text(millionths, _COIN_DECIMALS_SHOWN)} {coin.name}"


def _print(options: argparse.Namespace, file: ChainFile, coin: Coin, parts: Sequence[Part], result: Mapping[str, Any]) -> None:
    """Print the whole as one document, or the commands as lines, with the worker's settings beside them."""
    if options.json:
        told = [{**dataclasses.asdict(part), "cost": str(part.cost)} for part in parts]
        cost = str(sum(part.cost for part in parts))
        print_json({"chain": file.chain, "coin": coin.name, "coin_decimals": coin.decimals, "cost": cost, "parts": told, **result})
        return
    if not result:
        for part in parts:
            stands = "stands" if part.stands else f"{_coins(coin, part.cost)} at most"
            print(f"{part.name:<24} {part.address}  {stands}")
        return
    for command in result["commands"]:
        print(json.dumps(command))
    flags = [f"--{name} {value!r}" for name, values in zip(_FLAGS, result["worker"].values(), strict=True) for value in values]
    note(f"the worker of this chain: stockledger work {' '.join(flags)}")


_COIN_DECIMALS_SHOWN: Final = 6
_FLAGS: Final = ("chain", "chain-key", "chain-option")
_SETUP_OPTIONS: Final = ("admin_delay_seconds",)
"""Of the file's options, those that a worker need not know."""

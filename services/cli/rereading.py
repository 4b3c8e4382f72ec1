"""`stockledger reread`: read a chain again from a node that is trusted more, and book what the other one left out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from chain_adapters.protocol import ChainError, ChainSettings, ChainUnavailable, find_adapter
from chain_adapters.rereader import Rereader
from services.chain_worker.command import chain_configurations, open_connection
from services.cli.outcome import DAMAGED, DONE, UNAVAILABLE, UsageError
from services.cli.output import note, print_json
from services.cli.stores import settings_of
from stockledger.v1.chains_pb2 import GetChainRequest, ObservationKind

if TYPE_CHECKING:
    import argparse

    from chain_adapters.rereader import Reread
    from services.chain_worker.chain_loop import ChainConfiguration
    from services.chain_worker.connection import LedgerConnection


def run(options: argparse.Namespace) -> int:
    """Read again, book what was missed, and say what it was.

    Raises: SettingsError, UsageError; LedgerError if the ledger refuses us, or what was missed.
    """
    settings = settings_of(options)
    configurations = chain_configurations(settings.worker, os.environ)
    if len(configurations) != 1:
        raise UsageError("one chain is read again at a time: give one --chain")
    with open_connection(settings.worker) as connection:
        try:
            found = _reread(connection, configurations[0], options)
        except ChainUnavailable as error:
            note(f"stockledger: {error}")
            return UNAVAILABLE
        except ChainError as error:
            note(f"stockledger: {error}")
            return DAMAGED
    _tell(found, as_json=options.json)
    return DONE


def _reread(connection: LedgerConnection, configuration: ChainConfiguration, options: argparse.Namespace) -> Reread:
    registered = connection.call(GetChainRequest(chain=configuration.chain)).chain
    adapter = find_adapter(configuration.chain)(
        ChainSettings(
            chain=configuration.chain,
            urls=configuration.urls,
            finality_depth=registered.finality_depth,
            ledger=connection.ledger_id(),
            options=configuration.options,
        )
    )
    try:
        adapter.describe()
        return Rereader(connection.call, adapter).run(options.first, book=not options.validate_only)
    finally:
        adapter.close()


def _tell(found: Reread, *, as_json: bool) -> None:
    missed = [
        {
            "kind": ObservationKind.Name(each.kind).removeprefix("OBSERVATION_KIND_"),
            "token": each.token,
            "transaction": each.transaction,
            "number": each.number,
            "source": each.source,
            "destination": each.destination,
            "raw": each.raw,
        }
        for each in found.missed
    ]
    if as_json:
        answer = {"chain": found.chain, "first": found.first, "last": found.last, "movement_count": found.movement_count, "missed": missed}
        print_json(answer | {"booked": found.booked, "resolved_count": found.resolved_count})
        return
    print(f"{found.chain} tells {found.movement_count} movements in {found.first} to {found.last}, {len(missed)} are not in the books")
    for each in missed:
        ends = f"{each['source'] or 'nowhere'} -> {each['destination'] or 'nowhere'}"
        print(f"  {each['number']} {each['transaction']} {each['kind']} {each['raw']} of {each['token']}, {ends}")
    if found.booked:
        print(f"booked; {found.resolved_count} divergences ended with it")

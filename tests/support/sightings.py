"""How to think up what a chain has done: ranges with what landed of ours and what others did, figures, and what humans make of them.

Makers as in commands.py; what they are drawn from is the state, so that most of it fits and some of it does not.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import chances as st
from google.protobuf.timestamp_pb2 import Timestamp

from stockledger.v1 import chains_pb2
from stockledger.v1.chains_pb2 import InstructionKind, ObservationKind

_SHOWN_BY = {
    InstructionKind.INSTRUCTION_KIND_MINT: ObservationKind.OBSERVATION_KIND_MINT,
    InstructionKind.INSTRUCTION_KIND_BURN: ObservationKind.OBSERVATION_KIND_BURN,
    InstructionKind.INSTRUCTION_KIND_FORCE_TRANSFER: ObservationKind.OBSERVATION_KIND_TRANSFER,
    InstructionKind.INSTRUCTION_KIND_SEND: ObservationKind.OBSERVATION_KIND_TRANSFER,
}
_FAILURES = st.sampled_from([0] * 8 + list(chains_pb2.ChainFailure.values()[1:]))
_RAW = st.sampled_from([1, 2, 3, 5, 8, 40, 0, 10**4, 2**70])
_MOMENT = Timestamp(seconds=1_795_370_000)


def _mostly(draw: Any, known: Any, other: Any) -> Any:
    return draw(st.sampled_from([*sorted(known) * 4, other]))


def position(record: Any) -> chains_pb2.ChainPosition:
    found = chains_pb2.ChainPosition(number=record.number, hash=record.hash)
    found.time.FromMicroseconds(record.time_us)
    return found


def names_at(state: Any, chain: str) -> list[str]:
    """Return accounts there: a few of nobody known, and all that have an account, the ledger's wallets among them."""
    known = [name for name, account in state.accounts.items() if account.place == chain]
    wallets = [wallet for each in state.deployments.values() if each.chain == chain for wallet in each.wallets]
    return [*sorted({*known, *wallets}), f"{chain}:s1", f"{chain}:s2"]


def observed(draw: Any, state: Any) -> Any:
    """The next range of a chain: some of our transactions, done or failed, and some of what others do there."""
    name = _mostly(draw, state.chains, "memory:none")
    chain = state.chains.get(name)
    after = position(chain.cursor) if chain is not None else chains_pb2.ChainPosition(number=0, hash="0x0", time=_MOMENT)
    if draw(st.sampled_from([False] * 15 + [True])):
        after.hash = "0xother"
    number = after.number + 1
    through = chains_pb2.ChainPosition(number=number, hash=f"0x{number}", time=_MOMENT)
    found = chains_pb2.ObservedRange(chain=name, after=after, through=through)
    for opened in [each for each in state.open_transactions.values() if each.chain == name]:
        if draw(st.sampled_from([True, True, False])):
            _land(draw, state, opened, found)
    tokens = [each.token for each in state.deployments.values() if each.chain == name]
    for _ in range(draw(st.integers(0, 3)) if tokens else 0):
        found.observations.append(_of_others(draw, state, name, draw(st.sampled_from(sorted(tokens)))))
    if tokens and draw(st.booleans()):
        found.multipliers.add(token=draw(st.sampled_from(sorted(tokens))), multiplier=str(10**18))
    for index, each in enumerate(found.observations):
        each.number, each.index = number, index
    for landed in found.landed:
        landed.number = number
    waiting = [each.text for each in state.instructions.values() if each.chain == name]
    found.satisfied_instructions.extend(draw(st.lists(st.sampled_from([*waiting, "9-9"]), max_size=2)))
    return chains_pb2.RecordObservationsRequest(range=found)


def _land(draw: Any, state: Any, opened: Any, found: Any) -> None:
    """Let a version of a transaction land; one that is done mostly has the effects of its instructions."""
    version = chains_pb2.Transaction.FromString(draw(st.sampled_from(opened.versions)))
    payload = draw(st.sampled_from([version.payload] * 9 + [b"other"]))
    transaction = f"0x{version.payload.hex()}-{opened.index}"
    landed = found.landed.add(key=version.key, sequence=version.sequence, transaction=transaction, failure=draw(_FAILURES))
    landed.payload_digest = sha256(payload).digest()
    if landed.failure or payload != version.payload:
        return
    for text in version.instructions:
        each = state.instructions[tuple(map(int, text.split("-")))]
        if each.kind in _SHOWN_BY and draw(st.sampled_from([True] * 9 + [False])):
            found.observations.append(
                chains_pb2.Observation(
                    kind=_SHOWN_BY[each.kind],
                    token=state.deployments[each.instrument, each.chain].token,
                    transaction=transaction,
                    source=each.source,
                    destination=each.destination,
                    raw=str(each.raw),
                    instruction=text,
                )
            )


def _of_others(draw: Any, state: Any, chain: str, token: str) -> chains_pb2.Observation:
    kinds = [*ObservationKind.values()[1:], *[ObservationKind.OBSERVATION_KIND_TRANSFER] * 9]
    ends, kind = st.sampled_from(names_at(state, chain)), draw(st.sampled_from(kinds))
    flags = (ObservationKind.OBSERVATION_KIND_FREEZE, ObservationKind.OBSERVATION_KIND_BAR)
    values = ["true", "false"] if kind in flags else [str(10**18), "0"]
    of_all = kind in (ObservationKind.OBSERVATION_KIND_AUTHORITY, ObservationKind.OBSERVATION_KIND_BAR)
    return chains_pb2.Observation(
        kind=kind,
        old_value=draw(st.sampled_from([str(10**18), "0", str(2 * 10**18)])),
        effective_time=_MOMENT,
        time=_MOMENT,
        token=draw(st.sampled_from([token, ""])) if of_all else token,
        transaction="0xothers",
        source=draw(ends),
        destination=draw(ends),
        raw=str(draw(_RAW)),
        operations=draw(st.sampled_from([[], [1], [1, 2, 3]])),
        subject="MINTER_ROLE",
        value=draw(st.sampled_from(values)),
    )


def reconciled(draw: Any, state: Any) -> Any:
    """Figures at the cursor: the supply and an account or two, right or one off."""
    name = _mostly(draw, state.chains, "memory:none")
    chain = state.chains.get(name)
    at = position(chain.cursor) if chain is not None else chains_pb2.ChainPosition(number=0, hash="0x0", time=_MOMENT)
    figures = {}
    for (symbol, there), deployment in sorted(state.deployments.items()):
        if there != name:
            continue
        accounts = ["", *draw(st.lists(st.sampled_from(names_at(state, name)), max_size=2))]
        for account in accounts:
            raw = _raw_of(state, deployment, account) + draw(st.sampled_from([0, 0, 0, 1]))
            figures[symbol, account] = chains_pb2.ChainFigure(instrument=symbol, account=account, raw=str(max(raw, 0)))
    return chains_pb2.RecordReconciliationRequest(chain=name, position=at, figures=figures.values())


def missed(draw: Any, state: Any) -> Any:
    """A movement that nobody told, mostly with the figures that it leads to, where both ends have enough."""
    name = _mostly(draw, state.chains, "memory:none")
    chain = state.chains.get(name)
    at = position(chain.cursor) if chain is not None else chains_pb2.ChainPosition(number=0, hash="0x0", time=_MOMENT)
    command = chains_pb2.RecordMissedObservationsRequest(chain=name, position=at)
    deployments = [each for each in state.deployments.values() if each.chain == name]
    if not deployments:
        return command
    deployment = draw(st.sampled_from(sorted(deployments, key=lambda each: each.token)))
    kinds = [ObservationKind.OBSERVATION_KIND_TRANSFER] * 3 + [ObservationKind.OBSERVATION_KIND_MINT, ObservationKind.OBSERVATION_KIND_BURN]
    kind, raw = draw(st.sampled_from(kinds)), draw(st.sampled_from([1, 2, 5]))
    ends = st.sampled_from(names_at(state, name))
    source, destination = draw(ends), draw(ends)
    command.observations.add(
        kind=kind, token=deployment.token, transaction="0xmissed", number=at.number, source=source, destination=destination, raw=str(raw)
    )
    minted, burned = kind == ObservationKind.OBSERVATION_KIND_MINT, kind == ObservationKind.OBSERVATION_KIND_BURN
    change = {"": raw * (minted - burned), source: 0, destination: 0}
    change[source] -= raw * (not minted)
    change[destination] += raw * (not burned)
    for account, units in sorted(change.items()):
        there = _raw_of(state, deployment, account) + units + draw(st.sampled_from([0] * 9 + [1]))
        command.figures.add(instrument=deployment.instrument, account=account, raw=str(max(there, 0)))
    return command


def _raw_of(state: Any, deployment: Any, account: str) -> int:
    if deployment.wallets:
        return state.wallet_raw.get((deployment.chain, deployment.instrument, account), 0)
    if not account:
        return state.place_units.get((deployment.instrument, deployment.chain), 0)
    known = state.accounts.get(account)
    return 0 if known is None else state.holding(state.instruments[deployment.instrument].number, known.number)


def told(draw: Any, state: Any) -> Any:
    kind = draw(st.sampled_from([chains_pb2.DivergenceKind.DIVERGENCE_KIND_HISTORY_CHANGED, 1, 1]))
    return chains_pb2.RaiseDivergenceRequest(chain=_mostly(draw, state.chains, "memory:none"), kind=kind, expected="0x0", found="0x1")


def resolved(draw: Any, state: Any) -> Any:
    """End one, mostly with all that its account has too little or too much of."""
    number = _mostly(draw, state.divergences, 999)
    divergence = state.divergences.get(number)
    command = chains_pb2.ResolveDivergenceRequest(divergence=number, cause="looked at")
    if divergence is None or not divergence.instrument or draw(st.booleans()):
        return command
    own = state.holding(state.instruments[divergence.instrument].number, state.chains[divergence.chain].divergence)
    command.units = draw(st.sampled_from([-own, -own, 1, -1]))
    if not -(2**62) <= command.units <= 2**62:
        command.units = 0
    if command.units:
        command.bearing_account = draw(st.sampled_from(["ledger:issuance", "book:a", "book:b"]))
    return command


def swept(draw: Any, state: Any) -> Any:
    wallets = [wallet for each in state.deployments.values() for wallet in each.wallets]
    known = [address for _, _, address in state.wallet_raw]
    return chains_pb2.SweepWalletRequest(
        instrument=draw(st.sampled_from(["OMNIx"] * 5 + ["AAPLx"])),
        wallet=_mostly(draw, {*wallets, *known}, "memory:a:s1"),
        receiving_wallet=_mostly(draw, wallets, "memory:a:s1"),
        raw=draw(st.sampled_from(["", "", "7"])),
    )


def attributed(draw: Any, state: Any) -> Any:
    return chains_pb2.AttributeDepositRequest(
        chain=_mostly(draw, state.chains, "memory:none"),
        instrument="OMNIx",
        account=draw(st.sampled_from(["book:a", "book:b", "book:c", "ledger:loss"])),
        units=draw(st.sampled_from([1, 1, 2, 0, 500])),
        reference="0xothers",
    )


def anchored(draw: Any, state: Any) -> Any:
    size = draw(st.sampled_from([state.size, state.size, 1, state.size + 9]))
    text = f"{state.origin}\n{size}\nAAAA\n\n- signer AAAA\n"
    return chains_pb2.AnchorCheckpointRequest(chain=_mostly(draw, state.chains, "memory:none"), checkpoint=text)


MAKERS = {
    chains_pb2.RecordObservationsRequest: observed,
    chains_pb2.RecordMissedObservationsRequest: missed,
    chains_pb2.RecordReconciliationRequest: reconciled,
    chains_pb2.RaiseDivergenceRequest: told,
    chains_pb2.ResolveDivergenceRequest: resolved,
    chains_pb2.SweepWalletRequest: swept,
    chains_pb2.AttributeDepositRequest: attributed,
    chains_pb2.AnchorCheckpointRequest: anchored,
}

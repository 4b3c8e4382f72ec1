"""Why a contract reverted, in the ledger's words: for ever, or only for now."""

from __future__ import annotations

from typing import Final

from chain_adapters.evm.codec import ContractRefusal
from stockledger.v1.chains_pb2 import ChainFailure

FAILURE_TEXT_MAX: Final = 140
FOR_EVER: Final = frozenset({ChainFailure.CHAIN_FAILURE_ACCOUNT_BARRED, ChainFailure.CHAIN_FAILURE_UNITS_INSUFFICIENT})
_FAILURES: Final = {
    "ERC7943CannotSend": ChainFailure.CHAIN_FAILURE_ACCOUNT_BARRED,
    "ERC7943CannotReceive": ChainFailure.CHAIN_FAILURE_ACCOUNT_BARRED,
    "ERC20InvalidSender": ChainFailure.CHAIN_FAILURE_ACCOUNT_BARRED,
    "ERC20InvalidReceiver": ChainFailure.CHAIN_FAILURE_ACCOUNT_BARRED,
    "ERC20InsufficientBalance": ChainFailure.CHAIN_FAILURE_UNITS_INSUFFICIENT,
    "ERC20InsufficientAllowance": ChainFailure.CHAIN_FAILURE_KEY_WITHOUT_ROLE,
    "AccessControlUnauthorizedAccount": ChainFailure.CHAIN_FAILURE_KEY_WITHOUT_ROLE,
    "OperationPaused": ChainFailure.CHAIN_FAILURE_PAUSED,
    "AllotmentExceeded": ChainFailure.CHAIN_FAILURE_ALLOTMENT_EXCEEDED,
}


def failure_of(refusal: ContractRefusal) -> tuple[ChainFailure.ValueType, str]:
    """Return why a call failed, in the ledger's words and the contract's.

    Units that are frozen, a denied key of ours and a missing approval may all change, and are no refusals for ever.
    """
    return _FAILURES.get(refusal.name, ChainFailure.CHAIN_FAILURE_OTHER), str(refusal)[:FAILURE_TEXT_MAX]

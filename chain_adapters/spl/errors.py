"""What can go wrong with Solana, each by a name that tells the operator what to do.

    SolanaError
    |-- AddressMalformed            not 32 bytes in base58, or not of this chain               correct the address
    |-- KeyMalformed                a signing key that is none                                 correct the setting
    |-- SignatureWrong              a signer answered with something else                      look at the signer
    |-- MultiplierNotRepresentable  zero, negative, infinite or subnormal as binary64          choose another multiplier
    |-- TransactionTooLarge         one step alone exceeds 1232 bytes or the compute limit     split the step
    |-- AccountMalformed            bytes that are no mint, token account or nonce account     look at the address
    |-- TransactionNotUnderstood    its instructions do not explain what it did to balances    call a human
    |-- HistoryBroken               what was read does not follow on what was known            read again from the start
    `-- RpcError                    the node
        |-- NodeUnreachable         no connection, or no answer in time                        retried; look at the node
        |-- NodeOverloaded          429 or 503                                                 retried; later, or another plan
        |-- NodeFailed              another status than 200                                    retried if 5xx
        |-- AnswerMalformed         no JSON, cut short, too large, or of another shape         retried; look at the node
        |-- NodeBehind              the node has not come that far                             retried; wait
        |-- HistoryPruned           the node no longer keeps what was asked for                a node with the full history
        |-- WrongChain              another genesis than the chain's                           correct the address of the node
        |-- TransactionRefused      the node's trial run of the transaction failed             see `error` and `logs`
        `-- RequestRefused          any other JSON-RPC error                                   see `code`

"Retried" ones were tried again with growing pauses before they are raised.
"""

from __future__ import annotations


class SolanaError(Exception):
    """Something about Solana is not as it must be; `str()` of it says what, why and with which numbers."""


class AddressMalformed(SolanaError):
    """A text is no address, or none of this chain."""


class KeyMalformed(SolanaError):
    """A text is no signing key. The message never holds the text."""


class SignatureWrong(SolanaError):
    """A signer's answer is not its signature of the message."""


class MultiplierNotRepresentable(SolanaError):
    """Token-2022 takes no such multiplier."""


class TransactionTooLarge(SolanaError):
    """One step alone does not fit a transaction."""


class AccountMalformed(SolanaError):
    """An account's bytes are not of the kind expected."""


class TransactionNotUnderstood(SolanaError):
    """The instructions of a transaction do not explain what it did to balances."""


class HistoryBroken(SolanaError):
    """A transaction does not follow on what was known before it."""


class RpcError(SolanaError):
    """The node did not give a usable answer; `method` was asked."""

    def __init__(self, method: str, message: str) -> None:
        super().__init__(f"{method}: {message}")
        self.method = method


class NodeUnreachable(RpcError):
    """No connection, or no whole answer within the time allowed."""


class NodeOverloaded(RpcError):
    """The node asks us to slow down."""

    def __init__(self, method: str, message: str, retry_after_seconds: int | None = None) -> None:
        super().__init__(method, message)
        self.retry_after_seconds = retry_after_seconds


class NodeFailed(RpcError):
    """The node answered with another HTTP status than 200."""

    def __init__(self, method: str, message: str, status: int) -> None:
        super().__init__(method, message)
        self.status = status


class AnswerMalformed(RpcError):
    """The answer is no JSON, is cut short, too large, or of another shape than documented."""


class NodeBehind(RpcError):
    """The node has not reached the slot that was asked for, or says it lags."""


class HistoryPruned(RpcError):
    """The node no longer keeps the blocks or transactions asked for."""


class WrongChain(RpcError):
    """The node is one of another chain."""


class RequestRefused(RpcError):
    """The node answered with a JSON-RPC error."""

    def __init__(self, method: str, message: str, code: int) -> None:
        super().__init__(method, f"{message} (JSON-RPC error {code})")
        self.code = code


class TransactionRefused(RpcError):
    """The node's trial run of a transaction failed; nothing was sent on.

    `error` is the node's own JSON of the failure, `logs` what the programs said. It is no proof that the transaction cannot land.
    """

    def __init__(self, method: str, message: str, error: object, logs: tuple[str, ...]) -> None:
        super().__init__(method, message)
        self.error = error
        self.logs = logs

"""A token on a real Solana node: keys, a mint set up as xStocks' are, and transactions that land."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pytest

pytest.importorskip("solders", reason="solders is not installed: pip install 'stockledger[spl]'")

from solana_node import SolanaNode
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer

from chain_adapters.spl import programs, token_2022
from chain_adapters.spl.account_layout import Mint, TokenAccount, decode_mint, decode_token_account
from chain_adapters.spl.addresses import TOKEN_2022_PROGRAM, associated_account
from chain_adapters.spl.fate import final_nonce
from chain_adapters.spl.mint_setup import Authorities, MintSetup, create_mint, space
from chain_adapters.spl.planning import DurableNonce
from chain_adapters.spl.rpc import RpcClient
from chain_adapters.spl.signing import KeypairSigner, sign
from chain_adapters.spl.transactions import LandedTransaction, decode

DECIMALS = 8
NAME, SYMBOL, URI = "Apple xStock", "AAPLx", "https://xstocks-metadata.backed.fi/tokens/Solana/AAPLx/metadata.json"


def wait_for(what: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Return the first answer that is true, or fail."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = what()
        if answer:
            return answer
        time.sleep(0.02)
    raise AssertionError(f"nothing within {seconds} s")


class SplChain:
    """One node, and everything a test does on it. `serial` keeps the transactions of tests apart that share a node."""

    def __init__(self, node: SolanaNode) -> None:
        self.node = node
        self.client = RpcClient(node.rpc_url)
        self.payer = KeypairSigner(Keypair.from_bytes(node.payer))

    def close(self) -> None:
        self.client.close()

    def key(self, lamports: int = 0) -> KeypairSigner:
        """Make a new key, with lamports of its own if asked for."""
        signer = KeypairSigner(Keypair())
        if lamports:
            self.fund(signer.public_key, lamports)
        return signer

    def fund(self, address: Pubkey, lamports: int) -> None:
        landed = self.run([transfer_lamports(self.payer.public_key, address, lamports)])
        assert landed.error is None, landed.error

    def message(self, instructions: Iterable[Instruction], blockhash: Hash | None = None) -> bytes:
        recent = Hash.from_string(self.client.latest_blockhash()) if blockhash is None else blockhash
        return bytes(Message.new_with_blockhash(list(instructions), self.payer.public_key, recent))

    def run(self, instructions: Iterable[Instruction], *signers: KeypairSigner) -> LandedTransaction:
        """Put instructions into a block with as many signatures as they need, whether they succeed there or fail."""
        return self.land(sign(self.message(instructions), [self.payer, *signers]))

    def land(self, transaction: bytes) -> LandedTransaction:
        signature = self.client.send(transaction, skips_trial=True)
        return decode(wait_for(lambda: self.client.transaction(signature)))

    def wait_final(self, slot: int) -> None:
        wait_for(lambda: self.client.finalized_slot() >= slot)

    def nonce(self, authority: KeypairSigner) -> DurableNonce:
        """Make a durable nonce account, and return its value once that is final."""
        account = self.key()
        instructions = programs.create_nonce_account(
            self.payer.public_key, account.public_key, authority.public_key, self.client.rent(programs.NONCE_ACCOUNT_BYTES)
        )
        assert self.run(instructions, account).error is None
        return wait_for(lambda: final_nonce(self.client, account.public_key))

    def travel(self, to_time: int) -> None:
        """Move the chain's clock to a time, in seconds since 1970."""
        self.client.call("surfnet_timeTravel", {"absoluteTimestamp": to_time * 1000})

    def clock(self) -> int:
        """Return the chain's time, in seconds since 1970."""
        _, account = self.client.account(Pubkey.from_string("SysvarC1ock11111111111111111111111111111111"))
        return int.from_bytes(account.data[32:40], "little", signed=True)

    def token(self, **changes: Any) -> Token:
        return Token(self, **changes)


class Powers(NamedTuple):
    """The four keys among which the powers over an xStock are shared out."""

    minter: KeypairSigner
    guard: KeypairSigner
    delegate: KeypairSigner
    scaler: KeypairSigner


class Token:
    """A mint set up as xStocks' are, with four keys for its powers."""

    def __init__(
        self, chain: SplChain, *, mint_key: KeypairSigner | None = None, powers: Powers | None = None, symbol: str = SYMBOL, **changes: Any
    ) -> None:
        self.chain = chain
        self.mint_key = mint_key or chain.key()
        self.minter, self.guard, self.delegate, self.scaler = powers or Powers(*(chain.key() for _ in range(4)))
        authorities = Authorities.of_four(
            mint=self.minter.public_key,
            freeze_and_pause=self.guard.public_key,
            permanent_delegate=self.delegate.public_key,
            multiplier=self.scaler.public_key,
        )
        self.mint = self.mint_key.public_key
        self.setup = MintSetup(self.mint, authorities, NAME, symbol, URI, **changes)
        instructions = create_mint(self.setup, chain.payer.public_key, chain.client.rent(space(self.setup)))
        self.made = chain.run(instructions, self.mint_key, self.minter)
        assert self.made.error is None, self.made.error

    def open(self, owner: Pubkey) -> Pubkey:
        """Make the associated account of an owner."""
        made = self.chain.run([programs.create_associated_account(self.chain.payer.public_key, owner, self.mint)])
        assert made.error is None, made.error
        return associated_account(owner, self.mint)

    def open_another(self, owner: Pubkey) -> Pubkey:
        """Make an account of an owner beside the associated one."""
        another, bytes_needed = self.chain.key(), 165 + 1 + 4 + (4 + 1)
        lamports, payer = self.chain.client.rent(bytes_needed), self.chain.payer.public_key
        places = [
            AccountMeta(another.public_key, is_signer=False, is_writable=True),
            AccountMeta(self.mint, is_signer=False, is_writable=False),
        ]
        made = self.chain.run(
            [
                programs.create_account(payer, another.public_key, lamports, bytes_needed, TOKEN_2022_PROGRAM),
                Instruction(TOKEN_2022_PROGRAM, b"\x12" + bytes(owner), places),
            ],
            another,
        )
        assert made.error is None, made.error
        return another.public_key

    def holder(self, units: int = 0) -> tuple[KeypairSigner, Pubkey]:
        """Make a wallet with an associated account, and units in it."""
        wallet = self.chain.key()
        account = self.open(wallet.public_key)
        if units:
            assert self.mint_to(account, units).error is None
        return wallet, account

    def mint_to(self, account: Pubkey, units: int) -> LandedTransaction:
        return self.chain.run([token_2022.mint_to(self.mint, account, self.minter.public_key, units=units, decimals=DECIMALS)], self.minter)

    def transfer(self, by: KeypairSigner, source: Pubkey, destination: Pubkey, units: int) -> LandedTransaction:
        moved = token_2022.transfer(self.mint, source, destination, by.public_key, units=units, decimals=DECIMALS)
        return self.chain.run([moved], by)

    def burn(self, by: KeypairSigner, account: Pubkey, units: int) -> LandedTransaction:
        return self.chain.run([token_2022.burn(self.mint, account, by.public_key, units=units, decimals=DECIMALS)], by)

    def read(self) -> Mint:
        return decode_mint(self.chain.client.account(self.mint)[1].data)

    def account(self, address: Pubkey) -> TokenAccount:
        return decode_token_account(self.chain.client.account(address)[1].data)

    def units(self, address: Pubkey) -> int:
        return self.account(address).units

    def shown(self, units: int) -> str:
        """Return what the program itself shows wallets for raw units, at the chain's time."""
        message = self.chain.message([token_2022.amount_to_ui_amount(self.mint, units)])
        return self.chain.client.simulate(sign(message, [self.chain.payer])).return_data.decode()


def code_of(landed: LandedTransaction) -> int | None:
    """Return the number a program failed with: 17 for a frozen account, 67 for a paused mint."""
    match landed.error:
        case {"InstructionError": [_, {"Custom": int(code)}]}:
            return code
    return None


def transfer_lamports(source: Pubkey, destination: Pubkey, lamports: int) -> Instruction:
    return transfer(TransferParams(from_pubkey=source, to_pubkey=destination, lamports=lamports))

"""Sets a Solana chain up: mints as xStocks' are, at addresses derived from the payer's key, and the payer's nonce accounts.

Parties that terms name: `payer` pays for everything, now and later, and decides nothing; the others sign for the ledger: `minter`,
`freezer` (freezes and thaws), `pauser`, `delegate` (burns and transfers by force, and writes the metadata), `multiplier`, `reporter`.
One account may be several of them; xStocks freeze and pause with one key. Only the payer's key is needed to set up. A reserve feed there
is none, and checkpoints are kept as memos, which need no place.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from solders.hash import Hash
from solders.message import Message
from solders.pubkey import Pubkey

from chain_adapters.protocol import ChainSettings, ChainUnavailable, DeploymentUnfit, FundsInsufficient, KeyMissing, NodeUnfit
from chain_adapters.setting_up import Coin, Part, Terms, TokenTerms
from chain_adapters.spl import compute, errors, programs
from chain_adapters.spl.account_layout import Mint, decode_mint
from chain_adapters.spl.adapter import NONCES_DEFAULT, NamedSigner, SplAdapter
from chain_adapters.spl.addresses import TOKEN_2022_PROGRAM, parse_account
from chain_adapters.spl.mint_setup import Authorities, MintSetup, create_derived_mint, derived_mint, space
from chain_adapters.spl.names import ASSET_NAMESPACE
from chain_adapters.spl.rpc import Account, RpcClient
from chain_adapters.spl.signing import sign
from chain_adapters.spl.transactions import LandedTransaction, decode
from ledger import caip
from stockledger.v1.chains_pb2 import ChainKey, ChainKeyRole, ChainPosition, Deployment, DeploymentKind

PARTIES: Final[Mapping[str, tuple[ChainKeyRole.ValueType, ...]]] = {
    "payer": (ChainKeyRole.CHAIN_KEY_ROLE_FEE_PAYER,),
    "minter": (ChainKeyRole.CHAIN_KEY_ROLE_MINTER,),
    "freezer": (ChainKeyRole.CHAIN_KEY_ROLE_ENFORCER,),
    "pauser": (ChainKeyRole.CHAIN_KEY_ROLE_PAUSER,),
    "delegate": (ChainKeyRole.CHAIN_KEY_ROLE_BURNER, ChainKeyRole.CHAIN_KEY_ROLE_ENFORCER),
    "multiplier": (ChainKeyRole.CHAIN_KEY_ROLE_MULTIPLIER,),
    "reporter": (ChainKeyRole.CHAIN_KEY_ROLE_REPORTER,),
}
NONCE: Final = "nonce account"
LAMPORTS_PER_SIGNATURE: Final = 5_000
LANDING_SECONDS_MAX: Final = 120
"""A blockhash expires after some 60 seconds: what has not landed by then never will."""
_POLL_SECONDS: Final = 0.1


class SplSetup:
    """One Solana chain."""

    coin = Coin("SOL", 9)

    def __init__(self, settings: ChainSettings) -> None:
        self._adapter = SplAdapter(settings)
        self._client = RpcClient(settings.urls[0])
        self._settings = settings
        self.chain = settings.chain
        self._nonces = settings.whole_number("nonces", NONCES_DEFAULT)

    def close(self) -> None:
        self._adapter.close()
        self._client.close()

    def needed(self, terms: Terms) -> Mapping[str, tuple[ChainKeyRole.ValueType, ...]]:
        return PARTIES if terms.tokens or terms.origin else {"payer": PARTIES["payer"]}

    def plan(self, terms: Terms) -> list[Part]:
        payer = self._party(terms, "payer")
        with self._asking() as client:
            rent = client.rent(programs.NONCE_ACCOUNT_BYTES) + LAMPORTS_PER_SIGNATURE
            parts = [Part(NONCE, str(address), stands, 0 if stands else rent) for address, stands in self._nonce_accounts(client, payer)]
            for token in terms.tokens:
                setup = self._mint(terms, token)
                stands = self._is_mint(client, setup.mint)
                cost = 0 if stands else client.rent(space(setup)) + LAMPORTS_PER_SIGNATURE
                parts.append(Part(f"mint of {token.instrument}", str(setup.mint), stands, cost))
        return parts

    def make(self, terms: Terms) -> Iterator[Part]:
        payer = self._party(terms, "payer")
        missing = [part for part in self.plan(terms) if not part.stands]
        needed, has = sum(part.cost for part in missing), self.coins(terms.parties["payer"])
        if has < needed:
            raise FundsInsufficient(self.chain, key=terms.parties["payer"], needed=needed, found=has)
        nonces = [part for part in missing if part.name == NONCE]
        sent = list(zip(nonces, self._adapter.open_nonce_accounts(payer), strict=True)) if nonces else []
        addresses = {part.address for part in missing}
        for token in terms.tokens:
            setup = self._mint(terms, token)
            if str(setup.mint) in addresses:
                part = next(part for part in missing if part.address == str(setup.mint))
                sent.append((part, self._send_mint(setup, payer)))
        for part, signature in sent:
            yield self._landed(part, signature)

    def is_final(self, terms: Terms) -> bool:
        """What the chain answers of accounts is final, but for nodes that answer with newer state: so their history is asked too."""
        parts = self.plan(terms)
        with self._asking() as client:
            final = client.finalized_slot()
            for part in parts:
                newest = client.newest_signature(Pubkey.from_string(part.address)) if part.stands else None
                if not part.stands or (newest is not None and newest.slot > final):
                    return False
        return True

    def options(self, terms: Terms) -> Mapping[str, str]:  # noqa: ARG002 - everything stands at addresses that the adapter derives
        return {}

    def tokens(self, terms: Terms) -> list[Deployment]:
        return [
            Deployment(
                chain=self.chain,
                instrument=token.instrument,
                token=f"{self.chain}/{ASSET_NAMESPACE}:{self._mint(terms, token).mint}",
                decimals=token.decimals,
                kind=DeploymentKind.DEPLOYMENT_KIND_NATIVE,
            )
            for token in terms.tokens
        ]

    def count(self, key: str, at: ChainPosition) -> int:  # noqa: ARG002 - one-time values are not counted
        return 0

    def coins(self, key: str) -> int:
        with self._asking() as client:
            return client.lamports(parse_account(key, self.chain))

    def faults(self, deployments: Sequence[Deployment], keys: Sequence[ChainKey]) -> list[str]:
        found = []
        payers = [key.key for key in keys if ChainKeyRole.CHAIN_KEY_ROLE_FEE_PAYER in key.roles]
        if not payers:
            found.append("no registered key pays the fees")
        for payer in payers:
            if not self.coins(payer):
                found.append(f"{payer} has no coin to pay fees with")
            with self._asking() as client:
                closed = [address for address, stands in self._nonce_accounts(client, parse_account(payer, self.chain)) if not stands]
            if closed:
                found.append(f"{len(closed)} of {self._nonces} nonce accounts of {payer} are not open")
        for deployment in deployments:
            if deployment.kind == DeploymentKind.DEPLOYMENT_KIND_NATIVE:
                found += self._foreign_authorities(deployment, keys)
        return found

    # What stands where

    def _party(self, terms: Terms, name: str) -> Pubkey:
        return parse_account(terms.parties[name], self.chain)

    def _mint(self, terms: Terms, token: TokenTerms) -> MintSetup:
        delegate, freezer = self._party(terms, "delegate"), self._party(terms, "freezer")
        powers = Authorities(
            mint=self._party(terms, "minter"),
            freeze=freezer,
            pause=self._party(terms, "pauser"),
            permanent_delegate=delegate,
            metadata=delegate,
            confidential_transfer=delegate,
            transfer_hook=delegate,
            multiplier=self._party(terms, "multiplier"),
        )
        mint = derived_mint(self._party(terms, "payer"), token.instrument)
        return MintSetup(mint, powers, token.name, token.instrument, token.uri, token.decimals, token.multiplier)

    def _nonce_accounts(self, client: RpcClient, payer: Pubkey) -> list[tuple[Pubkey, bool]]:
        addresses = [programs.derived_nonce_account(payer, number) for number in range(self._nonces)]
        return [(address, _made(client, address) is not None) for address in addresses]

    def _is_mint(self, client: RpcClient, address: Pubkey) -> bool:
        account = _made(client, address)
        if account is not None and account.owner != TOKEN_2022_PROGRAM:
            raise DeploymentUnfit(self.chain, f"{address} should be a mint, but an account of {account.owner} stands there")
        return account is not None

    def _foreign_authorities(self, deployment: Deployment, keys: Sequence[ChainKey]) -> list[str]:
        mint = self._decoded(deployment)
        if mint is None:
            return []  # the adapter's inspection says what stands there instead
        authorities = (
            ("mint authority", ChainKeyRole.CHAIN_KEY_ROLE_MINTER, mint.mint_authority),
            ("permanent delegate", ChainKeyRole.CHAIN_KEY_ROLE_BURNER, mint.permanent_delegate),
            ("permanent delegate", ChainKeyRole.CHAIN_KEY_ROLE_ENFORCER, mint.permanent_delegate),
            ("freeze authority", ChainKeyRole.CHAIN_KEY_ROLE_ENFORCER, mint.freeze_authority),
            ("pause authority", ChainKeyRole.CHAIN_KEY_ROLE_PAUSER, mint.pause_authority),
            ("multiplier authority", ChainKeyRole.CHAIN_KEY_ROLE_MULTIPLIER, mint.scaled_ui_amount_authority),
        )
        found = []
        for name, role, authority in authorities:
            able = {key.key for key in keys if role in key.roles and (not key.instruments or deployment.instrument in key.instruments)}
            if f"{self.chain}:{authority}" not in able:
                short = ChainKeyRole.Name(role).removeprefix("CHAIN_KEY_ROLE_")
                found.append(f"the {name} of {deployment.instrument} is {authority}, which is not registered as {short}")
        return found

    def _decoded(self, deployment: Deployment) -> Mint | None:
        address = Pubkey.from_string(caip.parse_token("token", deployment.token).reference)
        with self._asking() as client:
            _, account = client.account(address)
            try:
                return None if account is None else decode_mint(account.data)
            except errors.AccountMalformed:
                return None

    # Sending

    def _send_mint(self, setup: MintSetup, payer: Pubkey) -> str:
        """Send the transaction that makes a mint, with the operator's priority fee where one is set."""
        signer = self._settings.signers.get(f"{self.chain}:{payer}")
        if signer is None:
            raise KeyMissing(self.chain, f"there is no key of the payer {payer} here")
        with self._asking() as client:
            instructions = create_derived_mint(setup, payer, client.rent(space(setup)))
            price = self._settings.whole_number("priority_microlamports", 0)
            if price:
                bound = programs.set_compute_unit_limit(compute.bound(instructions))
                instructions = [bound, programs.set_compute_unit_price(price), *instructions]
            message = bytes(Message.new_with_blockhash(instructions, payer, Hash.from_string(client.latest_blockhash())))
            return client.send(sign(message, [NamedSigner(payer, signer)]))

    def _landed(self, part: Part, signature: str) -> Part:
        """Wait until something stands, made by our transaction or by one of an earlier run."""
        deadline = time.monotonic() + LANDING_SECONDS_MAX
        address = Pubkey.from_string(part.address)
        while time.monotonic() < deadline:
            with self._asking() as client:
                landed = _landed(client, signature)
                account = _made(client, address)
            if account is not None:
                cost = part.cost - LAMPORTS_PER_SIGNATURE + landed.fee_lamports if landed is not None and landed.error is None else 0
                return Part(part.name, part.address, True, cost, signature if cost else "")
            if landed is not None and landed.error is not None:
                raise DeploymentUnfit(self.chain, f"the transaction {signature} has failed: {landed.error}")
            time.sleep(_POLL_SECONDS)
        raise ChainUnavailable(self.chain, f"{signature} has not landed within {LANDING_SECONDS_MAX} s; begin again to go on")

    @contextlib.contextmanager
    def _asking(self) -> Iterator[RpcClient]:
        """Give the node, and put what it does into the errors of the protocol."""
        try:
            self._client.check_chain(self.chain)
            yield self._client
        except (errors.NodeUnreachable, errors.NodeOverloaded, errors.NodeBehind, errors.NodeFailed) as away:
            raise ChainUnavailable(self.chain, str(away)) from away
        except errors.SolanaError as unfit:
            raise NodeUnfit(self.chain, str(unfit)) from unfit


def open_setup(settings: ChainSettings) -> SplSetup:
    """Make a setup without asking the node yet.

    Raises: ValueError for settings that cannot be.
    """
    return SplSetup(settings)


def _made(client: RpcClient, address: Pubkey) -> Account | None:
    """Return what stands at an address; lamports that somebody sent there are nothing."""
    _, account = client.account(address)
    return account if account is not None and account.is_made else None


def _landed(client: RpcClient, signature: str) -> LandedTransaction | None:
    answer = client.transaction(signature)
    return None if answer is None else decode(answer)

"""What to send so that an issuer's contracts stand, at the same addresses on every chain. Pure: plans, no node.

A plan is a list of steps. Each says where its contract will be, so running a plan again sends only what is missing: a
deployment that broke off is taken up where it stopped. Addresses follow from the issuer's keys, the salts and the code, and
from nothing of the chain: with the same keys they are the same everywhere. Nobody else can take them, because the sender is
part of them.

    deployer -> deny list -> code of the token -> beacon -> a proxy for each token
                                                         -> wrapper, reserve feed (one for each token), anchor

Source: EIP-1014 (CREATE2), EIP-1967 (beacon proxies).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from eth_abi.abi import encode
from eth_utils.address import to_canonical_address, to_checksum_address
from eth_utils.crypto import keccak

from chain_adapters.evm.artifacts import load
from chain_adapters.evm.codec import encode_call, encode_creation
from chain_adapters.evm.token_calls import TOKEN

COMMON_CREATOR = "0x4e59b44847b379578588920cA78FbF26c0B4956C"
"""The contract that creates others by CREATE2 on practically every chain, by the same address; sent `salt || creation code`."""
SALT = bytes(32)
_INITIALIZE = "initialize((string,string,uint8,uint256,uint256,uint48,address,(bytes32,address)[]))"


@dataclass(frozen=True, slots=True)
class Step:
    """One transaction: `data` sent to `target` makes `contract` stand at `address`."""

    contract: str
    address: str
    target: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whose contracts these are. With the same five values on another chain, the same addresses.

    `sender` sends the steps; it has no right to anything afterwards. `upgrader` owns the beacon, `admin` grants roles on the
    deny list, `enforcer` lists accounts.
    """

    sender: str
    admin: str
    enforcer: str
    upgrader: str
    admin_delay_seconds: int


@dataclass(frozen=True, slots=True)
class TokenTerms:
    """What a token is from the start. Units are raw; the multiplier is at scale 1e18; `grants` are (role, account)."""

    name: str
    symbol: str
    decimals: int
    multiplier: int
    allotment_units: int
    grants: tuple[tuple[bytes, str], ...] = field(default=())


@dataclass(frozen=True, slots=True)
class IssuerPlan:
    """The contracts that an issuer has once on a chain."""

    issuer: Issuer
    deployer: str
    deny_list: str
    code: str
    beacon: str
    steps: tuple[Step, ...]


def create2_address(creator: str, salt: bytes, creation_code: bytes) -> str:
    """Compute where CREATE2 puts a contract: the last 20 bytes of keccak(0xff || creator || salt || keccak(code)). Source: EIP-1014."""
    image = b"\xff" + to_canonical_address(creator) + salt + keccak(creation_code)
    return to_checksum_address(keccak(image)[12:])


def plan_issuer(issuer: Issuer) -> IssuerPlan:
    """Plan what an issuer needs once on a chain, before its first token."""
    creation_code = encode_creation("Deployer")
    deployer = create2_address(COMMON_CREATOR, SALT, creation_code)
    first = Step("Deployer", deployer, COMMON_CREATOR, SALT + creation_code)
    delay = issuer.admin_delay_seconds
    deny_list = _step(issuer, deployer, "DenyList", encode_creation("DenyList", delay, issuer.admin, issuer.enforcer))
    code = _step(issuer, deployer, TOKEN, encode_creation(TOKEN, deny_list.address))
    beacon = _step(issuer, deployer, "TokenBeacon", encode_creation("TokenBeacon", code.address, issuer.upgrader))
    return IssuerPlan(issuer, deployer, deny_list.address, code.address, beacon.address, (first, deny_list, code, beacon))


def plan_token(plan: IssuerPlan, terms: TokenTerms) -> Step:
    """Plan a token: its proxy, created and set up in one transaction. The symbol is the salt, so a token has one address by symbol."""
    issuer = plan.issuer
    values = (
        terms.name,
        terms.symbol,
        terms.decimals,
        terms.multiplier,
        terms.allotment_units,
        issuer.admin_delay_seconds,
        issuer.admin,
        list(terms.grants),
    )
    setup = encode_call(TOKEN, _INITIALIZE, values)
    creation_code = encode_creation("BeaconProxy", plan.beacon, b"")
    return _step(issuer, plan.deployer, "BeaconProxy", creation_code, salt=keccak(text=terms.symbol), setup=setup)


def plan_wrapper(plan: IssuerPlan, token: str, name: str, symbol: str) -> Step:
    """Plan the ERC-4626 wrapper of a token."""
    return _step(plan.issuer, plan.deployer, "WrappedStock", encode_creation("WrappedStock", token, name, symbol))


def plan_reserve_feed(plan: IssuerPlan, description: str, decimals: int, publisher: str) -> Step:
    """Plan the reserve feed of a token."""
    issuer = plan.issuer
    creation_code = encode_creation("ReserveFeed", description, decimals, issuer.admin_delay_seconds, issuer.admin, publisher)
    return _step(issuer, plan.deployer, "ReserveFeed", creation_code)


def plan_anchor(plan: IssuerPlan, origin: str, publisher: str) -> Step:
    """Plan the anchor for a log's checkpoints."""
    issuer = plan.issuer
    creation_code = encode_creation("CheckpointAnchor", origin, issuer.admin_delay_seconds, issuer.admin, publisher)
    return _step(issuer, plan.deployer, "CheckpointAnchor", creation_code)


def missing_steps(steps: Iterable[Step], code_at: Callable[[str], bytes]) -> list[Step]:
    """Return the steps whose contract does not stand yet, in order. `code_at` reads the code of an address from a node.

    Raises: ValueError where something else stands, which can only be other code under the same address: a broken plan or chain.
    """
    missing = []
    for step in steps:
        code = code_at(step.address)
        if not code:
            missing.append(step)
        elif not load(step.contract).is_code_of(code):
            message = f"{step.address} should be {step.contract}, but {len(code)} bytes of other code stand there"
            raise ValueError(message)
    return missing


def _step(issuer: Issuer, deployer: str, contract: str, creation_code: bytes, *, salt: bytes = SALT, setup: bytes = b"") -> Step:
    bound = keccak(encode(["address", "bytes32"], [issuer.sender, salt]))
    data = encode_call("Deployer", "deploy(bytes32,bytes,bytes)", salt, creation_code, setup)
    return Step(contract, create2_address(deployer, bound, creation_code), deployer, data)

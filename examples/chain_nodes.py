"""The two chains of the demo, real nodes on loopback, and what people do there without the ledger: hold, send, and steal.

Nothing here knows the ledger. The wallets of Ethereum are web3.py, those of Solana solders, as anybody's would be.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eth_account import Account
from eth_account.messages import encode_defunct
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import Transaction
from web3 import HTTPProvider, Web3
from web3.exceptions import ContractCustomError

from chain_adapters.evm.artifacts import load
from chain_adapters.evm.codec import decode_event, decode_refusal
from chain_adapters.spl import programs, token_2022
from chain_adapters.spl.account_layout import decode_mint, decode_token_account
from chain_adapters.spl.addresses import associated_account, chain_id
from chain_adapters.spl.multiplier import multiplier_floor
from chain_adapters.spl.rpc import RpcClient

HERE = Path(__file__).resolve().parent
MODULES = HERE.parent / "node_modules"
ANVIL = MODULES / "@foundry-rs" / "anvil-linux-amd64" / "bin" / "anvil"
SURFPOOL = MODULES / "@solana" / "surfpool-linux-x64-gnu"
COINS = 10**21
START_SECONDS = 30
START_ATTEMPTS = 3
LAND_SECONDS = 30
CLOCK_LATE_SECONDS = 3


class NodesMissing(Exception):
    """The programs of the nodes are not there."""


def check_programs() -> None:
    """Say what is missing before anything is started.

    Raises: NodesMissing.
    """
    if not ANVIL.exists() or not SURFPOOL.is_dir() or shutil.which("node") is None:
        raise NodesMissing("the chains need Node 20 and what `npm ci` installs in this folder, on Linux with x86-64")


def wait_for(what: str, condition: Any, seconds: float = LAND_SECONDS) -> Any:
    """Return the first answer that is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = condition()
        if answer:
            return answer
        time.sleep(0.05)
    raise SystemExit(f"{what}: nothing within {seconds:.0f} s")


class Ethereum:
    """anvil: a block a second, final when two stand on it."""

    name, step = "Ethereum", "block"

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [ANVIL, "--host", "127.0.0.1", "--port", str(port), "--accounts", "0", "--quiet"]
        command += ["--hardfork", "osaka", "--block-time", "1", "--slots-in-an-epoch", "1"]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, **quiet)
        self.url = f"http://127.0.0.1:{port}"
        self.web3 = Web3(HTTPProvider(self.url))
        self.node = ""

    def wait_until_up(self) -> None:
        wait_for("anvil", self.web3.is_connected, START_SECONDS)
        self.node = self.web3.client_version.partition("-")[0]
        self.chain = f"eip155:{self.web3.eth.chain_id}"

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def new_key(self, path: Path) -> None:
        """Write a key's file, and give it coins."""
        secret = secrets.token_bytes(32)
        path.write_text(secret.hex())
        self.fund(Account.from_key(secret).address)

    def fund(self, address: str) -> None:
        self.web3.provider.make_request("anvil_setBalance", [address, hex(COINS)])

    def new_wallet(self) -> EthereumWallet:
        return EthereumWallet(self, secrets.token_bytes(32))

    def wallet_of(self, path: Path) -> EthereumWallet:
        return EthereumWallet(self, bytes.fromhex(path.read_text()))

    def token(self, token: str) -> Any:
        """Return the contract of a CAIP-19 token."""
        return self.contract("StockToken", token.rpartition(":")[2])

    def contract(self, name: str, address: str) -> Any:
        return self.web3.eth.contract(address=address, abi=load(name).abi)

    def reason_of(self, transaction: str) -> str:
        """Return the reason that the token logged with an instruction of the ledger's."""
        for log in self.web3.eth.get_transaction_receipt(transaction)["logs"]:
            found = decode_event("StockToken", [bytes(topic) for topic in log["topics"]], bytes(log["data"]))
            if found is not None and "reason" in found.fields:
                return str(found.fields["reason"].decode())
        return ""

    def supply(self, token: str) -> int:
        return int(self.token(token).functions.totalSupply().call())

    def holding(self, token: str, account: str) -> int:
        return int(self.token(token).functions.balanceOf(account.rpartition(":")[2]).call())

    def holding_ahead(self, token: str, account: str) -> int:
        """Return what an account will hold once a block has all that waits for one."""
        return int(self.token(token).functions.balanceOf(account.rpartition(":")[2]).call(block_identifier="pending"))

    def multiplier(self, token: str) -> int:
        return int(self.token(token).functions.uiMultiplier().call())

    @contextmanager
    def next_block_held(self) -> Iterator[None]:
        """Let no block come meanwhile, and one at once in the end: a block is full of whatever its producer has by then."""
        self._ask("evm_setIntervalMining", 0)
        yield
        self._ask("evm_mine")
        self._ask("evm_setIntervalMining", 1)

    def waiting(self, token: str) -> list[Any]:
        """Return the transactions to a token that anybody can see waiting for a block."""
        found = self._ask("txpool_content")["pending"].values()
        address = token.rpartition(":")[2].lower()
        return [each for by_number in found for each in by_number.values() if str(each["to"]).lower() == address]

    def _ask(self, method: str, *params: Any) -> Any:
        return self.web3.provider.make_request(method, list(params))["result"]


class EthereumWallet:
    """A key, and what its owner does with it."""

    def __init__(self, chain: Ethereum, secret: bytes) -> None:
        self._chain = chain
        self._key = Account.from_key(secret)
        self.address = self._key.address
        self.account = f"{chain.chain}:{self.address}"
        chain.fund(self.address)

    def sign_text(self, text: str) -> bytes:
        return bytes(self._key.sign_message(encode_defunct(text=text)).signature)

    def do(self, call: Any) -> str:
        """Sign and send a call of a contract; return the transaction's id once a block has it."""
        sent = self._hand_in(call)
        receipt = self._chain.web3.eth.wait_for_transaction_receipt(sent, LAND_SECONDS, 0.1)
        if receipt["status"] != 1:
            raise SystemExit(f"the transaction {sent} failed")
        return sent

    def _hand_in(self, call: Any, **fees: int) -> str:
        web3 = self._chain.web3
        number = web3.eth.get_transaction_count(self.address, "pending")
        signed = self._key.sign_transaction(call.build_transaction({"from": self.address, "nonce": number, **fees}))
        return str(web3.eth.send_raw_transaction(signed.raw_transaction).to_0x_hex())

    def send(self, token: str, to: str, units: int) -> str:
        return self.do(self._chain.token(token).functions.transfer(to.rpartition(":")[2], units))

    def send_before(self, waiting: list[Any], token: str, to: str, units: int) -> str:
        """Send for ten times the fee of what waits for the next block, so as to come before it there; return the transaction's id."""
        fee = 10 * max(int(each["maxFeePerGas"], 16) for each in waiting)
        transfer = self._chain.token(token).functions.transfer(to.rpartition(":")[2], units)
        return self._hand_in(transfer, maxFeePerGas=fee, maxPriorityFeePerGas=fee)

    def why_not(self, token: str, to: str, units: int) -> str:
        """Return why the chain would not take a transfer, in the contract's own words."""
        try:
            self._chain.token(token).functions.transfer(to.rpartition(":")[2], units).call({"from": self.address})
        except ContractCustomError as refused:
            return str(decode_refusal("StockToken", bytes.fromhex(str(refused.data)[2:])))
        return ""

    def mint(self, token: str, to: str, units: int) -> str:
        """Mint with a key that has the role; the 32 bytes name no instruction of anybody's."""
        contract = self._chain.token(token)
        return self.do(
            contract.get_function_by_signature("mint(bytes32,address,uint256)")(secrets.token_bytes(32), to.rpartition(":")[2], units)
        )

    def deny(self, deny_list: str, account: str) -> str:
        contract = self._chain.contract("DenyList", deny_list)
        return self.do(contract.functions.deny(secrets.token_bytes(32), [account.rpartition(":")[2]], b"sanctions list of today"))


class Solana:
    """surfpool: a slot every 40 ms, final when 32 stand on it."""

    name, step = "Solana", "slot"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._start()

    def _start(self) -> None:
        environment = {**os.environ, "NODE_PATH": str(MODULES)}
        command = ["node", str(HERE / "solana_node.js")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, cwd=self._folder, env=environment, bufsize=0, **pipes)

    def wait_until_up(self) -> None:
        """Wait for its first line, and start it again where none comes: the ports it chose may have been taken meanwhile."""
        for _ in range(START_ATTEMPTS):
            line = self._first_line()
            if line:
                break
            self.stop()
            self._start()
        else:
            raise SystemExit(f"surfpool did not start in {START_ATTEMPTS} attempts")
        told = json.loads(line)
        self.url = told["url"]
        self.client = RpcClient(self.url)
        self.payer = Keypair.from_bytes(bytes(told["payer"]))
        self.chain = chain_id(self.client.genesis_hash())
        self.node = f"surfpool, {self.client.version()}"

    def _first_line(self) -> bytes:
        assert self._process.stdout is not None, "its lines are piped"
        ready, _, _ = select.select([self._process.stdout], [], [], START_SECONDS)
        return bytes(self._process.stdout.readline()) if ready else b""

    def stop(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()  # the end of its input ends it
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def new_key(self, path: Path) -> None:
        """Write a key's file, and give it coins."""
        key = Keypair()
        path.write_text(json.dumps(list(bytes(key))))
        self.fund(key.pubkey())

    def fund(self, address: Pubkey) -> None:
        self.run([transfer(TransferParams(from_pubkey=self.payer.pubkey(), to_pubkey=address, lamports=10**10))], self.payer)

    def run(self, instructions: list[Instruction], *signers: Keypair) -> str:
        """Sign and send; return the transaction's id once a block has it."""
        message = Message.new_with_blockhash(instructions, signers[0].pubkey(), Hash.from_string(self.client.latest_blockhash()))
        signed = Transaction.new_unsigned(message)
        signed.sign(signers, message.recent_blockhash)
        sent = self.client.send(bytes(signed))
        wait_for(f"Solana takes {sent}", lambda: self.client.transaction(sent))
        return sent

    def new_wallet(self) -> SolanaWallet:
        return SolanaWallet(self)

    def supply(self, token: str) -> int:
        return decode_mint(self._data(_mint(token))).supply

    def holding(self, token: str, account: str) -> int:
        data = self._data(associated_account(Pubkey.from_string(account.rpartition(":")[2]), _mint(token)))
        return decode_token_account(data).units if data else 0

    def holding_ahead(self, token: str, account: str) -> int:
        """Return what an account will hold: the same, since what this node takes is in a block at once."""
        return self.holding(token, account)

    def multiplier(self, token: str) -> int:
        """Return the multiplier in force by the chain's clock, at scale 1e18."""
        scaled = decode_mint(self._data(_mint(token))).scaled_ui_amount
        assert scaled is not None, "the mint has one"
        return multiplier_floor(scaled.at(self._clock()))

    def keep_time(self) -> None:
        """Set the node's clock right where the machine was too busy for it: it counts slots, and some were late."""
        if time.time() - self._clock() > CLOCK_LATE_SECONDS:
            self.client.call("surfnet_timeTravel", {"absoluteTimestamp": int(time.time() * 1000)})

    def _clock(self) -> int:
        clock = self._data(Pubkey.from_string("SysvarC1ock11111111111111111111111111111111"))
        return int.from_bytes(clock[32:40], "little", signed=True)

    def _data(self, address: Pubkey) -> bytes:
        _, account = self.client.account(address)
        return b"" if account is None else account.data


class SolanaWallet:
    """A key, and what its owner does with it."""

    def __init__(self, chain: Solana) -> None:
        self._chain = chain
        self._key = Keypair()
        self.address = str(self._key.pubkey())
        self.account = f"{chain.chain}:{self.address}"
        chain.fund(self._key.pubkey())

    def sign_text(self, text: str) -> bytes:
        return bytes(self._key.sign_message(text.encode()))

    def send(self, token: str, to: str, units: int) -> str:
        return self._chain.run(self._transfer(token, to, units), self._key)

    def burn(self, token: str, units: int) -> str:
        """Destroy some, as every owner of a token of this kind may."""
        mint, mine = _mint(token), self._key.pubkey()
        return self._chain.run([token_2022.burn(mint, associated_account(mine, mint), mine, units=units, decimals=8)], self._key)

    def why_not(self, token: str, to: str, units: int) -> str:
        """Return why the chain would not take a transfer, in the program's own words."""
        message = Message.new_with_blockhash(self._transfer(token, to, units), self._key.pubkey(), Hash.default())
        found = self._chain.client.simulate(bytes(Transaction.new_unsigned(message)))
        words = [line.partition("Program log: ")[2] for line in found.logs if "Program log: " in line]
        return (words[-1] if words else str(found.error)) if found.error else ""

    def _transfer(self, token: str, to: str, units: int) -> list[Instruction]:
        mint, owner = _mint(token), Pubkey.from_string(to.rpartition(":")[2])
        mine = self._key.pubkey()
        opened = programs.create_associated_account(mine, owner, mint)
        moved = token_2022.transfer(mint, associated_account(mine, mint), associated_account(owner, mint), mine, units=units, decimals=8)
        return [opened, moved]


def _mint(token: str) -> Pubkey:
    return Pubkey.from_string(token.rpartition(":")[2])

"""The instruments on EVM chains.

contracts/       the sources, on OpenZeppelin 5
artifacts/       what the compiler made of them (`make contracts`)
artifacts.py     loads them, and tells whether deployed code is one of them
codec.py         calls, answers, events and refusals as bytes, by their signatures
roles.py         who may do what on a token
token_calls.py   the ledger's operations on a token, as calls
token_events.py  a token's logs, as what happened
instruction_ids.py  the ledger's instruction ids as the 32 bytes that a contract takes once
transactions.py  EIP-1559 payloads: written, read, signed to the same bytes again, replaced
keys.py          keys that sign, from a keystore or a secret
node.py          JSON-RPC, every way in which it fails by what to do about it, and logs by range
deployment.py    what to send so that an issuer's contracts stand at the same addresses on every chain
setup.py         sends it, and holds roles against the keys that are registered
chain_view.py    one node as the verbs ask it: blocks, calls, what became of a sender's number
steps.py         an instruction as a call of a contract
refusals.py      why a contract reverted, in the ledger's words
preparing.py     calls of one key put together, asked for beforehand, made into transactions
observation.py   logs and landed transactions, as the ledger is told of them
adapter.py       the verbs of `chain_adapters.protocol.ChainAdapter`

web3 and its parts come with `pip install 'stockledger[evm]'` and are imported nowhere else.
"""

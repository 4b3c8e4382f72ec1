"""The log: bytes in order, the Merkle tree over them, and what proves both. It knows nothing of shares.

    merkle.py       RFC 6962: hashes, roots, proofs, and the tree that grows
    tiles.py        the tree and the entries as a static directory of C2SP tiles
    checkpoint.py   signed tree heads, as C2SP signed notes
    proof.py        receipts: one entry's place in the tree, checkable offline
    log.py          the log of one ledger: append, read, check
    store.py        which store a URL names, and the log opened in it
    backend.py      what a store must be able to do; sqlite_backend.py and postgres_backend.py do it
    snapshot.py     cached state beside the log, never authoritative

docs/log-format.md describes every byte of it, with a worked example.
"""

"""`stockledger work`: projector, reader and reconciler of several chains in one process.

settings.py     what a worker can be set to
connection.py   the ledger's owner over gRPC, as the loops call it
keys.py         keys that sign, from files, the environment, or wherever an adapter's opener gets them
chain_loop.py   one chain: a thread, its state, and what happens when something fails
metrics.py      lag, pending, stuck and divergences for Prometheus
command.py      the command itself

It writes nowhere but through the ledger's owner: a server, or a listener on loopback inside an exchange's process. It keeps nothing: what
was recorded is in the log, so it may be killed at any moment, and two of them are only wasteful. A chain that fails is tried again by
itself, and the others do not notice.
"""

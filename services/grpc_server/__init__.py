"""The ledger over gRPC: identity, permission, limits, and group commit across connections.

server.py           builds, starts and stops a server
settings.py         what can be set
servicers.py        one handler for every RPC of protos/, made from the service descriptors
interceptors.py     what stands around every call: who asks, limits, errors, log, metrics, traces
authentication.py   who asks: a certificate, a token, or the local operator
authorization.py    what he may do: one table RPC x role, with scopes
subjects.py         which fields of a message name whose things
visibility.py       what he may see: lists and entries with what is not his taken out
group_commit.py     commands of all connections share decisions and flushes
streams.py          the two RPCs that stream
origin_index.py     whose was what is over: grown along the log for brokers' streams
page_tokens.py      sealed, bound to query and principal
limits.py           in-flight requests, rates, sizes
errors.py           refusals as google.rpc.Status
command.py          `stockledger serve`
"""

"""Chains: what the ledger wants done there, and what was seen there. docs/chains.md says how it all hangs together.

registration.py    chains registered, amended, retired
deployments.py     an instrument's token on a chain
keys.py            keys that sign for the ledger; addresses that stand for accounts
places.py          what stands at a chain and what may go there; no commands
"""

from __future__ import annotations

from ledger.rules.chains import deployments, keys, registration

COMMANDS = {**registration.COMMANDS, **deployments.COMMANDS, **keys.COMMANDS}
EVENTS = {**registration.EVENTS, **deployments.EVENTS, **keys.EVENTS}
ANSWERS = {**keys.ANSWERS}

"""Chains: what the ledger wants done there, and what was seen there. docs/chains.md says how it all hangs together.

registration.py    chains registered, amended, retired
"""

from __future__ import annotations

from ledger.rules.chains import registration

COMMANDS = {**registration.COMMANDS}
EVENTS = {**registration.EVENTS}

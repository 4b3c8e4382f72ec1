"""Who may do what on a token: the ids of its roles.

Each role is best a key of its own. The token itself refuses the combinations that would make the allotment worthless: who
has `MINTER` or `BRIDGE` has neither `ALLOTTER` nor `ADMIN`.
"""

from __future__ import annotations

from eth_utils.crypto import keccak


def _role(name: str) -> bytes:
    return bytes(keccak(text=name))


ADMIN = bytes(32)
"""Grants roles; changes hands in two steps, after a delay."""
MINTER = _role("MINTER_ROLE")
"""Mints, up to the allotment."""
BURNER = _role("BURNER_ROLE")
"""Burns its own units and those of accounts that approved it."""
BRIDGE = _role("BRIDGE_ROLE")
"""Mints and burns for a bridge (ERC-7802), up to the allotment."""
ALLOTTER = _role("ALLOTTER_ROLE")
"""Sets the allotment: the most units that may exist on this chain."""
MULTIPLIER = _role("MULTIPLIER_ROLE")
"""Sets the multiplier."""
PAUSER = _role("PAUSER_ROLE")
"""Begins pauses of transfers, mints and burns."""
UNPAUSER = _role("UNPAUSER_ROLE")
"""Ends pauses."""
ENFORCER = _role("ENFORCER_ROLE")
"""Freezes and transfers by force; on a deny list, lists accounts."""
FORCED_BURNER = _role("FORCED_BURNER_ROLE")
"""Burns any account's units without its approval."""
PUBLISHER = _role("PUBLISHER_ROLE")
"""Writes a reserve feed or anchors checkpoints."""

NAMES = {
    ADMIN: "ADMIN",
    MINTER: "MINTER",
    BURNER: "BURNER",
    BRIDGE: "BRIDGE",
    ALLOTTER: "ALLOTTER",
    MULTIPLIER: "MULTIPLIER",
    PAUSER: "PAUSER",
    UNPAUSER: "UNPAUSER",
    ENFORCER: "ENFORCER",
    FORCED_BURNER: "FORCED_BURNER",
    PUBLISHER: "PUBLISHER",
}
"""Role ids by name, for messages."""

"""One token of the reference chain: who may do what with it, and what comes of it.

    operation        who signs                       fails with
    mint             MINTER                          PAUSED, ACCOUNT_BARRED, ALLOTMENT_EXCEEDED
    burn             BURNER, or the owner            PAUSED, ACCOUNT_BARRED (not BURNER with a legal ground), UNITS_INSUFFICIENT
    transfer         the owner                       PAUSED, ACCOUNT_BARRED, UNITS_INSUFFICIENT
    force_transfer   ENFORCER                        ACCOUNT_BARRED (destination), UNITS_INSUFFICIENT
    freeze, freeze_units                 ENFORCER
    pause            PAUSER
    set_multiplier   MULTIPLIER
    set_allotment    ALLOTTER
    report_reserve, anchor               REPORTER
    bar, set_authority                   OWNER

Amounts are raw, before the multiplier. Each operation works on plain dicts and sets, so that a block's state is copied in a moment.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

ONE: Final = 10**18
"""Multiplier 1.0."""
OWNER: Final = "OWNER"
OPERATIONS: Final = ("TRANSFER", "ISSUE", "REDEEM")


class Failure(Exception):
    """An operation cannot be done; its transaction has no effect but to pay and to use up its sequence."""

    def __init__(self, failure: str, text: str) -> None:
        super().__init__(text)
        self.failure = failure
        self.text = text


@dataclass
class Token:
    """A token as it stands at one block."""

    reference: str
    decimals: int
    roles: dict[str, str]
    """Role -> address; one that is missing is nobody's."""
    capabilities: frozenset[str]
    """Names of ChainCapability without their prefix."""
    allotment: int = 0
    supply: int = 0
    holdings: dict[str, int] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)
    frozen_raw: dict[str, int] = field(default_factory=dict)
    barred: set[str] = field(default_factory=set)
    paused: set[str] = field(default_factory=set)
    multiplier: int = ONE
    multiplier_next: int = ONE
    multiplier_time_us: int = 0
    """From when on `multiplier_next` counts."""
    reserve: str = ""
    anchors: list[str] = field(default_factory=list)

    def copy(self) -> Token:
        """Return another one that shares nothing that changes."""
        return dataclasses.replace(
            self,
            roles=dict(self.roles),
            holdings=dict(self.holdings),
            frozen=set(self.frozen),
            frozen_raw=dict(self.frozen_raw),
            barred=set(self.barred),
            paused=set(self.paused),
            anchors=list(self.anchors),
        )

    def multiplier_at(self, time_us: int) -> int:
        """Return the multiplier in force; at its time the next one counts already."""
        return self.multiplier_next if time_us >= self.multiplier_time_us else self.multiplier

    def apply(self, operation: dict[str, Any], signers: Collection[str], time_us: int) -> list[dict[str, Any]]:
        """Carry out one operation and return its events.

        Raises: Failure.
        """
        found = self._OPERATIONS.get(operation["do"])
        if found is None:
            raise Failure("OTHER", f"NoSuchOperation({operation['do']})")
        capability, role, carry_out = found
        if capability and capability not in self.capabilities:
            raise Failure("OTHER", f"NotSupported({operation['do']})")
        if role and self.roles.get(role) not in signers:
            owned = operation["do"] == "burn" and operation["source"] in signers
            if not owned:
                raise Failure("KEY_WITHOUT_ROLE", f"Unauthorized({role})")
        return carry_out(self, operation, signers, time_us)

    # ---- operations -----------------------------------------------------------------------------------------------------------------

    def _mint(self, operation: dict[str, Any], _: Collection[str], __: int) -> list[dict[str, Any]]:
        destination, raw = operation["destination"], int(operation["raw"])
        self._check_running("ISSUE")
        self._check_party(destination)
        if "ALLOTMENT" in self.capabilities and self.supply + raw > self.allotment:
            raise Failure("ALLOTMENT_EXCEEDED", f"AllotmentExceeded({self.supply + raw}, {self.allotment})")
        self.supply += raw
        self._add(destination, raw)
        return [{"kind": "MINT", "destination": destination, "raw": str(raw)}]

    def _burn(self, operation: dict[str, Any], signers: Collection[str], _: int) -> list[dict[str, Any]]:
        source, raw = operation["source"], int(operation["raw"])
        self._check_running("REDEEM")
        forced = bool(operation.get("reason")) and self.roles.get("BURNER") in signers
        if not forced:
            self._check_party(source)
        self._take(source, raw)
        self.supply -= raw
        return [{"kind": "BURN", "source": source, "raw": str(raw)}]

    def _transfer(self, operation: dict[str, Any], signers: Collection[str], _: int) -> list[dict[str, Any]]:
        source, destination, raw = operation["source"], operation["destination"], int(operation["raw"])
        if source not in signers:
            raise Failure("KEY_WITHOUT_ROLE", f"NotTheOwner({source})")
        self._check_running("TRANSFER")
        self._check_party(source)
        self._check_party(destination)
        free = self.holdings.get(source, 0) - self.frozen_raw.get(source, 0)
        if raw > free:
            raise Failure("UNITS_INSUFFICIENT", f"InsufficientUnfrozen({source}, {free}, {raw})")
        return self._move(source, destination, raw)

    def _force_transfer(self, operation: dict[str, Any], _: Collection[str], __: int) -> list[dict[str, Any]]:
        source, destination, raw = operation["source"], operation["destination"], int(operation["raw"])
        if destination in self.barred:
            raise Failure("ACCOUNT_BARRED", f"AccessDenied({destination})")
        return self._move(source, destination, raw)

    def _freeze(self, operation: dict[str, Any], _: Collection[str], __: int) -> list[dict[str, Any]]:
        source, frozen = operation["source"], bool(operation["frozen"])
        (self.frozen.add if frozen else self.frozen.discard)(source)
        return [{"kind": "FREEZE", "source": source, "value": "true" if frozen else "false"}]

    def _freeze_units(self, operation: dict[str, Any], _: Collection[str], __: int) -> list[dict[str, Any]]:
        source, raw = operation["source"], int(operation["raw"])
        self.frozen_raw[source] = raw
        return [{"kind": "FREEZE_UNITS", "source": source, "raw": str(raw)}]

    def _pause(self, operation: dict[str, Any], _: Collection[str], __: int) -> list[dict[str, Any]]:
        self.paused = self.paused_by(operation["operations"])
        return [{"kind": "PAUSE", "operations": [name for name in OPERATIONS if name in self.paused]}]

    def paused_by(self, operations: Collection[str]) -> set[str]:
        """Return what stands still once these are to be paused: with one pause for all, transfer stops the others too."""
        if "PAUSE_SEPARATELY" in self.capabilities:
            return set(operations)
        return set(OPERATIONS) if "TRANSFER" in operations else set()

    def _set_multiplier(self, operation: dict[str, Any], _: Collection[str], time_us: int) -> list[dict[str, Any]]:
        effective_us = max(int(operation["effective_time_us"]), time_us)
        self.multiplier = self.multiplier_at(time_us)
        self.multiplier_next, self.multiplier_time_us = int(operation["multiplier"]), effective_us
        return [{"kind": "MULTIPLIER", "value": operation["multiplier"], "effective_time_us": effective_us}]

    def _set_allotment(self, operation: dict[str, Any], _: Collection[str], __: int) -> list[dict[str, Any]]:
        self.allotment = int(operation["raw"])
        return [{"kind": "ALLOTMENT", "raw": operation["raw"]}]

    def _report_reserve(self, operation: dict[str, Any], _: Collection[str], __: int) -> list[dict[str, Any]]:
        self.reserve = operation["note"]
        return []

    def _anchor(self, operation: dict[str, Any], _: Collection[str], __: int) -> list[dict[str, Any]]:
        self.anchors.append(operation["note"])
        return []

    def _bar(self, operation: dict[str, Any], _: Collection[str], __: int) -> list[dict[str, Any]]:
        account, barred = operation["account"], bool(operation["barred"])
        (self.barred.add if barred else self.barred.discard)(account)
        return [{"kind": "BAR", "source": account, "subject": OWNER, "value": "true" if barred else "false"}]

    def _set_authority(self, operation: dict[str, Any], _: Collection[str], __: int) -> list[dict[str, Any]]:
        self.roles[operation["role"]] = operation["address"]
        return [{"kind": "AUTHORITY", "subject": operation["role"], "value": operation["address"]}]

    # ---- what they have in common ---------------------------------------------------------------------------------------------------

    def _move(self, source: str, destination: str, raw: int) -> list[dict[str, Any]]:
        self._take(source, raw)
        self._add(destination, raw)
        return [{"kind": "TRANSFER", "source": source, "destination": destination, "raw": str(raw)}]

    def _check_running(self, operation: str) -> None:
        if operation in self.paused:
            raise Failure("PAUSED", f"EnforcedPause({operation})")

    def _check_party(self, account: str) -> None:
        if account in self.barred:
            raise Failure("ACCOUNT_BARRED", f"AccessDenied({account})")
        if account in self.frozen:
            raise Failure("ACCOUNT_BARRED", f"AccountFrozen({account})")

    def _take(self, account: str, raw: int) -> None:
        there = self.holdings.get(account, 0)
        if raw > there:
            raise Failure("UNITS_INSUFFICIENT", f"InsufficientBalance({account}, {there}, {raw})")
        self.holdings[account] = there - raw

    def _add(self, account: str, raw: int) -> None:
        self.holdings[account] = self.holdings.get(account, 0) + raw

    _OPERATIONS: ClassVar[dict[str, tuple[str, str, Callable[[Token, dict[str, Any], Collection[str], int], list[dict[str, Any]]]]]] = {
        "mint": ("MINT", "MINTER", _mint),
        "burn": ("", "BURNER", _burn),
        "transfer": ("", "", _transfer),
        "force_transfer": ("FORCE_TRANSFER", "ENFORCER", _force_transfer),
        "freeze": ("FREEZE", "ENFORCER", _freeze),
        "freeze_units": ("FREEZE_UNITS", "ENFORCER", _freeze_units),
        "pause": ("PAUSE", "PAUSER", _pause),
        "set_multiplier": ("MULTIPLIER", "MULTIPLIER", _set_multiplier),
        "set_allotment": ("ALLOTMENT", "ALLOTTER", _set_allotment),
        "report_reserve": ("RESERVE_FEED", "REPORTER", _report_reserve),
        "anchor": ("ANCHOR", "REPORTER", _anchor),
        "bar": ("", OWNER, _bar),
        "set_authority": ("", OWNER, _set_authority),
    }
    """Operation -> the capability it needs, the role that signs, what it does."""

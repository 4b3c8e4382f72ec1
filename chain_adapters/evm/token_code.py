"""Which code the tokens of ours run, and which deny lists that code asks. What cannot change is asked for once."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from chain_adapters.evm.artifacts import load
from chain_adapters.evm.chain_view import ChainView, checksummed
from chain_adapters.evm.codec import NotDecodable
from chain_adapters.evm.node import NodeRefused
from chain_adapters.evm.token_calls import TOKEN


class TokenCode:
    """What is known of proxies, their beacons and the code behind these, on one chain."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._beacons: dict[str, str] = {}
        self._lists: dict[str, str] = {}

    def beacon_of(self, view: ChainView, token: str) -> str:
        """Return the beacon of a proxy of ours, which it can never change; empty for another contract."""
        with self._lock:
            known = self._beacons.get(token)
        if known is None:
            code = view.code(token)
            proxy = load("BeaconProxy")
            found = proxy.immutables_of(code) if proxy.is_code_of(code) else set()
            known = checksummed(found.pop()) if len(found) == 1 else ""
            with self._lock:
                self._beacons[token] = known
        return known

    def is_ours(self, view: ChainView, token: str) -> bool:
        """Say whether a token runs the code of the StockToken that this adapter knows."""
        beacon = self.beacon_of(view, token)
        return bool(beacon) and load(TOKEN).is_code_of(view.code(_implementation(view, beacon)))

    def deny_lists(self, view: ChainView, beacons: Iterable[str], after: int, last: int) -> set[str]:
        """Return the lists that the tokens of beacons ask, in lower case: by the code of before a range and by that of its end.

        A list is part of the code of a token. One node keeps no state of so long ago: then by the code of now.
        """
        lists: set[str] = set()
        for beacon in beacons:
            for at in (after, last):
                try:
                    code = _implementation(view, beacon, at)
                except (NodeRefused, NotDecodable):
                    code = _implementation(view, beacon)
                lists.add(self._deny_list_of(view, code).lower())
        return lists

    def _deny_list_of(self, view: ChainView, code: str) -> str:
        with self._lock:
            known = self._lists.get(code)
        if known is None:
            known = str(view.ask(TOKEN, code, "denyList()"))
            with self._lock:
                self._lists[code] = known
        return known


def _implementation(view: ChainView, beacon: str, at: int | str = "latest") -> str:
    return str(view.ask("TokenBeacon", beacon, "implementation()", at=at))

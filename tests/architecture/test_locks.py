"""The locks name versions and hashes; where packages come from is the machine's business."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
ADDRESS = re.compile(r"://|\bfile:|--index-url|--extra-index-url|--find-links|--trusted-host|^-i |^-f | @ ", re.MULTILINE)


def test_there_are_locks():
    assert {lock.stem for lock in LOCKS} >= {"build", "dev", "runtime", "slither", "test"}


@pytest.mark.parametrize("lock", [*LOCKS, ROOT / "package-lock.json", ROOT / "package.json", ROOT / ".npmrc"], ids=lambda path: path.name)
def test_no_lock_holds_an_address(lock: Path):
    assert ADDRESS.findall(lock.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_requirement_is_pinned_and_hashed(lock: Path):
    logical_lines = lock.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    assert [line for line in logical_lines if not re.match(r"[a-z0-9.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)] == []


def test_every_npm_package_has_a_hash():
    packages = json.loads((ROOT / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert [name for name, package in packages.items() if name and "integrity" not in package] == []


@pytest.mark.parametrize("lock", [lock for lock in LOCKS if lock.stem != "slither"], ids=lambda path: path.name)
def test_the_environments_agree(lock: Path):
    def pins(path: Path) -> set[str]:
        return set(re.findall(r"^([a-z0-9.-]+==[^ ;]+)", path.read_text(encoding="utf-8"), re.MULTILINE))

    assert pins(lock) <= pins(ROOT / "requirements" / "dev.txt")

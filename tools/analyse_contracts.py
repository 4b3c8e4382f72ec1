"""Analyse the contracts with slither, and hold its findings against their answers.

Runs in .venv-slither (requirements/slither.txt), apart from the other environments: the analyser needs an older web3 than the
adapter. Seen to analyse every contract: with a compiler it does not understand, it analyses none and is content.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from slither import Slither
from slither.__main__ import get_detectors_and_printers

TOOLS = Path(__file__).resolve().parent
ROOT = TOOLS.parent
CONTRACTS = ROOT / "chain_adapters" / "evm" / "contracts"
ANSWERS = TOOLS / "slither_answers.toml"
DEFINITION = re.compile(r"^(?:abstract )?(?:contract|interface) (\w+)", re.MULTILINE)
DETECTORS_MIN = 100


def analyse() -> tuple[set[str], int, list[dict[str, Any]]]:
    """Return the names of the contracts with code that were analysed, the count of detectors, and what they found in our sources."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "contracts").symlink_to(CONTRACTS)
        (Path(folder) / "@openzeppelin").symlink_to(ROOT / "node_modules" / "@openzeppelin")
        target = Path(folder) / "contracts.json"
        subprocess.run(["node", str(TOOLS / "compile_contracts.cjs"), "--standard-json", str(target)], check=True)
        os.chdir(folder)
        analysis = Slither(
            target.name,
            compile_force_framework="Solc-json",
            solc=str(TOOLS / "solc_for_slither.cjs"),
            filter_paths=["@openzeppelin", "node_modules"],
        )
        detectors, _ = get_detectors_and_printers()
        for detector in detectors:
            analysis.register_detector(detector)
        findings = [finding for found in analysis.run_detectors() for finding in found]
        return {contract.name for contract in analysis.contracts if contract.functions}, len(detectors), findings


def where(finding: dict[str, Any]) -> str:
    """Name what a finding is about: contract and member."""
    first = finding["elements"][0]
    name = first["type_specific_fields"].get("signature", first["name"])
    parent = first["type_specific_fields"].get("parent")
    return f"{parent['name']}.{name}" if parent and parent["type"] == "contract" else str(name)


def main() -> None:
    logging.disable(logging.CRITICAL)
    analysed, detector_count, findings = analyse()
    expected = {name for path in CONTRACTS.rglob("*.sol") for name in DEFINITION.findall(path.read_text(encoding="utf-8"))}
    if missing := sorted(expected - analysed):
        sys.exit(f"slither: not analysed: {', '.join(missing)}")
    if detector_count < DETECTORS_MIN:
        sys.exit(f"slither: {detector_count} detectors, expected at least {DETECTORS_MIN}")
    answers = {
        (answer["check"], place): answer["because"]
        for answer in tomllib.loads(ANSWERS.read_text(encoding="utf-8"))["answer"]
        for place in answer["where"]
    }
    found = {(finding["check"], where(finding)): finding["description"] for finding in findings}
    for check, place in sorted(found.keys() - answers.keys()):
        print(f"slither: no answer for {check} at {place}: {found[check, place].strip()}", file=sys.stderr)
    for check, place in sorted(answers.keys() - found.keys()):
        print(f"slither: answer without its finding: {check} at {place}", file=sys.stderr)
    if found.keys() != answers.keys():
        sys.exit(1)
    print(f"slither: {len(expected)} contracts of ours analysed with {detector_count} detectors, {len(found)} findings, each answered")


if __name__ == "__main__":
    main()

"""What the README shows is what runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "thirty_seconds.py"


def test_the_readme_shows_the_example_that_runs() -> None:
    assert f"```python\n{EXAMPLE.read_text(encoding='utf-8')}```" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_runs() -> None:
    done = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "bob holds 150000000 units" in done.stdout
    assert "RESERVE_INSUFFICIENT" in done.stdout


def test_the_architecture_fits_a_short_read() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").splitlines()) <= 150

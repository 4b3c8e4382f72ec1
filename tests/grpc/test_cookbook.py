"""The pages of the cookbook run as they stand, one after the other, and print what they show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = {path.stem for path in (ROOT / "docs" / "cookbook").glob("*.md")} - {"README"}


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "cookbook.py"), *arguments], capture_output=True, text=True, check=False, **options
    )


def test_every_page_prints_what_it_shows():
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_page_is_run_and_is_told_of():
    told = (ROOT / "docs" / "cookbook" / "README.md").read_text(encoding="utf-8")
    program = (ROOT / "tools" / "cookbook.py").read_text(encoding="utf-8")
    for name in PAGES:
        assert f"({name}.md)" in told
        assert f'"{name}"' in program


def test_a_page_without_a_server_fails(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1)\n```\n```output\n1\n```\n```python\nraise SystemExit(2)\n```\n")
    assert run(str(page)).returncode != 0
    page.write_text("```python\nprint(1)\n```\n")
    assert run(str(page)).stdout == "1\n"

"""Hold the pages of docs/cookbook/ to what they are: programs, and what these print.

python tools/cookbook.py            run all pages against a server of their own, and compare
python tools/cookbook.py --write    and put what was printed into the pages
python tools/cookbook.py PAGE.md    run one page against the server at STOCKLEDGER_ADDRESS (localhost:8080)
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "cookbook"
PAGES = ("onboarding", "subscription", "withdrawal", "reconciliation", "errors")
"""In the order in which a reader goes through them."""
PIECE = re.compile(r"```python\n(.*?)```\n(?:```output\n(.*?)```\n)?", re.DOTALL)
MARK = "\x1e end of piece"


def program_of(page: str) -> str:
    """Return the program of a page; after each piece of code a mark is printed, so that it is known who printed what."""
    pieces = (match.group(1) for match in PIECE.finditer(page))
    return "".join(f"{piece}print({MARK!r}, flush=True)\n" for piece in pieces)


def printed_by(page: str, address: str) -> list[str]:
    """Run a page, and return what each of its pieces printed."""
    environment = {**os.environ, "STOCKLEDGER_ADDRESS": address}
    command = [sys.executable, "-W", "error", "-c", f"import sys; sys.path.insert(0, {str(FOLDER)!r})\n{program_of(page)}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
    if done.returncode:
        raise SystemExit(f"{done.stdout.replace(MARK, '')}\n{done.stderr}")
    return done.stdout.split(f"{MARK}\n")[:-1]


def with_output(page: str, printed: list[str]) -> str:
    """Return a page that shows what was printed under each piece that printed something."""
    outputs = iter(printed)

    def shown(match: re.Match[str]) -> str:
        output = next(outputs)
        return f"```python\n{match.group(1)}```\n" + (f"```output\n{output}```\n" if output else "")

    return PIECE.sub(shown, page)


def hold_pages(*, write: bool) -> list[str]:
    """Run all pages in order against a fresh server, and return the names of those that show something else."""
    different = []
    with tempfile.TemporaryDirectory(prefix="stockledger-cookbook-") as folder:
        flags = ("--store", f"sqlite:///{folder}/cookbook.db", "--local-principals", "true", "--operators", "compliance")
        command = [sys.executable, "-m", "services.cli.main", "serve", "--address", "127.0.0.1:0", "--log-level", "error", *flags]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            assert server.stderr is not None, "its lines are piped"
            try:
                address = server.stderr.readline().split()[-1]
                environment = {**os.environ, "STOCKLEDGER_ADDRESS": address}
                subprocess.run([sys.executable, str(FOLDER / "market.py")], check=True, env=environment)
                for name in PAGES:
                    path = FOLDER / f"{name}.md"
                    page = path.read_text(encoding="utf-8")
                    fresh = with_output(page, printed_by(page, address))
                    if fresh != page:
                        different.append(name)
                    if write:
                        path.write_text(fresh, encoding="utf-8")
            finally:
                server.terminate()
    return different


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", nargs="?", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if arguments.page is not None:
        for output in printed_by(arguments.page.read_text(encoding="utf-8"), os.environ.get("STOCKLEDGER_ADDRESS", "localhost:8080")):
            print(output, end="")
        return 0
    different = hold_pages(write=arguments.write)
    if different and not arguments.write:
        print(
            f"these pages show what their programs do not print: {', '.join(different)}; python tools/cookbook.py --write", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

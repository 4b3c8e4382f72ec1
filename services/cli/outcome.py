"""How a run of the command line ends."""

from __future__ import annotations

from typing import Final

DONE: Final = 0
REFUSED: Final = 1
DAMAGED: Final = 2
UNAVAILABLE: Final = 3
USAGE: Final = 64
FAULT: Final = 70
INTERRUPTED: Final = 130

EXIT_CODES: Final = f"""exit codes:
  {DONE}    done
  {REFUSED}    something was refused; it is said what and why, and nothing of it was booked
  {DAMAGED}    the log, an export or a receipt is damaged, or does not verify: call a human
  {UNAVAILABLE}    the store is not there, locked by another process, read-only or full
  {USAGE}   the command line, a setting or an input file was not understood
  {FAULT}   a fault of this program
"""


class UsageError(Exception):
    """The caller must say it differently; the message says how."""

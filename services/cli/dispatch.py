"""Run the command that was meant, and turn what it raises into one sentence and an exit code."""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from typing import TYPE_CHECKING

from chain_adapters.protocol import ChainError, ChainUnavailable
from ledger.errors import DataLoss, LedgerError, Unavailable
from ledger.log.store import refuse_unsafe_settings
from services.cli.outcome import DAMAGED, DONE, FAULT, INTERRUPTED, REFUSED, UNAVAILABLE, USAGE, UsageError
from services.cli.output import escape_what_cannot_be_printed
from services.settings import SettingsError
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    import argparse


def dispatch(options: argparse.Namespace) -> int:
    """Run `options.run`, "module:function"; expected errors are told in one sentence on stderr, never as a traceback."""
    module, _, function = options.run.partition(":")
    escape_what_cannot_be_printed()
    try:
        refuse_unsafe_settings(os.environ)
        code = int(getattr(importlib.import_module(module), function)(options))
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read our output has seen enough
        return DONE
    except KeyboardInterrupt:
        print("interrupted; what was reported as booked is booked", file=sys.stderr)
        return INTERRUPTED
    except (UsageError, SettingsError) as error:
        return _tell(options, USAGE, "USAGE", str(error), {})
    except LedgerError as error:
        return _tell(options, exit_code(error), error.reason_name, error.message, error.metadata)
    except ChainError as error:
        code = UNAVAILABLE if isinstance(error, ChainUnavailable) else REFUSED
        return _tell(options, code, type(error).__name__, str(error), {"chain": error.chain})
    except Exception:  # noqa: BLE001 - a fault must not look like a refusal
        traceback.print_exc()
        return FAULT
    return code


def exit_code(error: LedgerError) -> int:
    """Return the exit code that belongs to a refusal."""
    if isinstance(error, DataLoss):
        return DAMAGED
    if isinstance(error, Unavailable) or error.reason == Reason.REASON_LEDGER_NOT_FOUND:
        return UNAVAILABLE
    if error.metadata.get("field") == "store":
        return USAGE
    return REFUSED


def _tell(options: argparse.Namespace, code: int, reason: str, message: str, metadata: dict[str, str]) -> int:
    if getattr(options, "json", False):
        print(json.dumps({"error": {"reason": reason, "message": message, "metadata": metadata}, "exit_code": code}))
    print(f"stockledger: {message}" if code == USAGE else f"stockledger: {reason}: {message}", file=sys.stderr)
    return code

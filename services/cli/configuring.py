"""`stockledger config`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from services.cli.outcome import DONE
from services.cli.output import Column, note, print_json, print_table
from services.cli.stores import settings_of
from services.setting import meaning_of
from services.settings import SETTINGS, shown_value, unknown_variables

if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace) -> int:
    """Show every setting, what it is, and where that comes from."""
    settings = settings_of(options)
    if options.json:
        print_json({name: {"value": shown_value(settings, name), "source": settings.sources[name]} for name in SETTINGS})
    else:
        rows = [[name, shown_value(settings, name), settings.sources[name], meaning_of(SETTINGS[name])] for name in SETTINGS]
        print_table([Column("setting"), Column("value"), Column("from"), Column("meaning")], rows, "")
    for stranger in unknown_variables(os.environ):
        note(f"warning: {stranger}")
    return DONE

"""The leaderboard on standard output: for a reader, for a program, for a spreadsheet."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from altermoma_ray.tracking.leaderboard.board import Champion, Row

_TABLE_WIDTH = 110
"""Characters of a table's line; a table whose figures need more gets more, and a narrower terminal wraps."""
_WIDE = Console(width=1000)


def print_table(rows: Sequence[Row], columns: Sequence[str], champion: Champion | None = None) -> None:
    """A table without cut figures; an asterisk marks the champion, described in a line below.

    Args:
        rows: the leaderboard.
        columns: names of the columns; also the heading of a leaderboard without rows.
        champion: the search's registered trial, if there is one.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in columns:
        # Headings break at "_" and around "without-", as their columns hold figures of few digits.
        table.add_column(re.sub(r"_|/(?=without-)|(?<=without)-", "\n", name), justify="right", no_wrap=True)
    for row in rows:
        cells = {name: _cell(value) for name, value in replace(row, run_id=row.run_id[:8]).cells().items()}
        if champion is not None and row.run_id == champion.run_id:
            cells["trial"] += "*"
        table.add_row(*cells.values())
    # Off a terminal rich takes 80 columns and cuts figures with an ellipsis, so the table's own width is asked for.
    width = max(Console().width, _TABLE_WIDTH, Measurement.get(_WIDE, _WIDE.options, table).maximum)
    Console(highlight=False, width=width).print(table)
    if champion is not None:
        # The plain print: rich would wrap the line, and read brackets in the rule as markup.
        print(f"* champion: trial {champion.trial}{', '.join(['', *filter(None, (champion.version, champion.rule))])}")


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def print_json(rows: Sequence[Row], columns: Sequence[str], champion: Champion | None = None) -> None:
    """A list of objects; null where a row has no figure.

    Args:
        rows: the leaderboard.
        columns: unused; each object names its own.
        champion: unused; programs read the objects alone.
    """
    # Rows hold no NaN. A bare NaN is no JSON, and other languages' readers refuse the whole text.
    print(json.dumps([row.cells() for row in rows], indent=2, allow_nan=False))


def print_csv(rows: Sequence[Row], columns: Sequence[str], champion: Champion | None = None) -> None:
    """A header and a line for each row.

    Args:
        rows: the leaderboard.
        columns: names of the columns.
        champion: unused; a spreadsheet has no place for a note.
    """
    # csv ends lines as Windows does; in a pipe the last column would keep a carriage return.
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.cells() for row in rows)


# All printers take the same arguments, so the command calls any of them by its name.
FORMATS: Mapping[str, Callable[[Sequence[Row], Sequence[str], Champion | None], None]] = {
    "table": print_table,
    "json": print_json,
    "csv": print_csv,
}
"""Printers by the name of their format."""

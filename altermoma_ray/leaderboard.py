"""``python -m altermoma_ray.leaderboard [NAME]``: a search's trials, best first, and its Pareto picture."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace

from rich import box
from rich.console import Console
from rich.table import Table

from altermoma_ray.cli import console, run
from altermoma_ray.storage import Location
from altermoma_ray.tracking.board import Row
from altermoma_ray.tracking.tracker import Tracker

_TABLE_WIDTH = 110  # columns that show every figure; a narrower terminal wraps


def main() -> None:
    """Parse, read the store, print, redraw the picture."""
    options = _parser().parse_args()
    tracker = Tracker.open(options.tracking_uri, Location.parse(options.storage), create=False)
    parent = tracker.find_search(options.name)
    rows = tracker.leaderboard(options.name)
    {"table": _print_table, "json": _print_json, "csv": _print_csv}[options.format](rows)
    tracker.draw_pareto(parent)
    console.print(f"Pareto picture: pareto.png in run {parent}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m altermoma_ray.leaderboard", description=__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help="the search; default: the latest one")
    parser.add_argument("--storage", default="storage", metavar="DIR", help="the search's storage folder [%(default)s]")
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow server or database; default: the storage's own")
    parser.add_argument("--format", choices=("table", "json", "csv"), default="table", help="[%(default)s]")
    return parser


def _print_table(rows: Sequence[Row]) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for field in fields(Row):
        table.add_column(field.name.replace("_", "\n"), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(value) for value in asdict(replace(row, run_id=row.run_id[:8])).values()))
    Console(highlight=False, width=max(console.width, _TABLE_WIDTH)).print(table)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _print_json(rows: Sequence[Row]) -> None:
    print(json.dumps([asdict(row) for row in rows], indent=2, allow_nan=False))


def _print_csv(rows: Sequence[Row]) -> None:
    writer = csv.DictWriter(sys.stdout, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)


if __name__ == "__main__":
    run(main)

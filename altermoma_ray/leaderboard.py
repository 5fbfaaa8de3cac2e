"""``python -m altermoma_ray.leaderboard [NAME]``: a search's trials, best first, and its Pareto picture."""

from __future__ import annotations

import argparse

from altermoma_ray.cli import Parser, add_storage_option, console, run
from altermoma_ray.storage import Location
from altermoma_ray.tracking.printing import FORMATS
from altermoma_ray.tracking.tracker import Tracker


def main() -> None:
    """Parse, read the store, print, redraw the picture."""
    options = _parser().parse_args()
    tracker = Tracker.open(options.tracking_uri, Location.parse(options.storage), create=False)
    parent = tracker.find_search(options.name)
    rows = tracker.leaderboard(options.name)
    FORMATS[options.format](rows)
    tracker.draw_pareto(parent)
    console.print(f"Pareto picture: pareto.png in run {parent}")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m altermoma_ray.leaderboard", description=__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help="the search; default: the latest one")
    add_storage_option(parser)
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow server or database; default: the storage's own")
    parser.add_argument("--format", choices=tuple(FORMATS), default="table", help="[%(default)s]")
    return parser


if __name__ == "__main__":
    run(main)

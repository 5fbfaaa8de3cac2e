"""``python -m altermoma_ray.leaderboard [NAME]``: a search's trials, best first, and its Pareto picture."""

from __future__ import annotations

import argparse

from altermoma_ray.cli import Parser, add_storage_option, run
from altermoma_ray.console import console
from altermoma_ray.metrics import Figures
from altermoma_ray.storage import Location
from altermoma_ray.tasks.detection.metrics import METRICS
from altermoma_ray.tracking.leaderboard.printing import FORMATS
from altermoma_ray.tracking.mlflow.store import StrayFiles
from altermoma_ray.tracking.mlflow.tracker import Tracker

EARLIER = Figures(metrics=METRICS, groups=("camera", "lidar", "fusion"), modalities=("lidar", "camera"))
"""The figures of searches by earlier releases, which knew one model and one task."""


def main() -> None:
    """Parse, bring missing trials into MLflow if asked to, read the store, print, redraw the picture."""
    options = _parser().parse_args()
    storage, name = Location.parse(options.storage), options.name
    if options.sync:
        tracker, name = _sync(storage, name, options.tracking_uri)
    else:
        # `create=False`: looking must not leave an empty database in a folder which was mistyped.
        tracker = Tracker.open(options.tracking_uri, storage, create=False, earlier=EARLIER)
    # Found before printing: an unknown name is an error, not an empty table.
    parent = tracker.find_search(name)
    FORMATS[options.format](tracker.leaderboard(name), tracker.columns(name), tracker.champion(name))
    try:
        tracker.draw_pareto(parent)
        console.print(f"Pareto picture: pareto.png in run {parent}")
    # The table is the command's purpose and is printed by now; a picture which cannot be placed is no failure.
    except StrayFiles as error:
        console.print(f"no Pareto picture: {error}")


def _sync(storage: Location, name: str | None, tracking_uri: str | None) -> tuple[Tracker, str]:
    from altermoma_ray.engine.search.sync import (  # brings in Ray, which a mere leaderboard does without
        stored_plan,
        sync,
    )

    plan = stored_plan(storage, name)
    tracker = Tracker.open(tracking_uri or plan.tracking_uri, storage, earlier=EARLIER)
    console.print(f"[bold]logged[/] {sync(plan, tracker)} trials of {plan.name} that MLflow lacked")
    return tracker, plan.name


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m altermoma_ray.leaderboard", description=__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help="the search; default: the latest one")
    add_storage_option(parser)
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow server or database; default: the storage's own")
    parser.add_argument(
        "--sync", action="store_true", help="first bring into MLflow what the search left in storage alone"
    )
    parser.add_argument("--format", choices=tuple(FORMATS), default="table", help="[%(default)s]")
    return parser


if __name__ == "__main__":
    run(main)

"""``python -m altermoma_ray.leaderboard [NAME]``: a search's trials, best first, and its Pareto picture.

``python -m altermoma_ray.leaderboard NAME --certify``: what the search's champion does worse than the unpruned model.
"""

from __future__ import annotations

import argparse

from altermoma_ray.cli import Parser, add_storage_option, add_worker_options, positive, run
from altermoma_ray.console import console
from altermoma_ray.errors import UserError
from altermoma_ray.metrics import Figures
from altermoma_ray.storage import Location
from altermoma_ray.tasks.detection.metrics import METRICS
from altermoma_ray.tracking.leaderboard.printing import FORMATS
from altermoma_ray.tracking.mlflow.store import StrayFiles
from altermoma_ray.tracking.mlflow.tracker import Tracker

MARGIN = 0.02
"""Loss of a metric that a certificate puts up with by default."""
EARLIER = Figures(metrics=METRICS, groups=("camera", "lidar", "fusion"), modalities=("lidar", "camera"))
"""The figures of searches by earlier releases, which knew one model and one task."""


def main() -> None:
    """Parse, bring missing trials into MLflow if asked to, then show the leaderboard or certify the champion."""
    options = _parser().parse_args()
    storage, name = Location.parse(options.storage), options.name
    _check(options)
    tracker = None
    if options.sync:
        tracker, name = _sync(storage, name, options.tracking_uri)
    if options.certify:
        _certify(storage, name, options)
    else:
        # `create=False`: looking must not leave an empty database in a folder which was mistyped.
        opened = tracker or Tracker.open(options.tracking_uri, storage, create=False, earlier=EARLIER)
        _show(opened, name, options.format)


def _show(tracker: Tracker, name: str | None, form: str) -> None:
    # Found before printing: an unknown name is an error, not an empty table.
    parent = tracker.find_search(name)
    FORMATS[form](tracker.leaderboard(name), tracker.columns(name), tracker.champion(name))
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


def _check(options: argparse.Namespace) -> None:
    """Refuse options that say nothing without another one.

    Raises:
        UserError: an option of a certificate came without ``--certify``, or the certificate has no such format.
    """
    if options.certify and options.format == "csv":
        raise UserError(
            "--format csv does not go with --certify, whose figures are no single table; take table or json"
        )
    given = [name for name in ("margin", "workers", "gpus_per_worker") if getattr(options, name)]
    if given and not options.certify:
        raise UserError(f"--{given[0].replace('_', '-')} goes with --certify alone; add it, or leave the option out")


def _certify(storage: Location, name: str | None, options: argparse.Namespace) -> None:
    from altermoma_ray.engine.certificate.champion import certify_champion  # brings in Ray
    from altermoma_ray.engine.search.sync import stored_plan
    from altermoma_ray.tracking.certificate.text import print_certificate
    from altermoma_ray.tracking.mlflow.reports import ReportTracker

    plan = stored_plan(storage, name)
    certificate = certify_champion(
        plan,
        ReportTracker.open(options.tracking_uri or plan.tracking_uri, storage, create=False, earlier=EARLIER),
        margin=options.margin or MARGIN,
        workers=options.workers,
        gpus_per_worker=options.gpus_per_worker,
    )
    if options.format == "json":
        print(certificate.model_dump_json(indent=2))
    else:
        print_certificate(certificate)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m altermoma_ray.leaderboard", description=__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help="the search; default: the latest one")
    add_storage_option(parser)
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow server or database; default: the storage's own")
    parser.add_argument(
        "--sync", action="store_true", help="first bring into MLflow what the search left in storage alone"
    )
    parser.add_argument("--format", choices=tuple(FORMATS), default="table", help="[%(default)s]")
    parser.add_argument(
        "--certify",
        action="store_true",
        help="compare the champion with the unpruned model scene by scene, in place of the leaderboard",
    )
    parser.add_argument(
        "--margin",
        type=positive,
        help=f"of --certify: loss of the metric to put up with, in the metric's own unit (default: {MARGIN})",
    )
    add_worker_options(
        parser, workers_help="of --certify: Ray Train workers (default: what the cluster holds, at most 8)"
    )
    return parser


if __name__ == "__main__":
    run(main)

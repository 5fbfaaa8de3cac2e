"""``python -m altermoma_ray.search nusc``: search how to prune a fusion model, and register the best."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from typing import get_args

from altermoma_ray import metrics
from altermoma_ray.cli import (
    DEFAULT_DATASET,
    Parser,
    add_cost_options,
    add_data_options,
    add_plan_options,
    add_save_detections_option,
    add_worker_options,
    given,
    positive_int,
    ratio,
    resumes,
    run,
    workload_of,
)
from altermoma_ray.console import console
from altermoma_ray.data.sampling import ValidationPart
from altermoma_ray.engine.predictions.job import check_savable, evaluate, plan_predictions, save_files
from altermoma_ray.engine.ray.workers import check_cluster, ray_session
from altermoma_ray.engine.search.costs import check_priced, with_costs
from altermoma_ray.engine.search.plan import SearchPlan
from altermoma_ray.engine.search.planning import SearchRequest, plan_search, prepare
from altermoma_ray.engine.search.resuming import resume_search
from altermoma_ray.engine.search.run import run_search
from altermoma_ray.engine.space.files import load_space
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location
from altermoma_ray.tracking.leaderboard.printing import print_table
from altermoma_ray.tracking.mlflow.models import open_model
from altermoma_ray.tracking.mlflow.tracker import Tracker

SPARSITY = 0.85
"""The total sparsity of a search without the option."""
LIMITED_SPARSITY = 0.5
"""The total sparsity at which the ratios of groups are drawn where a limit of costs says how much is pruned."""


def main() -> None:
    """Parse, plan, search, print the leaderboard; mistakes are found before data are made and Ray starts."""
    parser = _parser()
    options = parser.parse_args()
    storage = Location.parse(options.storage)
    # A wrong RAY_ADDRESS is the cheapest mistake to find, and the dearest to find last.
    check_cluster()
    resume = resumes(options, storage)
    if resume:
        # `given`, not `options`: a resumed search keeps its plan, and only options typed again are held against the
        # plan.
        plan = resume_search(storage, options.name, given(parser, options))
        # A server named now wins over the server of the plan: the old one may be gone, and storage can fill the new
        # one.
        tracker = Tracker.open(options.tracking_uri or plan.tracking_uri, storage)
    else:
        plan = _planned(options)
        tracker = Tracker.open(options.tracking_uri, storage)
        # A numbered name needs no check: `run_search` takes the next free number at the moment of beginning.
        if options.name:
            tracker.check_free(plan.name)
        # Told before the work: a small space would else look like a search which stopped too early.
        if plan.trials < options.trials:
            console.print(
                f"[bold]trials[/] {plan.trials} instead of {options.trials}: the search space has no more different "
                "settings; --repeat runs settings again, with other seeds"
            )
    out = Location.parse(options.save_detections) if options.save_detections else None
    if out is not None:
        check_savable(plan.workload.load(), out)
    tracker.check_open(plan.dataset, plan.model)
    # After all checks of options, storage and MLflow: preparing may render a data set or read every nuScenes table.
    prepare(plan)
    plan = with_costs(plan)
    # The champion is evaluated in the search's own session: to start Ray again would take longer than to evaluate.
    with nullcontext() if out is None else ray_session():
        # The returned plan counts: a numbered search may have got another number than the one planned.
        plan = run_search(plan, tracker, resume=resume, numbered=options.name is None)
        print_table(tracker.leaderboard(plan.name), tracker.columns(plan.name), tracker.champion(plan.name))
        if out is not None:
            _save_detections(plan, out, options.tracking_uri or plan.tracking_uri)


def _planned(options: argparse.Namespace) -> SearchPlan:
    """The plan of a new search.

    Raises:
        UserError: an option is wrong, or does not go with another one.
    """
    is_limited = _check_costs(options)
    request = SearchRequest(
        workload=workload_of(options),
        name=options.name,
        checkpoint=options.checkpoint,
        # Below `workload`, as Python evaluates from top to bottom: the SPACE of a user's file is found once the
        # file is imported.
        space=load_space(options.dataset or DEFAULT_DATASET, options.space),
        space_file=options.space,
        objective=options.objective,
        sparsity=(LIMITED_SPARSITY if is_limited else SPARSITY) if options.sparsity is None else options.sparsity,
        max_latency_ms=options.max_latency_ms,
        max_macs=options.max_macs,
        is_least_sparsity=options.sparsity is not None,
        device=options.device,
        trials=options.trials,
        repeat=options.repeat,
        validation_part=options.validation_part,
        seed=options.seed,
        workers=options.workers or 1,
        gpus_per_worker=options.gpus_per_worker,
        save_every=options.save_every,
        tracking_uri=options.tracking_uri,
    )
    if is_limited or _costs_sought(options):
        check_priced(request.space.granularities, request.space.criteria if is_limited else ())
    return plan_search(request)


def _save_detections(plan: SearchPlan, out: Location, tracking_uri: str | None) -> None:
    """Evaluate the champion once more, on all validation samples, and save its predictions for the official evaluation.

    Raises:
        UserError: the search has no champion.
    """
    with open_model(plan.name, plan.storage, tracking_uri) as checkpoint:
        model, _ = plan.workload.load().load(checkpoint)
    job = plan_predictions(plan.workload, model, "all", saves=True)
    if job.metrics() is None:
        evaluate(job, workers=plan.workers, gpus_per_worker=plan.gpus_per_worker)
    console.print(f"[bold]detections[/] of the champion: {save_files(job, out)} files in {out}")


def _check_costs(options: argparse.Namespace) -> bool:
    """Whether the search limits its trials' costs; the objective and the sparsity must go together.

    Raises:
        UserError: the objective makes each trial draw its own sparsity, and a sparsity was typed as well.
    """
    drawing = _costs_sought(options) | ({metrics.SPARSITY.name} & set((options.objective or "").split(",")))
    # Only a sparsity which was typed: the default is silently replaced by the trials' own draws.
    if options.sparsity is not None and drawing:
        own = "its own" if metrics.SPARSITY.name in drawing else "its own sparsity"
        raise UserError(f"with {max(drawing)} as an objective each trial draws {own}; leave --sparsity out")
    return options.max_latency_ms is not None or options.max_macs is not None


def _costs_sought(options: argparse.Namespace) -> set[str]:
    """Names of the costs in the objective."""
    return {metric.name for metric in metrics.COSTS} & set((options.objective or "").split(","))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="altermoma_ray.search", description=__doc__)
    add_data_options(parser)
    add_plan_options(parser, "search")
    add_worker_options(parser, workers_help="Ray Train workers of each trial (default: 1, in a reused process)")
    parser.add_argument("--trials", type=positive_int, default=8, help="how many trials to run (default: 8)")
    parser.add_argument(
        "--repeat",
        action="store_true",
        help="run all trials even if the space has fewer settings; a setting that comes again gets another seed",
    )
    parser.add_argument(
        "--sparsity",
        type=ratio,
        help=f"share of weights to remove (default: {SPARSITY}); with a limit of costs the least share (default: 0)",
    )
    add_cost_options(parser)
    parser.add_argument(
        "--objective",
        help="metric to optimise (default: the task's first), or several for a Pareto search: map,sparsity",
    )
    parser.add_argument(
        "--validation-part",
        choices=get_args(ValidationPart),
        default="all",
        help="validation scenes to search on (default: all)",
    )
    add_save_detections_option(parser, "the champion's predictions on all validation samples")
    return parser


if __name__ == "__main__":
    run(main)

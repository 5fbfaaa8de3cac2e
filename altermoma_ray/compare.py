"""``python -m altermoma_ray.compare nusc``: criteria side by side, or one criterion with its parts varied."""

from __future__ import annotations

import argparse
from typing import get_args

from altermoma_ray.cli import (
    DEFAULT_DATASET,
    Parser,
    add_data_options,
    add_plan_options,
    add_worker_options,
    given,
    listed,
    positive,
    positive_int,
    ratio,
    resumes,
    run,
    workload_of,
)
from altermoma_ray.console import console
from altermoma_ray.engine.ray.workers import check_cluster
from altermoma_ray.engine.search.comparison import (
    ablation_settings,
    champion_setting,
    compared,
    criteria_settings,
    grid,
    offered_criteria,
    published_parts,
    search_label,
)
from altermoma_ray.engine.search.logbook import OnlyInStorage
from altermoma_ray.engine.search.plan import Ablation, SearchPlan
from altermoma_ray.engine.search.planning import SearchRequest, plan_search, prepare
from altermoma_ray.engine.search.resuming import resume_search
from altermoma_ray.engine.search.run import run_search
from altermoma_ray.engine.search.sync import REPORT_FOLDER, log_report, stored_reference
from altermoma_ray.engine.space.files import load_space
from altermoma_ray.errors import UserError
from altermoma_ray.metrics import COSTS, SPARSITY
from altermoma_ray.storage import Location
from altermoma_ray.tracking.comparison.report import ablation_report, comparison_report, write_report
from altermoma_ray.tracking.mlflow.tracker import Tracker


def main() -> None:
    """Parse, plan the grid, run its trials, write the tables."""
    parser = _parser()
    options = parser.parse_args()
    storage = Location.parse(options.storage)
    check_cluster()
    resume = resumes(options, storage)
    if resume:
        # `told` reads criteria, sparsities and seeds back out of the plan's trials: the plan has no fields for them.
        plan = resume_search(storage, options.name, given(parser, options), compares=True, told=compared)
        tracker = Tracker.open(options.tracking_uri or plan.tracking_uri, storage)
    else:
        plan = _plan(options, storage)
        tracker = Tracker.open(options.tracking_uri, storage)
        if options.name:
            tracker.check_free(plan.name)
    # Asked before any data are made: a deleted experiment in MLflow takes no run of a comparison.
    tracker.check_open(plan.dataset, plan.model)
    prepare(plan)
    # Without MLflow the tables are written all the same, and the error comes last, with the exit code of a failure.
    unlogged: OnlyInStorage | None = None
    try:
        plan = run_search(plan, tracker, resume=resume, numbered=options.name is None)
    except OnlyInStorage as error:
        plan, unlogged = error.plan, error  # the report needs no more than storage has
    results, reference = plan.results(), stored_reference(plan) or {}
    # The compared metric leads the tables, also where the task gives another metric no column or a later one.
    figures = plan.figures.led_by(plan.optimised.metrics)
    if plan.ablation:
        report = ablation_report(results, reference, published_parts(plan.space, plan.ablation), figures)
    else:
        report = comparison_report(results, reference, figures)
    folder = plan.folder.join(REPORT_FOLDER)
    write_report(report, folder)
    print(report.text)
    console.print(f"[bold]written[/] {folder}")
    if unlogged is not None:
        raise unlogged
    # The run is looked up by name: a resumed comparison goes on in the run of its first start.
    log_report(plan, tracker, tracker.find_search(plan.name))


def _plan(options: argparse.Namespace, storage: Location) -> SearchPlan:
    # The workload first, on the left: `workload_of` imports a user's file, in whose module `load_space` looks for a
    # SPACE.
    workload, space = workload_of(options), load_space(options.dataset or DEFAULT_DATASET, options.space)
    # All trials of a row share their sparsity, so a comparison by sparsity would compare constants.
    if {SPARSITY.name, *(metric.name for metric in COSTS)} & set((options.objective or "").split(",")):
        raise UserError("a comparison sets the sparsity of its trials; name metrics of the task with --objective")
    if options.ablate not in (None, "distillation") and options.criteria is not None:
        raise UserError("an ablation varies AlterMOMA alone; leave --criteria or --ablate out")
    if options.ablate:
        varied = options.criteria or ["altermoma"]
        settings = {"": ablation_settings(space, options.ablate, options.sparsities, varied)}
    else:
        criteria = options.criteria
        if criteria is None:
            criteria = offered_criteria(workload)
        settings = {"": criteria_settings(space, criteria, options.sparsities)}
    for name in options.search:
        # Champions join the same grid: same seeds, budgets and scenes, or their rows would not be comparable.
        settings[search_label(name)] = [champion_setting(SearchPlan.load(storage, name))]
    tasks = grid(
        settings,
        seeds=range(options.seed, options.seed + options.seeds),
        # The space's own budget by default: the criteria then compare under the fine-tuning of a search.
        budgets=options.budget or [space.fine_tune_epochs],
    )
    request = SearchRequest(
        workload=workload,
        # The half of validation on which no search has tuned: a champion would else be praised for its own choice.
        validation_part="reporting",
        name=options.name,
        checkpoint=options.checkpoint,
        space=space,
        space_file=options.space,
        objective=options.objective,
        # A plan has one sparsity beside its grid; each trial of the grid keeps its own.
        sparsity=max(options.sparsities),
        trials=len(tasks),
        seed=options.seed,
        workers=options.workers or 1,
        gpus_per_worker=options.gpus_per_worker,
        save_every=options.save_every,
        tracking_uri=options.tracking_uri,
        grid=tuple(tasks),
        ablation=options.ablate,
    )
    return plan_search(request)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="altermoma_ray.compare", description=__doc__)
    add_data_options(parser)
    add_plan_options(parser, "comparison")
    add_worker_options(parser, workers_help="Ray Train workers of each trial (default: 1, in a reused process)")
    parser.add_argument("--criteria", type=listed(str), help="criteria to compare, separated by commas (default: all)")
    parser.add_argument(
        "--sparsities",
        type=listed(ratio),
        default=[0.8, 0.85, 0.9, 0.95],
        help="shares of weights to remove, separated by commas (default: 0.8,0.85,0.9,0.95)",
    )
    parser.add_argument(
        "--seeds", type=positive_int, default=3, help="how many seeds each setting is run with (default: 3)"
    )
    parser.add_argument(
        "--budget", type=listed(positive), help="epochs of fine-tuning, separated by commas (default: the space's)"
    )
    parser.add_argument(
        "--objective", help="metric to compare by, or several: map,map/without-camera (default: the task's first)"
    )
    parser.add_argument(
        "--ablate", choices=get_args(Ablation), help="vary a part of AlterMOMA, or the distillation of --criteria"
    )
    parser.add_argument(
        "--search", type=listed(str), default=[], metavar="NAME", help="also compare the best trial of these searches"
    )
    return parser


if __name__ == "__main__":
    run(main)

"""``python -m altermoma_ray.report redundancy nusc``: the redundancy of a fusion model, as a page with pictures.

``python -m altermoma_ray.report robustness nusc``: what models lose when a sensor fails, in whole or in part.
"""

from __future__ import annotations

import argparse
from typing import get_args

from altermoma_ray.cli import (
    DEFAULT_DATASET,
    Parser,
    add_data_options,
    add_model_options,
    add_worker_options,
    ratio,
    run,
    workload_of,
)
from altermoma_ray.console import console
from altermoma_ray.data.sampling import ValidationPart
from altermoma_ray.engine.ray.workers import check_cluster, check_room, ray_session, worker_slots, workers_of
from altermoma_ray.engine.redundancy.job import check_reportable, plan_report
from altermoma_ray.engine.redundancy.measure import measure_report, score_for_report
from altermoma_ray.engine.robustness import job as robustness
from altermoma_ray.engine.robustness.measure import measure as measure_robustness
from altermoma_ray.engine.search.planning import SearchRequest, plan_search
from altermoma_ray.engine.space.files import load_space
from altermoma_ray.engine.trials.alone import run_alone
from altermoma_ray.errors import UserError
from altermoma_ray.pruning.criteria import CRITERIA
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.models import open_model
from altermoma_ray.tracking.mlflow.reports import ReportTracker
from altermoma_ray.tracking.redundancy.page import page
from altermoma_ray.tracking.redundancy.summary import print_summary

SPARSITY = 0.85
"""The sparsity of a model pruned by the command itself."""


def main() -> None:
    """Parse, and make the report that was asked for."""
    options = _parser().parse_args()
    check_cluster()
    {"redundancy": report_redundancy, "robustness": report_robustness}[options.kind](options)


def report_redundancy(options: argparse.Namespace) -> None:
    """Plan, score, prune, measure, draw, log; mistakes are found before data are made and Ray starts."""
    # Before planning: a folder given as --out would be found only after hours of measuring.
    target = _target(options.out)
    request = SearchRequest(
        workload=workload_of(options),
        validation_part=options.validation_part,
        checkpoint=options.checkpoint,
        space=load_space(options.dataset or DEFAULT_DATASET, options.space),
        space_file=options.space,
        sparsity=SPARSITY if options.sparsity is None else options.sparsity,
        trials=1,
        seed=options.seed,
        workers=options.workers or 1,
        gpus_per_worker=options.gpus_per_worker,
    )
    plan = plan_search(request)
    pruned = Location.parse(options.pruned) if options.pruned else None
    tracker = ReportTracker.open(options.tracking_uri, plan.storage)
    tracker.check_open(plan.dataset, plan.model)
    workload = plan.workload.load()
    # A model may lack `features`, and a task `map_extent`: both are optional, but the pages are made of them.
    check_reportable(workload)
    workload.source().prepare()
    # After `prepare`: the job's name holds the scoring folder, which is named by the fingerprint of the prepared data.
    job = plan_report(plan, options.criterion, pruned, options.sparsity)
    with ray_session():
        check_room(plan.workers, plan.gpus_per_worker)
        every = min(worker_slots(plan.gpus_per_worker), 8)
        console.print("[bold]scoring[/] DeCI, ReRI and all one-shot criteria")
        computed, wanted = score_for_report(job, workers=every, gpus_per_worker=plan.gpus_per_worker)
        console.print(f"  {computed} computed, {wanted - computed} from storage")
        # Scores first: pruning by the criterion reads the indicators which the step above stored.
        if pruned is None:
            console.print(f"[bold]pruning[/] {job.task.setting.sparsity:.0%} by {options.criterion}, and fine-tuning")
            fresh = run_alone(job.trial, job.task, workers=plan.workers, gpus_per_worker=plan.gpus_per_worker)
            console.print(f"  {job.pruned_folder}{'' if fresh else ', from storage'}")
        console.print("[bold]measuring[/] sensors lost, features and masks")
        measure_report(job, workers=every, gpus_per_worker=plan.gpus_per_worker)
    # From storage, outside of Ray: a report measured earlier is drawn again without measuring.
    report, tensors = job.read()
    html = page(report, tensors, workload.task.map_extent).encode()
    job.page.write_bytes(html)
    if target is not None:
        target.write_bytes(html)
    run_id = tracker.log_report(
        job.name,
        dataset=plan.dataset,
        model=plan.model,
        files={job.page.name: html, "report.json": job.folder.join("report.json").read_bytes()},
        params=report.model_dump(
            include={"checkpoint", "criterion", "sparsity", "seed", "reactivation_steps", "reactivation_learning_rate"}
        ),
        metrics=report.metrics(),
    )
    print_summary(report)
    console.print(f"[bold]report[/] in run {run_id} of MLflow")
    print(target or job.page)


def report_robustness(options: argparse.Namespace) -> None:
    """Load the models, evaluate each under each condition, print, log; mistakes are found before Ray starts."""
    target = _target(options.out)
    reference = workload_of(options)
    workload, storage = reference.load(), reference.storage_location
    pruned = {}
    for name in dict.fromkeys(options.pruned or ()):
        with open_model(name, storage, options.tracking_uri) as checkpoint:
            pruned[name], _ = workload.load(checkpoint)
    robustness.check_subjects(workload, pruned)
    unpruned = workload.unpruned(options.checkpoint)
    tracker = ReportTracker.open(options.tracking_uri, storage)
    tracker.check_open(workload.dataset, workload.name)
    workload.source().prepare()
    # After `prepare`: the report's name holds the fingerprint of the prepared data.
    job = robustness.plan_report(reference, unpruned, pruned, options.validation_part)
    report = job.read()
    if report is None:
        with ray_session():
            workers = workers_of(options.workers, options.gpus_per_worker)
            found = robustness.conditions(workload).values()
            console.print(f"[bold]measuring[/] {', '.join(condition.title for condition in found)}")
            measure_robustness(job, workers=workers, gpus_per_worker=options.gpus_per_worker)
        report = job.read()
        assert report is not None
    else:
        console.print(f"[bold]measured[/] earlier: {job.folder}")
    if target is not None:
        target.write_bytes(report.csv())
    files = {"robustness.csv": report.csv(), "report.json": job.folder.join("report.json").read_bytes()}
    run_id = tracker.log_report(
        job.folder.name,
        dataset=workload.dataset,
        model=workload.name,
        files=files,
        params={"validation_part": report.validation_part, **{k: v for k, v in report.models.items() if v}},
        metrics=report.metrics(),
    )
    report.print()
    console.print(f"[bold]report[/] in run {run_id} of MLflow")
    print(target or job.folder.join("robustness.csv"))


def _target(out: str | None) -> Location | None:
    """Where ``--out`` says to write the page too."""
    if out is None:
        return None
    target = Location.parse(out)
    if target.is_folder():
        raise UserError(f"--out {target} is a folder; give the name of a file")
    # The folder is checked, not the file: the file need not exist, and must not be made before there is a page.
    target.parent.check_writable()
    return target


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="altermoma_ray.report", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True, help="which report")
    _redundancy_options(kinds.add_parser("redundancy", help="which layers are redundant, and what criteria remove"))
    _robustness_options(kinds.add_parser("robustness", help="what models lose when a sensor fails"))
    return parser


def _redundancy_options(parser: argparse.ArgumentParser) -> None:
    add_data_options(parser)
    add_model_options(parser)
    add_worker_options(
        parser, workers_help="Ray Train workers of fine-tuning (default: 1); all else takes what is free"
    )
    parser.add_argument("--pruned", help="folder of a trial whose model is the pruned one (default: prune one)")
    parser.add_argument("--criterion", choices=tuple(CRITERIA), default="altermoma", help="prunes (default: altermoma)")
    parser.add_argument("--sparsity", type=ratio, help="share to remove (default: that of --pruned, else 0.85)")
    _add_validation_part(parser)
    parser.add_argument("--out", help="file to write the page to as well (it is in STORAGE/reports)")


def _robustness_options(parser: argparse.ArgumentParser) -> None:
    add_data_options(parser)
    parser.add_argument("--model", help="named configuration (default: the toy on synthetic data, else bevfusion-mit)")
    parser.add_argument("--checkpoint", help="the unpruned weights (default: those of the workload)")
    parser.add_argument(
        "--pruned",
        action="append",
        metavar="MODEL",
        help="a pruned model beside the unpruned one, several by repeating the option: a file, a folder with "
        "model.safetensors, a search, SEARCH/TRIAL, or a run id",
    )
    parser.add_argument("--tracking-uri", help="MLflow server (default: a SQLite file in the storage folder)")
    add_worker_options(parser, workers_help="Ray Train workers (default: what the cluster holds, at most 8)")
    _add_validation_part(parser)
    parser.add_argument("--out", help="file to write the CSV to as well (it is in STORAGE/reports)")


def _add_validation_part(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--validation-part",
        choices=get_args(ValidationPart),
        default="all",
        help="validation scenes to measure on (default: all)",
    )


if __name__ == "__main__":
    run(main)

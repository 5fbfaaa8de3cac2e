"""``python -m altermoma_ray.evaluate nusc``: one model's metrics, and its predictions as official result files."""

from __future__ import annotations

import argparse
import json
import math
from typing import get_args

from altermoma_ray.cli import (
    Parser,
    add_data_options,
    add_save_detections_option,
    add_worker_options,
    run,
    workload_of,
)
from altermoma_ray.console import console
from altermoma_ray.data.sampling import ValidationPart
from altermoma_ray.engine.predictions.job import check_savable, evaluate, plan_predictions, save_files
from altermoma_ray.engine.ray.workers import check_cluster, ray_session, workers_of
from altermoma_ray.engine.robustness.job import check_subjects
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.models import open_model
from altermoma_ray.workloads.workload import Workload


def main() -> None:
    """Load the model, evaluate it, print its metrics, save its predictions; mistakes are found before Ray starts."""
    options = _parser().parse_args()
    check_cluster()
    reference = workload_of(options)
    workload = reference.load()
    out = Location.parse(options.save_detections) if options.save_detections else None
    if out is not None:
        check_savable(workload, out)
    if options.pruned is None:
        model = workload.unpruned(options.checkpoint)
    else:
        with open_model(options.pruned, reference.storage_location, options.tracking_uri) as checkpoint:
            model, _ = workload.load(checkpoint)
        check_subjects(workload, {options.pruned: model})
    workload.source().prepare()
    # After `prepare`: the job's folder is named by the fingerprint of the prepared data.
    job = plan_predictions(reference, model, options.validation_part, saves=out is not None)
    metrics = job.metrics()
    if metrics is None:
        with ray_session():
            workers = workers_of(options.workers, options.gpus_per_worker)
            metrics = evaluate(job, workers=workers, gpus_per_worker=options.gpus_per_worker)
    else:
        console.print(f"[bold]evaluated[/] earlier: {job.folder}")
    if out is not None:
        console.print(f"[bold]detections[/] {save_files(job, out)} files in {out}")
    if options.format == "json":
        # NaN, of a class that no sample has, is not part of JSON.
        print(json.dumps({name: None if math.isnan(value) else value for name, value in metrics.items()}, indent=1))
    else:
        _print(workload, metrics)


def _print(workload: Workload, metrics: dict[str, float]) -> None:
    for metric in workload.task.metrics:
        if metric.name in metrics:
            print(f"{metric.name} {metrics[metric.name]:.3f}")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="altermoma_ray.evaluate", description=__doc__)
    add_data_options(parser)
    parser.add_argument("--model", help="named configuration (default: the toy on synthetic data, else bevfusion-mit)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--checkpoint", help="unpruned weights to evaluate (default: those of the workload)")
    which.add_argument(
        "--pruned",
        metavar="MODEL",
        help="a pruned model to evaluate: a file, a folder with model.safetensors, a search, SEARCH/TRIAL, or a run id",
    )
    parser.add_argument("--tracking-uri", help="MLflow server (default: a SQLite file in the storage folder)")
    add_worker_options(parser, workers_help="Ray Train workers (default: what the cluster holds, at most 8)")
    parser.add_argument(
        "--validation-part",
        choices=get_args(ValidationPart),
        default="all",
        help="validation samples to evaluate on (default: all)",
    )
    add_save_detections_option(parser, "the model's predictions")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="of the metrics (default: table)")
    return parser


if __name__ == "__main__":
    run(main)

"""``python -m altermoma_ray.benchmark RUN``: how fast a pruned model is, beside the unpruned one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from pydantic import ValidationError
from rich.table import Table
from torch import nn

from altermoma_ray.cli import Parser, add_data_options, device, positive_int, run, workload_of
from altermoma_ray.console import console
from altermoma_ray.engine.scoring.indicators import ScoringJob
from altermoma_ray.errors import UserError
from altermoma_ray.models.checkpoint import read_header
from altermoma_ray.models.costs.measuring import device_name
from altermoma_ray.models.counting import count, occupied_voxels
from altermoma_ray.models.latency import Latency, measure
from altermoma_ray.models.weights.plain import is_ours
from altermoma_ray.places import read_from
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.models import open_model
from altermoma_ray.workloads.reference import NAMED
from altermoma_ray.workloads.workload import Workload

UNPRUNED, PRUNED = "unpruned", "pruned"


@dataclass(frozen=True)
class Pair:
    """Both models, with the workload that feeds them."""

    workload: Workload
    unpruned: nn.Module
    pruned: nn.Module


def main() -> None:
    """Load both models, let them take turns on real samples, and print what each takes."""
    options = _parser().parse_args()
    pair = _named(options) if options.pruned is not None else _of_run(options)
    figures = benchmark(pair, options)
    if options.format == "json":
        print(json.dumps(figures, indent=1))
        return
    stages = list(figures["stages_ms"][PRUNED])
    table = Table("ms", *(stage.rpartition(".")[2] for stage in stages), "all", "95 %")
    for name, key in ((UNPRUNED, "unpruned_ms"), (PRUNED, "latency_ms")):
        shown = [figures["stages_ms"][name].get(stage, 0.0) for stage in stages]
        table.add_row(name, *(f"{value:.1f}" for value in (*shown, figures[key], figures["p95_ms"][name])))
    console.print(table)
    voxels = "" if figures["voxels"] is None else f", {figures['voxels']:,} voxels"
    console.print(
        f"{figures['ratio']:.2f} times as fast on {figures['device']} with {figures['threads']} threads{voxels}; "
        f"parameters {figures['params']:,} of {figures['unpruned_params']:,}, "
        f"MACs {figures['macs']:,} of {figures['unpruned_macs']:,}"
    )


def benchmark(pair: Pair, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of both models.

    Args:
        pair: the models and their workload.
        options: of the command line.
    """
    processor = torch.device(options.device)
    models = {UNPRUNED: pair.unpruned, PRUNED: pair.pruned}
    for model in models.values():
        model.eval().to(processor)
    data = pair.workload.source()
    rows = data.rows("validation", limit=options.samples)
    dataset = data.dataset(rows, augment=False, seed=0)
    batches = [data.collate([dataset[number]]).to(processor) for number in range(len(rows))]
    task = pair.workload.task_for(pair.unpruned)
    with console.status("measuring"):
        found: dict[str, Latency] = measure(
            models,
            batches,
            lambda model, batch: task.decode(model(batch), batch),
            repeats=options.repeats,
        )
    counted = {name: count(model, lambda one: one(batches[0])) for name, model in models.items()}
    voxels = [occupied_voxels(pair.pruned, lambda one, batch=batch: one(batch)) for batch in batches]
    return {
        "ratio": found[UNPRUNED].median_ms / found[PRUNED].median_ms,
        "latency_ms": found[PRUNED].median_ms,
        "unpruned_ms": found[UNPRUNED].median_ms,
        "p95_ms": {name: latency.p95_ms for name, latency in found.items()},
        "stages_ms": {name: latency.stages_ms() for name, latency in found.items()},
        "params": counted[PRUNED].parameters,
        "unpruned_params": counted[UNPRUNED].parameters,
        "macs": counted[PRUNED].macs,
        "unpruned_macs": counted[UNPRUNED].macs,
        # Of the median sample: the work of sparse convolutions grows with the occupied voxels.
        "voxels": None if None in voxels else round(median(number for number in voxels if number is not None)),
        "samples": len(rows),
        "repeats": options.repeats,
        "device": device_name(processor),
        "threads": torch.get_num_threads(),
    }


def _named(options: argparse.Namespace) -> Pair:
    """The models of a data set and ``--pruned``."""
    workload = workload_of(options).load()
    with open_model(options.pruned, Location.parse(options.storage), options.tracking_uri) as checkpoint:
        pruned, _ = workload.load(checkpoint)
    unpruned = workload.unpruned(options.checkpoint)
    workload.source().prepare()
    return Pair(workload, unpruned, pruned)


def _of_run(options: argparse.Namespace) -> Pair:
    """The models of a run, whose checkpoint names its data and the unpruned model.

    Raises:
        UserError: the run is none, or its checkpoint names no search.
    """
    reference = options.dataset
    if reference is None or reference in NAMED or (":" in reference and not reference.startswith("models:/")):
        raise UserError(
            f"{reference or 'this'} names no pruned model; give a run (a search, SEARCH/TRIAL, a run id or a trial's "
            "folder), or a data set and --pruned"
        )
    for option in ("dataroot", "version", "model", "checkpoint"):
        if getattr(options, option) is not None:
            raise UserError(f"--{option} goes with a data set and --pruned; {reference} brings its own")
    storage = Location.parse(options.storage)
    with open_model(reference, storage, options.tracking_uri) as checkpoint, _explained(reference):
        metadata = json.loads(read_header(checkpoint.read_bytes())["metadata"]) if is_ours(checkpoint) else {}
        job = ScoringJob.model_validate(metadata["trial"]["job"]["scoring"], context=read_from(storage))
        workload = job.workload.load()
        pruned, _ = workload.load(checkpoint)
        unpruned, _ = workload.load(Location.parse(job.checkpoint))
    workload.source().prepare()
    return Pair(workload, unpruned, pruned)


@contextmanager
def _explained(reference: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, ValidationError) as error:
        raise UserError(
            f"the checkpoint of {reference} does not tell its data set; name the data set, and give the file with "
            "--pruned"
        ) from error


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="altermoma_ray.benchmark", description=__doc__)
    add_data_options(parser)
    parser.add_argument("--model", help="named configuration (default: the toy on synthetic data, else bevfusion-mit)")
    parser.add_argument("--checkpoint", help="the unpruned weights (default: those of the workload)")
    parser.add_argument(
        "--pruned", help="the pruned model of a data set: a file, a folder with model.safetensors, or a run"
    )
    parser.add_argument("--tracking-uri", help="MLflow server (default: a SQLite file in the storage folder)")
    parser.add_argument("--samples", type=positive_int, default=8, help="validation samples to run on (default: 8)")
    parser.add_argument("--repeats", type=positive_int, default=30, help="timed runs of each model (default: 30)")
    parser.add_argument("--device", type=device, default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="of the figures (default: table)")
    return parser


if __name__ == "__main__":
    run(main)

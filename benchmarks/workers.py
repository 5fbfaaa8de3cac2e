"""Scoring on two one-thread Ray Train workers against one.

    python -m benchmarks.workers

The toy, one reactivation setting, the product's sharding and reductions. Timed inside the job, between barriers, after
start-up: model loaded, data decoded, every kind of pass done once. The jobs alternate.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as distributed

from altermoma_ray.cli import positive_int, run
from altermoma_ray.engine.ray.progress import Reporter
from altermoma_ray.engine.ray.workers import rank_and_world, ray_session, run_on_workers
from altermoma_ray.engine.scoring.indicators import ScoringJob, backward_passes
from altermoma_ray.engine.space import SearchSpace
from benchmarks.passes import Passes
from benchmarks.report import Target, options_parser, publish
from benchmarks.toy import toy_plan

TARGET = 1.7
WORKERS = (1, 2)


class Timing(NamedTuple):
    """What the workers are told."""

    job: ScoringJob
    repeats: int
    file: str
    """Where rank 0 writes what it measured."""


def time_scoring(timing: Timing, reporter: Reporter) -> None:
    """What each worker runs."""
    rank, _ = rank_and_world()
    passes = Passes(timing.job)
    passes.score()
    seconds = []
    for _ in range(timing.repeats):
        distributed.barrier()
        start = time.perf_counter()
        passes.score()
        distributed.barrier()
        seconds.append(time.perf_counter() - start)
        if rank == 0:
            reporter.advance()
    if rank == 0:
        Path(timing.file).write_text(json.dumps({"threads": torch.get_num_threads(), "seconds": seconds}))


def main() -> None:
    """Measure, print and write ``results/workers.json``."""
    parser = options_parser(__doc__)
    parser.add_argument("--batches", type=positive_int, default=8, help="scoring batches (default: 8)")
    parser.add_argument("--steps", type=positive_int, default=8, help="B, reactivation steps (default: 8)")
    parser.add_argument("--repeats", type=positive_int, default=3, help="of the timing inside a job (default: 3)")
    parser.add_argument("--rounds", type=positive_int, default=2, help="jobs with each number of workers (default: 2)")
    options = parser.parse_args()
    space = SearchSpace(
        scoring_batches=options.batches, reactivation_steps=(options.steps,), reactivation_learning_rates=(1e-4,)
    )
    job = toy_plan(options, space=space).trial_job().scoring
    runs: list[dict[str, object]] = []
    seconds: dict[int, list[float]] = {workers: [] for workers in WORKERS}
    with tempfile.TemporaryDirectory() as scratch, ray_session():
        file = Path(scratch, "seconds.json")
        for _ in range(options.rounds):
            for workers in WORKERS:
                timing = Timing(job, options.repeats, str(file))
                run_on_workers(
                    time_scoring,
                    timing,
                    workers=workers,
                    storage=job.workload.storage_location,
                    describe=_name(workers),
                    total=options.repeats,
                )
                found = json.loads(file.read_text())
                runs.append({"workers": workers, **found})
                seconds[workers] += found["seconds"]
    median = {workers: statistics.median(values) for workers, values in seconds.items()}
    publish(
        options,
        "workers",
        "Scoring on one-thread Ray Train workers, after start-up",
        measured={
            _name(workers): {"passes": backward_passes(job), "seconds (median)": value}
            for workers, value in median.items()
        },
        targets=[Target("1 worker / 2 workers", median[1] / median[2], least=TARGET)],
        details={"runs": runs},
    )


def _name(workers: int) -> str:
    return f"{workers} worker{'s' if workers > 1 else ''}"


if __name__ == "__main__":
    run(main)

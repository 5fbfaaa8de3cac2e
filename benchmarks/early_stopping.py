"""Whole searches on the toy with today's early stopping and with that of before, by the same seeds.

    python -m benchmarks.early_stopping [--sparsity 0.85] [--trials 24] [--seeds 3]

Told for each side, mean over seeds: the best mAP of a trial that ran to its end, and the shares of the fine-tuning
steps and of the evaluated samples that a search without early stopping would take. Statistics taken anew at a rung
count as a third of a step for each batch, which runs forward only. Searches stay in ``--storage``; one that is there
is told again, and one that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

from altermoma_ray.cli import positive_int, ratio, run
from altermoma_ray.console import console
from altermoma_ray.engine.search.plan import SearchPlan, is_taken, search_folder
from altermoma_ray.engine.search.run import run_search
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.engine.space.files import load_space
from altermoma_ray.storage import Location
from altermoma_ray.tracking.comparison.statistics import estimate
from altermoma_ray.tracking.comparison.text import figure_text
from altermoma_ray.tracking.mlflow.tracker import Tracker
from altermoma_ray.tracking.result import TrialResult
from benchmarks.report import Target, options_parser, publish
from benchmarks.toy import toy_plan

BEFORE = {"rungs": (0.25,), "rung_samples": 40, "rung_statistics": 0, "reduction": 3.0, "patience": 0.0}
"""One rung after a quarter of the fine-tuning, with the statistics of training; the best third goes on."""
NOW, THEN = "two rungs, new statistics, η = 4", "one rung, η = 3"


@dataclass(frozen=True)
class Spent:
    """What one search found, and what it took."""

    best: float
    steps: float
    """Share of the fine-tuning steps of a search whose trials all run to their ends."""
    samples: float
    """Share of its evaluated samples."""
    finished: int
    seconds: float


def spent(plan: SearchPlan, results: Sequence[TrialResult]) -> Spent:
    """The figures of a finished search."""
    data = plan.workload.load().source()
    size = len(data.rows("validation", plan.validation_part))
    at_rung = len(data.rows("validation", plan.validation_part, plan.trial_job().rung_size(size)))
    length = max(result.history[-1].step for result in results if result.status == "finished")
    steps, samples = 0.0, 0
    for result in results:
        rungs = sum(evaluation.step < length for evaluation in result.history)
        steps += max((evaluation.step for evaluation in result.history), default=0)
        steps += rungs * plan.space.rung_statistics / 3
        samples += rungs * at_rung + size * (result.status == "finished")
    return Spent(
        best=max(result.metrics["map"] for result in results if result.status == "finished"),
        steps=steps / length / len(results),
        samples=samples / size / len(results),
        finished=sum(result.status == "finished" for result in results),
        seconds=max(result.ended for result in results) - min(result.started for result in results),
    )


def searched(options: argparse.Namespace, space: SearchSpace, seed: int, side: str) -> Spent:
    """One search, run to its end."""
    name = f"early-stopping-{options.sparsity:g}-{options.trials}-{seed}-{side}"
    storage = Location.parse(options.storage)
    if resume := is_taken(search_folder(storage, name)):
        plan = SearchPlan.load(storage, name)
    else:
        asked = argparse.Namespace(**{**vars(options), "seed": seed})
        plan = toy_plan(asked, space=space, trials=options.trials, sparsity=options.sparsity, name=name)
    found = run_search(plan, Tracker.open(None, plan.storage), resume=resume)
    figures = spent(found, found.results())
    console.print(
        f"[bold]{name}[/]: best mAP {figures.best:.4f}, {figures.finished} trials to their ends, "
        f"{figures.steps:.3f} of the steps, {figures.samples:.3f} of the samples, {figures.seconds:.0f} s"
    )
    return figures


def main() -> None:
    """Search, print and write ``results/early_stopping-<sparsity>.json``."""
    options = _options()
    space = load_space("nusc")
    spaces = {"now": space, "before": space.model_copy(update=BEFORE)}
    seeds = range(options.seed, options.seed + options.seeds)
    sides = {side: [searched(options, own, seed, side) for seed in seeds] for side, own in spaces.items()}
    differences = [now.best - then.best for now, then in zip(sides["now"], sides["before"], strict=True)]
    difference = estimate(differences)
    publish(
        options,
        f"early_stopping-{options.sparsity:g}",
        f"Early stopping, {options.seeds} searches of {options.trials} trials at {options.sparsity:.0%}",
        measured={
            title: {
                "best mAP": figure_text(estimate([one.best for one in sides[side]])),
                "share of steps": _mean([one.steps for one in sides[side]]),
                "share of samples": _mean([one.samples for one in sides[side]]),
                "trials to their ends": _mean([one.finished for one in sides[side]]),
                "seconds": _mean([one.seconds for one in sides[side]]),
            }
            for side, title in (("now", NOW), ("before", THEN))
        },
        targets=[
            Target("steps, share of a search without early stopping", _most(sides["now"], "steps"), most=0.2),
            Target("samples, the same", _most(sides["now"], "samples"), most=0.2),
            Target("best mAP, now less before", difference.mean, least=-0.005),
            Target("half of its 95 % interval", difference.half_width),
        ],
        details={side: [vars(one) for one in found] for side, found in sides.items()},
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _most(found: Sequence[Spent], figure: str) -> float:
    return max(float(getattr(one, figure)) for one in found)


def _options() -> argparse.Namespace:
    parser = options_parser(__doc__)
    parser.add_argument("--sparsity", type=ratio, default=0.85, help="of every trial (default: 0.85)")
    parser.add_argument("--trials", type=positive_int, default=24, help="of each search (default: 24)")
    parser.add_argument("--seeds", type=positive_int, default=3, help="searches of each side (default: 3)")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

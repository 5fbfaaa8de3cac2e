"""What a trial costs beyond its own computing: in a reused Tune actor, on Ray Train workers, and with Ray's own recipe.

    python -m benchmarks.overhead

Two real searches on the toy, logged to MLflow: one with two one-thread trials side by side, one whose trials have two
Ray Train workers each. A trial's overhead is the time from the end of its process's trial before to its own end, less
what it spends on its scores, its fine-tuning and its evaluation; the first trial of a process loads the model and the
data and has no predecessor. Beside them: empty trials, one after the other, each of which starts a TorchTrainer.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from altermoma_ray.cli import positive_int, run
from altermoma_ray.engine.search.run import run_search
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.pruning.criteria import CRITERIA
from altermoma_ray.tracking.mlflow.tracker import Tracker
from altermoma_ray.tracking.result import TrialResult
from benchmarks.recipe import empty_trial, recipe_session, run_recipe
from benchmarks.report import Target, options_parser, publish
from benchmarks.toy import toy_plan

TARGET = 2.0
OWN = ("score", "fine_tune", "evaluate", "metric")
"""Stages that are a trial's own computing."""


def overheads(results: Sequence[TrialResult]) -> Iterator[tuple[int, float]]:
    """Trial number and overhead in seconds of every trial that was not its process's first."""
    by_process: dict[str, list[TrialResult]] = {}
    for result in sorted(results, key=lambda result: result.ended):
        by_process.setdefault(result.configuration["process"], []).append(result)
    for own in by_process.values():
        for before, result in itertools.pairwise(own):
            computing = sum(result.seconds[stage] for stage in OWN)
            if CRITERIA[str(result.params["criterion"])].needs == "masks":  # its rounds of pruning run in the trial
                computing += result.seconds["criterion"]
            yield result.number, result.ended - before.ended - computing


def main() -> None:
    """Measure, print and write ``results/overhead.json``."""
    parser = options_parser(__doc__)
    parser.add_argument("--trials", type=positive_int, default=10)
    parser.add_argument("--epochs", type=float, default=0.1, help="fine-tuning of each trial (default: 0.1)")
    parser.add_argument("--empty", type=positive_int, default=4, help="empty trials of the recipe (default: 4)")
    parser.add_argument("--workers", type=positive_int, default=2, help="of a trial on Ray Train workers (default: 2)")
    options = parser.parse_args()
    space = SearchSpace(
        scoring_batches=1,
        reactivation_steps=(1,),
        reactivation_learning_rates=(1e-4,),
        fine_tune_epochs=options.epochs,
        rungs=(),
    )
    with tempfile.TemporaryDirectory() as scratch:
        storage = Path(scratch)
        plan = toy_plan(options, space=space, trials=options.trials, storage=storage)
        tracker = Tracker.open(None, plan.storage)
        results = run_search(plan, tracker, resume=False).results()
        of_workers = plan.model_copy(update={"name": f"{plan.name}-workers", "workers": options.workers})
        on_workers = run_search(of_workers, tracker, resume=False).results()
    with recipe_session():
        ends = run_recipe(empty_trial, [{}] * options.empty, workers=options.workers, side_by_side=1)
    ours, groups = dict(overheads(results)), dict(overheads(on_workers))
    nested = [later - earlier for earlier, later in itertools.pairwise(ends)]
    sides = {"reused actor": [*ours.values()], "reused workers": [*groups.values()], "nested TorchTrainer": nested}
    median = {side: statistics.median(seconds) for side, seconds in sides.items()}
    publish(
        options,
        "overhead",
        "Seconds of a trial beyond its own computing, after its process's first",
        measured={
            side: {"trials": len(seconds), "median": median[side], "max": max(seconds)}
            for side, seconds in sides.items()
        },
        targets=[
            Target("overhead of a trial, median (s)", median["reused actor"], most=TARGET),
            Target("overhead of a trial, max (s)", max(sides["reused actor"]), most=TARGET),
            Target("overhead of a trial on Ray Train workers, median (s)", median["reused workers"], most=TARGET),
            Target(
                "nested TorchTrainer / reused actor, medians", median["nested TorchTrainer"] / median["reused actor"]
            ),
        ],
        details={
            "overhead_by_trial": ours,
            "on_workers_by_trial": groups,
            "nested": nested,
            "seconds": {result.number: result.seconds for result in results},
            "seconds_on_workers": {result.number: result.seconds for result in on_workers},
        },
    )


if __name__ == "__main__":
    run(main)

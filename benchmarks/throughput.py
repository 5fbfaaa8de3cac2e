"""A search against Ray's own recipe for the same trials: a TorchTrainer in every trial, which scores again.

    python -m benchmarks.throughput [--trials 8]

Both sides run the product's scoring, masks, fine-tuning and evaluation on the toy, for the same list of settings; they
differ in orchestration. Three runs, each from nothing but the data set and its index to its last trial:

    search           all trials to the end: one scoring job for every setting of the space, reused actors, MLflow
    recipe           all trials to the end: new workers and scoring of the trial's own setting in every trial, no MLflow
    early stopping   the search again, with its early stopping

The recipe runs in the faster of two arrangements, which a run of two trials in each finds: two trials of one worker
side by side, or one trial of two workers at a time. Its best mAP counts as reached within ``--tolerance``.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from pydantic import PrivateAttr

from altermoma_ray.cli import positive_int, run
from altermoma_ray.console import console
from altermoma_ray.engine.search.plan import SearchPlan
from altermoma_ray.engine.search.proposals import Proposals
from altermoma_ray.engine.search.run import run_search
from altermoma_ray.engine.space import PruningSetting, SearchSpace
from altermoma_ray.engine.space.files import load_space
from altermoma_ray.engine.trials.job import TrialTask
from altermoma_ray.engine.trials.results import read_result
from altermoma_ray.tracking.mlflow.tracker import Tracker
from altermoma_ray.tracking.result import TrialResult
from benchmarks.recipe import pruning_trial, pruning_work, recipe_session, run_recipe
from benchmarks.report import Target, options_parser, publish
from benchmarks.toy import toy_plan

TRIALS_PER_HOUR, TIME_TO_BEST = 2.5, 5.0
ARRANGEMENTS = {"2 trials of 1 worker": (1, 2), "1 trial of 2 workers": (2, 1)}
"""Workers of a trial, and trials side by side."""


class ListedSpace(SearchSpace):
    """A search space in which the sampler's choices are settled beforehand; of use to one search."""

    listed: tuple[PruningSetting, ...]
    _left: list[PruningSetting] = PrivateAttr(default_factory=list)

    def model_post_init(self, context: object) -> None:
        self._left.extend(self.listed)

    def suggest(self, trial: optuna.Trial, sizes: object, sparsity: object) -> PruningSetting:
        return self._left.pop(0)

    def setting(self, draws: object, sizes: object, sparsity: object) -> PruningSetting:
        return self._left.pop(0)


@dataclass(frozen=True)
class Side:
    """One run: its trials, and when it began and ended, in seconds since the epoch."""

    results: Sequence[TrialResult]
    started: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.started

    def best(self) -> float:
        """The best mAP of a trial that ran to its end."""
        return max(result.metrics["map"] for result in self.results if result.status == "finished")

    def seconds_to(self, least: float) -> float:
        """Until the first trial has ended that reaches this mAP; infinite when none does."""
        ends = [r.ended for r in self.results if r.status == "finished" and r.metrics["map"] >= least]
        return min(ends, default=math.inf) - self.started


def settled(space: SearchSpace, plan: SearchPlan) -> ListedSpace:
    """The space, with the settings that a search proposes before it has results."""
    proposals = Proposals(
        space,
        plan.sizes,
        plan.optimised,
        sparsity=plan.sparsity,
        trials=plan.trials,
        lookahead=plan.trials + 1,
        seed=plan.seed,
    )
    tasks = [proposals.next() for _ in range(plan.trials)]
    return ListedSpace(**dict(space), listed=tuple(task.setting for task in tasks if task is not None))


def search(plan: SearchPlan) -> Side:
    """The product: a whole search."""
    started = time.time()
    results = run_search(plan, Tracker.open(None, plan.storage), resume=False).results()
    return Side(results, started, time.time())


def recipe(plan: SearchPlan, listed: Sequence[PruningSetting], workers: int, side_by_side: int) -> Side:
    """Ray's recipe for the same trials."""
    job = plan.trial_job()
    tasks = [TrialTask(number=number, setting=setting) for number, setting in enumerate(listed)]
    started = time.time()
    with recipe_session():
        works = [pruning_work(job, task) for task in tasks]
        run_recipe(pruning_trial, works, workers=workers, side_by_side=side_by_side)
    ended = time.time()
    results = [result for task in tasks if (result := read_result(job, task.number)) is not None]
    return Side(results, started, ended)


def main() -> None:
    """Measure, print and write ``results/throughput.json``, or ``throughput-<space>.json`` for a space of its own."""
    options = _options()
    space = load_space("nusc", options.space)
    space = space.model_copy(update={"fine_tune_epochs": options.epochs or space.fine_tune_epochs})
    sides: dict[str, Side] = {}
    probes: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:

        def plan(name: str, space: SearchSpace) -> SearchPlan:
            return toy_plan(options, space=space, trials=options.trials, storage=Path(scratch, name))

        stopping = settled(space, plan("settings", space))
        to_the_end = ListedSpace(**{**dict(stopping), "rungs": ()})
        sides["search"] = search(plan("search", to_the_end))
        for name, arrangement in ARRANGEMENTS.items():
            if options.recipe in (None, name):
                probe = recipe(plan(f"probe {name}", to_the_end), stopping.listed[:2], *arrangement)
                probes[name] = probe.seconds
                console.print(f"[bold]recipe[/] {name}: {probe.seconds:.0f} s for 2 trials")
        fastest = min(probes, key=lambda name: probes[name])
        sides["recipe"] = recipe(plan("recipe", to_the_end), stopping.listed, *ARRANGEMENTS[fastest])
        sides["early stopping"] = search(plan("stopping", stopping))
    _publish(options, sides, fastest, probes)


def _publish(options: argparse.Namespace, sides: dict[str, Side], fastest: str, probes: dict[str, float]) -> None:
    reached = sides["recipe"].best() - options.tolerance
    per_hour = {name: 3600 * len(side.results) / side.seconds for name, side in sides.items()}
    to_best = {name: side.seconds_to(reached) for name, side in sides.items()}
    publish(
        options,
        "throughput" if options.space is None else f"throughput-{options.space.stem}",
        "A search against Ray's own recipe, the same trials",
        measured={
            name: {
                "trials": len(side.results),
                "to the end": sum(result.status == "finished" for result in side.results),
                "seconds": round(side.seconds, 1),
                "trials per hour": per_hour[name],
                "best mAP": side.best(),
                "seconds to the recipe's best": round(to_best[name], 1),
            }
            for name, side in sides.items()
        },
        targets=[
            Target("trials per hour, search / recipe", per_hour["search"] / per_hour["recipe"], least=TRIALS_PER_HOUR),
            Target(
                "time to the recipe's best mAP, recipe / search with early stopping",
                to_best["recipe"] / to_best["early stopping"],
                least=TIME_TO_BEST,
            ),
            Target(
                "time of all trials, recipe / early stopping", sides["recipe"].seconds / sides["early stopping"].seconds
            ),
        ],
        details={
            "recipe's arrangement": fastest,
            "seconds of two trials": probes,
            "trials": {name: [_trial(result, side) for result in side.results] for name, side in sides.items()},
        },
    )


def _trial(result: TrialResult, side: Side) -> dict[str, object]:
    return {
        "number": result.number,
        "status": result.status,
        "map": result.metrics.get("map"),
        "ended": round(result.ended - side.started, 1),
        "seconds": {stage: round(seconds, 2) for stage, seconds in result.seconds.items()},
    }


def _options() -> argparse.Namespace:
    parser = options_parser(__doc__)
    parser.add_argument("--trials", type=positive_int, default=8, help="of each run (default: 8)")
    parser.add_argument("--epochs", type=float, help="fine-tuning of each trial (default: the search space's)")
    parser.add_argument("--space", type=Path, help="Python file that defines SPACE (default: search_spaces/nusc.py)")
    parser.add_argument("--recipe", choices=ARRANGEMENTS, help="the recipe's arrangement (default: the faster one)")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.005,
        help="mAP below the recipe's best that counts as reaching it, since gradients summed over another number of "
        "workers round otherwise (default: 0.005)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

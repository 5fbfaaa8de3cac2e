"""Share of a search's time in which its device works: evaluation on the critical path, and off it.

    python -m benchmarks.evaluation

A real search with one trial at a time, of :mod:`benchmarks.stand_in`. In turn: the worker starts loader processes for
each fine-tuning, loads the samples of an evaluation itself, and computes the metric before it goes on, as in earlier
releases. Beside: loader processes that stay, and the metric in a process of its own while the next trial trains. Both
sides find the same figures. The first trials start the processes and measure the metric; the time from the end of trial
1 to the end of the last trial counts.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from ray import tune

from altermoma_ray.cli import positive_int, run
from altermoma_ray.engine.ray.workers import ray_session
from altermoma_ray.engine.search import metrics
from altermoma_ray.engine.search.planning import SearchRequest, plan_search
from altermoma_ray.engine.search.run import tune_trials
from altermoma_ray.engine.search.searcher import ProposalSearcher
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.engine.training.batches import RowLoader
from altermoma_ray.engine.training.evaluation import Evaluator
from altermoma_ray.engine.trials import trial
from altermoma_ray.engine.trials.job import TrialJob
from altermoma_ray.engine.trials.trainable import TrialActor
from altermoma_ray.tracking.result import TrialResult
from altermoma_ray.workloads.protocols import DataSource
from altermoma_ray.workloads.recipe import Recipe
from altermoma_ray.workloads.reference import find_workload
from benchmarks.report import Target, options_parser, publish
from benchmarks.stand_in import DEVICE, LOADING, METRIC, SAMPLES

FROM = 1
"""The trial at whose end the measurement begins."""


class Unaided(Evaluator):
    """An evaluator without loader processes."""

    @classmethod
    def of(cls, data: DataSource, rows: Sequence[int], recipe: Recipe, loader: RowLoader | None = None) -> Evaluator:
        return cls(data, rows, batch_size=recipe.batch_size)


class Restarted(RowLoader):
    """Loader processes that end with each loop."""

    def load(self, batches: Sequence[Sequence[int]]) -> Iterator[Any]:
        try:
            yield from super().load(batches)
        finally:  # a fine-tuning leaves its loop with the last step
            self.close()


class InTurn(TrialActor):
    """A trial's actor that loads the samples of an evaluation in its own process, and starts loader processes anew."""

    def setup(self, config: dict[str, Any], job: TrialJob | None = None) -> None:
        trial.Evaluator = Unaided  # type: ignore[misc]
        trial.RowLoader = Restarted  # type: ignore[misc]
        super().setup(config, job)


def searched(side: str, actor: type[TrialActor], trials: int, seed: int) -> list[TrialResult]:
    """The results of a search, in the order of its trials."""
    space = SearchSpace(criteria=("magnitude",), fine_tune_epochs=1.0, rungs=(), published_first=False)
    with tempfile.TemporaryDirectory() as storage:
        workload = find_workload("benchmarks.stand_in:WORKLOAD", storage)
        request = SearchRequest(workload=workload, name=side, space=space, sparsity=0.5, trials=trials, seed=seed)
        plan = plan_search(request).model_copy(update={"lookahead": 2})
        job = plan.trial_job()
        trainable = tune.with_resources(tune.with_parameters(actor, job=job), {"CPU": 1})
        tune_trials(plan, ProposalSearcher(plan.proposer(), job, lambda result: None), trainable)
        return plan.results()


def figures(results: list[TrialResult]) -> dict[str, float]:
    """What one side comes to; times in seconds, for one trial."""
    seconds = (results[-1].ended - results[FROM].ended) / (len(results) - 1 - FROM)
    counted = results[FROM + 1 :]
    return {
        "trial": seconds,
        **{stage: sum(result.seconds[stage] for result in counted) / len(counted) for stage in ("evaluate", "metric")},
        "device works": 2 * SAMPLES * DEVICE / seconds,  # an epoch of training, and an evaluation
    }


def main() -> None:
    """Measure, print and write ``results/evaluation.json``."""
    parser = options_parser(__doc__)
    parser.add_argument("--trials", type=positive_int, default=6)
    options = parser.parse_args()
    found: dict[str, list[TrialResult]] = {}
    worth = metrics.WORTH_SECONDS
    with ray_session():
        for side, actor, least in (("in turn", InTurn, math.inf), ("beside", TrialActor, worth)):
            metrics.WORTH_SECONDS = least
            found[side] = searched(side.replace(" ", "-"), actor, options.trials, options.seed)
    measured = {side: figures(results) for side, results in found.items()}
    before, after = measured["in turn"], measured["beside"]
    same = [one.metrics == other.metrics for one, other in zip(*found.values(), strict=True)]
    publish(
        options,
        "evaluation",
        f"{SAMPLES} samples to train on and {SAMPLES} to evaluate: {LOADING} s each to load, {DEVICE} s of the device; "
        f"a metric of {METRIC:g} s",
        measured=measured,
        targets=[
            Target("trials with the same metrics on both sides, share", sum(same) / len(same), least=1.0),
            Target(
                "share of time in which the device works, beside / in turn",
                after["device works"] / before["device works"],
            ),
            Target("trials per hour, beside / in turn", before["trial"] / after["trial"]),
        ],
        details={side: {one.number: one.seconds for one in results} for side, results in found.items()},
    )


if __name__ == "__main__":
    run(main)

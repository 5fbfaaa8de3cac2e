"""Ray's own recipe for tuning distributed training: a Tune function that starts a TorchTrainer in every trial.

https://docs.ray.io/en/latest/train/user-guides/hyperparameter-optimization.html
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import ray.train
from ray import tune
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from altermoma_ray.engine.trials.job import TrialJob, TrialTask
from altermoma_ray.engine.trials.trial import TrialRunner


@contextlib.contextmanager
def recipe_session() -> Iterator[None]:
    """Ray as it starts by itself, with its dashboard: without one every TorchTrainer waits 12 s for it in the end."""
    ray.init(address="local", log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def run_recipe(train: Callable[[Any], None], works: Sequence[Any], *, workers: int, side_by_side: int) -> list[float]:
    """Run ``train(work)`` on new Ray Train workers for every work, in order.

    Args:
        train: what every worker runs.
        works: one for each trial.
        workers: of each trial, each with one CPU.
        side_by_side: trials that run at the same time.

    Returns:
        When trials ended, in seconds since the epoch.

    Raises:
        RuntimeError: a trial failed.
    """
    with tempfile.TemporaryDirectory(prefix="altermoma_ray-") as scratch:

        def start_trainer(config: dict[str, Any]) -> None:
            TorchTrainer(
                train,
                train_loop_config=works[config["number"]],
                scaling_config=ray.train.ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1}),
                run_config=ray.train.RunConfig(
                    name=f"train-{tune.get_context().get_trial_id()}",
                    storage_path=scratch,
                    callbacks=[TuneReportCallback()],
                ),
            ).fit()

        ends = _Ends()
        results = tune.Tuner(
            tune.with_resources(start_trainer, {"memory": 1}),  # no CPU: it waits, and its workers compute
            param_space={"number": tune.grid_search(list(range(len(works))))},
            tune_config=tune.TuneConfig(max_concurrent_trials=side_by_side),
            run_config=tune.RunConfig(name="recipe", storage_path=scratch, verbose=0, callbacks=[ends]),
        ).fit()
        if results.errors:
            raise RuntimeError(f"a trial of the recipe failed: {results.errors[0]}")
    return ends.times


class _Ends(tune.Callback):
    """Notes when trials end."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_trial_complete(self, *_: Any, **__: Any) -> None:
        self.times.append(time.time())


def empty_trial(work: dict[str, Any]) -> None:
    """Nothing to do but to report."""
    ray.train.report({"map": 0.0})


def pruning_trial(work: dict[str, Any]) -> None:
    """A whole pruning trial: score, prune, fine-tune, evaluate, report.

    Args:
        work: what :func:`pruning_work` gives.
    """
    job, task = TrialJob.model_validate(work["job"]), TrialTask.model_validate(work["task"])
    for metrics in TrialRunner(job).run(task):
        ray.train.report(metrics)


def pruning_work(job: TrialJob, task: TrialTask) -> dict[str, Any]:
    """The same trial as a search's, under a key of its own: it finds nothing scored, and scores what it needs."""
    own = {"checkpoint_hash": f"{job.scoring.checkpoint_hash}-{task.number}"}
    job = job.model_copy(update={"scoring": job.scoring.model_copy(update=own)})
    return {"job": job.model_dump(mode="json"), "task": task.model_dump(mode="json")}

"""Trials under Ray Tune: in a reused actor, or on a group of Ray Train workers which stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ray import tune

from altermoma_ray.engine.ray.group import WorkerGroup
from altermoma_ray.engine.ray.workers import has_died
from altermoma_ray.engine.trials.ending import taker
from altermoma_ray.engine.trials.job import TrialJob, TrialTask
from altermoma_ray.engine.trials.results import describe, record_failure
from altermoma_ray.engine.trials.trial import TrialRunner
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

MISTAKE = "mistake"
"""Key of a report with a user's mistake: not the trial's fault, since every other trial would meet the mistake too."""
BESIDE = "beside"
"""Key of a trial's configuration: the name of the process that ends its run, see :class:`MetricProcess`."""


class TrialActor(tune.Trainable):
    """Runs one trial after another in one process, which loads the model, the data and the indicators once.

    Tune makes the actor, and hands over each trial's configuration::

        tune.Tuner(tune.with_parameters(TrialActor, job=job), tune_config=tune.TuneConfig(reuse_actors=True)).fit()
    """

    def setup(self, config: dict[str, Any], job: TrialJob | None = None) -> None:
        assert job is not None
        self._job = job
        # The runner is made at the first step: an error here would count as the actor's death, and Tune would start it
        # again without its reason ever being shown.
        self._runner: TrialRunner | None = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        # Tune reuses the actor only where this returns True. The runner stays, with all loaded data.
        self._task = TrialTask.model_validate(new_config["task"])
        self._beside = taker(new_config.get(BESIDE))
        self._run: Iterator[dict[str, float]] = self._reports()
        return True

    def _reports(self) -> Iterator[dict[str, float]]:
        if self._runner is None:
            self._runner = TrialRunner(self._job)
        yield from self._runner.run(self._task, self._beside)

    def step(self) -> dict[str, Any]:
        # Tune asks for one report at a time; the trial, a generator, rests at its last evaluation until the next call.
        try:
            report = next(self._run, None)
        except UserError as error:
            return {"done": True, MISTAKE: str(error)}
        except Exception as error:  # one broken trial must not stop the search: it is recorded as failed
            record_failure(self._job, self._task, describe(error))
            report = None
        return {"done": True} if report is None else {"done": False, **report}


class GroupActor(tune.Trainable):
    """Runs one trial after another on Ray Train workers, which load the model, the data and the indicators once.

    Tune makes the actor, which only waits for its workers::

        trainable = tune.with_parameters(GroupActor, job=job, workers=2, gpus_per_worker=0.0)
        tune.Tuner(trainable, tune_config=tune.TuneConfig(reuse_actors=True)).fit()
    """

    def setup(
        self, config: dict[str, Any], job: TrialJob | None = None, workers: int = 1, gpus_per_worker: float = 0.0
    ) -> None:
        assert job is not None
        self._job = job
        storage = Location.parse(job.folder)
        self._group = WorkerGroup(_load, job, workers=workers, gpus_per_worker=gpus_per_worker, storage=storage)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        # Tune reuses the actor only where this returns True. The workers stay, with all loaded data.
        self._task, self._beside = TrialTask.model_validate(new_config["task"]), new_config.get(BESIDE)
        return True

    def step(self) -> dict[str, Any]:
        try:
            self._group.run((self._task.model_dump(mode="json"), self._beside), f"trial {self._task.number}")
        except UserError as error:
            # Reported, not raised: Tune would take an exception for a failure of this trial alone, and try again.
            return {"done": True, MISTAKE: str(error)}
        except Exception as error:
            if has_died(error):  # no fault of the setting: Tune tries again
                raise
            record_failure(self._job, self._task, describe(error))
        return {"done": True}

    def cleanup(self) -> None:
        self._group.close()


def _load(job: TrialJob) -> Callable[[tuple[dict[str, Any], str | None]], None]:
    """A worker's function that runs its part of one trial."""
    runner = TrialRunner(job)

    def run(work: tuple[dict[str, Any], str | None]) -> None:
        task, beside = work
        for _ in runner.run(TrialTask.model_validate(task), taker(beside)):
            pass  # storage gets the result; Tune reads it there

    return run

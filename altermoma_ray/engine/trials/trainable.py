"""A trial under Ray Tune: in a reused actor, or on Ray Train workers of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ray import tune

from altermoma_ray.engine.ray.progress import Reporter
from altermoma_ray.engine.ray.workers import has_died, rank_and_world, run_on_workers
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


def distributed_trial(config: dict[str, Any], job: TrialJob, workers: int, gpus_per_worker: float) -> None:
    """A Tune function which runs its trial on Ray Train workers.

    Args:
        config: Tune's configuration, with the trial's ``task`` and the process :data:`BESIDE` it.
        job: the part common to all trials.
        workers: Ray Train workers of each trial.
        gpus_per_worker: GPUs of each worker.

    Raises:
        Exception: a worker died more often than a job starts again; Tune tries the trial once more.
    """
    task = TrialTask.model_validate(config["task"])
    try:
        run_on_workers(
            _worker,
            (job, task, config.get(BESIDE)),
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            storage=Location.parse(job.folder),
            describe=f"trial {task.number}",
            total=len(job.rungs) + 1,
        )
    except UserError as error:
        # Reported, not raised: Tune would take an exception for a failure of this trial alone, and try again.
        tune.report({"number": task.number, MISTAKE: str(error)})
        return
    except Exception as error:
        if has_died(error):  # no fault of the setting: Tune tries again
            raise
        record_failure(job, task, describe(error))
    tune.report({"number": task.number})


def _worker(work: tuple[TrialJob, TrialTask, str | None], reporter: Reporter) -> None:
    job, task, beside = work
    rank, _ = rank_and_world()
    for _ in TrialRunner(job).run(task, taker(beside)):
        if rank == 0:
            reporter.advance()

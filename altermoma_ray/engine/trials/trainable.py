"""A trial as Ray Tune runs it: in a reused actor, or on Ray Train workers of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ray import tune

from altermoma_ray.engine.ray.progress import Reporter
from altermoma_ray.engine.ray.workers import has_died, rank_and_world, run_on_workers
from altermoma_ray.engine.trials.job import TrialJob, TrialTask
from altermoma_ray.engine.trials.trial import TrialRunner, record_failure
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

MISTAKE = "mistake"
"""Key of a report that carries a user's mistake: no fault of the trial, every other would meet it too."""


class TrialActor(tune.Trainable):
    """Runs one trial after another in one process, which loads the model, the data and the indicators once."""

    def setup(self, config: dict[str, Any], job: TrialJob | None = None) -> None:
        assert job is not None
        self._job = job
        self._runner: TrialRunner | None = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._task = TrialTask.model_validate(new_config["task"])
        self._run: Iterator[dict[str, float]] = self._reports()
        return True

    def _reports(self) -> Iterator[dict[str, float]]:
        if self._runner is None:
            self._runner = TrialRunner(self._job)
        yield from self._runner.run(self._task)

    def step(self) -> dict[str, Any]:
        try:
            report = next(self._run, None)
        except UserError as error:
            return {"done": True, MISTAKE: str(error)}
        except Exception as error:  # one broken trial must not stop the search: it is recorded as failed
            record_failure(self._job, self._task, describe(error))
            report = None
        return {"done": True} if report is None else {"done": False, **report}


def distributed_trial(config: dict[str, Any], job: TrialJob, workers: int, gpus_per_worker: float) -> None:
    """A Tune function that runs its trial on Ray Train workers."""
    task = TrialTask.model_validate(config["task"])
    try:
        run_on_workers(
            _worker,
            (job, task),
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            storage=Location.parse(job.folder),
            describe=f"trial {task.number}",
            total=len(job.rungs) + 1,
        )
    except UserError as error:
        tune.report({"number": task.number, MISTAKE: str(error)})
        return
    except Exception as error:
        if has_died(error):  # no fault of the setting: Tune tries again
            raise
        record_failure(job, task, describe(error))
    tune.report({"number": task.number})


def describe(error: BaseException) -> str:
    """An error's type and text on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _worker(work: tuple[TrialJob, TrialTask], reporter: Reporter) -> None:
    job, task = work
    rank, _ = rank_and_world()
    for _ in TrialRunner(job).run(task):
        if rank == 0:
            reporter.advance()

"""A trial as Ray Tune runs it: in a reused actor, or on Ray Train workers of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ray import tune

from altermoma_ray.engine.trial import TrialJob, TrialRunner, TrialTask, record_failure
from altermoma_ray.engine.workers import Reporter, rank_and_world, run_on_workers


class TrialActor(tune.Trainable):
    """Runs one trial after another in one process, which loads the model, the data and the indicators once."""

    def setup(self, config: dict[str, Any], job: TrialJob | None = None) -> None:
        assert job is not None
        self._job = job
        self._runner = TrialRunner(job)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._task = TrialTask.model_validate(new_config["task"])
        self._run: Iterator[dict[str, float]] = self._runner.run(self._task)
        return True

    def step(self) -> dict[str, Any]:
        try:
            report = next(self._run, None)
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
            describe=f"trial {task.number}",
            total=len(job.rungs) + 1,
        )
    except Exception as error:
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

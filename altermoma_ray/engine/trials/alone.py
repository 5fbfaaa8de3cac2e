"""One trial outside of a search: scored, pruned and fine-tuned on workers, its files in the job's folder."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from altermoma_ray.engine.ray.progress import Reporter
from altermoma_ray.engine.ray.workers import rank_and_world, run_on_workers
from altermoma_ray.engine.trials.job import TrialJob, TrialTask
from altermoma_ray.engine.trials.results import read_result
from altermoma_ray.engine.trials.trial import TrialRunner
from altermoma_ray.errors import UserError


class _Alone(BaseModel):
    model_config = ConfigDict(frozen=True)

    job: TrialJob
    task: TrialTask


def run_alone(job: TrialJob, task: TrialTask, *, workers: int, gpus_per_worker: float) -> bool:
    """Run a trial, unless storage has its result already.

    A second call reads the result of the first::

        run_alone(job, task, workers=2, gpus_per_worker=0.0)    # True
        run_alone(job, task, workers=2, gpus_per_worker=0.0)    # False

    Args:
        job: the trial's job; its indicators and scores are in storage.
        task: the trial.
        workers: Ray Train workers.
        gpus_per_worker: GPUs of each worker.

    Returns:
        Whether the trial ran now.

    Raises:
        UserError: the trial failed.
    """
    # A failed trial runs again: its cause may be gone, and nobody would look for the file to delete.
    result = read_result(job, task.number)
    fresh = result is None or result.status != "finished"
    if fresh:
        run_on_workers(
            _worker,
            _Alone(job=job, task=task),
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            storage=job.workload.storage_location,
            describe="pruning",
            total=1,
        )
        # A failing trial raises nothing on its workers: it writes a result, which tells the reason.
        result = read_result(job, task.number)
    if result is None or result.status != "finished":
        raise UserError(f"the model could not be pruned: {result and result.reason}; try another --criterion")
    return fresh


def _worker(alone: _Alone, reporter: Reporter) -> None:
    for _ in TrialRunner(alone.job).run(alone.task):
        if rank_and_world()[0] == 0:  # the bar counts trials, not workers
            reporter.advance()

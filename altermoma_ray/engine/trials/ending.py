"""The end of a trial's run where the last metrics are computed beside: in another process, while the next run trains.

The official metric of a large data set takes a core for a minute, and needs no device. A trial's worker then writes the
model, hands its predictions and the result without the last metrics to a :class:`MetricProcess`, and is free. The
process computes the metrics and writes ``result.json``. Until that file is there the run has not ended: a run whose
process dies before is repeated from its saved state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ray

from altermoma_ray.engine.trials.job import TrialJob, TrialTask
from altermoma_ray.engine.trials.results import describe, forget_state, record_failure
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location
from altermoma_ray.tracking.result import TrialResult
from altermoma_ray.workloads.protocols import DataSource, Task

Found = Mapping[str, Mapping[str, Any]]
"""Predictions by sample name: under "" of the whole model, under each modality of the model without the modality."""


@dataclass(frozen=True)
class Ending:
    """A result that lacks the metrics of its last evaluation, and the predictions to compute them from."""

    result: TrialResult
    rows: Sequence[int]
    """The validation rows of the last evaluation."""
    found: Found

    def completed(self, metrics: Mapping[str, float], seconds: float) -> TrialResult:
        """The result with its last metrics.

        Args:
            metrics: of the last evaluation, by name.
            seconds: time spent on them.
        """
        *before, last = self.result.history
        last = last.model_copy(update={"metrics": {**metrics, **last.metrics}})
        update = {"history": [*before, last], "metrics": last.metrics, "ended": time.time()}
        return self.result.model_copy(update={**update, "seconds": self.spent(seconds)})

    def spent(self, seconds: float) -> dict[str, float]:
        """The trial's seconds by kind of work, with further ones for the metric."""
        so_far = self.result.seconds
        return {**so_far, "metric": so_far.get("metric", 0.0) + seconds}


TakeEnding = Callable[[Ending], None]
"""Takes over the end of a trial's run; the trial's own process is then free."""


def metrics_of(found: Found, task: Task, data: DataSource, rows: Sequence[int]) -> dict[str, float]:
    """The task's metrics of the whole model, and of the model without each modality named by the objective.

    Args:
        found: the predictions.
        task: scores predictions.
        data: has the annotations.
        rows: the evaluated rows.
    """
    metrics = dict(task.evaluate(found[""], data, rows))
    for modality in (name for name in found if name):
        masked = task.evaluate(found[modality], data, rows)
        metrics |= {metric.without(modality).name: masked[metric.name] for metric in task.metrics}
    return metrics


class Finisher:
    """Ends the runs of one trial after another::

        finisher = Finisher(job)
        finisher.take(ending)    # the trial's worker: its predictions are out of its hands
        finisher.finish(task)    # the search's driver: compute the metrics, write the result

    Args:
        job: the part common to all trials.
    """

    def __init__(self, job: TrialJob) -> None:
        self._job = job
        # Loaded before any predictions arrive: classes of a user's own file can only be unpickled afterwards.
        self._workload = job.workload.load()
        self._held: Ending | None = None

    @cached_property
    def _task(self) -> Task:
        model, _ = self._workload.load(Location.parse(self._job.scoring.checkpoint))
        return self._workload.task_for(model)

    def take(self, ending: Ending) -> None:
        """Hold the end of a trial's run, in the place of any held before."""
        self._held = ending

    def finish(self, task: TrialTask) -> bool:
        """Compute the metrics of the held run and write the trial's result.

        An error of the task's ``evaluate`` ends the trial as failed, as in the trial's own process.

        Returns:
            Whether the run was held here; False where this process died in between.

        Raises:
            UserError: the task's ``evaluate`` raised the error.
        """
        ending, self._held = self._held, None
        if ending is None or ending.result.number != task.number:
            return False
        start = time.perf_counter()
        try:
            metrics = metrics_of(ending.found, self._task, self._workload.source(), ending.rows)
        except UserError:
            raise
        except FloatingPointError as error:
            spent = ending.spent(time.perf_counter() - start)
            record_failure(self._job, task, str(error), history=ending.result.history[:-1], seconds=spent)
        except Exception as error:  # one broken trial must not stop the search: it is recorded as failed
            record_failure(self._job, task, describe(error))
        else:
            write_result(self._job, ending.completed(metrics, time.perf_counter() - start))
        return True


# Started again wherever its node or its memory is lost. It then holds nothing, and says so. On any node: predictions
# travel anyway, and a node full of trials has no core to spare.
MetricProcess = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3, scheduling_strategy="SPREAD")(Finisher)
"""A :class:`Finisher` in a process of its own, on one core."""


def write_result(job: TrialJob, result: TrialResult) -> None:
    """Write the result of a trial with a model; this ends the trial's run.

    Args:
        job: the trial's job.
        result: the whole result.
    """
    job.trial_folder(result.number).join("result.json").write_text(result.to_json())
    # A stopped trial keeps its state for a promotion. Forgotten after the result: the other order could lose both.
    if result.status == "finished":
        forget_state(job, result.number)


def taker(name: str | None) -> TakeEnding | None:
    """A function that hands the end of a run over to a named :class:`MetricProcess`; None without a name.

    Args:
        name: of the actor, in the search's own session of Ray.
    """

    def take(ending: Ending) -> None:
        # Waited for: the predictions are this process's own in Ray, and would be lost with it.
        ray.get(ray.get_actor(name).take.remote(ending))

    return None if name is None else take

"""The proposals as Ray Tune's search algorithm, with storage as its memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.search import Searcher

from altermoma_ray.console import console
from altermoma_ray.engine.ray import private
from altermoma_ray.engine.search.metrics import MetricProcesses
from altermoma_ray.engine.search.proposals import Proposer
from altermoma_ray.engine.trials.job import TrialJob, TrialTask
from altermoma_ray.engine.trials.results import has_ended, read_result, record_failure
from altermoma_ray.engine.trials.trainable import BESIDE, MISTAKE
from altermoma_ray.errors import UserError
from altermoma_ray.tracking.result import TrialResult

_WAIT = 10.0
"""Longest wait for a metric, in seconds, where no trial runs and none can start; Tune asks again afterwards."""
_DEATHS = 3
"""How often a run is repeated whose metrics died with their process: as often as Tune repeats a trial."""


class ProposalSearcher(Searcher):
    """Hands proposals to Ray Tune, leaves out segments ended before, and reads results from storage::

        searcher = ProposalSearcher(plan.proposer(), plan.trial_job(), print)
        tune.Tuner(TrialActor, tune_config=tune.TuneConfig(search_alg=searcher, num_samples=-1)).fit()

    Args:
        proposals: the source of the segments.
        job: the part common to all trials; names their folders in storage.
        on_end: called with the result of each segment.
    """

    def __init__(self, proposals: Proposer, job: TrialJob, on_end: Callable[[TrialResult], None]) -> None:
        super().__init__()
        self._proposals, self._job, self._on_end = proposals, job, on_end
        self._running: dict[str, tuple[TrialTask, str | None]] = {}
        """By Tune's trial: the segment, and the process reserved for its metrics."""
        self._metrics = MetricProcesses(job)
        self._again: list[TrialTask] = []
        self._deaths: Counter[int] = Counter()
        self._known: dict[int, TrialResult] = {}
        self._coming: TrialTask | None = None
        self.mistake: str | None = None
        """A user's mistake met by a trial. The search then stops; its unfinished trials can be run later."""

    def tell(self, result: TrialResult) -> None:
        """Take in the result of a trial from before this run: ended, or stopped at a rung."""
        self._known[result.number] = result
        self._complete(result)

    def has_more(self) -> bool:
        """Whether any segment is left to run."""
        # A segment proposed here is kept for the next ``suggest``: no proposal may get lost.
        return self._next() is not None or not self._proposals.exhausted

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        task = self._next()
        if task is None and not self._running and len(self._metrics):
            self.collect(wait=_WAIT)
            task = self._next()
        if self.mistake is not None:
            return Searcher.FINISHED
        if task is None:
            # None makes Tune ask again later: the next proposal waits for running trials. A segment that has no result
            # yet may have to run again, so that Tune must not end before.
            idle = not self._running and not len(self._metrics)
            return Searcher.FINISHED if idle and self._proposals.exhausted else None
        beside = self._metrics.reserve()
        self._running[trial_id], self._coming = (task, beside), None
        return {"task": task.model_dump(mode="json"), BESIDE: beside}

    def _next(self) -> TrialTask | None:
        """The first segment to run again, else the first proposed segment without a result."""
        if self._coming is None and self._again:
            self._coming = self._again.pop(0)
        # An ended trial of before may be promoted in this run: only its earlier segments are skipped.
        while self._coming is None and (task := self._proposals.next()) is not None:
            known = self._known.get(task.number)
            if known is None or not has_ended(known, task.until):
                self._coming = task
        return self._coming

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        task, beside = self._running.pop(trial_id)
        if not self._has_result(task):
            self.mistake = self.mistake or (result or {}).get(MISTAKE)
            # No failure is recorded of a mistake, so a resumed search runs the trial again after the mistake is mended.
            if self.mistake is None and beside is not None and not error:
                self._metrics.finish(beside, task)
                return
            if self.mistake is None:
                self._fail(task, "its process died more often than a trial is started again; see Ray's logs")
        self._metrics.release(beside)

    def collect(self, *, wait: float = 0.0) -> None:
        """Take in the results of segments whose metrics were computed beside the trials.

        Args:
            wait: seconds to wait for one, where none is there.
        """
        try:
            for task in self._metrics.ended(wait=wait):
                if self._has_result(task):
                    continue
                self._deaths[task.number] += 1
                if self._deaths[task.number] <= _DEATHS:
                    console.print(f"  trial {task.number}: its metrics were lost; it goes on from the state it kept")
                    self._again.append(task)
                else:
                    self._fail(task, "its metrics were lost more often than a trial is started again; see Ray's logs")
        except UserError as error:
            self.mistake = self.mistake or str(error)

    def close(self) -> None:
        """End the processes of the metrics; what they had not ended has no result, and is run again on resuming."""
        self._metrics.close()

    def _has_result(self, task: TrialTask) -> bool:
        """Whether the result of a segment is in storage; it is then taken in."""
        # The arguments of Tune are not enough: a trial can write its result and die before Tune hears of the end.
        ended = read_result(self._job, task.number)
        if ended is None or not has_ended(ended, task.until):
            return False
        self._complete(ended)
        self._on_end(ended)
        return True

    def _fail(self, task: TrialTask, reason: str) -> None:
        failed = record_failure(self._job, task, reason)
        self._complete(failed)
        self._on_end(failed)

    def _complete(self, result: TrialResult) -> None:
        self._metrics.learn(result)
        self._proposals.complete(result)

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its search algorithm to restore it; our search starts again from storage instead.
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: storage holds everything needed to go on."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore; see :meth:`save`."""


class ForgiveNodes(Callback):
    """The loss of a node is no failure of the trials there: Tune tries them again without a limit."""

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        lost = private.forgive_lost_node(trial)
        number = trial.config["task"]["number"]
        console.print(f"  trial {number}: its {'node' if lost else 'process'} died; it goes on from the state it kept")


class CollectMetrics(Callback):
    """Takes metrics in while trials run: what waits for them may then start, and the user hears of a trial's end."""

    def __init__(self, searcher: ProposalSearcher) -> None:
        self._searcher = searcher

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._searcher.collect()


class StopOnMistake(Stopper):
    """Ends all trials as soon as one of them meets a user's mistake, which the others would meet as well."""

    def __init__(self, searcher: ProposalSearcher) -> None:
        self._searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._searcher.mistake is not None

"""The proposals as Ray Tune's search algorithm, with storage as its memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.search import Searcher

from altermoma_ray.console import console
from altermoma_ray.engine.ray import private
from altermoma_ray.engine.search.proposals import Proposer
from altermoma_ray.engine.trials.job import TrialJob, TrialTask
from altermoma_ray.engine.trials.trainable import MISTAKE
from altermoma_ray.engine.trials.trial import has_ended, read_result, record_failure
from altermoma_ray.tracking.result import TrialResult


class ProposalSearcher(Searcher):
    """Hands proposals to Tune, leaves out what had ended before, and reads results from storage."""

    def __init__(self, proposals: Proposer, job: TrialJob, on_end: Callable[[TrialResult], None]) -> None:
        super().__init__()
        self._proposals, self._job, self._on_end = proposals, job, on_end
        self._running: dict[str, TrialTask] = {}
        self._known: dict[int, TrialResult] = {}
        self._coming: TrialTask | None = None
        self.mistake: str | None = None
        """A user's mistake that a trial met; the search stops, and its unfinished trials stay to be run."""

    def know(self, result: TrialResult) -> None:
        """Take in a trial that ended, or stopped at a rung, before this run."""
        self._known[result.number] = result
        self._proposals.complete(result)

    def has_more(self) -> bool:
        """Whether anything is left to run."""
        return self._next() is not None or not self._proposals.exhausted

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.mistake is not None:
            return Searcher.FINISHED
        task = self._next()
        if task is None:
            return Searcher.FINISHED if self._proposals.exhausted else None
        self._running[trial_id], self._coming = task, None
        return {"task": task.model_dump(mode="json")}

    def _next(self) -> TrialTask | None:
        """The first proposal that has not been run."""
        while self._coming is None and (task := self._proposals.next()) is not None:
            known = self._known.get(task.number)
            if known is None or not has_ended(known, task.until):
                self._coming = task
        return self._coming

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        task = self._running.pop(trial_id)
        ended = read_result(self._job, task.number)
        if ended is None or not has_ended(ended, task.until):
            self.mistake = self.mistake or (result or {}).get(MISTAKE)
            if self.mistake is not None:
                return
            ended = record_failure(
                self._job, task, "its process died more often than a trial is started again; see Ray's logs"
            )
        self._proposals.complete(ended)
        self._on_end(ended)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its search algorithm to restore it; ours starts again from storage instead

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: storage holds what is needed to go on."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore; see :meth:`save`."""


class ForgiveNodes(Callback):
    """The loss of a node is no failure of the trial that ran there: Tune tries it again as often as it takes."""

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        lost = private.forgive_lost_node(trial)
        number = trial.config["task"]["number"]
        console.print(f"  trial {number}: its {'node' if lost else 'process'} died; it goes on from the state it kept")


class StopOnMistake(Stopper):
    """Ends all trials as soon as one of them met a user's mistake."""

    def __init__(self, searcher: ProposalSearcher) -> None:
        self._searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._searcher.mistake is not None

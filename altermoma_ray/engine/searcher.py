"""The proposals as Ray Tune's search algorithm, with storage as its memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune import Stopper
from ray.tune.search import Searcher

from altermoma_ray.engine.proposals import Proposer
from altermoma_ray.engine.trainable import MISTAKE
from altermoma_ray.engine.trial import TrialJob, TrialTask, read_result, record_failure
from altermoma_ray.tracking.result import TrialResult


class ProposalSearcher(Searcher):
    """Hands proposals to Tune, leaves out trials that ended before, and reads results from storage."""

    def __init__(self, proposals: Proposer, job: TrialJob, on_end: Callable[[TrialResult], None]) -> None:
        super().__init__()
        self._proposals, self._job, self._on_end = proposals, job, on_end
        self._running: dict[str, TrialTask] = {}
        self.known: set[int] = set()
        """Trials that had ended before this run."""
        self.mistake: str | None = None
        """A user's mistake that a trial met; the search stops, and its unfinished trials stay to be run."""

    def know(self, result: TrialResult) -> None:
        """Take in a trial that ended before this run."""
        self.known.add(result.number)
        self._proposals.complete(result)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.mistake is not None:
            return Searcher.FINISHED
        while (task := self._proposals.next()) is not None:
            if task.number not in self.known:
                self._running[trial_id] = task
                return {"task": task.model_dump(mode="json")}
        return Searcher.FINISHED if self._proposals.exhausted else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        task = self._running.pop(trial_id)
        ended = read_result(self._job, task.number)
        if ended is None:
            self.mistake = self.mistake or (result or {}).get(MISTAKE)
            if self.mistake is not None:
                return
            ended = record_failure(self._job, task, "its process died again and again; see Ray's logs")
        self._proposals.complete(ended)
        self._on_end(ended)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its search algorithm to restore it; ours starts again from storage instead

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: storage holds what is needed to go on."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore; see :meth:`save`."""


class StopOnMistake(Stopper):
    """Ends all trials as soon as one of them met a user's mistake."""

    def __init__(self, searcher: ProposalSearcher) -> None:
        self._searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._searcher.mistake is not None

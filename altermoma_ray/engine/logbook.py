"""What a search tells while it runs: lines on the terminal, and runs in MLflow that are logged beside the trials."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from types import TracebackType

from altermoma_ray.cli import console
from altermoma_ray.engine.plan import SearchPlan
from altermoma_ray.engine.proposals import Objective
from altermoma_ray.engine.trial import TrialJob
from altermoma_ray.models.checkpoint import load_checkpoint
from altermoma_ray.storage import Location
from altermoma_ray.tracking.result import TrialResult
from altermoma_ray.tracking.store import TrackingError
from altermoma_ray.tracking.tracker import Tracker


class Logbook:
    """Follows the trials of one search.

    MLflow is written by a thread of its own, so that neither trials nor Tune wait for it. A trial that MLflow did not
    take stays in storage and is tried again when the search ends.
    """

    def __init__(self, tracker: Tracker, parent: str, job: TrialJob, plan: SearchPlan, objective: Objective) -> None:
        self._tracker, self._parent, self._job = tracker, parent, job
        self._trials, self._objective, self._compares = plan.trials, objective, bool(plan.grid)
        self._queue: queue.Queue[TrialResult | None] = queue.Queue()
        self._thread = threading.Thread(target=self._log_all, name="mlflow", daemon=True)
        self._runs: dict[int, str] = {}
        self._best: tuple[float, int] | None = None
        self._ended = self._to_do = 0
        self._started = time.monotonic()

    def __enter__(self) -> Logbook:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:  # stopped: what MLflow has not got yet is in storage, and --resume logs it
            with self._queue.mutex:
                self._queue.queue.clear()
        self._queue.put(None)
        self._thread.join()

    def start(self, known: Sequence[TrialResult]) -> None:
        """The trials begin; ``known`` ended in an earlier run of this search."""
        for result in known:
            self._note_best(result)
            self._queue.put(result)
        self._to_do = self._trials - len(known)
        self._started = time.monotonic()
        done = f", {len(known)} of them ended before" if known else ""
        console.print(f"[bold]trials[/] {self._trials}{done}")

    def trial_ended(self, result: TrialResult) -> None:
        """Print a trial's line and hand it to MLflow."""
        self._ended += 1
        self._note_best(result)
        console.print(f"  {self._line(result)}")
        self._queue.put(result)

    def close(self, results: Sequence[TrialResult], reference: dict[str, float]) -> None:
        """Log what is still missing, register the champion and end the search's run."""
        self._tracker.log_reference(self._parent, reference)
        for result in results:
            if result.number not in self._runs:
                self._log(result)
        finished = [result for result in results if result.status == "finished"]
        if finished and not self._compares:  # a comparison measures; it has no model to ship
            best = max(finished, key=lambda result: (self._objective.values(result)[0], -result.number))
            version = self._tracker.register_champion(self._parent, self._runs[best.number])
            console.print(f"[bold]champion[/] trial {best.number}, registered as version {version}")
        self._tracker.finish_search(self._parent, "finished" if len(results) == self._trials else "stopped")

    def _note_best(self, result: TrialResult) -> None:
        if result.status == "finished" and (self._best is None or result.metrics["map"] > self._best[0]):
            self._best = (result.metrics["map"], result.number)

    def _line(self, result: TrialResult) -> str:
        passed = time.monotonic() - self._started
        left = passed / self._ended * (self._to_do - self._ended)
        outcome = (
            f"failed: {result.reason}"
            if result.status == "failed"
            else f"{result.status:8} mAP {result.metrics['map']:.3f} at sparsity {result.sparsity['total']:.3f}"
        )
        best = "" if self._best is None else f" | best {self._best[0]:.3f} (trial {self._best[1]})"
        return f"trial {result.number} ({self._ended} of {self._to_do}) {outcome}{best} | {_duration(left)} left"

    def _log_all(self) -> None:
        while (result := self._queue.get()) is not None:
            try:
                self._log(result)
            except TrackingError as error:
                console.print(f"  [yellow]MLflow[/] did not take trial {result.number}, tried again later: {error}")

    def _log(self, result: TrialResult) -> None:
        folder = self._job.trial_folder(result.number)
        if result.status == "failed" or self._compares:  # the models of a comparison stay in storage alone
            self._runs[result.number] = self._tracker.log_trial(self._parent, result, {})
            return
        files: dict[str, Location | bytes] = {
            name: folder.join(name) for name in ("model.safetensors", "masks.safetensors")
        }
        self._runs[result.number] = self._tracker.log_trial(
            self._parent, result, files, lambda: load_checkpoint(folder.join("model.safetensors"))[0]
        )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"

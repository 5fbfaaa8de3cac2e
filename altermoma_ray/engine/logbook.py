"""What a search tells while it runs: lines on the terminal, and runs in MLflow that are logged beside the trials."""

from __future__ import annotations

import contextlib
import queue
import shlex
import threading
import time
from collections.abc import Sequence
from types import TracebackType

from rich.markup import escape

from altermoma_ray.console import console
from altermoma_ray.engine.plan import SearchPlan
from altermoma_ray.engine.proposals import Objective
from altermoma_ray.errors import UserError
from altermoma_ray.models.checkpoint import load_checkpoint
from altermoma_ray.storage import Location
from altermoma_ray.tracking.result import TrialResult
from altermoma_ray.tracking.store import TrackingError, default_uri
from altermoma_ray.tracking.tracker import Tracker

_PAUSE = 30.0
"""Seconds after which MLflow is asked again when it did not take a trial; until then trials only queue up."""


class OnlyInStorage(TrackingError):
    """MLflow lacks a part of a search that has ended; ``leaderboard --sync`` brings it in."""

    def __init__(self, plan: SearchPlan, tracker: Tracker, trials: int, error: TrackingError) -> None:
        self.plan = plan
        storage, store = plan.source.storage_location, tracker.store
        line = ["python", "-m", "altermoma_ray.leaderboard", plan.name, "--sync", "--storage", str(storage)]
        if store.uri != default_uri(storage):
            line += ["--tracking-uri", store.name]
        what = {0: "no trial but the end", 1: "1 trial"}.get(trials, f"{trials} trials")
        super().__init__(
            f"{what} of search {plan.name!r} {'are' if trials > 1 else 'is'} only in storage "
            f"({store.trouble() or error}); when MLflow works again, run: {shlex.join(line)}"
        )


class Logbook:
    """Follows the trials of one search.

    MLflow is written by a thread of its own, so that neither trials nor Tune wait for it. What MLflow does not take
    stays in storage and is tried again, at last by :meth:`close`. A trial that stopped at a rung may still be promoted:
    it is logged by :meth:`close` alone.

    Args:
        plan: of the search.
        tracker: where it is logged.
        resume: go on with the search's run in MLflow, should there be one.
    """

    def __init__(self, plan: SearchPlan, tracker: Tracker, *, resume: bool) -> None:
        self._plan, self._tracker, self._resume = plan, tracker, resume
        self._job, self._objective = plan.trial_job(), Objective.parse(plan.objective)
        self._parent: str | None = None
        self._queue: queue.Queue[TrialResult | None] = queue.Queue()
        self._thread = threading.Thread(target=self._log_all, name="mlflow", daemon=True)
        self._runs: dict[int, str] = {}
        self._best: tuple[float, int] | None = None
        self._ended: set[int] = set()
        self._known = 0
        self._started = time.monotonic()

    def __enter__(self) -> Logbook:
        try:
            self._open()
        except TrackingError as error:
            self._tell(f"search {self._plan.name}", error)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:  # stopped: what MLflow has not got yet is in storage, and --resume logs it
            with self._queue.mutex:
                self._queue.queue.clear()
        self._finish_queue()
        if kind is not None and not isinstance(error, OnlyInStorage) and self._parent is not None:
            with contextlib.suppress(TrackingError):
                self._tracker.finish_search(self._parent, "stopped")

    def start(self, known: Sequence[TrialResult]) -> None:
        """The trials begin; ``known`` ended in an earlier run of this search."""
        for result in known:
            self._take(result)
        self._known = len(known)
        self._started = time.monotonic()
        done = f", {len(known)} of them ended before" if known else ""
        console.print(f"[bold]trials[/] {self._plan.trials}{done}")

    def trial_ended(self, result: TrialResult) -> None:
        """Print a trial's line and hand it to MLflow; called again when the trial was promoted and ends later."""
        self._take(result)
        console.print(f"  {self._line(result)}")

    def close(self, results: Sequence[TrialResult], reference: dict[str, float] | None, *, whole: bool = True) -> int:
        """Log what is still missing, register the champion and end the search's run.

        Args:
            results: of all trials that ended.
            reference: metrics of the unpruned model; None where they are not known.
            whole: whether the search ran to its end; one that did not has no champion yet.

        Returns:
            How many trials were logged.

        Raises:
            OnlyInStorage: MLflow did not take everything.
        """
        self._finish_queue()
        ended = {result.number: result.status for result in results}
        missing = {result.number: result for result in results if result.number not in self._runs}
        try:
            parent = self._open()
            self._runs = self._tracker.sweep(parent, ended)
            missing = {result.number: result for result in results if result.number not in self._runs}
            logged = len(missing)
            self._log_missing(missing)
            if logged:
                self._runs = self._tracker.sweep(parent, ended)
            if reference is not None:
                self._tracker.log_reference(parent, reference)
            finished = [result for result in results if result.status == "finished"]
            if whole and finished and not self._plan.grid:  # a comparison measures; it has no model to ship
                best = max(finished, key=lambda result: (self._objective.values(result)[0], -result.number))
                version = self._tracker.register_champion(parent, self._runs[best.number])
                console.print(f"[bold]champion[/] trial {best.number}, registered as version {version}")
            self._tracker.finish_search(parent, "finished" if whole else "stopped")
        except TrackingError as error:
            raise OnlyInStorage(self._plan, self._tracker, len(missing), error) from error
        return logged

    @property
    def run_id(self) -> str:
        """The search's run in MLflow, which :meth:`close` has ended."""
        assert self._parent is not None
        return self._parent

    def _open(self) -> str:
        """Make the search's run in MLflow, or find it."""
        if self._parent is None:
            resume, self._resume = self._resume, True  # the request that gets no answer may make it all the same
            self._parent = self._tracker.start_search(
                self._plan.name,
                dataset=self._plan.dataset,
                model=self._plan.model,
                objective=self._objective.names,
                params=self._plan.params(),
                resume=resume,
            )
        return self._parent

    def _finish_queue(self) -> None:
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def _take(self, result: TrialResult) -> None:
        self._ended.add(result.number)
        if result.status == "finished" and (self._best is None or result.metrics["map"] > self._best[0]):
            self._best = (result.metrics["map"], result.number)
        if result.status != "stopped":
            self._queue.put(result)

    def _line(self, result: TrialResult) -> str:
        outcome = (
            f"failed: {escape(str(result.reason))}"
            if result.status == "failed"
            else f"{result.status:8} mAP {result.metrics['map']:.3f} at sparsity {result.sparsity['total']:.3f}"
        )
        best = "" if self._best is None else f" | best {self._best[0]:.3f} (trial {self._best[1]})"
        passed, ended = time.monotonic() - self._started, len(self._ended)
        to_do = self._plan.trials - ended  # how many are promoted then, nobody knows
        left = f" | {_duration(passed / max(1, ended - self._known) * to_do)} left" if to_do else ""
        return f"trial {result.number} ({ended} of {self._plan.trials}) {outcome}{best}{left}"

    def _log_all(self) -> None:
        waiting: dict[int, TrialResult] = {}
        next_try = 0.0
        while (result := self._queue.get()) is not None:
            waiting[result.number] = result
            for number in list(waiting) if time.monotonic() >= next_try else ():
                result = waiting.pop(number)
                try:
                    self._log(result)
                except UserError as error:
                    waiting[number] = result  # behind the others, for it may be the only one that is not taken
                    next_try = time.monotonic() + _PAUSE
                    self._tell(f"trial {number}", error)
                    break

    def _tell(self, what: str, error: UserError) -> None:
        reason = self._tracker.store.trouble() or str(error)
        console.print(f"  [yellow]MLflow[/] did not take {what}, tried again later: {escape(reason)}")

    def _log_missing(self, missing: dict[int, TrialResult]) -> None:
        """Log the trials, and take those that were logged out of ``missing``."""
        refused: TrackingError | None = None
        for number, result in list(missing.items()):
            try:
                self._log(result)
                del missing[number]
            except TrackingError as error:
                refused = error
                if self._tracker.store.trouble():
                    break
        if refused is not None:
            raise refused

    def _log(self, result: TrialResult) -> None:
        parent, folder = self._open(), self._job.trial_folder(result.number)
        if result.status == "failed" or self._plan.grid:  # the models of a comparison stay in storage alone
            self._runs[result.number] = self._tracker.log_trial(parent, result, {})
            return
        files: dict[str, Location | bytes] = {
            name: folder.join(name) for name in ("model.safetensors", "masks.safetensors")
        }
        self._runs[result.number] = self._tracker.log_trial(
            parent, result, files, lambda: load_checkpoint(folder.join("model.safetensors"))[0]
        )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"

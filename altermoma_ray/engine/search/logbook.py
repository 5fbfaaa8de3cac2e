"""The reports of a running search: lines on the terminal, and runs in MLflow, logged beside the trials."""

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
from altermoma_ray.engine.search.costs import checked_latency
from altermoma_ray.engine.search.plan import SearchPlan
from altermoma_ray.errors import UserError
from altermoma_ray.metrics import SPARSITY
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.store import TrackingError, default_uri
from altermoma_ray.tracking.mlflow.tracker import Tracker
from altermoma_ray.tracking.objective import Objective
from altermoma_ray.tracking.result import TrialResult

_PAUSE = 30.0
"""Seconds from a trial refused by MLflow to the next try; until then trials only queue up."""


class OnlyInStorage(TrackingError):
    """MLflow lacks a part of an ended search; ``leaderboard --sync`` logs the missing part.

    The message names the command::

        1 trial of search 'nusc-1' is only in storage (...); when MLflow works again, run: python -m ... --sync

    Args:
        plan: the plan of the search.
        tracker: MLflow's side of the search.
        trials: number of missing trials; 0 where only the end of the search is missing.
        error: the refusal by MLflow.
    """

    def __init__(self, plan: SearchPlan, tracker: Tracker, trials: int, error: TrackingError) -> None:
        self.plan = plan
        storage, store = plan.storage, tracker.store
        # The message ends in the whole command: a person reads it hours later, perhaps in another shell.
        line = ["python", "-m", "altermoma_ray.leaderboard", plan.name, "--sync", "--storage", str(storage)]
        if store.uri != default_uri(storage):
            line += ["--tracking-uri", store.name]
        search = f"{'comparison' if plan.grid else 'search'} {plan.name!r}"
        what = {
            0: f"{search} is complete in storage and only its end is missing in MLflow",
            1: f"1 trial of {search} is only in storage",
        }.get(trials, f"{trials} trials of {search} are only in storage")
        super().__init__(f"{what} ({store.trouble() or error}); when MLflow works again, run: {shlex.join(line)}")


class Logbook:
    """Follows the trials of one search::

        with Logbook(plan, tracker, resume=False) as logbook:
            logbook.start([])
            logbook.trial_ended(result)
            logbook.close([result], reference=None)

    A thread of its own writes to MLflow: neither trials nor Tune wait for MLflow. A trial refused by MLflow stays in
    storage and is tried again, at last by :meth:`close`. A trial stopped at a rung may still be promoted, and is
    therefore logged by :meth:`close` alone.

    Args:
        plan: the plan of the search.
        tracker: MLflow's side of the search.
        resume: whether to go on with the search's run in MLflow, if there is one.
    """

    def __init__(self, plan: SearchPlan, tracker: Tracker, *, resume: bool) -> None:
        self._plan, self._tracker, self._resume = plan, tracker, resume
        self._job, self._objective = plan.trial_job(), plan.optimised
        shown = [metric for metric in self._objective.metrics if metric != SPARSITY]
        self._shown = Objective(tuple(shown) or plan.figures.metrics[:1])
        """The metrics in a trial's line; the line has the sparsity in any case."""
        self._parent: str | None = None
        self._queue: queue.Queue[TrialResult | None] = queue.Queue()
        # A daemon: an interrupt during a long request must be able to end the process.
        self._thread = threading.Thread(target=self._log_all, name="mlflow", daemon=True)
        self._runs: dict[int, str] = {}
        self._finished: dict[int, list[float]] = {}
        """The objective's values, by trial."""
        self._ended: set[int] = set()
        self._known = 0
        self._started = time.monotonic()

    def __enter__(self) -> Logbook:
        # Opened here, for a first message before hours of trials; a search runs without MLflow all the same.
        try:
            self._open()
        except TrackingError as error:
            self._tell(f"search {self._plan.name}", error)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:  # stopped: the queued trials are in storage, and --resume logs them
            with self._queue.mutex:
                self._queue.queue.clear()
        self._finish_queue()
        if kind is not None and not isinstance(error, OnlyInStorage) and self._parent is not None:
            # An error here would hide the one which stopped the search.
            with contextlib.suppress(TrackingError):
                self._tracker.finish_search(self._parent, "stopped")

    def start(self, known: Sequence[TrialResult]) -> None:
        """Begin with the trials.

        Args:
            known: results from earlier runs of this search.
        """
        for result in known:
            self._take(result)
        # The time left is estimated from the trials of this run alone.
        self._known = len(known)
        self._started = time.monotonic()
        done = f", {len(known)} of them ended before" if known else ""
        console.print(f"[bold]trials[/] {self._plan.trials}{done}")

    def trial_ended(self, result: TrialResult) -> None:
        """Print a trial's line and hand the trial to MLflow; called again at a later end of a promoted trial."""
        self._take(result)
        console.print(f"  {self._line(result)}")

    def close(self, results: Sequence[TrialResult], reference: dict[str, float] | None, *, whole: bool = True) -> int:
        """Log the missing trials, register the champion and end the search's run.

        Args:
            results: results of all ended trials.
            reference: metrics of the unpruned model; None where they are unknown.
            whole: whether the search ran to its end; an unfinished search has no champion yet.

        Returns:
            The number of logged trials.

        Raises:
            OnlyInStorage: MLflow did not take everything.
        """
        self._finish_queue()
        ended = {result.number: result.status for result in results}
        missing = {result.number: result for result in results if result.number not in self._runs}
        try:
            parent = self._open()
            # MLflow itself is asked for its runs: a request without an answer may have logged a trial all the same.
            self._runs = self._tracker.sweep(parent, ended)
            missing = {result.number: result for result in results if result.number not in self._runs}
            logged = len(missing)
            self._log_missing(missing)
            # A second sweep removes runs made twice: by a request tried again, after its answer was lost.
            if logged:
                self._runs = self._tracker.sweep(parent, ended)
            if reference is not None:
                self._tracker.log_reference(parent, reference)
            if whole and results and not self._plan.grid:  # comparisons ship no model
                self._choose_champion(parent, results)
            self._tracker.finish_search(parent, "finished" if whole else "stopped")
        except TrackingError as error:
            raise OnlyInStorage(self._plan, self._tracker, len(missing), error) from error
        return logged

    @property
    def run_id(self) -> str:
        """The identifier of the search's run in MLflow; for use after :meth:`close`."""
        assert self._parent is not None
        return self._parent

    def _open(self) -> str:
        """Make or find the search's run in MLflow."""
        if self._parent is None:
            # A request without an answer may have made the run: later calls look for a run first.
            resume, self._resume = self._resume, True
            self._parent = self._tracker.start_search(
                self._plan.name,
                dataset=self._plan.dataset,
                model=self._plan.model,
                objective=self._objective,
                figures=self._plan.figures,
                params=self._plan.params() | self._plan.left_out(),
                resume=resume,
            )
        return self._parent

    def _choose_champion(self, parent: str, results: Sequence[TrialResult]) -> None:
        objective = self._objective
        finished = {result.number: objective.values(result) for result in results if result.status == "finished"}
        best = objective.best(finished)
        if best is not None:
            version = self._tracker.register_champion(parent, self._runs[best], rule=objective.rule)
            figures = f"{objective.text(finished[best])}, {objective.rule}"
            console.print(f"[bold]champion[/] trial {best} ({figures}), registered as version {version}")
            if self._plan.costs:
                self._check_latency(best)
        elif finished:
            console.print(
                f"[yellow]no champion[/]: none of the {len(finished)} finished trials has a finite "
                f"{' and '.join(metric.title for metric in objective.metrics)}, so no model is registered"
            )
        else:
            console.print(
                f"[yellow]no champion[/]: none of the {len(results)} trials finished, so no model is registered"
            )

    def _check_latency(self, number: int) -> None:
        """Measure the champion beside the unpruned model, and log both figures beside the prediction."""
        measured = checked_latency(self._plan, number)
        if measured:
            self._tracker.log_measured(self._runs[number], measured)
            console.print(
                f"  measured {measured['latency_ms']:.1f} ms, the unpruned model {measured['unpruned_ms']:.1f} ms: "
                f"{measured['ratio']:.2f} times as fast"
            )

    def _finish_queue(self) -> None:
        self._queue.put(None)  # the end of the queue; the thread takes the trials before it first
        if self._thread.is_alive():
            self._thread.join()

    def _take(self, result: TrialResult) -> None:
        self._ended.add(result.number)
        if result.status == "finished":
            self._finished[result.number] = self._objective.values(result)
        if result.status != "stopped":
            self._queue.put(result)

    def _line(self, result: TrialResult) -> str:
        if result.status == "failed":
            outcome = f"failed: {escape(str(result.reason))}"
        else:
            outcome = f"{result.status:8} {self._shown.text(self._shown.values(result))}"
            outcome += f" at sparsity {result.sparsity['total']:.3f}"
        number = self._objective.best(self._finished)
        best = "" if number is None else f" | best {self._objective.text(self._finished[number])} (trial {number})"
        passed, ended = time.monotonic() - self._started, len(self._ended)
        to_do = self._plan.trials - ended  # the number of later promotions is unknown
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
                    waiting[number] = result  # behind the others: MLflow may refuse this one trial only
                    next_try = time.monotonic() + _PAUSE
                    self._tell(f"trial {number}", error)
                    break

    def _tell(self, what: str, error: UserError) -> None:
        reason = self._tracker.store.trouble() or str(error)
        console.print(f"  [yellow]MLflow[/] did not take {what}, tried again later: {escape(reason)}")

    def _log_missing(self, missing: dict[int, TrialResult]) -> None:
        """Log the trials, and remove the logged ones from ``missing``."""
        refused: TrackingError | None = None
        for number, result in list(missing.items()):
            try:
                self._log(result)
                del missing[number]
            except TrackingError as error:
                refused = error
                # One refused trial does not stop the others. A server out of reach would cost a long wait for each.
                if self._tracker.store.trouble():
                    break
        if refused is not None:
            raise refused

    def _log(self, result: TrialResult) -> None:
        parent, folder = self._open(), self._job.trial_folder(result.number)
        if result.status == "failed" or self._plan.grid:  # the models of a comparison stay in storage alone
            self._runs[result.number] = self._tracker.log_trial(parent, result, {})
            return
        # Places, not contents: large files are read from storage only when MLflow takes them.
        files: dict[str, Location | bytes] = {
            name: folder.join(name) for name in ("model.safetensors", "masks.safetensors")
        }
        self._runs[result.number] = self._tracker.log_trial(
            parent, result, files, lambda: self._plan.workload.load().load(folder.join("model.safetensors"))[0]
        )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"

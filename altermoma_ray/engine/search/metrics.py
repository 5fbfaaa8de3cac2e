"""The processes which compute the metrics of ended runs, beside the trials of one search."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

import ray

from altermoma_ray.engine.ray.workers import result_of
from altermoma_ray.engine.trials.ending import MetricProcess
from altermoma_ray.engine.trials.job import TrialJob, TrialTask
from altermoma_ray.tracking.result import TrialResult

WORTH_SECONDS = 2.0
"""A metric of fewer seconds is computed in the trial's own process: the start of another takes longer."""


class MetricProcesses:
    """Metric processes of a search, each with one run at a time: as many as there are runs that end or are to end.

    The search's driver starts and owns them, and so they outlive the trials' processes, and end with the driver::

        name = processes.reserve()        # before the trial's run; None while metrics are quick
        processes.finish(name, task)      # after it: the trial's process has handed its predictions over
        for task in processes.ended(wait=0):
            ...                           # the result is in storage, or the run is to be repeated

    Args:
        job: the part common to all trials.
    """

    def __init__(self, job: TrialJob) -> None:
        self._job, self._slow = job, False
        self._processes: dict[str, Any] = {}
        self._free: list[str] = []
        self._pending: dict[Any, tuple[str, TrialTask]] = {}

    def __len__(self) -> int:
        """Number of runs whose metrics are being computed."""
        return len(self._pending)

    def learn(self, result: TrialResult) -> None:
        """Find out from a result whether metrics take long."""
        # Where a metric is computed changes no figure: a measured time may decide.
        self._slow = self._slow or result.seconds.get("metric", 0.0) >= WORTH_SECONDS

    def reserve(self) -> str | None:
        """The name of a process for a trial's run, started now where none is free; None while metrics are quick."""
        if not self._slow:
            return None
        if not self._free:
            name = f"metrics-{uuid.uuid4().hex}"
            self._processes[name] = MetricProcess.options(name=name).remote(self._job)  # type: ignore[attr-defined]
            self._free.append(name)
        return self._free.pop()

    def release(self, name: str | None) -> None:
        """Free a reserved process: the run of its trial ended in another way."""
        if name is not None:
            self._free.append(name)

    def finish(self, name: str, task: TrialTask) -> None:
        """Let a process compute the metrics of the run that it holds.

        Args:
            name: of the process.
            task: of the run.
        """
        self._pending[self._processes[name].finish.remote(task)] = name, task

    def ended(self, *, wait: float) -> Iterator[TrialTask]:
        """The runs whose process is done: their results are in storage, unless the process died.

        Args:
            wait: seconds to wait for one, where none is done yet.

        Raises:
            UserError: a run met a user's mistake.
        """
        while self._pending:
            done, _ = ray.wait(list(self._pending), timeout=wait)
            if not done:
                return
            name, task = self._pending.pop(done[0])
            self._free.append(name)
            wait = 0.0
            # A process that died, or could not write: the missing result tells the searcher to repeat the run.
            with contextlib.suppress(ray.exceptions.RayError):
                result_of(done[0])
            yield task

    def close(self) -> None:
        """End the processes."""
        for process in self._processes.values():
            ray.kill(process)

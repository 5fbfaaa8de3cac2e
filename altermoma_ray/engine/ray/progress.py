"""A progress bar on the driver, fed by the reports of workers."""

from __future__ import annotations

import threading
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from altermoma_ray.console import console


@ray.remote(num_cpus=0)
class _Counter:
    """Counts finished steps of a job."""

    # An actor, since workers run on any node, and start and die while the bar goes on. Without a CPU of its own: on a
    # full machine an actor with one would take a worker's place.

    def __init__(self) -> None:
        self.done = 0.0
        self.text = ""

    def advance(self, amount: float, text: str) -> None:
        self.done += amount
        self.text = text or self.text

    def state(self) -> tuple[float, str]:
        return self.done, self.text


class Reporter:
    """A worker's end of a progress bar.

    Reports are sent without waiting::

        reporter.advance(1, "loss 3.14")

    Args:
        counter: the actor on the driver's node.
    """

    def __init__(self, counter: Any) -> None:
        self._counter = counter

    def advance(self, amount: float = 1.0, text: str = "") -> None:
        """Move the bar by ``amount`` steps; ``text`` replaces the note behind the bar."""
        # The answer is never asked for: a slow or dead counter must not hold up the work.
        self._counter.advance.remote(amount, text)


class ProgressBar:
    """The driver's end of a progress bar.

    The bar moves inside the ``with`` block, while the driver waits for its workers::

        with ProgressBar("scoring", total=100) as bar:
            start_workers(bar.reporter)

    Args:
        describe: text before the bar.
        total: number of steps at the end.
    """

    def __init__(self, describe: str, total: int) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        # On the driver's own node: any other node may leave the cluster and take the count along.
        self._counter = _Counter.options(scheduling_strategy=here).remote()
        self.reporter = Reporter(self._counter)
        self._describe, self._total = describe, total
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> ProgressBar:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        # Joined, so that the bar is gone from the terminal before the next line is printed.
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task(self._describe, total=self._total, note="")
            tenths = 0
            while not self._stop.wait(1.0):
                try:
                    done, note = ray.get(self._counter.state.remote())
                except ray.exceptions.RayError:  # the bar ends quietly: the work itself will tell the reason
                    return
                progress.update(task, completed=int(done), note=note)
                share = int(10 * done / self._total) if self._total else 0
                if not console.is_terminal and share > tenths:  # a log file gets ten lines, not one a second
                    tenths = share
                    console.print(f"  {self._describe}: {int(done)}/{self._total} {note}")

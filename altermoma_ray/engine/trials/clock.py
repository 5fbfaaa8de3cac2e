"""The time a trial spends on each kind of work."""

from __future__ import annotations

import time

from altermoma_ray.tracking.result import TrialResult


class Clock:
    """Adds up seconds by kind of work, on top of the seconds of the trial's run to an earlier rung.

    >>> clock = Clock(None)
    >>> clock.lap("score")
    >>> list(clock.seconds)
    ['score']

    Args:
        earlier: the trial's result at an earlier rung; None for a new trial.
    """

    def __init__(self, earlier: TrialResult | None) -> None:
        # A date in the record, hence the wall clock; laps below use one which no correction of the date moves.
        self.started = time.time() if earlier is None else earlier.started
        self.seconds = {} if earlier is None else dict(earlier.seconds)
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now

"""Where a trial's time goes."""

from __future__ import annotations

import time

from altermoma_ray.tracking.result import TrialResult


class Clock:
    """Adds up seconds by kind of work, on top of those of the trial's run to an earlier rung."""

    def __init__(self, earlier: TrialResult | None) -> None:
        self.started = time.time() if earlier is None else earlier.started
        self.seconds = {} if earlier is None else dict(earlier.seconds)
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now

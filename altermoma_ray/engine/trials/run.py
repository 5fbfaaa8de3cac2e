"""The way of a trial to a rung or to its end: how far it goes, and the evaluations made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from altermoma_ray.engine.trials.clock import Clock
from altermoma_ray.engine.trials.ending import Found
from altermoma_ray.engine.trials.events import Event
from altermoma_ray.engine.trials.job import TrialTask
from altermoma_ray.tracking.result import Evaluation, TrialResult


@dataclass
class Run:
    """A trial's way to a rung or to its end."""

    trial: TrialTask
    steps: int
    """Length of the whole fine-tuning."""
    end: int
    """The step at which the run ends."""
    earlier: TrialResult | None
    """The result at an earlier rung."""
    clock: Clock
    defers: bool
    """Whether another process computes the metrics of the run's last evaluation."""
    history: list[Evaluation] = field(default_factory=list)
    unscored: tuple[Sequence[int], Found] | None = None
    """Rows and predictions of the last evaluation, where another process computes its metrics."""

    @property
    def scored(self) -> list[Evaluation]:
        """The evaluations with metrics, for the saved state: its reader makes the other one anew."""
        return self.history if self.unscored is None else self.history[:-1]

    def take_up(self, kept: Sequence[Evaluation], done: int) -> None:
        """Begin the history with the evaluations of the saved state, and those which were completed beside.

        Args:
            kept: evaluations of the saved state.
            done: its step.
        """
        beside = self.earlier.history if self.earlier is not None else []
        known = {evaluation.step: evaluation for evaluation in (*kept, *beside) if evaluation.step <= done}
        self.history.extend(known[step] for step in sorted(known))

    def has_to_do(self, event: Event, done: int) -> bool:
        """Whether an event is still to come, or is an evaluation at step ``done`` whose metrics were lost."""
        lost = event.is_evaluated and event.step not in {evaluation.step for evaluation in self.history}
        return done < event.step <= self.end or (event.step == done and lost)

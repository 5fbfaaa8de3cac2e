"""Schedules: how the sparsity rises over the rounds of a pruning phase.

Notation: target t, round i = 1 ... R, sparsity s_i::

    one-shot      s_1 = t
    linear        s_i = t · i/R
    cubic         s_i = t · (1 − (1 − i/R)³)        Zhu & Gupta 2017, from sparsity 0
    exponential   s_i = 1 − (1 − t)^(i/R)           every round keeps the same fraction
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pow
from typing import Literal, get_args

from altermoma_ray.errors import UserError
from altermoma_ray.pruning.ratios import check_ratio

ScheduleKind = Literal["one-shot", "linear", "cubic", "exponential"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When to prune how much.

    >>> Schedule(kind="linear", rounds=4).sparsities(0.5)
    [0.125, 0.25, 0.375, 0.5]
    >>> Schedule(kind="linear", rounds=4).steps(phase=100)
    [0, 25, 50, 75]

    Attributes:
        kind: shape of the rise.
        rounds: R, how many times weights are pruned; 1 for one-shot.
    """

    kind: ScheduleKind = "one-shot"
    rounds: int = 1

    def __post_init__(self) -> None:
        if self.kind not in get_args(ScheduleKind):
            raise UserError(f"a schedule is one of {', '.join(get_args(ScheduleKind))}, but got kind='{self.kind}'")
        if self.rounds < 1 or (self.kind == "one-shot" and self.rounds != 1):
            raise UserError(
                f"a schedule needs rounds >= 1, and one-shot has 1, but got kind='{self.kind}', rounds={self.rounds}"
            )

    def sparsities(self, target: float) -> list[float]:
        """Sparsity after each round; the last is the target. With several groups, each ratio gets its own."""
        check_ratio("target", target)
        progress = [(index + 1) / self.rounds for index in range(self.rounds - 1)]
        # The target itself comes last, not its formula: rounding must not shift the final count by a weight.
        return [self._at(target, done) for done in progress] + [target]

    def fractions(self) -> list[float]:
        """Fraction of the pruning phase at which each round acts: the start of each of R equal parts."""
        return [index / self.rounds for index in range(self.rounds)]

    def steps(self, phase: int) -> list[int]:
        """Optimisation step (0 is before the first) at which each round acts, in a pruning phase of ``phase`` steps.

        Raises:
            UserError: there are fewer steps than rounds.
        """
        if phase < self.rounds and self.rounds > 1:
            raise UserError(f"{self.rounds} pruning rounds need as many steps, but got {phase}: take fewer rounds")
        # Whole division: rounds never share a step, since a phase has at least as many steps as rounds.
        return [index * phase // self.rounds for index in range(self.rounds)]

    def _at(self, target: float, done: float) -> float:
        if self.kind == "cubic":
            return target * (1 - (1 - done) ** 3)
        if self.kind == "exponential":
            return 1 - pow(1 - target, done)
        return target * done

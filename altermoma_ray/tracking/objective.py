"""The objective of a search: metrics with a direction, and the best trial by these metrics.

A trial's *gains* are its objective's values, turned to make more the better; a value that is not finite (NaN, ±inf)
or is missing has the gain −inf. A trial with a gain of −inf is shown with its value, but is never promoted, never the
champion, and Optuna learns nothing from its end.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from altermoma_ray.errors import UserError
from altermoma_ray.metrics import COSTS, SPARSITY, Direction, Figures, Metric
from altermoma_ray.tracking.result import TrialResult


@dataclass(frozen=True)
class Objective:
    """The objective of a search: one metric, or several for a Pareto search.

    >>> figures = Figures(metrics=(Metric("map", "mAP"),))
    >>> Objective.parse("map,sparsity", figures).is_pareto
    True
    """

    metrics: tuple[Metric, ...]

    @classmethod
    def parse(cls, text: str | None, figures: Figures) -> Objective:
        """Read ``--objective``.

        Args:
            text: names of metrics between commas; None stands for the task's first metric.
            figures: the metrics measured by the search.

        Raises:
            UserError: a metric is unknown or named twice.
        """
        names = [figures.metrics[0].name] if text is None else [name.strip() for name in text.split(",")]
        found = [figures.find(name) for name in names]
        # Unknown names are missing here, doubled ones in the set.
        metrics = tuple(metric for metric in found if metric is not None)
        if len(metrics) < len(names) or len(set(names)) < len(names):
            first = figures.metrics[0].name
            raise UserError(
                f"objective {text!r} must be distinct metrics out of {figures.offered()}; "
                f"for example {first} or {first},{SPARSITY.name}"
            )
        return cls(metrics)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(metric.name for metric in self.metrics)

    @property
    def directions(self) -> list[Direction]:
        return [metric.direction for metric in self.metrics]

    @property
    def is_pareto(self) -> bool:
        return len(self.metrics) > 1

    @property
    def searches_sparsity(self) -> bool:
        """Whether the total sparsity is drawn for each trial instead of set: the objective depends on it alone."""
        return any(metric in (SPARSITY, *COSTS) for metric in self.metrics)

    @property
    def rule(self) -> str:
        """How the champion is chosen out of the finished trials, in words."""
        if not self.is_pareto:
            metric = self.metrics[0]
            return f"the {'highest' if metric.direction == 'maximize' else 'lowest'} {metric.title}"
        titles = [metric.title for metric in self.metrics]
        return (
            f"the knee of the Pareto front of {', '.join(titles[:-1])} and {titles[-1]}: its trial nearest to the best "
            "value of each, all scaled to their ranges on the front"
        )

    def values(self, result: TrialResult, evaluation: int | None = None) -> list[float]:
        """The objective's values of a trial, at its end or at one of its evaluations; NaN where there are none."""
        metrics = result.metrics if evaluation is None else result.history[evaluation].metrics
        # Sparsity is measured on the mask and no part of an evaluation: the same at every step of the trial.
        known = {**metrics, SPARSITY.name: result.sparsity.get("total", math.nan)}
        return [known.get(name, math.nan) for name in self.names]

    def gains(self, result: TrialResult, evaluation: int) -> tuple[float, ...]:
        """The gains of a trial at one of its evaluations, one for each metric of the objective."""
        values = self.values(result, evaluation)
        return tuple(metric.gain(value) for metric, value in zip(self.metrics, values, strict=True))

    def is_defined(self, values: Sequence[float]) -> bool:
        """Whether each of the values is a finite number."""
        return all(map(math.isfinite, values))

    def best(self, values: Mapping[int, Sequence[float]]) -> int | None:
        """The best of some trials, by number: the champion, once all of them have finished.

        One objective: the trial of the best value. Several: the knee of the Pareto front, see :func:`knee`. Of equals
        the lowest number is taken.

        Args:
            values: the objective's values of each trial; a trial without one of them is left out.

        Returns:
            The trial's number, or None where no trial is defined.
        """
        gains = {
            number: tuple(metric.gain(value) for metric, value in zip(self.metrics, entry, strict=True))
            for number, entry in values.items()
            if self.is_defined(entry)
        }
        return knee(gains) if gains else None

    def text(self, values: Sequence[float]) -> str:
        """The values with their names.

        >>> Objective.parse("map,sparsity", Figures(metrics=(Metric("map", "mAP"),))).text([0.5, 0.9])
        'mAP 0.500, sparsity 0.900'
        """
        # Three decimals of a share say something, three decimals of a number of operations do not.
        shown = [f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.3f}" for value in values]
        return ", ".join(f"{metric.title} {value}" for metric, value in zip(self.metrics, shown, strict=True))


def knee(points: Mapping[int, tuple[float, ...]]) -> int:
    """The point of the Pareto front nearest to the best value of each coordinate (the *utopia point*).

    Each coordinate is scaled from 0, the front's worst value, to 1, its best; a coordinate in which the front
    does not differ counts for nothing. Of points at equal distances, as the two of a front of two always are, the one
    of the greater first coordinate is taken, then of the second and so on, then the lowest number.

    >>> knee({0: (0.9, 0.5), 1: (0.85, 0.85), 2: (0.3, 0.97), 3: (0.8, 0.8)})
    1

    Args:
        points: finite coordinates by number, more is better; at least one point.
    """
    # Best first, so of equal points the lowest number is kept, and the other one counts as beaten.
    front: dict[int, tuple[float, ...]] = {}
    for number, point in sorted(points.items(), key=lambda entry: (entry[1], -entry[0]), reverse=True):
        # Only an earlier point in this order can beat a point, and then one of the front does.
        if not any(all(map(operator.ge, other, point)) for other in front.values()):
            front[number] = point
    ranges = [(min(axis), max(axis)) for axis in zip(*front.values(), strict=True)]

    def order(number: int) -> tuple[float, tuple[float, ...], int]:
        short = [
            (high - value) / (high - low)
            for value, (low, high) in zip(front[number], ranges, strict=True)
            # A coordinate without a range would divide by 0.
            if high > low
        ]
        # Rounded: distances equal in exact arithmetic then tie on every machine.
        return round(math.hypot(*short), 9), tuple(-value for value in front[number]), number

    return min(front, key=order)

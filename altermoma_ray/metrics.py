"""A metric: a figure of a trial by its name, with the direction in which it is better.

Tasks list their metrics; objectives, leaderboards, pictures and tables take names, titles and directions from there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

Direction = Literal["maximize", "minimize"]
"""Optuna's words."""


@dataclass(frozen=True)
class Metric:
    """A figure of a trial, and which way it is better.

    >>> loss = Metric("loss", "validation loss", "minimize")
    >>> loss.gain(0.25)
    -0.25
    >>> loss.without("radar")
    Metric(name='loss/without-radar', title='validation loss without radar', direction='minimize', is_column=False)
    """

    name: str
    """Key in the metrics of a trial's result."""
    title: str
    """Text in tables, pictures and messages."""
    direction: Direction = "maximize"
    is_column: bool = True
    """Whether the leaderboard has a column for the metric; one of the many figures of single classes has none."""

    @property
    def sign(self) -> int:
        """1 where a greater value is better, else -1."""
        return 1 if self.direction == "maximize" else -1

    def gain(self, value: float) -> float:
        """The value, turned so that more is better; −inf where the value is no finite number."""
        return self.sign * value if math.isfinite(value) else -math.inf

    def without(self, modality: str) -> Metric:
        """The same metric, measured while a modality is masked."""
        return replace(
            self,
            name=f"{self.name}/without-{modality}",
            title=f"{self.title} without {modality}",
            is_column=False,
        )

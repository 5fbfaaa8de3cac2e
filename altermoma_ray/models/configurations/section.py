"""What all parts of a model's configuration have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen, keyword-only part of a configuration; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Interval = tuple[float, float, float]
"""Lower edge, upper edge, step."""


def cells(interval: Interval) -> int:
    """Number of steps between the edges of an interval.

    >>> cells((-5.0, 3.0, 0.5))
    16
    """
    lower, upper, step = interval
    return round((upper - lower) / step)

"""What all parts of a model's configuration have in common."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from altermoma_ray.errors import UserError


class Section(BaseModel):
    """A frozen, keyword-only part of a configuration; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def fields_of(section: Any) -> Collection[str]:
    """Names of the fields of a section, or of its JSON, by which the kind of a section is told.

    >>> sorted(fields_of({"blocks": [3, 4], "width": 64}))
    ['blocks', 'width']
    """
    return section if isinstance(section, dict) else getattr(type(section), "model_fields", ())


Named = TypeVar("Named")


def find_named(name: str, known: Mapping[str, Named]) -> Named:
    """The configuration of a name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in known:
        raise UserError(f"unknown model {name!r}; choose one of: {', '.join(known)}")
    return known[name]


Interval = tuple[float, float, float]
"""Lower edge, upper edge, step."""


def cells(interval: Interval) -> int:
    """Number of steps between the edges of an interval.

    >>> cells((-5.0, 3.0, 0.5))
    16
    """
    lower, upper, step = interval
    return round((upper - lower) / step)

"""What one draw of a search may be: a range of numbers, one of several values, or one value.

    SearchSpace(beta=Float(0.0, 0.5), parameters={"imp": {"rounds": Choice((2, 4)), "steps": Fixed(30)}})

Each is saved with a ``kind``, by which it is read back from JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from math import inf, isfinite, prod
from typing import Annotated, Any, Literal

import optuna
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from altermoma_ray.engine.scoring.requests import Value

MOST_LISTED = 256
"""More combinations of parameters than these are not made one by one."""


class Float(BaseModel):
    """Any number from ``low`` to ``high``.

    >>> Float(1e-4, 1e-2, log=True).nearest(1.0)
    0.01

    Raises:
        ValueError: the ends are not finite, in the wrong order, or not above 0 on a logarithmic axis.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["float"] = "float"
    low: float
    high: float
    log: bool = False
    """Whether it is drawn on a logarithmic axis."""

    def __init__(self, low: float, high: float, *, log: bool = False, kind: Literal["float"] = "float") -> None:
        super().__init__(low=low, high=high, log=log, kind=kind)

    @model_validator(mode="after")
    def _check(self) -> Float:
        if not self.low <= self.high:
            raise ValueError(f"`low <= high` must hold, but got Float({self.low}, {self.high}); swap them")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic axis needs `low > 0`, but got Float({self.low}, {self.high}); raise low")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest value."""
        return self.low, self.high

    @property
    def known(self) -> tuple[Value, ...] | None:
        """All values; None where they cannot be listed."""
        return (self.low,) if self.low == self.high else None

    def draw(self, trial: optuna.Trial, name: str) -> Value:
        """Have Optuna draw a value under a name."""
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def holds(self, value: Value) -> bool:
        """Whether the value could be drawn."""
        return not isinstance(value, str) and self.low <= value <= self.high

    def nearest(self, value: float) -> float:
        """The value nearest to a number."""
        return min(max(value, self.low), self.high)


class Choice(BaseModel):
    """One of several values.

    >>> Choice((2, 4)).holds(3)
    False

    Raises:
        ValueError: there is no value, or one is no finite number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["choice"] = "choice"
    values: tuple[Value, ...] = Field(min_length=1)

    def __init__(self, values: tuple[Value, ...], *, kind: Literal["choice"] = "choice") -> None:
        super().__init__(values=values, kind=kind)

    @model_validator(mode="after")
    def _check(self) -> Choice:
        for value in self.values:
            _check_finite(value)
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest number; of texts there is none."""
        numbers = [value for value in self.values if not isinstance(value, str)]
        return min(numbers, default=inf), max(numbers, default=-inf)

    @property
    def known(self) -> tuple[Value, ...]:
        """All values."""
        return self.values

    def draw(self, trial: optuna.Trial, name: str) -> Value:
        """Have Optuna draw a value under a name."""
        return trial.suggest_categorical(name, self.values)

    def holds(self, value: Value) -> bool:
        """Whether the value could be drawn."""
        return value in self.values

    def nearest(self, value: float) -> float:
        """The value nearest to a number."""
        return min((float(own) for own in self.values), key=lambda own: abs(own - value))


class Fixed(BaseModel):
    """One value, which Optuna does not hear of.

    >>> Fixed("layer").known
    ('layer',)

    Raises:
        ValueError: it is no finite number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["fixed"] = "fixed"
    value: Value

    def __init__(self, value: Value, *, kind: Literal["fixed"] = "fixed") -> None:
        super().__init__(value=value, kind=kind)

    @model_validator(mode="after")
    def _check(self) -> Fixed:
        _check_finite(self.value)
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """The number, twice; of a text there is none."""
        return Choice((self.value,)).ends

    @property
    def known(self) -> tuple[Value, ...]:
        """The value alone."""
        return (self.value,)

    def draw(self, trial: optuna.Trial, name: str) -> Value:
        """The value; the trial is not asked."""
        return self.value

    def holds(self, value: Value) -> bool:
        """Whether it is this value."""
        return value == self.value

    def nearest(self, value: float) -> float:
        """The value, whatever the number."""
        return float(self.value)


Range = Annotated[Float | Choice | Fixed, Field(discriminator="kind")]
"""A draw, told apart by its ``kind``."""


def _kind(given: Any) -> str:
    kind = given.get("kind") if isinstance(given, dict) else getattr(given, "kind", None)
    return kind if kind in ("float", "choice", "fixed") else "interval"


Interval = Annotated[
    Annotated[tuple[float, float], Tag("interval")]
    | Annotated[Float, Tag("float")]
    | Annotated[Choice, Tag("choice")]
    | Annotated[Fixed, Tag("fixed")],
    Discriminator(_kind),
]
"""A draw of numbers, for which the two ends of a range may stand."""


def _check_finite(value: Value) -> None:
    if not isinstance(value, str) and not isfinite(value):
        raise ValueError(f"a value must be finite, but got {value}; leave it out")


def ends_of(given: tuple[float, float] | Float | Choice | Fixed) -> tuple[float, float]:
    """The least and the greatest number of a draw; (inf, -inf) where it has none."""
    return given if isinstance(given, tuple) else given.ends


def check_ranges(what: str, drawn: Any) -> None:
    """Say how a range is written where something else stands for one; pydantic checks the rest.

    Raises:
        ValueError: a value of the mapping ``drawn`` is no range.
    """
    for name, one in drawn.items() if isinstance(drawn, Mapping) else ():
        if not isinstance(one, Float | Choice | Fixed | Mapping):
            raise ValueError(
                f"{what} must be drawn from Float(low, high), Choice(values) or Fixed(value), but {name} got {one!r}; "
                "write one of these"
            )


def combinations(values: Mapping[str, tuple[Value, ...]]) -> list[dict[str, Value]] | None:
    """All combinations of values by name; None where there are more than :data:`MOST_LISTED`.

    >>> combinations({"rounds": (2, 4), "steps": (30,)})
    [{'rounds': 2, 'steps': 30}, {'rounds': 4, 'steps': 30}]
    """
    if prod(len(some) for some in values.values()) > MOST_LISTED:
        return None
    return [dict(zip(values, combination, strict=True)) for combination in product(*values.values())]

"""The kinds of draws in a search: a range of numbers, one of several values, or one fixed value::

    SearchSpace(beta=Float(0.0, 0.5), parameters={"imp": {"rounds": Choice((2, 4)), "steps": Fixed(30)}})

Each draw is saved with its ``kind``, and read back from JSON by this ``kind``.
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
"""Largest number of combinations of parameters to be listed one by one."""


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
    """Whether values are drawn on a logarithmic axis."""

    # The constructors take positions: users write ``Float(0, 1)``, while pydantic alone takes keywords only.
    def __init__(self, low: float, high: float, *, log: bool = False, kind: Literal["float"] = "float") -> None:
        super().__init__(low=low, high=high, log=log, kind=kind)

    @model_validator(mode="after")
    def _check(self) -> Float:
        # "not low <= high" in place of "low > high" refuses NaN as well.
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
        """All values; None where a range has too many to list."""
        return (self.low,) if self.low == self.high else None

    def draw(self, trial: optuna.Trial, name: str) -> Value:
        """Have Optuna draw a value under a name."""
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def holds(self, value: Value) -> bool:
        """Whether the value could be drawn."""
        # A comparison of a text with a number would raise.
        return not isinstance(value, str) and self.low <= value <= self.high

    def nearest(self, value: float) -> float:
        """The value nearest to a number."""
        return min(max(value, self.low), self.high)


class Choice(BaseModel):
    """One of several values.

    >>> Choice((2, 4)).holds(3)
    False

    Raises:
        ValueError: there is no value, or a number is not finite.
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
        """The least and the greatest number; (inf, -inf) where all values are texts."""
        # The empty interval makes every check of a range of numbers fail, without a case for texts.
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
        """The value nearest to a number; of two equally near values the first."""
        return min((float(own) for own in self.values), key=lambda own: abs(own - value))


class Fixed(BaseModel):
    """One fixed value, never shown to Optuna.

    >>> Fixed("layer").known
    ('layer',)

    Raises:
        ValueError: the value is a number, but not finite.
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
        """The number, twice; (inf, -inf) for a text."""
        return Choice((self.value,)).ends

    @property
    def known(self) -> tuple[Value, ...]:
        """The value alone."""
        return (self.value,)

    def draw(self, trial: optuna.Trial, name: str) -> Value:
        """The value, without asking the trial."""
        return self.value

    def holds(self, value: Value) -> bool:
        """Whether ``value`` equals the fixed value."""
        return value == self.value

    def nearest(self, value: float) -> float:
        """The fixed value, for any number."""
        return float(self.value)


Range = Annotated[Float | Choice | Fixed, Field(discriminator="kind")]
"""A draw, told apart by its ``kind``."""


def _kind(given: Any) -> str:
    # Given by a person as an object or a pair, and by JSON as a dictionary. A pair has no kind; nor has a mistake,
    # which then gets the message about pairs.
    kind = given.get("kind") if isinstance(given, dict) else getattr(given, "kind", None)
    return kind if kind in ("float", "choice", "fixed") else "interval"


Interval = Annotated[
    Annotated[tuple[float, float], Tag("interval")]
    | Annotated[Float, Tag("float")]
    | Annotated[Choice, Tag("choice")]
    | Annotated[Fixed, Tag("fixed")],
    Discriminator(_kind),
]
"""A draw of numbers, which may be written as the pair of its ends."""


def _check_finite(value: Value) -> None:
    if not isinstance(value, str) and not isfinite(value):
        raise ValueError(f"a value must be finite, but got {value}; leave it out")


def ends_of(given: tuple[float, float] | Float | Choice | Fixed) -> tuple[float, float]:
    """The least and the greatest number of a draw; (inf, -inf) for texts.

    >>> ends_of((0.0, 0.5)), ends_of(Choice((4, 2)))
    ((0.0, 0.5), (2, 4))
    """
    return given if isinstance(given, tuple) else given.ends


def check_ranges(what: str, drawn: Any) -> None:
    """Refuse any other value in the place of a range, with the right way to write a range.

    Args:
        what: the subject of the message, in the plural.
        drawn: ranges by name. Pydantic checks everything but the kinds of the values.

    Raises:
        ValueError: a value of the mapping ``drawn`` is no range.
    """
    # A mapping is a range read back from JSON. Pydantic's own message would list the errors of all three kinds.
    for name, one in drawn.items() if isinstance(drawn, Mapping) else ():
        if not isinstance(one, Float | Choice | Fixed | Mapping):
            raise ValueError(
                f"{what} must be drawn from Float(low, high), Choice(values) or Fixed(value), but {name} got {one!r}; "
                "write one of these"
            )


def combinations(values: Mapping[str, tuple[Value, ...]]) -> list[dict[str, Value]] | None:
    """All combinations of values by name; None for more combinations than :data:`MOST_LISTED`.

    >>> combinations({"rounds": (2, 4), "steps": (30,)})
    [{'rounds': 2, 'steps': 30}, {'rounds': 4, 'steps': 30}]
    """
    # Counted before they are made: ten parameters with ten values each would fill the memory.
    if prod(len(some) for some in values.values()) > MOST_LISTED:
        return None
    return [dict(zip(values, combination, strict=True)) for combination in product(*values.values())]

"""The configuration of one trial: :class:`PruningSetting`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from dataclasses import fields as dataclass_fields
from functools import lru_cache
from typing import Any, Literal, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)

from altermoma_ray.engine.scoring.requests import MaskRequest, ScoreRequest, Value, Wanted, build
from altermoma_ray.engine.scoring.units import SINGLE_WEIGHTS, ChannelBounds, units_of
from altermoma_ray.pruning import Normalisation, NormMode, Reactivation, ReactivationGradient, ScheduleKind
from altermoma_ray.pruning.channels import Bounds
from altermoma_ray.pruning.criteria import CRITERIA, Criterion
from altermoma_ray.pruning.granularity import GRANULARITIES, Granularity
from altermoma_ray.tracking.comparison.statistics import UNPRUNED

Scope = Literal["global", "group"]
CHANNELS = "channel"
"""The granularity with bounds."""
OWN_FIELDS = ("alpha", "beta", "normalisation")
"""Parameters of indicator criteria with a field of their own in a setting; the reactivation has further fields."""


class PruningSetting(BaseModel):
    """One trial's way from indicators to a fine-tuned, pruned model.

    >>> setting = PruningSetting(
    ...     scope="global", sparsity=0.9, criterion="imp", parameters={"rounds": 2}, learning_rate=1e-3
    ... )
    >>> setting.build()
    IMP(rounds=2, steps=60, learning_rate=0.001)

    Raises:
        ValueError: a field is out of range or does not go with another, or the criterion refuses a parameter.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scope: Scope
    """``global``: one threshold over all groups (AlterMOMA, Algorithm 1); ``group``: a ratio for each group."""
    sparsity: float = Field(ge=0, lt=1)
    """Fraction of all prunable weights to remove."""
    ratios: dict[str, float] | None = None
    """Fraction removed in each group; they add up to ``sparsity``. Only with ``scope="group"``."""
    criterion: str = "altermoma"
    """A key of :data:`altermoma_ray.pruning.criteria.CRITERIA`, or ``unpruned``."""
    parameters: dict[str, Value] = Field(default_factory=dict)
    """Parameters of the criterion with values unlike the registered ones. Those with a field here are moved there."""
    alpha: float = Field(default=1.0, ge=0)
    """Weight of DeCI in AlterEva."""
    beta: float = 0.0
    """Weight of ReRI in AlterEva; 0 is DeCI alone, and below 0 redundancy counts as a merit (a control)."""
    reactivation_steps: int | None = Field(default=None, gt=0)
    """B, the number of reactivation batches; needed where β is not 0."""
    reactivation_learning_rate: float | None = Field(default=None, gt=0)
    reactivation_gradient: ReactivationGradient = "scoring-batches"
    """Data of ReRI's second gradient: the last batch of reactivation (the paper), or D."""
    normalisation: Normalisation = "group"
    """Whether AlterEva divides its indicators by their sums over a group (the paper) or a layer."""
    scoring_batches: int | None = Field(default=None, gt=0)
    """Number of batches in D, the scoring data; None takes the search space's."""
    norms: NormMode = "running"
    """Statistics used by normalisation layers while scoring."""
    schedule: ScheduleKind = "one-shot"
    learning_rate: float = Field(gt=0)
    """Peak learning rate of fine-tuning."""
    granularity: str = SINGLE_WEIGHTS
    """A key of :data:`altermoma_ray.pruning.granularity.GRANULARITIES`: the units to prune as a whole."""
    distillation: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of the loss against the unpruned model while fine-tuning; 0 trains on the task alone."""
    bounds: ChannelBounds = Field(default_factory=Bounds)
    """How narrow a layer may become; only with ``granularity="channel"``."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        """Fill in missing fields from the registered criterion; a β varied by searches has its own default."""
        # Pydantic has not checked anything yet. Malformed input passes through, for pydantic's message about it.
        if not isinstance(given, Mapping) or not isinstance(given.get("criterion", "altermoma"), str):
            return given
        criterion = CRITERIA.get(given.get("criterion", "altermoma"))
        if criterion is None or criterion.needs != "indicators":
            return given
        # A criterion without parameters of its own shares β and the reactivation of the search space: no registered
        # value may stand in for a forgotten draw.
        names, searched = parameter_names(criterion), not criterion.own()
        filled = {name: getattr(criterion, name) for name in OWN_FIELDS if name in names}
        if searched:
            filled.pop("beta", None)
        moved = _moved(given, names)
        filled |= moved
        # The same precedence as in the result below: given fields first, then filled ones, then the field's default.
        reads = "beta" not in names or {"beta": 0, **filled, **given}["beta"] != 0
        if "reactivation" in names and reads and not (searched and "beta" in names):
            own: Reactivation = criterion.reactivation  # type: ignore[attr-defined]
            filled["reactivation_steps"] = own.steps
            filled["reactivation_learning_rate"] = own.learning_rate
            filled["reactivation_gradient"] = own.gradient
        if moved:
            filled["parameters"] = {name: value for name, value in given["parameters"].items() if name not in moved}
            given = {name: value for name, value in given.items() if name != "parameters"}
        return {**filled, **given}

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out unused fields unknown to earlier releases: the texts of their settings stay the same."""
        # The text of a setting is its identity: in the keys of scores, in resumed searches, and in comparisons.
        written: dict[str, Any] = handler(self)
        for name in _silent(self):
            written.pop(name, None)
        return written

    @model_validator(mode="after")
    def _check(self) -> PruningSetting:
        if (self.scope == "group") != (self.ratios is not None):
            raise ValueError(f"`ratios` go with scope 'group' only, but got scope {self.scope!r} and {self.ratios}")
        for group, ratio in (self.ratios or {}).items():
            if not 0 <= ratio < 1:
                raise ValueError(f"`0 <= ratio < 1` must hold, but {group} got {ratio}; lower it")
        if self.criterion not in (*CRITERIA, UNPRUNED):
            raise ValueError(f"`criterion` must be one of {', '.join(CRITERIA)}, but got {self.criterion!r}")
        check_granularity(self.granularity)
        if self.granularity != CHANNELS and self.bounds != Bounds():
            raise ValueError(
                f"`bounds` go with granularity {CHANNELS!r} only, but got {self.granularity!r}; leave them out"
            )
        if self.criterion == UNPRUNED:
            if self.sparsity > 0:
                raise ValueError(f"the unpruned model has sparsity 0, but got {self.sparsity}; take a criterion")
            if self.parameters:
                raise ValueError(f"the unpruned model has no parameters, but got {self.parameters}; take a criterion")
            return self
        with_parameters(self.criterion, self.parameters)
        # The setting is frozen, but its dictionary is not: 1 becomes 1.0, so that equal settings have equal texts.
        self.parameters.update(typed(self.criterion, self.parameters))
        criterion = self.build()
        assert criterion is not None
        needed = criterion.reads is not None and "reactivation" in parameter_names(criterion)
        if needed and None in (self.reactivation_steps, self.reactivation_learning_rate):
            raise ValueError(f"beta={self.beta} needs `reactivation_steps` and `reactivation_learning_rate`; set them")
        if self.schedule != "one-shot" and criterion.needs == "masks":
            raise ValueError(f"{self.criterion} brings its own schedule, but got {self.schedule!r}; take 'one-shot'")
        return self

    def build(self) -> Criterion | None:
        """The criterion with this setting's parameters; None for the unpruned model."""
        if self.criterion == UNPRUNED:
            return None
        registered = CRITERIA[self.criterion]
        values: dict[str, Any] = dict(self.parameters)
        if registered.needs == "indicators":
            values |= {name: getattr(self, name) for name in OWN_FIELDS}
            # Otherwise the registered reactivation stays; the check above allows this only where none is read.
            if self.reactivation_steps is not None and self.reactivation_learning_rate is not None:
                values["reactivation"] = Reactivation(
                    steps=self.reactivation_steps,
                    learning_rate=self.reactivation_learning_rate,
                    gradient=self.reactivation_gradient,
                )
            values = {name: value for name, value in values.items() if name in parameter_names(registered)}
        return build(self.criterion, values)

    @property
    def units(self) -> Granularity:
        """The granularity with its bounds, whose units are pruned as a whole."""
        return units_of(self.granularity, self.bounds)

    @property
    def reactivation(self) -> Reactivation | None:
        """The reactivation whose ReRI the criterion reads; None where no reactivation is read."""
        criterion = self.build()
        return None if criterion is None else criterion.reads

    def wanted(self) -> Wanted:
        """The requests to score for this setting, and no others.

        Example:
            >>> PruningSetting(scope="global", sparsity=0.9, criterion="deci", learning_rate=1e-3).wanted().contribution
            True
        """
        criterion = self.build()
        if criterion is None:
            return Wanted()
        if criterion.needs == "scores":
            # Scores do not depend on the sparsity, masks found in rounds do: only the latter carry the ratios.
            return Wanted(criteria=(ScoreRequest(criterion=self.criterion, parameters=self.parameters),))
        if criterion.needs == "masks":
            same = ("criterion", "sparsity", "ratios", "parameters", "granularity", "bounds")
            return Wanted(masks=(MaskRequest(**{name: getattr(self, name) for name in same}),))
        return Wanted(contribution=True) if criterion.reads is None else Wanted(settings=(criterion.reads,))

    def flat(self) -> dict[str, Value]:
        """All set fields as flat names and values.

        Ratios are left out; parameters are named by criterion, as in ``imp.rounds``, and bounds as ``bounds.multiple``.
        """
        hidden = {"ratios", "parameters", "bounds", *_silent(self)}
        plain = {name: value for name, value in self if name not in hidden and value is not None}
        own = {f"{self.criterion}.{name}": value for name, value in self.parameters.items()}
        bounds = {} if self.bounds == Bounds() else asdict(self.bounds)
        # Bounds of single layers are dictionaries, and a flat value is a text or a number.
        limits = {
            f"bounds.{name}": value if isinstance(value, int | float) else json.dumps(value)
            for name, value in bounds.items()
        }
        return {**plain, **own, **limits}


def _silent(setting: PruningSetting) -> list[str]:
    """Unused fields of a setting, out of the fields unknown to earlier releases."""
    said = {
        "parameters": bool(setting.parameters),
        "granularity": setting.granularity != SINGLE_WEIGHTS,
        "distillation": setting.distillation != 0,
        "bounds": setting.bounds != Bounds(),
    }
    return [name for name, says in said.items() if not says]


def check_granularity(name: str) -> None:
    """Check the name of a granularity.

    Example:
        >>> check_granularity("weight")

    Args:
        name: to be found in :data:`altermoma_ray.pruning.granularity.GRANULARITIES`.

    Raises:
        ValueError: the granularity is unknown.
    """
    if name not in GRANULARITIES:
        raise ValueError(f"`granularity` must be one of {', '.join(GRANULARITIES)}, but got {name!r}; leave it out")


def reason(error: ValueError) -> str:
    """The message of a failed check, without pydantic's frame around the message."""
    if not isinstance(error, ValidationError):
        return str(error)
    # One line for a user: the first error, since later ones often follow from it.
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"


def parameter_names(criterion: Criterion) -> tuple[str, ...]:
    """Names of a criterion's parameters.

    >>> parameter_names(CRITERIA["imp"])
    ('rounds', 'steps', 'learning_rate')
    """
    return tuple(field.name for field in dataclass_fields(criterion)) if is_dataclass(criterion) else ()


def with_parameters(name: str, parameters: Mapping[str, Any]) -> Criterion:
    """The criterion of a name with some parameters replaced.

    >>> with_parameters("imp", {"rounds": 2, "learning_rate": 1})
    IMP(rounds=2, steps=60, learning_rate=1.0)

    Raises:
        ValueError: the criterion has no parameter of a given name or type, or refuses a value.
    """
    values = typed(name, parameters)
    try:
        return build(name, values)
    except (ValueError, TypeError) as error:
        given = ", ".join(f"{parameter}={value!r}" for parameter, value in values.items())
        raise ValueError(f"criterion {name} refuses {given}: {error}") from None


def typed(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of the criterion of a name, in their types: a whole number may stand for a real one.

    >>> typed("imp", {"learning_rate": 1})
    {'learning_rate': 1.0}

    Raises:
        ValueError: the criterion has no parameter of a given name, or a value has another type.
    """
    criterion, values = CRITERIA[name], {}
    known = parameter_names(criterion)
    for parameter, value in parameters.items():
        if parameter not in known:
            raise ValueError(
                f"criterion {name} has no parameter {parameter!r}; choose out of {', '.join(known)}"
                if known
                else f"criterion {name} has no parameters, but got {parameter!r}; leave it out"
            )
        # Strict: otherwise pydantic would read "2" as 2 and True as 1. A whole number still passes for a real one.
        try:
            values[parameter] = _types(type(criterion))[parameter].validate_python(value, strict=True)
        except ValidationError as error:
            said = error.errors()[0]["msg"].replace("Input", "it", 1)
            raise ValueError(f"criterion {name} refuses {parameter}={value!r}: {said}; choose another value") from None
    return values


@lru_cache
def _types(criterion: type[Criterion]) -> dict[str, TypeAdapter[Any]]:
    # Annotations are texts in modules with ``from __future__ import annotations``; only the hints are types.
    hints = get_type_hints(criterion)
    return {field.name: TypeAdapter(hints[field.name]) for field in dataclass_fields(criterion)}  # type: ignore[arg-type]


def _moved(given: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Given parameters of a criterion with a field of their own in a setting."""
    parameters = given.get("parameters")
    if not isinstance(parameters, Mapping):
        return {}
    moved = {name: parameters[name] for name in OWN_FIELDS if name in names and name in parameters}
    for name, value in moved.items():
        if given.get(name, value) != value:
            raise ValueError(f"`parameters` say {name}={value}, but the setting {name}={given[name]}; leave one out")
    return moved

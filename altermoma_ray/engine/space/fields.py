"""The fields of a search space, with the checks of each field alone and against others."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from altermoma_ray.engine.scoring.units import SINGLE_WEIGHTS, ChannelBounds
from altermoma_ray.engine.space.ranges import (
    Choice,
    Fixed,
    Float,
    Interval,
    Range,
    check_ranges,
    ends_of,
)
from altermoma_ray.engine.space.setting import Scope, check_granularity
from altermoma_ray.pruning import ReactivationGradient, ScheduleKind
from altermoma_ray.pruning.channels import Bounds
from altermoma_ray.pruning.criteria import CRITERIA

LISTS = ("criteria", "scopes", "reactivation_steps", "reactivation_learning_rates", "schedules", "granularities")
"""Fields with lists of choices."""


class SpaceFields(BaseModel):
    """The fields of :class:`~altermoma_ray.engine.space.SearchSpace`, which draws settings from them.

    >>> SpaceFields(beta=(0.0, 0.25)).range_of("beta")
    Float(kind='float', low=0.0, high=0.25, log=False)

    Raises:
        ValueError: a range is upside down, or a criterion or a granularity is unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    criteria: tuple[str, ...] = Field(default=("altermoma", "deci", "snip", "taylor", "synflow"), min_length=1)
    """Choices of criteria; ``deci`` is AlterEva with β = 0, a value never hit by a range. A criterion pruning in rounds
    of its own is run anew by each of its trials."""
    scopes: tuple[Scope, ...] = Field(default=("group", "global"), min_length=1)
    preference: Interval = (-1.5, 1.5)
    """Each group keeps a share of its weights proportional to ``exp(preference)``, scaled to the total sparsity."""
    ratios: dict[str, Annotated[Float | Fixed, Field(discriminator="kind")]] = Field(default_factory=dict)
    """The fraction to remove in single groups; the other groups make up the total sparsity by their preferences.
    These ratios go with the scope ``group`` only, which is then the default."""
    beta: Interval = (0.0, 0.5)
    """Range of β with α = 1: with a ratio for each group only β/α matters. Narrow, as docs/evidence.md has it."""
    reactivation_steps: tuple[PositiveInt, ...] = Field(default=(8,), min_length=1)
    """Choices of B, the number of reactivation steps."""
    reactivation_learning_rates: tuple[PositiveFloat, ...] = Field(default=(1e-4,), min_length=1)
    reactivation_gradient: ReactivationGradient = "scoring-batches"
    """Data of ReRI's second gradient in all trials but the paper's own: D leaves out the noise of another batch."""
    published_gradient: ReactivationGradient = "last-batch"
    """Data of ReRI's second gradient in the paper's own trial."""
    schedules: tuple[ScheduleKind, ...] = Field(default=("one-shot", "linear", "cubic", "exponential"), min_length=1)
    parameters: dict[str, dict[str, Range]] = Field(default_factory=dict)
    """Parameters by criterion and name, as ``{"imp": {"rounds": Choice((2, 4))}}``. These ranges go before the ranges
    shared by all criteria, as the range of β."""
    learning_rate: Interval = (2e-4, 2e-3)
    """Range of the fine-tune learning rate; a pair is searched on a logarithmic axis."""
    sparsity: Interval = (0.5, 0.97)
    """Range of the total sparsity as an objective; otherwise the command's ``--sparsity`` holds."""
    granularities: tuple[str, ...] = Field(default=(SINGLE_WEIGHTS,), min_length=1)
    """Choices of units to prune as a whole; drawn where there are several."""
    distillation: Interval = Fixed(0.0)
    """Range of the weight of distillation from the unpruned model while fine-tuning; 0 trains on the task alone.
    The paper's own trial never distils."""
    bounds: ChannelBounds = Field(default_factory=Bounds)
    """How narrow layers may become in trials of granularity ``channel``."""
    published_first: bool = True
    """Whether trial 0 is the paper's own configuration; otherwise trial 0 is drawn as all others."""
    scoring_batches: int = Field(default=8, gt=0)
    """Number of batches in D, the scoring data, over which indicators are averaged."""
    fine_tune_epochs: float = Field(default=0.2, gt=0)
    """Length of every trial's fine-tuning."""
    iterative_rounds: int = Field(default=4, gt=1)
    """Rounds of the iterative schedules."""
    pruning_phase: float = Field(default=0.2, gt=0, lt=1)
    """Fraction of fine-tuning over which the iterative schedules spread their rounds."""
    rungs: tuple[float, ...] = (0.0, 0.25)
    """Fractions of fine-tuning after which a trial is evaluated, and stops unless promoted; 0 is before any training.
    These rungs, their statistics and η were chosen by replaying whole searches, see docs/evidence.md."""
    rung_samples: PositiveInt | Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Validation samples of the intermediate evaluations: their number, or below 1 their share of all; the last
    evaluation takes all."""
    rung_statistics: int = Field(default=4, ge=0)
    """Training batches from which the normalisation statistics are taken anew at a rung. The evaluation at the rung is
    then of the trial's last masks, however far its schedule is, so that a rung may lie before the last pruning, and at
    0, before any training. 0 evaluates the model as training has left it."""
    reduction: float = Field(default=4.0, gt=1)
    """Successive halving's η: the best ``1 / reduction`` of the trials at a rung go on, in the end one at least."""
    patience: float = Field(default=0.75, ge=0, le=1)
    """Share of the trials expected at a rung that must be there before the first of them goes on."""

    @model_validator(mode="before")
    @classmethod
    def _write_out(cls, given: Any) -> Any:
        """Make lists of choices from ``Choice`` and ``Fixed``, and the scope ``group`` from ratios of groups."""
        if not isinstance(given, Mapping):
            return given
        for name, drawn in (given.get("parameters") or {}).items():
            check_ranges(f"parameters of {name}", drawn)
        check_ranges("ratios", given.get("ratios"))
        lists = {name: given[name].known for name in LISTS if isinstance(given.get(name), Choice | Fixed)}
        if given.get("ratios") and "scopes" not in given:
            lists["scopes"] = ("group",)
        return {**given, **lists}

    @model_validator(mode="after")
    def _check_fields(self) -> SpaceFields:
        for name in ("preference", "beta", "learning_rate", "sparsity", "distillation"):
            low, high = ends_of(getattr(self, name))
            if low == inf:  # the ends of texts are (inf, -inf)
                raise ValueError(f"{name} must be of numbers, but got {getattr(self, name)!r}; write numbers")
            if not low <= high:  # refuses NaN, too
                raise ValueError(f"`low <= high` must hold for {name}, but got ({low}, {high}); swap them")
        sparsity, learning_rate = ends_of(self.sparsity), ends_of(self.learning_rate)
        if not (sparsity[0] >= 0 and sparsity[1] < 1):
            raise ValueError(f"`0 <= sparsity < 1` must hold, but got {sparsity}; narrow the range")
        if learning_rate[0] <= 0:
            raise ValueError(f"`learning_rate > 0` must hold, but got {learning_rate}; raise the lower end")
        for name in self.criteria:
            if name not in CRITERIA:
                raise ValueError(f"`criteria` must be out of {', '.join(CRITERIA)}, but got {name!r}; leave it out")
        for name in self.granularities:
            check_granularity(name)
        for name in ("beta", "distillation"):
            if self.range_of(name).ends[0] < 0:
                raise ValueError(f"`{name} >= 0` must hold, but got {self.range_of(name).ends}; raise the lower end")
        self._check_rungs()
        self._check_ratios()
        return self

    def _check_rungs(self) -> None:
        anew = self.rung_statistics > 0
        inside = all(0 < rung < 1 or (anew and rung == 0) for rung in self.rungs)
        if not inside or list(self.rungs) != sorted(set(self.rungs)):
            bounds = "[0, 1)" if anew else "(0, 1)"
            remedy = "leave 0 out, or set `rung_statistics`" if 0 in self.rungs and not anew else "sort them"
            raise ValueError(f"`rungs` must rise inside {bounds}, but got {self.rungs}; {remedy}")
        if self.rungs and self.rungs[0] < self.pruning_phase and not anew:
            raise ValueError(
                f"`pruning_phase <= rungs[0]` must hold, so that rungs compare models of the full sparsity, "
                f"but got {self.pruning_phase} and {self.rungs}; move the rung, or set `rung_statistics`"
            )

    def _check_ratios(self) -> None:
        if self.ratios and self.scopes != ("group",):
            raise ValueError(f"`ratios` go with scope 'group' only, but got scopes {self.scopes}; leave `scopes` out")
        for group, drawn in self.ratios.items():  # the names of groups are known only with a model: see ``check``
            low, high = drawn.ends
            if not 0 <= low <= high < 1:
                raise ValueError(f"`0 <= ratio < 1` must hold, but {group} got {drawn!r}; narrow it")

    def range_of(self, field: str) -> Float | Choice | Fixed:
        """The range of a field of numbers, also where the field is a pair.

        >>> SpaceFields(beta=(0.0, 0.25)).range_of("beta").ends
        (0.0, 0.25)
        """
        given = getattr(self, field)
        return Float(*given, log=field == "learning_rate") if isinstance(given, tuple) else given

    @property
    def granularity(self) -> str:
        """The granularity of settings which draw none: the only choice, or single weights.

        >>> SpaceFields(granularities=("channel",), criteria=("snip",)).granularity
        'channel'
        """
        return self.granularities[0] if len(self.granularities) == 1 else SINGLE_WEIGHTS

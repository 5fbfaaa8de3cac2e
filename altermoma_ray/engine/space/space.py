"""What a search varies, and what one trial does.

A space is a plain Python module with an object ``SPACE`` (see ``search_spaces/nusc.py``); a user's own file works the
same. What needs new indicators (B and the reactivation learning rate) is a short list of choices, scored once before
the first trial; all else is free for every trial.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import optuna
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from altermoma_ray.engine.scoring.indicators import combines_indicators, is_one_shot
from altermoma_ray.pruning import (
    Normalisation,
    NormMode,
    Reactivation,
    ReactivationGradient,
    ScheduleKind,
    solve_ratios,
)
from altermoma_ray.pruning.criteria import CRITERIA, AlterMOMA
from altermoma_ray.pruning.granularity import GRANULARITIES, Granularity
from altermoma_ray.tracking.comparison.statistics import UNPRUNED

Scope = Literal["global", "group"]
Draw = str | float | int | bool
"""A value that Optuna draws."""
REDUNDANCY_CRITERIA = ("altermoma", "altermoma-residual")
"""Criteria whose β and reactivation are searched."""
SINGLE_WEIGHTS = "weight"
"""The granularity of a setting that names none."""


class PruningSetting(BaseModel):
    """One trial's way from indicators to a fine-tuned, pruned model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scope: Scope
    """``global``: one threshold over all groups (AlterMOMA, Algorithm 1); ``group``: a ratio for each group."""
    sparsity: float = Field(ge=0, lt=1)
    """Fraction of all prunable weights that is removed."""
    ratios: dict[str, float] | None = None
    """Fraction removed in each group; they add up to ``sparsity``. Only with ``scope="group"``."""
    criterion: str = "altermoma"
    """A key of :data:`altermoma_ray.pruning.criteria.CRITERIA`, or ``unpruned``."""
    alpha: float = Field(default=1.0, ge=0)
    """Weight of DeCI in AlterEva."""
    beta: float = 0.0
    """Weight of ReRI in AlterEva; 0 is DeCI alone, and below 0 redundancy counts as a merit (a control)."""
    reactivation_steps: int | None = Field(default=None, gt=0)
    """B, batches of reactivation; needed where β is not 0."""
    reactivation_learning_rate: float | None = Field(default=None, gt=0)
    reactivation_gradient: ReactivationGradient = "scoring-batches"
    """Data of ReRI's second gradient: the last batch of reactivation (the paper), or D."""
    normalisation: Normalisation = "group"
    """Whether AlterEva divides its indicators by their sums over a group (the paper) or a layer."""
    scoring_batches: int | None = Field(default=None, gt=0)
    """Batches of D; None takes the search space's."""
    norms: NormMode = "running"
    """What normalisation layers use while scoring."""
    schedule: ScheduleKind = "one-shot"
    learning_rate: float = Field(gt=0)
    """Peak learning rate of fine-tuning."""
    granularity: str = SINGLE_WEIGHTS
    """A key of :data:`altermoma_ray.pruning.granularity.GRANULARITIES`: what is pruned as a whole."""

    @model_serializer(mode="wrap")
    def _leave_out_the_default(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the granularity of releases that had no other, so that their settings' texts stay the same."""
        fields: dict[str, Any] = serialise(self)
        if self.granularity == SINGLE_WEIGHTS:
            fields.pop("granularity", None)
        return fields

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, fields: Any) -> Any:
        """Take what is not given from the registered criterion; β of those for which it is searched has a default."""
        if not isinstance(fields, Mapping) or not isinstance(fields.get("criterion", "altermoma"), str):
            return fields
        name = fields.get("criterion", "altermoma")
        own = CRITERIA.get(name)
        if not isinstance(own, AlterMOMA):
            return fields
        filled: dict[str, Any] = {"alpha": own.alpha, "normalisation": own.normalisation}
        if name not in REDUNDANCY_CRITERIA:
            filled |= {"beta": own.beta}
        if fields.get("beta", filled.get("beta", 0)) != 0 and name not in REDUNDANCY_CRITERIA:
            filled["reactivation_steps"] = own.reactivation.steps
            filled["reactivation_learning_rate"] = own.reactivation.learning_rate
            filled["reactivation_gradient"] = own.reactivation.gradient
        return {**filled, **fields}

    @model_validator(mode="after")
    def _check(self) -> PruningSetting:
        if (self.scope == "group") != (self.ratios is not None):
            raise ValueError(f"`ratios` go with scope 'group' only, but got scope {self.scope!r} and {self.ratios}")
        for group, ratio in (self.ratios or {}).items():
            if not 0 <= ratio < 1:
                raise ValueError(f"`0 <= ratio < 1` must hold, but {group} got {ratio}; lower it")
        if self.criterion not in (*CRITERIA, UNPRUNED):
            raise ValueError(f"`criterion` must be one of {', '.join(CRITERIA)}, but got {self.criterion!r}")
        if self.criterion == UNPRUNED and self.sparsity > 0:
            raise ValueError(f"the unpruned model has sparsity 0, but got {self.sparsity}; take a criterion")
        if self.reads_indicators and self.beta != 0 and self.reactivation is None:
            raise ValueError(f"beta={self.beta} needs `reactivation_steps` and `reactivation_learning_rate`; set them")
        if self.schedule != "one-shot" and self.criterion in CRITERIA and not is_one_shot(self.criterion):
            raise ValueError(f"{self.criterion} brings its own schedule, but got {self.schedule!r}; take 'one-shot'")
        _check_granularity(self.granularity, [self.criterion])
        return self

    @property
    def units(self) -> Granularity:
        """What is pruned as a whole."""
        return GRANULARITIES[self.granularity]

    @property
    def reads_indicators(self) -> bool:
        """Whether the scores are made of DeCI and ReRI."""
        return combines_indicators(self.criterion)

    def combining(self) -> AlterMOMA:
        """The criterion that combines the indicators, with this setting's figures."""
        criterion = CRITERIA[self.criterion]
        assert isinstance(criterion, AlterMOMA)
        return replace(criterion, alpha=self.alpha, beta=self.beta, normalisation=self.normalisation)

    @property
    def reactivation(self) -> Reactivation | None:
        """The reactivation whose ReRI is read; None when none is."""
        steps, rate = self.reactivation_steps, self.reactivation_learning_rate
        if not self.reads_indicators or self.beta == 0 or steps is None or rate is None:
            return None
        return Reactivation(steps=steps, learning_rate=rate, gradient=self.reactivation_gradient)


class SearchSpace(BaseModel):
    """Ranges of a search; every field can be replaced in a space of one's own."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    criteria: tuple[str, ...] = Field(default=("altermoma", "deci", "snip", "taylor", "synflow"), min_length=1)
    """What to choose from; ``deci`` is AlterEva with β = 0, which a range never hits. A criterion that prunes in
    rounds of its own is run by every trial that draws it."""
    scopes: tuple[Scope, ...] = Field(default=("group", "global"), min_length=1)
    preference: tuple[float, float] = (-1.5, 1.5)
    """Each group keeps a share of its weights proportional to ``exp(preference)``, scaled to the total sparsity."""
    beta: tuple[float, float] = (0.0, 0.5)
    """Range of β with α = 1: with a ratio for each group only β/α matters. Narrow, as docs/evidence.md has it."""
    reactivation_steps: tuple[PositiveInt, ...] = Field(default=(8,), min_length=1)
    """Choices of B."""
    reactivation_learning_rates: tuple[PositiveFloat, ...] = Field(default=(1e-4,), min_length=1)
    reactivation_gradient: ReactivationGradient = "scoring-batches"
    """Data of ReRI's second gradient in all trials but the paper's own: D leaves out the noise of another batch."""
    published_gradient: ReactivationGradient = "last-batch"
    """The same in the paper's own trial."""
    schedules: tuple[ScheduleKind, ...] = Field(default=("one-shot", "linear", "cubic", "exponential"), min_length=1)
    learning_rate: tuple[PositiveFloat, PositiveFloat] = (2e-4, 2e-3)
    """Range of the fine-tune learning rate, searched on a logarithmic axis."""
    sparsity: tuple[float, float] = (0.5, 0.97)
    """Range of the total sparsity where it is an objective; otherwise the command's ``--sparsity`` holds."""
    granularities: tuple[str, ...] = Field(default=(SINGLE_WEIGHTS,), min_length=1)
    """What is pruned as a whole, to choose from; drawn where there are several. A criterion that prunes in rounds of
    its own always prunes single weights."""
    scoring_batches: int = Field(default=8, gt=0)
    """Batches for D, over which indicators are averaged."""
    fine_tune_epochs: float = Field(default=0.2, gt=0)
    """Length of every trial's fine-tuning."""
    iterative_rounds: int = Field(default=4, gt=1)
    """Rounds of the iterative schedules."""
    pruning_phase: float = Field(default=0.2, gt=0, lt=1)
    """Fraction of fine-tuning over which the iterative schedules spread their rounds."""
    rungs: tuple[float, ...] = (0.25,)
    """Fractions of fine-tuning after which a trial is evaluated, and stops unless it is promoted."""
    rung_samples: int = Field(default=40, gt=0)
    """Validation samples of those intermediate evaluations; the last one takes all."""
    reduction: float = Field(default=3.0, gt=1)
    """Of the trials that reached a rung the best ``1 / reduction`` go on (successive halving's η)."""

    @model_validator(mode="after")
    def _check(self) -> SearchSpace:
        for name in ("preference", "beta", "learning_rate", "sparsity"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"`low <= high` must hold for {name}, but got ({low}, {high}); swap them")
        if not (self.sparsity[0] >= 0 and self.sparsity[1] < 1):
            raise ValueError(f"`0 <= sparsity < 1` must hold, but got {self.sparsity}; narrow the range")
        for name in self.criteria:
            if name not in CRITERIA:
                raise ValueError(f"`criteria` must be out of {', '.join(CRITERIA)}, but got {name!r}; leave it out")
        for name in self.granularities:
            _check_granularity(name, () if SINGLE_WEIGHTS in self.granularities else self.criteria)
        if self.beta[0] < 0:
            raise ValueError(f"`beta >= 0` must hold, but got {self.beta}; raise the lower end")
        if not all(0 < rung < 1 for rung in self.rungs) or list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError(f"`rungs` must rise inside (0, 1), but got {self.rungs}; sort them")
        if self.rungs and self.rungs[0] < self.pruning_phase:
            raise ValueError(
                f"`pruning_phase <= rungs[0]` must hold, so that rungs compare models of the full sparsity, "
                f"but got {self.pruning_phase} and {self.rungs}; move the rung"
            )
        return self

    def reactivations(self) -> list[Reactivation]:
        """Every reactivation setting that a trial may ask for: drawn ones, registered criteria's, the paper's own."""
        drawn = [
            Reactivation(steps=steps, learning_rate=rate, gradient=self.reactivation_gradient)
            for rate in self.reactivation_learning_rates
            for steps in self.reactivation_steps
        ]
        registered = [CRITERIA[name] for name in self.criteria if name not in (*REDUNDANCY_CRITERIA, "reri")]
        own = [one.reactivation for one in registered if isinstance(one, AlterMOMA) and one.beta != 0]
        steps, rate = self._published_reactivation()
        published = Reactivation(steps=steps, learning_rate=rate, gradient=self.published_gradient)
        return list(dict.fromkeys([*drawn, *own, published]))

    def _published_reactivation(self) -> tuple[int, float]:
        """B and learning rate: the choices closest to the paper's (learning rate 1e-4; it does not state B)."""
        return max(self.reactivation_steps), min(self.reactivation_learning_rates, key=lambda rate: abs(rate - 1e-4))

    def suggest(self, trial: optuna.Trial, sizes: Mapping[str, int], sparsity: float | None) -> PruningSetting:
        """Draw one setting.

        Args:
            trial: Optuna's trial that remembers the draw.
            sizes: prunable weights of each group.
            sparsity: the total, or None to draw it too.
        """
        draws: dict[str, Draw] = {}
        if sparsity is None:
            draws["sparsity"] = trial.suggest_float("sparsity", *self.sparsity)
        draws["scope"] = trial.suggest_categorical("scope", self.scopes)
        if draws["scope"] == "group":
            for group in sizes:
                name = f"preference_{group}"
                draws[name] = trial.suggest_float(name, *self.preference)
        draws["criterion"] = trial.suggest_categorical("criterion", self.criteria)
        if draws["criterion"] in REDUNDANCY_CRITERIA:
            draws["beta"] = trial.suggest_float("beta", *self.beta)
            for name, choices in self._reactivation_choices().items():
                draws[name] = trial.suggest_categorical(name, choices)
        if is_one_shot(str(draws["criterion"])):
            draws["schedule"] = trial.suggest_categorical("schedule", self.schedules)
        draws["learning_rate"] = trial.suggest_float("learning_rate", *self.learning_rate, log=True)
        if len(self.granularities) > 1 and is_one_shot(str(draws["criterion"])):
            draws["granularity"] = trial.suggest_categorical("granularity", self.granularities)
        return self.setting(draws, sizes, sparsity)

    def published(self, sparsity: float | None) -> dict[str, Draw]:
        """The paper's own configuration as draws: one global threshold, α = β = 1, one-shot."""
        low, high = self.learning_rate
        steps, rate = self._published_reactivation()
        draws: dict[str, Draw] = {
            "scope": "global",
            "criterion": "altermoma",
            "beta": 1.0,
            "reactivation_steps": steps,
            "reactivation_learning_rate": rate,
            "reactivation_gradient": self.published_gradient,
            "schedule": "one-shot",
            "learning_rate": min(max((low * high) ** 0.5, low), high),
        }
        if sparsity is None:
            draws["sparsity"] = min(max(0.8, self.sparsity[0]), self.sparsity[1])
        if len(self.granularities) > 1:
            draws["granularity"] = min(self.granularities, key=lambda name: name != SINGLE_WEIGHTS)
        return draws

    def holds(self, draws: Mapping[str, Draw]) -> bool:
        """Whether the sampler could have drawn these."""
        beta = float(draws["beta"])
        choices = {
            "scope": self.scopes,
            "criterion": self.criteria,
            "schedule": self.schedules,
            **self._reactivation_choices(),
        }
        return (
            self.beta[0] <= beta <= self.beta[1]
            and draws["reactivation_gradient"] == self.reactivation_gradient
            and all(draws[name] in offered for name, offered in choices.items())
        )

    def setting(self, draws: Mapping[str, Draw], sizes: Mapping[str, int], sparsity: float | None) -> PruningSetting:
        """The setting that draws stand for."""
        total = float(draws["sparsity"]) if sparsity is None else sparsity
        ratios = None
        if draws["scope"] == "group":
            ratios = solve_ratios(sizes, total, {group: float(draws[f"preference_{group}"]) for group in sizes})
        names = ("scope", "criterion", "schedule", "learning_rate", "beta", *self._reactivation_choices())
        fields = {name: draws[name] for name in names if name in draws}
        only = self.granularities[0] if len(self.granularities) == 1 else SINGLE_WEIGHTS
        fields["granularity"] = draws.get("granularity", only)
        if draws["criterion"] in REDUNDANCY_CRITERIA:
            fields["reactivation_gradient"] = draws.get("reactivation_gradient", self.reactivation_gradient)
        if draws["criterion"] == "reri":
            fields |= self._reri_alone()
        return PruningSetting(sparsity=total, ratios=ratios, **fields)  # type: ignore[arg-type]

    def _reri_alone(self) -> dict[str, Draw]:
        first = self.reactivations()[0]
        return {
            "alpha": 0.0,
            "beta": 1.0,
            "reactivation_steps": first.steps,
            "reactivation_learning_rate": first.learning_rate,
            "reactivation_gradient": first.gradient,
        }

    def _reactivation_choices(self) -> dict[str, tuple[Draw, ...]]:
        return {
            "reactivation_steps": self.reactivation_steps,
            "reactivation_learning_rate": self.reactivation_learning_rates,
        }


def _check_granularity(name: str, criteria: Sequence[str]) -> None:
    if name not in GRANULARITIES:
        raise ValueError(f"`granularity` must be one of {', '.join(GRANULARITIES)}, but got {name!r}; leave it out")
    for criterion in criteria:
        if name != SINGLE_WEIGHTS and criterion in CRITERIA and not is_one_shot(criterion):
            raise ValueError(
                f"{criterion} prunes single weights in rounds of its own, but got granularity {name!r}; "
                f"take another criterion or {SINGLE_WEIGHTS!r}"
            )

"""The ranges of a search: :class:`SearchSpace`.

A space is a plain Python module with an object ``SPACE`` (see ``search_spaces/nusc.py``); a user's own file works the
same. B, the number of reactivation steps, and the reactivation learning rate are short lists of choices, since each
choice needs indicators of its own, scored once before the first trial. All else is free for every trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Annotated, Any

import optuna
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from altermoma_ray.engine.scoring.requests import ScoreRequest, Value, Wanted
from altermoma_ray.engine.space.ranges import (
    Choice,
    Fixed,
    Float,
    Interval,
    Range,
    check_ranges,
    combinations,
    ends_of,
)
from altermoma_ray.engine.space.setting import (
    SINGLE_WEIGHTS,
    PruningSetting,
    Scope,
    check_granularity,
    parameter_names,
    reason,
    typed,
    with_parameters,
)
from altermoma_ray.errors import UserError
from altermoma_ray.pruning import Reactivation, ReactivationGradient, ScheduleKind, solve_ratios
from altermoma_ray.pruning.criteria import CRITERIA
from altermoma_ray.pruning.ratios import check_fixed

Draw = Value
"""A value drawn by Optuna."""
LISTS = ("criteria", "scopes", "reactivation_steps", "reactivation_learning_rates", "schedules", "granularities")
"""Fields with lists of choices."""
MOST_SCORED = 16
"""Largest number of a criterion's variants to score before the first trial; more variants are scored by the trials."""


class SearchSpace(BaseModel):
    """The ranges of a search; every field can be replaced in a user's own space.

    Where a field is a range of numbers, a pair stands for its ends, and :class:`Float`, :class:`Choice` or
    :class:`Fixed` says more. Parameters of criteria, and ratios of single groups, are varied the same way:

    >>> space = SearchSpace(
    ...     criteria=("altermoma", "imp"),
    ...     beta=Choice((0.1, 0.3)),
    ...     parameters={"imp": {"rounds": Choice((2, 4))}},
    ...     ratios={"lidar": Fixed(0.5)},
    ... )
    >>> space.scopes
    ('group',)

    Raises:
        ValueError: a range is upside down, a criterion or a parameter is unknown, or a criterion refuses a value.
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
    """Choices of units to prune as a whole; drawn where there are several. A criterion pruning in rounds of its own
    always prunes single weights."""
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
    rungs: tuple[float, ...] = (0.25,)
    """Fractions of fine-tuning after which a trial is evaluated, and stops unless promoted."""
    rung_samples: int = Field(default=40, gt=0)
    """Validation samples of the intermediate evaluations; the last evaluation takes all."""
    reduction: float = Field(default=3.0, gt=1)
    """Successive halving's η: of the trials at a rung, the best ``1 / reduction`` go on."""

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
    def _check(self) -> SearchSpace:
        for name in ("preference", "beta", "learning_rate", "sparsity"):
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
            check_granularity(name, () if SINGLE_WEIGHTS in self.granularities else self.criteria)
        if self.range_of("beta").ends[0] < 0:
            raise ValueError(f"`beta >= 0` must hold, but got {self.range_of('beta').ends}; raise the lower end")
        if not all(0 < rung < 1 for rung in self.rungs) or list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError(f"`rungs` must rise inside (0, 1), but got {self.rungs}; sort them")
        if self.rungs and self.rungs[0] < self.pruning_phase:
            raise ValueError(
                f"`pruning_phase <= rungs[0]` must hold, so that rungs compare models of the full sparsity, "
                f"but got {self.pruning_phase} and {self.rungs}; move the rung"
            )
        self._check_ratios()
        self._check_parameters()
        return self

    def _check_ratios(self) -> None:
        if self.ratios and self.scopes != ("group",):
            raise ValueError(f"`ratios` go with scope 'group' only, but got scopes {self.scopes}; leave `scopes` out")
        for group, drawn in self.ratios.items():  # the names of groups are known only with a model: see ``check``
            low, high = drawn.ends
            if not 0 <= low <= high < 1:
                raise ValueError(f"`0 <= ratio < 1` must hold, but {group} got {drawn!r}; narrow it")

    def _check_parameters(self) -> None:
        """Make a setting of every variant of every criterion, or of every single value where variants are many."""
        for name, drawn in self.parameters.items():
            if name not in CRITERIA:
                raise ValueError(f"`parameters` must be of {', '.join(CRITERIA)}, but got {name!r}; leave it out")
            if name not in self.criteria:
                raise ValueError(f"`parameters` vary {name}, which is not among `criteria`; add it there")
            ends = {field: one.known or one.ends for field, one in drawn.items()}
            singly = [{field: value} for field, values in ends.items() for value in values]
            for values in combinations(ends) or singly:  # criteria may refuse two good values together
                draws = {f"{name}.{field}": value for field, value in values.items()}
                try:
                    self.setting(self._first_draws(name) | draws, {}, 0.5)
                except ValueError as error:
                    raise ValueError(reason(error)) from None

    def _first_draws(self, criterion: str) -> dict[str, Draw]:
        """One set of draws for a criterion, without its own parameters."""
        choices = {name: choices[0] for name, choices in self._reactivation_choices().items()}
        learning_rate = self.range_of("learning_rate").ends[0]
        return {"scope": "global", "criterion": criterion, "learning_rate": learning_rate, **choices}

    def range_of(self, field: str) -> Float | Choice | Fixed:
        """The range of a field of numbers, also where the field is a pair.

        >>> SearchSpace(beta=(0.0, 0.25)).range_of("beta").ends
        (0.0, 0.25)
        """
        given = getattr(self, field)
        return Float(*given, log=field == "learning_rate") if isinstance(given, tuple) else given

    def check(self, sizes: Mapping[str, int], sparsity: float | None) -> None:
        """Check, before anything is scored, whether the space can draw settings for a model.

        Args:
            sizes: number of prunable weights in each group.
            sparsity: the total sparsity, or None where the total is drawn too.

        Raises:
            UserError: ratios of single groups cannot be met, or are of a group unknown to the model.
        """
        if not self.ratios:
            return
        least, most = (sparsity, sparsity) if sparsity is not None else self.range_of("sparsity").ends
        # The more is removed here, the less is left for the other groups: the ends of the ranges are the hardest cases.
        for total, end in ((least, 1), (most, 0)):
            try:
                check_fixed(sizes, total, {group: drawn.ends[end] for group, drawn in self.ratios.items()})
            except UserError as error:
                raise UserError(f"search space: {error}") from None

    def wanted(self) -> Wanted:
        """The requests to score before the first trial: all requests of the trials, as far as known beforehand."""
        kept = [CRITERIA[name] for name in self.criteria]
        return Wanted(
            contribution=any(criterion.needs == "indicators" and criterion.reads is None for criterion in kept),
            settings=tuple(self.reactivations()),
            criteria=tuple(
                ScoreRequest(criterion=name, parameters=values)
                for name, criterion in zip(self.criteria, kept, strict=True)
                if criterion.needs == "scores"
                for values in self._known(name)
            ),
        )

    def _known(self, criterion: str) -> list[dict[str, Value]]:
        """The variants of a criterion's parameters; none where they are too many, or drawn from real numbers."""
        known = {field: drawn.known for field, drawn in self.parameters.get(criterion, {}).items()}
        if None in known.values():
            return []
        found = combinations({field: values for field, values in known.items() if values is not None})
        if found is None or len(found) > MOST_SCORED:
            return []
        return [typed(criterion, values) for values in found]

    def reactivations(self) -> list[Reactivation]:
        """Every reactivation of the trials: the drawn ones, those of registered criteria, and the paper's own."""
        drawn = [
            Reactivation(steps=steps, learning_rate=rate, gradient=self.reactivation_gradient)
            for rate in self.reactivation_learning_rates
            for steps in self.reactivation_steps
        ]
        registered = [CRITERIA[name] for name in self.criteria if "reactivation" in CRITERIA[name].own()]
        own = [one.reads for one in registered if one.reads is not None]
        steps, rate = self._published_reactivation()
        published = Reactivation(steps=steps, learning_rate=rate, gradient=self.published_gradient)
        # Each once, in this order: ``_reactivation_of`` takes the first one.
        return list(dict.fromkeys([*drawn, *own, *([published] if self.published_first else [])]))

    def _published_reactivation(self) -> tuple[int, float]:
        """B and learning rate: the choices closest to the paper's (learning rate 1e-4; B is not stated there)."""
        return max(self.reactivation_steps), min(self.reactivation_learning_rates, key=lambda rate: abs(rate - 1e-4))

    def suggest(self, trial: optuna.Trial, sizes: Mapping[str, int], sparsity: float | None) -> PruningSetting:
        """Draw one setting.

        Args:
            trial: Optuna's trial, which remembers the draws.
            sizes: number of prunable weights in each group.
            sparsity: the total sparsity, or None to draw the total too.
        """
        draws: dict[str, Draw] = {}
        if sparsity is None:
            draws["sparsity"] = self.range_of("sparsity").draw(trial, "sparsity")
        draws["scope"] = trial.suggest_categorical("scope", self.scopes)
        if draws["scope"] == "group":
            for group in sizes:
                name, drawn = self._share_of(group, sizes)
                draws[name] = drawn.draw(trial, name)
        draws["criterion"] = trial.suggest_categorical("criterion", self.criteria)  # decides which draws follow
        draws |= self._suggest_parameters(trial, str(draws["criterion"]))
        if CRITERIA[str(draws["criterion"])].needs != "masks":  # others bring a schedule of their own
            draws["schedule"] = trial.suggest_categorical("schedule", self.schedules)
        draws["learning_rate"] = self.range_of("learning_rate").draw(trial, "learning_rate")
        if len(self.granularities) > 1 and CRITERIA[str(draws["criterion"])].needs != "masks":
            draws["granularity"] = trial.suggest_categorical("granularity", self.granularities)
        return self.setting(draws, sizes, sparsity)

    def _share_of(self, group: str, sizes: Mapping[str, int]) -> tuple[str, Float | Choice | Fixed]:
        """Name and range of a group's draw: its ratio itself, or its preference."""
        if group in self.ratios:
            return f"ratio_{group}", self.ratios[group]
        alone = bool(self.ratios) and len(sizes.keys() - self.ratios) == 1  # the last group gets the rest in any case
        return f"preference_{group}", Fixed(0.0) if alone else self.range_of("preference")

    def _suggest_parameters(self, trial: optuna.Trial, criterion: str) -> dict[str, Draw]:
        """Draw the parameters of a criterion: the shared ones as far as they apply, and the criterion's own."""
        draws: dict[str, Draw] = {}
        varied = self.parameters.get(criterion, {})
        for name, drawn in self._shared_ranges(criterion).items():
            if name not in varied:  # the criterion's own range goes before the shared one
                draws[name] = drawn.draw(trial, name)
        for field, drawn in varied.items():
            draws[f"{criterion}.{field}"] = drawn.draw(trial, f"{criterion}.{field}")
        return draws

    def _shared_ranges(self, criterion: str) -> dict[str, Float | Choice | Fixed]:
        """The shared ranges of β and the reactivation, as far as they apply to a criterion."""
        registered = CRITERIA[criterion]
        if registered.needs != "indicators" or registered.own():
            return {}
        names, found = parameter_names(registered), {}
        if "beta" in names:
            found["beta"] = self.range_of("beta")
        if "reactivation" in names:
            found |= {name: Choice(values) for name, values in self._reactivation_choices().items()}
        return found

    def published(self, sparsity: float | None) -> dict[str, Draw]:
        """The paper's own configuration as draws: one global threshold, α = β = 1, one-shot."""
        learning_rate = self.range_of("learning_rate")
        low, high = learning_rate.ends
        steps, rate = self._published_reactivation()
        draws: dict[str, Draw] = {
            "scope": "global",
            "criterion": "altermoma",
            "beta": 1.0,
            "reactivation_steps": steps,
            "reactivation_learning_rate": rate,
            "reactivation_gradient": self.published_gradient,
            "schedule": "one-shot",
            "learning_rate": learning_rate.nearest((low * high) ** 0.5),  # the middle of a logarithmic axis
        }
        for field in self.parameters.get("altermoma", {}):
            draws[f"altermoma.{field}"] = getattr(CRITERIA["altermoma"], field)
        if sparsity is None:
            draws["sparsity"] = self.range_of("sparsity").nearest(0.8)  # or the end next to 80 %
        if len(self.granularities) > 1:
            draws["granularity"] = min(self.granularities, key=lambda name: name != SINGLE_WEIGHTS)
        return draws

    def holds(self, draws: Mapping[str, Draw]) -> bool:
        """Whether the sampler could have made these draws."""
        varied = self.parameters.get(str(draws["criterion"]), {})
        choices = {
            "scope": self.scopes,
            "criterion": self.criteria,
            "schedule": self.schedules,
            **self._reactivation_choices(),
        }
        return (
            ("beta" in varied or self.range_of("beta").holds(draws["beta"]))
            and all(drawn.holds(draws[f"{draws['criterion']}.{field}"]) for field, drawn in varied.items())
            and draws["reactivation_gradient"] == self.reactivation_gradient
            and all(draws[name] in offered for name, offered in choices.items())
        )

    def setting(self, draws: Mapping[str, Draw], sizes: Mapping[str, int], sparsity: float | None) -> PruningSetting:
        """The setting of ``draws`` by name. Arguments ``sizes`` and ``sparsity`` are those of :meth:`suggest`."""
        total = float(draws["sparsity"]) if sparsity is None else sparsity
        ratios = None
        if draws["scope"] == "group":
            free = {group: float(draws[f"preference_{group}"]) for group in sizes if group not in self.ratios}
            fixed = {group: float(draws[f"ratio_{group}"]) for group in self.ratios}
            ratios = solve_ratios(sizes, total, free, fixed)
        own = f"{draws['criterion']}."
        parameters = {name.removeprefix(own): value for name, value in draws.items() if name.startswith(own)}
        names = ("scope", "criterion", "schedule", "learning_rate", "beta", *self._reactivation_choices())
        fields: dict[str, Any] = self._reactivation_of(str(draws["criterion"]), parameters)
        fields |= {name: draws[name] for name in (*names, "reactivation_gradient") if name in draws}
        only = self.granularities[0] if len(self.granularities) == 1 else SINGLE_WEIGHTS
        fields["granularity"] = draws.get("granularity", only)
        return PruningSetting(sparsity=total, ratios=ratios, parameters=parameters, **fields)

    def _reactivation_of(self, criterion: str, parameters: Mapping[str, Value]) -> dict[str, Draw]:
        """The first drawn reactivation, for a criterion which neither draws nor brings a reactivation."""
        registered = CRITERIA[criterion]
        if registered.needs != "indicators" or "reactivation" not in parameter_names(registered):
            return {}
        if not registered.own():
            return {"reactivation_gradient": self.reactivation_gradient}
        if "reactivation" in registered.own() or with_parameters(criterion, parameters).reads is None:
            return {}
        first = self.reactivations()[0]
        return {
            "reactivation_steps": first.steps,
            "reactivation_learning_rate": first.learning_rate,
            "reactivation_gradient": first.gradient,
        }

    def _reactivation_choices(self) -> dict[str, tuple[Draw, ...]]:
        return {
            "reactivation_steps": self.reactivation_steps,
            "reactivation_learning_rate": self.reactivation_learning_rates,
        }

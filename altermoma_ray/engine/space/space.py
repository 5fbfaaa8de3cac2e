"""The ranges of a search: :class:`SearchSpace`.

A space is a plain Python module with an object ``SPACE`` (see ``search_spaces/nusc.py``); a user's own file works the
same. B, the number of reactivation steps, and the reactivation learning rate are short lists of choices, since each
choice needs indicators of its own, scored once before the first trial. All else is free for every trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from pydantic import model_validator

from altermoma_ray.engine.scoring.requests import ScoreRequest, Value, Wanted
from altermoma_ray.engine.scoring.units import SINGLE_WEIGHTS
from altermoma_ray.engine.space.fields import SpaceFields
from altermoma_ray.engine.space.ranges import (
    Choice,
    Fixed,
    Float,
    combinations,
)
from altermoma_ray.engine.space.setting import (
    CHANNELS,
    PruningSetting,
    parameter_names,
    reason,
    typed,
    with_parameters,
)
from altermoma_ray.errors import UserError
from altermoma_ray.pruning import Reactivation, solve_ratios
from altermoma_ray.pruning.criteria import CRITERIA
from altermoma_ray.pruning.ratios import check_fixed

Draw = Value
"""A value drawn by Optuna."""
MOST_SCORED = 16
"""Largest number of a criterion's variants to score before the first trial; more variants are scored by the trials."""


class SearchSpace(SpaceFields):
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

    @model_validator(mode="after")
    def _check_parameters(self) -> SearchSpace:
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
        return self

    def _first_draws(self, criterion: str) -> dict[str, Draw]:
        """One set of draws for a criterion, without its own parameters."""
        choices = {name: choices[0] for name, choices in self._reactivation_choices().items()}
        learning_rate = self.range_of("learning_rate").ends[0]
        return {"scope": "global", "criterion": criterion, "learning_rate": learning_rate, **choices}

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
        if len(self.granularities) > 1:
            draws["granularity"] = trial.suggest_categorical("granularity", self.granularities)
        draws["distillation"] = self.range_of("distillation").draw(trial, "distillation")
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
        if not isinstance(self.distillation, Fixed):  # a draw of the sampler, which must find its value here
            draws["distillation"] = 0.0
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
            and self.range_of("distillation").holds(draws.get("distillation", 0.0))
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
        fields["granularity"] = draws.get("granularity", self.granularity)
        fields["distillation"] = float(draws.get("distillation", 0.0))
        fields |= {"bounds": self.bounds} if fields["granularity"] == CHANNELS else {}
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

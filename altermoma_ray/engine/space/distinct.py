"""The number of different settings in a space, and the settings themselves.

A space is finite where no draw is from a range of real numbers. Its settings are then the leaves of a tree: each draw
is a branching, and an early draw may decide which draws follow. The tree is walked through Optuna itself, by a sampler
taking the values in turn. A space with a ``suggest`` of its own is therefore walked exactly as its trials draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from altermoma_ray.engine.space.setting import PruningSetting
from altermoma_ray.engine.space.space import SearchSpace


class EndlessError(Exception):
    """A space draws from a range of real numbers; its settings cannot be listed."""


def key(setting: PruningSetting) -> str:
    """A setting as text; settings have equal keys if their trials do the same.

    Fields which the trials never read make no difference.
    """
    # Without ReRI, the fields of the reactivation are drawn or filled in all the same, and then ignored.
    unread = (
        set()
        if setting.reactivation is not None
        else {"reactivation_steps", "reactivation_learning_rate", "reactivation_gradient"}
    )
    return setting.model_dump_json(exclude=unread)


def settings(
    space: SearchSpace, sizes: Mapping[str, int], sparsity: float | None
) -> Iterator[tuple[dict[str, Any], PruningSetting]]:
    """All draws of a finite space with their settings, in a fixed order; different draws may have equal settings.

    Args:
        space: the space to walk.
        sizes: number of prunable weights in each group.
        sparsity: the total sparsity; None where each trial draws its own.

    Raises:
        EndlessError: the space is not finite; the pairs yielded before are right.
    """
    walk = _Walk()
    while True:
        # Optuna's studies keep all their trials in memory: a new study for each leaf keeps a long walk small.
        trial = optuna.create_study(sampler=walk).ask()
        setting = space.suggest(trial, sizes, sparsity)
        yield dict(trial.params), setting
        if not walk.step():
            return


def number_of_settings(space: SearchSpace, sizes: Mapping[str, int], sparsity: float | None, most: int) -> int:
    """The number of different trials in a space, including the paper's own configuration where a search runs it.

    Example:
        >>> from altermoma_ray.engine.space import Choice, Fixed
        >>> space = SearchSpace(
        ...     criteria=("snip",), scopes=("global",), schedules=("one-shot", "cubic"), learning_rate=Fixed(1e-3)
        ... )
        >>> number_of_settings(space.model_copy(update={"published_first": False}), {"camera": 100}, 0.5, most=10)
        2

    Args:
        space: the space to count in.
        sizes: number of prunable weights in each group.
        sparsity: the total sparsity; None where each trial draws its own.
        most: where counting stops.

    Returns:
        The number, or ``most`` where there are as many or more.
    """
    found = {key(space.setting(space.published(sparsity), sizes, sparsity))} if space.published_first else set()
    try:
        for _, setting in settings(space, sizes, sparsity):
            found.add(key(setting))
            if len(found) >= most:
                return most
    except EndlessError:
        return most
    return len(found)


class _Walk(optuna.samplers.BaseSampler):
    """A sampler taking the values of each draw in turn, depth first."""

    def __init__(self) -> None:
        self._path: list[tuple[int, int]] = []
        """For each branching: the position of the value taken, and the number of values."""
        self._depth = 0

    def step(self) -> bool:
        """Move on to the next leaf; False after the last one."""
        # As an odometer: branchings at their last value are dropped, and the last one left moves on. The branchings
        # below are found anew by the next draws, since another value may lead to other draws.
        while self._path and self._path[-1][0] + 1 == self._path[-1][1]:
            self._path.pop()
        if self._path:
            taken, count = self._path[-1]
            self._path[-1] = (taken + 1, count)
        self._depth = 0
        return bool(self._path)

    # Optuna draws jointly first and singly then. An empty joint space sends every draw to ``sample_independent``.
    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: BaseDistribution) -> Any:
        values = _values(param_distribution)
        if self._depth == len(self._path):
            self._path.append((0, len(values)))
        self._depth += 1
        return values[self._path[self._depth - 1][0]]


def _values(distribution: BaseDistribution) -> Sequence[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1, distribution.step)
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        steps = round((distribution.high - distribution.low) / distribution.step)
        # Repeated addition of the step would miss the upper end by rounding.
        return [float(value) for value in np.linspace(distribution.low, distribution.high, steps + 1)]
    raise EndlessError

"""How many different settings a space offers, and which of them are left.

A space is finite where none of its draws is from a range of real numbers. Its settings are then the leaves of a tree:
each draw is a branching, and an early draw may decide which draws follow. The tree is walked through Optuna itself, by
a sampler that takes the values in turn, so that a space with a ``suggest`` of its own is walked as it draws.
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
    """A space draws from a range of real numbers."""


def key(setting: PruningSetting) -> str:
    """What a trial does, as text: settings that differ only in what their trials never read are one."""
    unread = (
        set()
        if setting.reactivation is not None
        else {"reactivation_steps", "reactivation_learning_rate", "reactivation_gradient"}
    )
    return setting.model_dump_json(exclude=unread)


def settings(
    space: SearchSpace, sizes: Mapping[str, int], sparsity: float | None
) -> Iterator[tuple[dict[str, Any], PruningSetting]]:
    """All draws of a finite space with the settings that they stand for, in a fixed order; settings may come again.

    Arguments are those of :meth:`altermoma_ray.engine.space.SearchSpace.suggest`.

    Raises:
        EndlessError: the space is not finite; what was yielded before is right.
    """
    walk = _Walk()
    while True:
        trial = optuna.create_study(sampler=walk).ask()
        setting = space.suggest(trial, sizes, sparsity)
        yield dict(trial.params), setting
        if not walk.step():
            return


def number_of_settings(space: SearchSpace, sizes: Mapping[str, int], sparsity: float | None, most: int) -> int:
    """How many different trials a space has, with the paper's own if it is run; ``most`` if there are more."""
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
    """Takes the values of each draw in turn, depth first."""

    def __init__(self) -> None:
        self._path: list[tuple[int, int]] = []
        """Which value is taken at each branching, and of how many."""
        self._depth = 0

    def step(self) -> bool:
        """Move on to the next leaf; False after the last one."""
        while self._path and self._path[-1][0] + 1 == self._path[-1][1]:
            self._path.pop()
        if self._path:
            taken, count = self._path[-1]
            self._path[-1] = (taken + 1, count)
        self._depth = 0
        return bool(self._path)

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
        return [float(value) for value in np.linspace(distribution.low, distribution.high, steps + 1)]
    raise EndlessError

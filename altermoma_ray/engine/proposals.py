"""What to try next: Optuna's sampler and early stopping, arranged so that one seed gives one search.

Trials run side by side and end in any order. To keep a search reproducible, and a resumed search equal to an
undisturbed one, what trial n is told never depends on that order: its setting and its stopping thresholds follow from
the results of trials 0 ... n − lag, all of which must have ended, and from nothing else. Replaying the results of a
stopped search therefore proposes the same settings again.

Early stopping is asynchronous successive halving (Li et al., *A System for Massively Parallel Hyperparameter Tuning*,
MLSys 2020) on that history: at each rung a trial goes on if it is among the best 1/η of the trials before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import optuna
from optuna.trial import TrialState

from altermoma_ray.data.batch import CLASSES
from altermoma_ray.engine.space import PruningSetting, SearchSpace
from altermoma_ray.engine.trial import TrialTask
from altermoma_ray.errors import UserError
from altermoma_ray.tracking.result import TrialResult

optuna.logging.set_verbosity(optuna.logging.WARNING)

METRICS = ("map", "nds", "sparsity")
"""What can be an objective, beside ``ap/<class>``; all are maximised."""


@dataclass(frozen=True)
class Objective:
    """What a search maximises: one metric, or several for a Pareto search.

    >>> Objective.parse("map,sparsity").is_pareto
    True
    """

    names: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Objective:
        """Read ``--objective``.

        Raises:
            UserError: a metric is unknown or named twice.
        """
        names = tuple(name.strip() for name in text.split(","))
        unknown = [name for name in names if name not in METRICS and name.removeprefix("ap/") not in CLASSES]
        if unknown or len(set(names)) < len(names):
            raise UserError(
                f"objective {text!r} must be distinct metrics out of {', '.join(METRICS)}, ap/<class>; "
                f"for example map or map,sparsity"
            )
        return cls(names)

    @property
    def is_pareto(self) -> bool:
        return len(self.names) > 1

    @property
    def searches_sparsity(self) -> bool:
        """Whether the total sparsity is drawn for each trial instead of set."""
        return "sparsity" in self.names

    def values(self, result: TrialResult) -> list[float]:
        """The objective's values of a finished trial."""
        known = {**result.metrics, "sparsity": result.sparsity["total"]}
        return [known[name] for name in self.names]


class Proposer(Protocol):
    """Where trials come from."""

    @property
    def exhausted(self) -> bool:
        """Whether all trials have been proposed."""

    def next(self) -> TrialTask | None:
        """The next trial, or None while it must wait for others to end."""

    def complete(self, result: TrialResult) -> None:
        """Take in the result of a trial; order does not matter."""


class Grid:
    """Proposes trials that were all settled beforehand."""

    def __init__(self, tasks: Sequence[TrialTask]) -> None:
        self._left = list(tasks)

    @property
    def exhausted(self) -> bool:
        return not self._left

    def next(self) -> TrialTask | None:
        return self._left.pop(0) if self._left else None

    def complete(self, result: TrialResult) -> None:
        """Nothing to learn."""


class Proposals:
    """Proposes the trials of one search, in order.

    Args:
        space: what varies.
        sizes: prunable weights of each group.
        objective: what is optimised.
        sparsity: the total sparsity, used where it is not an objective.
        trials: how many to propose.
        lag: trial n waits for the trials up to n − lag. At least the number of trials that run side by side.
        seed: of the sampler.
    """

    def __init__(
        self,
        space: SearchSpace,
        sizes: Mapping[str, int],
        objective: Objective,
        *,
        sparsity: float,
        trials: int,
        lag: int,
        seed: int,
    ) -> None:
        self._space, self._sizes, self._objective = space, dict(sizes), objective
        self._sparsity = None if objective.searches_sparsity else sparsity
        self._trials, self._lag = trials, lag
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(4, min(10, trials // 4)))
        self._study = optuna.create_study(directions=["maximize"] * len(objective.names), sampler=sampler)
        self._asked: list[optuna.Trial | None] = []
        self._results: dict[int, TrialResult] = {}
        self._told = 0

    def __len__(self) -> int:
        return self._trials

    @property
    def exhausted(self) -> bool:
        """Whether all trials have been proposed."""
        return len(self._asked) == self._trials

    def complete(self, result: TrialResult) -> None:
        """Take in the result of a trial; order does not matter."""
        self._results[result.number] = result

    def next(self) -> TrialTask | None:
        """The next trial, or None while it must wait for others to end."""
        number = len(self._asked)
        visible = max(0, number - self._lag + 1)
        if self.exhausted or any(earlier not in self._results for earlier in range(visible)):
            return None
        while self._told < visible:
            self._tell(self._told)
            self._told += 1
        return TrialTask(
            number=number,
            setting=self._suggest(number),
            thresholds=self._thresholds(visible),
            objective=self._objective.names[0],
        )

    def _suggest(self, number: int) -> PruningSetting:
        if number == 0:
            draws = self._space.published(self._sparsity)
            if not self._space.holds(draws):  # the paper's own runs all the same; the sampler cannot learn from it
                self._asked.append(None)
                return self._space.setting(draws, self._sizes, self._sparsity)
            self._study.enqueue_trial(draws)
        trial = self._study.ask()
        self._asked.append(trial)
        return self._space.suggest(trial, self._sizes, self._sparsity)

    def _tell(self, number: int) -> None:
        trial, result = self._asked[number], self._results[number]
        if trial is None:
            return
        if result.status == "finished":
            self._study.tell(trial, self._objective.values(result))
        elif result.status == "stopped":
            for evaluation in result.history:
                trial.report(evaluation.metrics[self._objective.names[0]], evaluation.step)
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, state=TrialState.FAIL)

    def _thresholds(self, visible: int) -> dict[int, float]:
        """For each rung, the least value among the best ``1 / reduction`` of the trials seen."""
        if self._objective.is_pareto:
            return {}
        found: dict[int, float] = {}
        for rung in range(len(self._space.rungs)):
            values = [
                self._results[number].history[rung].metrics[self._objective.names[0]]
                for number in range(visible)
                if len(self._results[number].history) > rung
            ]
            if len(values) >= self._space.reduction:
                found[rung] = float(np.quantile(values, 1 - 1 / self._space.reduction))
        return found

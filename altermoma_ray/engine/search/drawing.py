"""The settings of a search's trials, drawn by Optuna's sampler from the trials before.

Two trials of one setting and one seed find the same. A setting proposed before is therefore drawn again. If the sampler
insists, a setting is taken out of the remaining ones (:mod:`altermoma_ray.engine.space.distinct`). A search asked to
repeat settings runs them again with another seed each time.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from altermoma_ray.engine.space import PruningSetting, SearchSpace, distinct
from altermoma_ray.tracking.objective import Objective
from altermoma_ray.tracking.result import TrialResult

optuna.logging.set_verbosity(optuna.logging.WARNING)

_ATTEMPTS = 100
"""Largest number of draws for one new setting: the first tenth by the TPE sampler, the others at random."""


class Draws:
    """Draws a setting for each trial of a search, in the order of the trials.

    >>> from altermoma_ray.metrics import Metric
    >>> objective = Objective((Metric("nds", "NDS"),))
    >>> draws = Draws(SearchSpace(), {"camera": 800}, objective, sparsity=0.8, trials=8, seed=0)
    >>> draws.setting(0, {}, {}).criterion      # the paper's own configuration
    'altermoma'

    Args:
        space: the ranges of the search.
        sizes: number of prunable weights in each group.
        objective: the metrics to optimise.
        sparsity: the total sparsity; None where each trial draws its own.
        trials: number of trials of the search.
        seed: seed of the sampler.
        repeat: whether a setting may come again, see :class:`altermoma_ray.engine.search.proposals.Proposals`.
    """

    def __init__(
        self,
        space: SearchSpace,
        sizes: Mapping[str, int],
        objective: Objective,
        *,
        sparsity: float | None,
        trials: int,
        seed: int,
        repeat: bool | None = None,
    ) -> None:
        self._space, self._sizes, self._objective = space, dict(sizes), objective
        self._metric = objective.metrics[0]
        """The metric compared at rungs."""
        self._sparsity, self._trials, self._seed, self._repeat = sparsity, trials, seed, repeat
        self._keys: list[str] = []
        """Keys of the settings, see :func:`altermoma_ray.engine.space.distinct.key`."""
        self._draws: dict[int, tuple[dict[str, object], dict[str, BaseDistribution]]] = {}

    def setting(
        self, number: int, reached: Mapping[int, int | None], results: Mapping[int, TrialResult]
    ) -> PruningSetting:
        """The setting of the next trial.

        Args:
            number: number of the trial: the number of settings drawn before.
            reached: the trials to learn from, and the rungs which they reached; None for a trial run to its end.
            results: results of these trials, and perhaps of others.
        """
        setting = self._suggest(number, reached, results)
        self._keys.append(distinct.key(setting))
        return setting

    def times(self, number: int) -> int:
        """How many trials before this one have its setting."""
        return self._keys[:number].count(self._keys[number])

    def _suggest(
        self, number: int, reached: Mapping[int, int | None], results: Mapping[int, TrialResult]
    ) -> PruningSetting:
        published = number == 0 and self._space.published_first
        draws = self._space.published(self._sparsity) if published else None
        if draws is not None and not self._space.holds(draws):
            # Values outside the ranges, as β = 1, are no draws of the sampler, which cannot learn from them.
            return self._space.setting(draws, self._sizes, self._sparsity)
        seen = self._seen(reached, results)
        for attempt in range(_ATTEMPTS):
            setting = self._draw(number, attempt, seen, draws)
            if self._repeat is not False or distinct.key(setting) not in self._keys:
                return setting
        # A small space with few settings left: they are listed, and the first unused one is taken.
        with contextlib.suppress(distinct.EndlessError):
            for draws, left in distinct.settings(self._space, self._sizes, self._sparsity):
                if distinct.key(left) not in self._keys:
                    return self._draw(number, 0, seen, draws)
        return setting  # an endless space with hardly any different settings

    def _draw(
        self, number: int, attempt: int, seen: Sequence[FrozenTrial], draws: Mapping[str, object] | None = None
    ) -> PruningSetting:
        """Draw a setting by a new sampler, which has seen some trials.

        Args:
            number: number of the trial.
            attempt: 0 for the first draw of the trial.
            seen: the trials to learn from.
            draws: values to take in place of the sampler's own.
        """
        # A new sampler for each draw, seeded by the trial's number: the draw follows from the search's seed and the
        # seen trials alone, without a hidden state.
        words = (self._seed, number, attempt) if attempt else (self._seed, number)
        seed = int(np.random.SeedSequence(words).generate_state(1)[0])
        startup = max(4, min(10, self._trials // 4))
        sampler = (
            optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
            if attempt < _ATTEMPTS // 10
            else optuna.samplers.RandomSampler(seed=seed)
        )
        study = optuna.create_study(directions=self._objective.directions, sampler=sampler)
        # Enqueued draws pass through ``suggest`` as the sampler's own, and are noted with their ranges.
        study.add_trials(seen)
        if draws is not None:
            study.enqueue_trial(dict(draws))
        trial = study.ask()
        setting = self._space.suggest(trial, self._sizes, self._sparsity)
        self._draws[number] = dict(trial.params), dict(trial.distributions)
        return setting

    def _seen(self, reached: Mapping[int, int | None], results: Mapping[int, TrialResult]) -> list[FrozenTrial]:
        """The trials to learn from, each in its state at the reached rung.

        A failed trial teaches nothing, nor does a trial without a finite objective: Optuna takes no NaN, and its own
        samplers leave failed trials out.
        """
        seen = []
        for number, (params, distributions) in self._draws.items():
            if number not in reached:
                continue
            result, until = results[number], reached[number]
            if until is None:
                values = self._objective.values(result)
                if result.status == "finished" and self._objective.is_defined(values):
                    seen.append(create_trial(params=params, distributions=distributions, values=values))
            elif self._objective.is_pareto:
                # Optuna knows no stopped trials of several objectives. This one is told by its last evaluation, which
                # the trials that went on have beaten.
                values = self._objective.values(result, until) if len(result.history) > until else [math.nan]
                if self._objective.is_defined(values):
                    seen.append(create_trial(params=params, distributions=distributions, values=values))
            elif len(result.history) > until:
                # A stopped trial still tells TPE of its rungs. To the gain and back by the sign: a value which is not
                # finite becomes the worst one, since Optuna takes no NaN.
                gains = [self._metric.gain(self._objective.values(result, rung)[0]) for rung in range(until + 1)]
                steps = {result.history[rung].step: self._metric.sign * gain for rung, gain in enumerate(gains)}
                seen.append(
                    create_trial(
                        state=TrialState.PRUNED,
                        params=params,
                        distributions=distributions,
                        intermediate_values=steps,
                    )
                )
        return seen

"""The settings of a search's trials, drawn by Optuna's sampler from the trials before.

Two trials of one setting and one seed find the same. A setting proposed before is therefore drawn again. If the sampler
insists, a setting is taken out of the remaining ones (:mod:`altermoma_ray.engine.space.distinct`). A search asked to
repeat settings runs them again with another seed each time.

The sampler is TPE, the Tree-structured Parzen Estimator. TPE models the good trials and the other ones apart, and draws
where good trials are dense and others are not. A draw costs more with every trial to learn from. TPE therefore learns
from at most 250 trials. Where there are more, TPE learns from the 25 good ones of all, which are also the good ones for
Optuna, and from the latest of the others; Optuna gives old ones little weight anyway. With several objectives the good
ones are the Pareto front, of which the latest 125 are taken.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Container, Mapping, Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from altermoma_ray.engine.space import PruningSetting, SearchSpace, distinct
from altermoma_ray.tracking.objective import Objective
from altermoma_ray.tracking.result import TrialResult

optuna.logging.set_verbosity(optuna.logging.WARNING)

_ATTEMPTS = 100
"""Largest number of draws for one new setting: the first tenth by the TPE sampler, the others at random."""
_LEARNT = 250
"""Largest number of trials to learn from."""
_GOOD = 25
"""Number of good trials out of so many, as Optuna's ``gamma`` has it by default."""


class Draws:
    """Draws a setting for each trial of a search, in the order of the trials.

    >>> from altermoma_ray.metrics import Metric
    >>> objective = Objective((Metric("nds", "NDS"),))
    >>> draws = Draws(SearchSpace(), {"camera": 800}, objective, sparsity=0.8, trials=8, seed=0)
    >>> draws.setting(0).criterion      # the paper's own configuration
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
        self._draws: dict[int, tuple[dict[str, object], dict[str, BaseDistribution]]] = {}
        self._seen: dict[int, FrozenTrial] = {}
        """The trials to learn from, in the order of their numbers."""
        self._drawn: Counter[str] = Counter()
        """Number of trials of each setting, by :func:`altermoma_ray.engine.space.distinct.key`."""
        self._times: list[int] = []
        self._listed = distinct.settings(space, self._sizes, sparsity)
        """The settings of a small space; all before the next one have been drawn."""

    def see(self, number: int, until: int | None, result: TrialResult) -> None:
        """Take in how far a trial has come, for later settings to learn from.

        The first calls for each trial come in the order of the trials.

        Args:
            number: number of the trial.
            until: the rung where the trial stood; None for a trial run to its end.
            result: the result of the trial, which may have gone on since.
        """
        if number not in self._draws:  # the paper's own configuration, outside the ranges
            return
        seen = self._as_optuna(number, until, result)
        if seen is None:
            self._seen.pop(number, None)
        else:
            self._seen[number] = seen

    def setting(self, number: int) -> PruningSetting:
        """The setting of the next trial, which follows from the seed and from the trials seen so far.

        Args:
            number: number of the trial: the number of settings drawn before.
        """
        setting = self._suggest(number)
        key = distinct.key(setting)
        self._times.append(self._drawn[key])
        self._drawn[key] += 1
        return setting

    def times(self, number: int) -> int:
        """How many trials before this one have its setting."""
        return self._times[number]

    def _suggest(self, number: int) -> PruningSetting:
        published = number == 0 and self._space.published_first
        draws = self._space.published(self._sparsity) if published else None
        if draws is not None and not self._space.holds(draws):
            # Values outside the ranges, as β = 1, are no draws of the sampler, which cannot learn from them.
            return self._space.setting(draws, self._sizes, self._sparsity)
        learnt = self._learnt()
        for attempt in range(_ATTEMPTS):
            setting = self._draw(number, attempt, learnt, draws)
            if self._repeat is not False or distinct.key(setting) not in self._drawn:
                return setting
        # A small space with few settings left: they are listed, and the first unused one is taken.
        with contextlib.suppress(distinct.EndlessError):
            for draws, left in self._listed:
                if distinct.key(left) not in self._drawn:
                    return self._draw(number, 0, learnt, draws)
        return setting  # an endless space with hardly any different settings

    def _draw(
        self, number: int, attempt: int, learnt: Sequence[FrozenTrial], draws: Mapping[str, object] | None = None
    ) -> PruningSetting:
        """Draw a setting by a new sampler, which learns from some trials.

        Args:
            number: number of the trial.
            attempt: 0 for the first draw of the trial.
            learnt: the trials to learn from.
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
        study = self._study(learnt, sampler)
        # Enqueued draws pass through ``suggest`` as the sampler's own, and are noted with their ranges.
        if draws is not None:
            study.enqueue_trial(dict(draws))
        trial = study.ask()
        setting = self._space.suggest(trial, self._sizes, self._sparsity)
        self._draws[number] = dict(trial.params), dict(trial.distributions)
        return setting

    def _study(self, trials: Sequence[FrozenTrial], sampler: optuna.samplers.BaseSampler | None = None) -> optuna.Study:
        return optuna.create_study(storage=_Memory(trials), sampler=sampler, directions=self._objective.directions)

    def _learnt(self) -> list[FrozenTrial]:
        """The trials to learn from, at most 250 of the seen ones: see the module's docstring."""
        seen = list(self._seen.values())
        if len(seen) <= _LEARNT:
            return seen
        good = self._study(seen).best_trials[-_LEARNT // 2 :] if self._objective.is_pareto else self._best(seen)
        numbers = {trial.number for trial in good}
        others = [trial.number for trial in seen if trial.number not in numbers]
        numbers.update(others[len(numbers) - _LEARNT :])
        return [trial for trial in seen if trial.number in numbers]

    def _best(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """The good trials by one metric, in Optuna's order: whole trials, then stopped ones, the furthest first."""

        def order(trial: FrozenTrial) -> tuple[bool, int, float]:
            stopped = trial.state == TrialState.PRUNED
            step, value = max(trial.intermediate_values.items()) if stopped else (0, trial.values[0])
            return stopped, -step, -self._metric.gain(value)

        return sorted(trials, key=order)[:_GOOD]

    def _as_optuna(self, number: int, until: int | None, result: TrialResult) -> FrozenTrial | None:
        """A trial as Optuna knows it.

        Returns:
            The trial. None for a failed trial, which teaches nothing, and for a trial without a finite objective:
            Optuna takes no NaN, and its own samplers leave failed trials out.
        """
        params, distributions = self._draws[number]
        if until is None:
            values = self._objective.values(result)
            if result.status != "finished" or not self._objective.is_defined(values):
                return None
            trial = create_trial(params=params, distributions=distributions, values=values)
        elif len(result.history) <= until:
            return None
        elif self._objective.is_pareto:
            # Optuna knows no stopped trials of several objectives. This one is told by its last evaluation, which the
            # trials that went on have beaten.
            values = self._objective.values(result, until)
            if not self._objective.is_defined(values):
                return None
            trial = create_trial(params=params, distributions=distributions, values=values)
        else:
            # A stopped trial still tells TPE of its rungs. To the gain and back by the sign: a value which is not
            # finite becomes the worst one, since Optuna takes no NaN.
            gains = [self._metric.gain(self._objective.values(result, rung)[0]) for rung in range(until + 1)]
            steps = {result.history[rung].step: self._metric.sign * gain for rung, gain in enumerate(gains)}
            trial = create_trial(
                state=TrialState.PRUNED, params=params, distributions=distributions, intermediate_values=steps
            )
        trial.number = number + 1  # 0 is the trial that a study is asked for, see _Memory
        return trial


class _Memory(InMemoryStorage):
    """Storage of a study with earlier trials, which are not copied; the study's own first trial has the number 0.

    Optuna's own storage copies every trial that is added to a study, which takes most of the time of a draw.
    """

    def __init__(self, earlier: Sequence[FrozenTrial]) -> None:
        super().__init__()
        self._earlier = earlier

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        own = super().get_all_trials(study_id, deepcopy, states)
        return [trial for trial in self._earlier if states is None or trial.state in states] + own

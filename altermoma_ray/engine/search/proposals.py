"""The proposals of a search: new trials and early stopping, arranged to give one search for one seed.

Early stopping is asynchronous successive halving (:mod:`altermoma_ray.engine.search.stopping`): a trial first runs to
the first rung, a fraction of its fine-tuning, and stops there. The best 1/η of the trials at a rung are promoted, once
most of the trials expected there have come: they go on from there, to the next rung or to the end. Trial 0, as far as
trial 0 is the paper's configuration, always runs to the end.

A proposal is a segment: a trial, and the rung up to which the trial runs. Segments run side by side and end in any
order. A search must be reproducible, and a resumed search equal to an undisturbed one. Segment n therefore never
depends on the order of the ends. Segment n follows from the results of segments 0 ... n − lookahead, all of which must
have ended, and from nothing else. Replaying the results of a stopped search then proposes the same segments again.

The setting of a new trial is drawn in :mod:`altermoma_ray.engine.search.drawing`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from altermoma_ray.engine.search.drawing import Draws
from altermoma_ray.engine.search.stopping import Halving, Standing
from altermoma_ray.engine.space import PruningSetting, SearchSpace, distinct
from altermoma_ray.engine.trials.job import TrialTask
from altermoma_ray.engine.trials.results import has_ended
from altermoma_ray.tracking.objective import Objective
from altermoma_ray.tracking.result import TrialResult


class Proposer(Protocol):
    """A source of trials: :class:`Grid` or :class:`Proposals`.

    Its user asks for segments and hands results back, in any order::

        while not proposer.exhausted:
            if (task := proposer.next()) is not None:
                start(task)
            proposer.complete(next_result())
    """

    @property
    def exhausted(self) -> bool:
        """Whether nothing more will be proposed."""

    def next(self) -> TrialTask | None:
        """The next segment of a trial; None while the segment must wait for others to end, or after the last one."""

    def complete(self, result: TrialResult) -> None:
        """Take in the result of a trial; the order of the calls does not matter."""


class Grid:
    """Proposes trials settled beforehand, each to its end.

    >>> Grid([]).next() is None, Grid([]).exhausted
    (True, True)
    """

    def __init__(self, tasks: Sequence[TrialTask]) -> None:
        self._left = list(tasks)

    @property
    def exhausted(self) -> bool:
        return not self._left

    def next(self) -> TrialTask | None:
        return self._left.pop(0) if self._left else None

    def complete(self, result: TrialResult) -> None:
        """Nothing to learn."""


class _Segment(NamedTuple):
    number: int
    until: int | None


class Proposals:
    """Proposes the segments of one search's trials, in order.

    >>> from altermoma_ray.metrics import Metric
    >>> objective = Objective((Metric("nds", "NDS"),))
    >>> proposals = Proposals(SearchSpace(), {"camera": 800}, objective, sparsity=0.8, trials=8, lookahead=2, seed=0)
    >>> proposals.next().setting.criterion      # the paper's own configuration
    'altermoma'

    Args:
        space: the ranges of the search.
        sizes: number of prunable weights in each group.
        objective: the metrics to optimise.
        sparsity: the total sparsity, unless sparsity is an objective.
        trials: number of trials to propose.
        lookahead: segment n waits for the segments up to n − lookahead. At least the number of segments side by side.
        seed: seed of the sampler.
        repeat: whether a setting may come again, with a seed of its own each time. None, as in plans of earlier
            releases, repeats settings with the same seed.
        stops_early: whether trials stop at the space's rungs; otherwise each runs to its end. None, as in plans of
            earlier releases, stops trials of a single objective.
    """

    def __init__(
        self,
        space: SearchSpace,
        sizes: Mapping[str, int],
        objective: Objective,
        *,
        sparsity: float,
        trials: int,
        lookahead: int,
        seed: int,
        repeat: bool | None = None,
        stops_early: bool | None = None,
    ) -> None:
        self._space, self._objective = space, objective
        self._rungs = len(space.rungs) if has_rungs(objective, stops_early) else 0
        self._lookahead, self._seed, self._repeat = lookahead, seed, repeat
        drawn = None if objective.searches_sparsity else sparsity
        self._trials = distinct.number_of_settings(space, sizes, drawn, trials) if repeat is False else trials
        self._stopping = Halving(self._rungs, space.reduction, trials=self._trials, patience=space.patience)
        self._draws = Draws(space, sizes, objective, sparsity=drawn, trials=self._trials, seed=seed, repeat=repeat)
        self._settings: list[PruningSetting] = []
        self._segments: list[_Segment] = []
        self._furthest: dict[int, int | None] = {}
        self._ended = 0
        self._seen = 0
        """Number of segments whose results the draws have learnt from."""
        self._results: dict[int, TrialResult] = {}
        self.exhausted = False
        """Whether nothing more will be proposed."""

    def complete(self, result: TrialResult) -> None:
        """Take in the result of a trial; the order of the calls does not matter."""
        self._results[result.number] = result

    def next(self) -> TrialTask | None:
        """The next segment of a trial; None while the segment must wait for others to end, or after the last one."""
        # Later results may be here already, but only the first ``visible`` segments count: see the module's docstring.
        visible = max(0, len(self._segments) - self._lookahead + 1)
        if self.exhausted or not self._have_ended(visible):
            return None
        segment = self._promotion(visible) or self._new_trial(visible)
        if segment is None:  # all trials have begun; the last segments may still promote one
            if not self._have_ended(len(self._segments)):
                return None
            # So that of few trials one runs to its end: the best of each rung goes on in any case.
            segment = self._promotion(len(self._segments), at_least=1)
            self.exhausted = segment is None
        if segment is None:
            return None
        self._segments.append(segment)
        self._furthest[segment.number] = segment.until
        times = self._draws.times(segment.number) if self._repeat else 0
        seed = (self._seed + times) % 2**32 if times else None
        return TrialTask(number=segment.number, setting=self._settings[segment.number], until=segment.until, seed=seed)

    def _have_ended(self, visible: int) -> bool:
        while self._ended < visible:
            segment = self._segments[self._ended]
            result = self._results.get(segment.number)
            # The result of a trial grows from rung to rung: an earlier rung's result does not end this segment.
            if result is None or not has_ended(result, segment.until):
                return False
            self._ended += 1
        return True

    def _promotion(self, visible: int, at_least: int = 0) -> _Segment | None:
        """The next segment of a trial that stopped at a rung; None where no trial may go on."""
        number = self._stopping.promoted(self._standings(visible), at_least=at_least)
        if number is None:
            return None
        rung = self._furthest[number]
        assert rung is not None  # a promoted trial stands at a rung
        return _Segment(number, rung + 1 if rung + 1 < self._rungs else None)

    def _standings(self, visible: int) -> list[Standing]:
        """The trials of the visible segments, as far as these segments went."""
        standings = []
        for number, until in {segment.number: segment.until for segment in self._segments[:visible]}.items():
            result, furthest = self._results[number], self._furthest[number]
            rungs = range(self._rungs if until is None else until + 1)
            standings.append(
                Standing(
                    number=number,
                    gains=[self._objective.gains(result, rung) for rung in rungs if rung < len(result.history)],
                    waits_at=None if furthest is None or _is_whole(result, furthest) else furthest,
                )
            )
        return standings

    def _new_trial(self, visible: int) -> _Segment | None:
        number = len(self._settings)
        if number == self._trials:
            return None
        for segment in self._segments[self._seen : visible]:
            result, until = self._results[segment.number], segment.until
            whole = until is None or _is_whole(result, until)
            self._draws.see(segment.number, None if whole else until, result)
        self._seen = visible
        self._settings.append(self._draws.setting(number))
        published = number == 0 and self._space.published_first
        return _Segment(number, 0 if self._rungs and not published else None)


def has_rungs(objective: Objective, stops_early: bool | None) -> bool:
    """Whether a search's trials stop at rungs; arguments are those of :class:`Proposals`."""
    return not objective.is_pareto if stops_early is None else stops_early


def _is_whole(result: TrialResult, until: int) -> bool:
    """Whether a segment to a rung was a whole trial: with few steps, the rung is at the end of fine-tuning."""
    return result.status == "finished" and len(result.history) <= until + 1

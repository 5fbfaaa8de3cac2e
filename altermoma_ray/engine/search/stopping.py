"""Early stopping: the trials that go on from the rung where they stopped.

Asynchronous successive halving (Li et al., *A System for Massively Parallel Hyperparameter Tuning*, MLSys 2020,
Algorithm 2): the best 1/η of the trials that have reached a rung are promoted, from the highest rung down. With several
objectives the trials at a rung are ordered as NSGA-II orders a population (Deb et al., *A Fast and Elitist
Multiobjective Genetic Algorithm*, 2002, section III), see :func:`ranked`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Gains = tuple[float, ...]
"""One number for each objective, more is better; −inf where a value is missing or not finite."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A trial as far as early stopping has seen it.

    >>> Standing(number=3, gains=((0.25,), (0.375,)), waits_at=1).reached(1)
    True
    """

    number: int
    gains: Sequence[Gains]
    """At each rung reached, the lowest first."""
    waits_at: int | None
    """The rung where the trial stopped and may go on from; None for a trial that runs, or has ended."""

    def reached(self, rung: int) -> bool:
        return len(self.gains) > rung


class Halving:
    """Successive halving without waiting for a whole generation of trials.

    >>> values = [0.1, 0.3, 0.2]
    >>> standings = [Standing(number=n, gains=[(value,)], waits_at=0) for n, value in enumerate(values)]
    >>> Halving(rungs=1, reduction=3.0).promoted(standings)
    1

    Args:
        rungs: number of rungs.
        reduction: η; of the trials at a rung, the best ``1 / reduction`` go on.
        trials: number of trials of the whole search; of no effect without ``patience``.
        patience: the share of the trials expected at a rung that must be there before the rung promotes any. The best
            of the first few are seldom the best of all, and the sooner they go on, the more of them do.
    """

    def __init__(self, rungs: int, reduction: float, *, trials: int = 0, patience: float = 0.0) -> None:
        self._rungs, self._reduction = rungs, reduction
        self._trials, self._patience = trials, patience

    def promoted(self, standings: Sequence[Standing], *, at_least: int = 0) -> int | None:
        """The number of the trial to go on next; None where no trial may go on.

        Args:
            standings: all trials that have begun.
            at_least: how many trials of each rung go on even where ``1 / reduction`` of the trials are fewer. With a
                number above 0 no rung waits for more trials.
        """
        # From the highest rung down: a trial near its end goes before one further away.
        found = (self._best_waiting(standings, rung, at_least) for rung in reversed(range(self._rungs)))
        return next((number for number in found if number is not None), None)

    def _best_waiting(self, standings: Sequence[Standing], rung: int, at_least: int = 0) -> int | None:
        """The best trial to go on from a rung; None where none of the rung's best still waits there."""
        gains = {one.number: one.gains[rung] for one in standings if one.reached(rung)}
        expected = self._trials / self._reduction**rung
        if not at_least and len(gains) < self._patience * expected:
            return None
        waiting = {one.number for one in standings if one.waits_at == rung}
        # Only a trial still standing at this rung can be promoted; the others of the best have gone on before.
        best = ranked(gains)[: max(at_least, int(len(gains) / self._reduction))]
        return next((number for number in best if number in waiting and _is_known(gains[number])), None)


def ranked(points: Mapping[int, Gains]) -> list[int]:
    """The numbers of some points, the best first.

    One coordinate: by its value. Several: points that no other point beats come first, then the points that only those
    beat, and so on. Within such a front, points in thinly settled places come first (the *crowding distance*), so that
    a promotion keeps the front's ends and its spread. A point with an unknown coordinate comes last. Of equals the
    lowest number comes first.

    >>> ranked({0: (0.5, 0.5), 1: (0.9, 0.1), 2: (0.4, 0.4), 3: (0.1, 0.9)})
    [1, 3, 0, 2]

    Args:
        points: coordinates by number, more is better; all of one length.
    """
    known = sorted(number for number, point in points.items() if _is_known(point))
    unknown = sorted(points.keys() - set(known))
    if not known:
        return unknown
    values = np.array([points[number] for number in known])
    if values.shape[1] == 1:
        return [known[place] for place in np.argsort(-values[:, 0], kind="stable")] + unknown
    return [known[place] for front in _fronts(values) for place in _by_crowding(values, front)] + unknown


def _is_known(gains: Gains) -> bool:
    return all(map(math.isfinite, gains))


def _fronts(values: np.ndarray) -> list[np.ndarray]:
    """The places of points [n, objectives], front by front."""
    not_worse = (values[:, None] >= values[None]).all(axis=2)
    # [i, j]: whether point i is at least as good as point j everywhere, and better somewhere.
    beats = not_worse & ~not_worse.T
    left, fronts = np.arange(len(values)), []
    while len(left):
        is_beaten = beats[np.ix_(left, left)].any(axis=0)
        fronts.append(left[~is_beaten])
        left = left[is_beaten]
    return fronts


def _by_crowding(values: np.ndarray, front: np.ndarray) -> list[int]:
    """A front's places, the one with the most room around it first."""
    room = np.zeros(len(front))
    for axis in values[front].T:
        order = np.argsort(axis, kind="stable")
        ordered = axis[order]
        if ordered[-1] > ordered[0]:  # an axis without a range tells points apart in nothing
            room[order[1:-1]] += (ordered[2:] - ordered[:-2]) / (ordered[-1] - ordered[0])
            room[order[[0, -1]]] = math.inf
    # Rounded: distances equal in exact arithmetic then tie on every machine.
    return [int(place) for place in front[np.argsort(-room.round(9), kind="stable")]]

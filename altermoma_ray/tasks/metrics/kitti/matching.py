"""The two matchings of ground truth and detections, and the score thresholds between them.

Notation: T thresholds, at most 41, in descending order. A set of thresholds is a whole number whose bit t stands for
threshold t: each ground truth is then served once for all thresholds together, which a loop over the thresholds would
take 41 times as long for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from altermoma_ray.tasks.metrics.kitti.overlaps import Overlaps

POINTS = 41
"""Recall points of the curve: 0, 1/40, …, 1."""
_NO_SCORE = -10_000_000.0
"""Of the official program: a lower score gives no threshold."""


@dataclass(frozen=True, kw_only=True)
class Roles:
    """What ground truths and detections are to one class at one level."""

    truths: NDArray[np.bool_]
    """[G] must be found. Other ground truths of ``overlaps`` are ignored: a detection of them counts for nothing."""
    detections: NDArray[np.bool_]
    """[D] may hit, and else are false alarms."""
    low: NDArray[np.bool_]
    """[D] lower in the picture than the level asks for, of any class: these take objects, and are never false alarms.
    None of them is among ``detections``. Detections of neither kind take no part."""


def precision_curve(overlaps: Overlaps, roles: Roles, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Precision at the 41 recall points, made monotone from the right; 0 at points which are not reached.

    Args:
        overlaps: pairs above the class's limit, of ground truth of the class and its neighbours.
        roles: of the G ground truths and D detections.
        scores: [D].
    """
    pairs = overlaps.objects
    kept = roles.detections[pairs.detections] | roles.low[pairs.detections]
    columns = (pairs.truths[kept], pairs.detections[kept], pairs.overlaps[kept])
    candidates = list(zip(*(column.tolist() for column in columns), strict=True))
    matched = _matched_scores(candidates, roles, scores)
    limits = thresholds(matched, int(roles.truths.sum()))
    hits, false_alarms = _counts(candidates, overlaps, roles, scores, np.array(limits))
    precision = np.zeros(POINTS)
    # Without a hit or a false alarm the official program divides 0 by 0; here the threshold counts as 0.
    precision[: len(limits)] = hits / np.maximum(hits + false_alarms, 1)
    return np.maximum.accumulate(precision[::-1])[::-1]


def thresholds(matched: Iterable[float], objects: int) -> list[float]:
    """The scores at which the curve is computed, one for each recall point that is reached (rule 2).

    Args:
        matched: scores of the hits.
        objects: number of ground truths to be found.

    >>> thresholds([0.9, 0.8, 0.7], objects=3)
    [0.9, 0.8, 0.7]
    >>> len(thresholds(range(100), objects=100))
    41
    """
    ordered = sorted(matched, reverse=True)
    taken: list[float] = []
    recall = 0.0
    for number, score in enumerate(ordered):
        is_last = number == len(ordered) - 1
        # The next score's recall lies closer to the point: this score is skipped.
        if not is_last and (number + 2) / objects - recall < recall - (number + 1) / objects:
            continue
        taken.append(score)
        # Added up as the official program does: a product rounds otherwise.
        recall += 1 / (POINTS - 1)
    return taken


Candidate = tuple[int, int, float]
"""Ground truth, detection, overlap."""


def _served(candidates: list[Candidate]) -> Iterator[tuple[int, list[Candidate]]]:
    """Ground truths in file order, with their candidates in file order."""
    for truth, found in groupby(candidates, key=lambda candidate: candidate[0]):
        yield truth, list(found)


def _matched_scores(candidates: list[Candidate], roles: Roles, scores: NDArray[np.float64]) -> list[float]:
    """Scores of the hits where each ground truth takes the highest score among its candidates (rule 3)."""
    taken: set[int] = set()
    matched: list[float] = []
    for truth, found in _served(candidates):
        # `max` gives the first one of equals, as the official program does.
        free = [one for _, one, _ in found if one not in taken and scores[one] > _NO_SCORE]
        if not free:
            continue
        best = max(free, key=scores.__getitem__)
        taken.add(best)
        if roles.truths[truth] and roles.detections[best]:
            matched.append(float(scores[best]))
    return matched


def _counts(
    candidates: list[Candidate],
    overlaps: Overlaps,
    roles: Roles,
    scores: NDArray[np.float64],
    limits: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hits and false alarms [T] where each ground truth takes the greatest overlap among its candidates (rule 3)."""
    everything = (1 << len(limits)) - 1
    # Detections count from the first threshold on that their score reaches.
    first = np.searchsorted(-limits, -scores, side="left")
    free: dict[int, int] = {}
    hits: list[int] = []
    for truth, found in _served(candidates):
        wanted, hit = everything, 0
        # Low ones come last, in file order; `sorted` leaves equal ones in file order, too.
        for _, one, _ in sorted(found, key=lambda pair: (1, 0.0) if roles.low[pair[1]] else (0, -pair[2])):
            left = free.get(one, everything >> int(first[one]) << int(first[one]))
            won = wanted & left
            free[one] = left & ~won
            wanted &= ~won
            if roles.detections[one]:
                hit |= won
        if roles.truths[truth]:
            hits.append(hit)
    # DontCare areas swallow what is left of a detection (rule 1).
    swallowed = set(overlaps.areas.detections.tolist())
    alone = roles.detections.copy()
    alone[list(swallowed | free.keys())] = False
    false_alarms = np.cumsum(np.bincount(first[alone], minlength=len(limits) + 1))[: len(limits)]
    left_over = [left for one, left in free.items() if roles.detections[one] and one not in swallowed]
    return _bits(hits, len(limits)), false_alarms + _bits(left_over, len(limits))


def _bits(sets: list[int], count: int) -> NDArray[np.int64]:
    """How many of the sets hold each of ``count`` thresholds, [count]."""
    return (np.array(sets, np.int64)[:, None] >> np.arange(count) & 1).sum(axis=0)

"""Statistics of a certificate: paired differences over scenes, and recalls by slice.

Notation: S scenes, M objects, K slices, B resamples. Keyframes of a scene look alike, so that scenes, not samples or
objects, are drawn again; both models are always drawn together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from altermoma_ray.tracking.certificate.records import Interval

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

RESAMPLES = 2000
"""B of an interval."""
FLIPS = 10_000
"""Random exchanges of the models in a test."""
LEVEL = 0.05
"""Greatest probability of a false claim."""
LEAST_SCENES = 10
"""Fewer scenes allow no verdict: resamples of a handful tell nothing of the scenes that are not there."""


def mean_interval(differences: ArrayLike, seed: int = 0) -> Interval | None:
    """The mean of paired differences with its 95 % limits.

    Each limit is the wider one of two: Student's t, and the bootstrap-t interval (Efron and Tibshirani, An Introduction
    to the Bootstrap, 1993, section 12.5), x̄ − q·s/√S with q the quantile of (x̄* − x̄)/(s*/√S) over resamples. The
    second one follows a lopsided distribution, such as a few scenes that hold most of the loss, where percentile
    intervals are too short; the first one holds where scenes are few.

    Args:
        differences: [S], one for each scene, finite.
        seed: of the resampling; one seed, one result.

    Returns:
        The interval; None for fewer than two scenes.

    >>> mean_interval([0.1, 0.1, 0.1])
    Interval(mean=0.1, low=0.1, high=0.1, bound=0.1)
    """
    values = np.asarray(differences, np.float64)
    count = len(values)
    if count < 2:
        return None
    mean = float(values[0]) if np.ptp(values) == 0 else float(values.mean())
    error = 0.0 if np.ptp(values) == 0 else float(values.std(ddof=1) / np.sqrt(count))
    drawn = values[np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))]
    errors = drawn.std(axis=1, ddof=1) / np.sqrt(count)
    # A resample of one scene alone has no error to divide by.
    studentised = ((drawn.mean(axis=1) - mean)[errors > 0]) / errors[errors > 0]

    def quantile(share: float) -> tuple[float, float]:
        drawn_one = float(np.quantile(studentised, share)) if len(studentised) else 0.0
        return drawn_one, float(stats.t.ppf(share, count - 1))

    return Interval(
        mean=mean,
        low=mean - error * max(quantile(1 - LEVEL / 2)),
        high=mean - error * min(quantile(LEVEL / 2)),
        bound=mean - error * max(quantile(1 - LEVEL)),
    )


def is_no_worse(interval: Interval | None, scenes: int, margin: float) -> bool:
    """Whether the true difference is above −``margin``, with 95 % confidence (a test of non-inferiority).

    >>> is_no_worse(Interval(mean=0.0, low=-0.02, high=0.02, bound=-0.015), scenes=40, margin=0.02)
    True

    Args:
        interval: of the differences.
        scenes: number of differences.
        margin: greatest loss that is put up with, above 0.
    """
    return interval is not None and scenes >= LEAST_SCENES and interval.bound > -margin


def threshold_of_best_f1(found: Sequence[float], alarms: Sequence[float]) -> float:
    """The least confidence at which F1 = 2·TP / (2·TP + FP + FN) is greatest; infinite where nothing is found.

    >>> threshold_of_best_f1([0.9, 0.8, 0.3, 0.0], alarms=[0.4, 0.35])
    0.8

    Args:
        found: [M] the score of each object, 0 where it is not found.
        alarms: scores of predictions without an object.
    """
    scores, false = np.sort(np.asarray(found, np.float64)), np.sort(np.asarray(alarms, np.float64))
    candidates = np.unique(scores[scores > 0])
    if not len(candidates):
        return float("inf")
    hits = len(scores) - np.searchsorted(scores, candidates)
    misfires = len(false) - np.searchsorted(false, candidates)
    # 2·TP + FP + FN = TP + FP + M.
    f1 = 2 * hits / (hits + misfires + len(scores))
    # The last one of equals: the surest.
    return float(candidates[len(f1) - 1 - np.argmax(f1[::-1])])


def threshold_of_alarms(alarms: Sequence[float], number: int) -> float:
    """The least confidence that at most ``number`` false alarms reach; 0 where all together are no more.

    >>> threshold_of_alarms([0.9, 0.4, 0.2], number=1) > 0.4
    True
    """
    ordered = np.sort(np.asarray(alarms, np.float64))[::-1]
    return 0.0 if len(ordered) <= number else float(np.nextafter(ordered[number], np.inf))


def recall_intervals(found: Floats, objects: Floats, seed: int = 0) -> tuple[Floats, Floats]:
    """95 % limits of differences of recall, by resampling scenes (percentiles of a cluster bootstrap).

    Args:
        found: [S, K] objects found by the champion less those found by the unpruned model.
        objects: [S, K] numbers of objects; each slice has one at least.
        seed: of the resampling.

    Returns:
        Lower limits [K] and upper limits [K].
    """
    scenes = len(objects)
    # How often each scene is drawn, [B, S].
    drawn = np.random.default_rng(seed).multinomial(scenes, np.full(scenes, 1 / scenes), RESAMPLES).astype(np.float64)
    total = drawn @ objects
    # A resample without an object of a slice says nothing about it.
    recalls = np.divide(drawn @ found, total, out=np.full_like(total, np.nan), where=total > 0)
    low, high = np.nanquantile(recalls, (LEVEL / 2, 1 - LEVEL / 2), axis=0)
    return low, high


def loss_by_chance(found: Floats, seed: int = 0) -> Floats:
    """The probability, for each slice, of a loss at least as great if the models were the same.

    The models of a scene are then exchangeable, and so the sign of its difference is random (Fisher's randomisation
    test; (1 + number at least as great) / (1 + number of exchanges), so that it is never 0).

    Args:
        found: [S, K] objects found by the champion less those found by the unpruned model.
        seed: of the exchanges.

    Returns:
        [K].
    """
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), (FLIPS, len(found)))
    # Whole numbers in float64: sums are exact, and equal ones compare as equal.
    return (1 + (signs @ found <= found.sum(axis=0)).sum(axis=0)) / (1 + FLIPS)


def holm(probabilities: ArrayLike) -> Floats:
    """Probabilities corrected for their number (Holm, Scandinavian Journal of Statistics, 1979).

    The smallest of K is multiplied by K, the next one by K − 1, and so on; none becomes smaller than one before it.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(probabilities, np.float64)
    order = np.argsort(values, kind="stable")
    factors = len(values) - np.arange(len(values))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1)
    return corrected

"""From both models' figures to a certificate."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from altermoma_ray.tracking.certificate.records import (
    Certificate,
    Compared,
    Measured,
    ObjectFigures,
    Pair,
    SceneFigures,
    SliceFigures,
)
from altermoma_ray.tracking.certificate.statistics import (
    LEVEL,
    holm,
    is_no_worse,
    loss_by_chance,
    mean_interval,
    recall_intervals,
)

ALL = "all"
"""The slice of all objects, which no other one is like."""
MOST_LOST = 12
"""Lost objects that are listed."""
WORST_SCENES = 5


def certify(measured: Measured, margin: float) -> Certificate:
    """Conclude what the champion does worse, and by how much.

    Example::

        certify(job.read(), margin=0.02).no_worse

    Args:
        measured: the figures of both models.
        margin: greatest loss of the metric that is put up with, above 0.
    """
    scenes = [scene for scene in measured.scenes if math.isfinite(scene.metric.difference)]

    def gain(scene: SceneFigures) -> float:
        return measured.sign * scene.metric.difference

    interval = mean_interval([gain(scene) for scene in scenes])
    lost = _found_by_one(measured, lambda unpruned, champion: unpruned and not champion)
    return Certificate(
        **{name: getattr(measured, name) for name in Compared.model_fields},
        samples=sum(scene.samples for scene in measured.scenes),
        scenes=len(scenes),
        left_out=len(measured.scenes) - len(scenes),
        margin=margin,
        difference=interval,
        no_worse=is_no_worse(interval, len(scenes), margin),
        worst_scenes=[scene for scene in sorted(scenes, key=gain) if gain(scene) < 0][:WORST_SCENES],
        false_alarms=_false_alarms(measured),
        slices=slices_of(measured),
        lost=sorted(lost, key=lambda one: -one.scores.unpruned)[:MOST_LOST],
        lost_in_all=len(lost),
        gained_in_all=len(_found_by_one(measured, lambda unpruned, champion: champion and not unpruned)),
    )


def slices_of(measured: Measured) -> list[SliceFigures]:
    """The recalls of both models in every slice, the greatest loss first; none where the task does not tell objects."""
    if not measured.objects:
        return []
    found = np.array([measured.is_found(one) for one in measured.objects])
    scene = np.array([one.scene for one in measured.objects])
    members = _members(measured)
    inside = np.stack(list(members.values()), axis=1).astype(np.float64)  # [M, K]
    objects = _by_scene(inside, scene, len(measured.scenes))
    hits = [_by_scene(inside * found[:, [model]], scene, len(measured.scenes)) for model in (0, 1)]
    low, high = recall_intervals(hits[1] - hits[0], objects)
    probabilities = holm(loss_by_chance(hits[1] - hits[0]))
    total = objects.sum(axis=0)
    slices = [
        SliceFigures(
            kind=kind,
            value=value,
            objects=int(total[number]),
            scenes=int((objects[:, number] > 0).sum()),
            recall=Pair(
                unpruned=hits[0][:, number].sum() / total[number], champion=hits[1][:, number].sum() / total[number]
            ),
            low=low[number],
            high=high[number],
            p=probabilities[number],
            is_worse=bool(probabilities[number] < LEVEL),
        )
        for number, (kind, value) in enumerate(members)
    ]
    return sorted(slices, key=lambda one: one.recall.difference)


def _members(measured: Measured) -> dict[tuple[str, str], NDArray[np.bool_]]:
    """Which objects [M] each slice holds, by the slice's property and value."""
    pairs = {pair for one in measured.objects for pair in one.slices.items()}
    whole = {(ALL, ""): np.ones(len(measured.objects), np.bool_)}
    return whole | {
        (kind, value): np.array([one.slices.get(kind) == value for one in measured.objects])
        for kind, value in sorted(pairs)
    }


def _by_scene(values: NDArray[np.float64], scene: NDArray[np.int64], scenes: int) -> NDArray[np.float64]:
    """Sums [S, K] of the objects' values [M, K]."""
    sums = np.zeros((scenes, values.shape[1]))
    np.add.at(sums, scene, values)
    return sums


def _found_by_one(measured: Measured, chosen: Callable[[bool, bool], bool]) -> list[ObjectFigures]:
    return [one for one in measured.objects if chosen(*measured.is_found(one))]


def _false_alarms(measured: Measured) -> Pair | None:
    """The mean number of false alarms in a scene."""
    told = [scene.false_alarms for scene in measured.scenes if scene.false_alarms is not None]
    if not told:
        return None
    return Pair(
        unpruned=sum(one.unpruned for one in told) / len(told), champion=sum(one.champion for one in told) / len(told)
    )

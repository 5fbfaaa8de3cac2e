"""Which annotated objects of KITTI a model finds, by the overlaps of the official metric in space.

Detections of a class choose in the order of their scores. Each takes the free object with the greatest overlap above
the class's limit. Objects and detections count as at the official level ``hard``; what the official program ignores (a
neighbouring class, an object too low, hidden or cut off) is no object here, and its detection is no false alarm.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from altermoma_ray.data.kitti.labels import Labels
from altermoma_ray.objects import FoundObject, FoundObjects
from altermoma_ray.tasks.metrics.kitti.evaluation import CLASSES, LEVELS, Flags, Level, is_matchable, types_of
from altermoma_ray.tasks.metrics.kitti.overlaps import find_overlaps

RANGES = {20.0: "up to 20 m", 40.0: "20 to 40 m", np.inf: "40 m and more"}
"""Distances from the camera, by their ends (m)."""
VISIBILITIES = {0: "visible", 1: "partly hidden", 2: "largely hidden"}
"""KITTI's levels of occlusion."""


def found_objects(
    ground_truth: Mapping[str, Labels], detections: Mapping[str, Labels], rows: Mapping[str, int]
) -> FoundObjects:
    """The objects of frames with their slices ``class``, ``range`` and ``visibility``.

    An object's name is its frame's, a colon, and its line in the frame's file, counted from 0.

    Args:
        ground_truth: labels of each frame, by its name.
        detections: results of the same frames, with scores.
        rows: the data source's row of each frame.
    """
    objects: list[FoundObject] = []
    alarms: list[float] = []
    for frame, labels in ground_truth.items():
        results = detections[frame]
        types, found_types = types_of([labels]), types_of([results])
        level = Level([labels], [results], *LEVELS["hard"])
        for kind, limit in CLASSES.items():
            roles = level.roles(types == kind, found_types == kind)
            scores, alone = match(labels, results, is_matchable(types, kind), roles.detections, limit)
            alarms += alone
            objects += [
                FoundObject(
                    name=f"{frame}:{line}",
                    row=rows[frame],
                    slices={"class": kind, **_slices(labels, line)},
                    score=scores.get(line, 0.0),
                )
                for line in np.flatnonzero(roles.truths).tolist()
            ]
    return FoundObjects(objects=tuple(objects), false_alarms=tuple(alarms))


def match(
    labels: Labels, results: Labels, objects: Flags, chosen: Flags, limit: float
) -> tuple[dict[int, float], list[float]]:
    """Match one frame's detections of a class with its objects.

    Args:
        labels: ground truth, G lines.
        results: detections, D lines with scores.
        objects: [G] which lines may be matched.
        chosen: [D] which detections take part.
        limit: overlap in space that a match must exceed.

    Returns:
        The scores of the matched objects by their lines, and the scores of the detections without an object.
    """
    assert results.scores is not None
    pairs = find_overlaps([labels], [results], objects, np.zeros(len(labels), bool))["3d"].objects.above(limit)
    of_detection: dict[int, list[tuple[float, int]]] = {}
    columns = pairs.truths.tolist(), pairs.detections.tolist(), pairs.overlaps.tolist()
    for truth, detection, overlap in zip(*columns, strict=True):
        of_detection.setdefault(detection, []).append((-overlap, truth))
    found: dict[int, float] = {}
    alone = []
    # The surest first. Of equal scores and of equal overlaps the first line of the file, as in the official program.
    for detection in np.argsort(-results.scores, kind="stable").tolist():
        if not chosen[detection]:
            continue
        score = float(results.scores[detection])
        free = [truth for _, truth in sorted(of_detection.get(detection, ())) if truth not in found]
        if free:
            found[free[0]] = score
        else:
            alone.append(score)
    return found, alone


def _slices(labels: Labels, line: int) -> dict[str, str]:
    distance = float(np.hypot(labels.locations[line, 0], labels.locations[line, 2]))
    name = next(name for end, name in RANGES.items() if distance < end)
    return {"range": name, "visibility": VISIBILITIES[int(labels.occlusion[line])]}

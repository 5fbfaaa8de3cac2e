"""Average precision as the official KITTI program computes it (``evaluate_object.cpp`` of the development kit).

The program's rules that decide figures, by the numbers at which the code refers to them:

1. ``DontCare`` areas swallow false alarms by the metric's own overlap, as a share of the detection. Without a box in
   space, they swallow nothing but detections without one.
2. Recall points are thresholds of the score, and nothing is interpolated: fewer than 41 objects cannot reach all 41
   points, so that even the ground truth as detections has less than 100.
3. For the thresholds each object takes the detection of highest score, for the curve the one of greatest overlap. Ties
   go to the first line of the file. Objects are served in the order of their file, each detection once.
4. Detections lower in the picture than the level asks for may take an object, whatever their class; an object taken
   this way is neither hit nor missed.
5. Limits: an object must be higher than the limit, a detection may be just as high; the overlap must exceed its limit;
   occlusion and truncation may be at the limit.
6. Ignored objects (of a neighbouring class, too low, too much hidden or cut off) are not counted, and detections
   matched to one are neither hits nor false alarms.

Deviations: a class without a detection has 0 instead of no figure, a threshold without hits and false alarms counts as
precision 0 instead of 0/0, and sums are kept in float64 (the program's are float32, which moves
its figures by up to 2e-5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from altermoma_ray.data.kitti.labels import Labels
from altermoma_ray.tasks.metrics.kitti.matching import Roles, precision_curve
from altermoma_ray.tasks.metrics.kitti.overlaps import METRICS, Overlaps, find_overlaps

Flags = NDArray[np.bool_]
Figures = dict[str, dict[str, dict[str, dict[str, float]]]]
"""Percent by class, metric (``3d``, ``bev``), mean (``r11``, ``r40``) and level."""

CLASSES = {"car": 0.7, "pedestrian": 0.5, "cyclist": 0.5}
"""Classes, and the overlap which a hit must exceed."""
NEIGHBOURS = {"van": "car", "person_sitting": "pedestrian"}
"""Types which are ignored for a class."""
LEVELS = {"easy": (40, 0, 0.15), "moderate": (25, 1, 0.3), "hard": (25, 2, 0.5)}
"""Least height (px), greatest occlusion and greatest truncation of each level."""
_DONT_CARE = "dontcare"


def evaluate(ground_truth: Mapping[str, Labels], detections: Mapping[str, Labels]) -> Figures:
    """AP-3D and AP-BEV of each class and level, as means over 11 and over 40 recall points.

    Args:
        ground_truth: labels of each frame, by its name.
        detections: results of the same frames; a frame without any has empty :class:`Labels`.

    Raises:
        ValueError: the frames differ, or detections have no scores.

    Example::

        figures = evaluate(read_labels(truth, frames, scored=False), read_labels(found, frames, scored=True))
        figures["car"]["3d"]["r40"]["moderate"]
    """
    if unlike := sorted(ground_truth.keys() ^ detections.keys()):
        raise ValueError(f"ground truth and detections must be of the same frames, but one of them lacks {unlike[0]!r}")
    unscored = [frame for frame, labels in detections.items() if labels.scores is None]
    if unscored:
        raise ValueError(f"detections must have scores, but those of frame {unscored[0]!r} have none")
    truths, results = list(ground_truth.values()), [detections[frame] for frame in ground_truth]
    truth_types, result_types = types_of(truths), types_of(results)
    counted = np.isin(truth_types, [*CLASSES, *NEIGHBOURS])
    overlaps = find_overlaps(truths, results, counted, truth_types == _DONT_CARE)
    scores = _joined([labels.scores for labels in results if labels.scores is not None])
    levels = [Level(truths, results, *limits) for limits in LEVELS.values()]
    figures: Figures = {}
    for name, least in CLASSES.items():
        is_class, is_detected = truth_types == name, result_types == name
        matchable = is_matchable(truth_types, name)
        roles = [level.roles(is_class, is_detected) for level in levels]
        figures[name] = {}
        for metric in METRICS:
            near = _of_class(overlaps[metric], matchable, least)
            curves = [precision_curve(near, role, scores) for role in roles]
            figures[name][metric] = {
                "r11": {level: 100 * float(curve[::4].mean()) for level, curve in zip(LEVELS, curves, strict=True)},
                "r40": {level: 100 * float(curve[1:].mean()) for level, curve in zip(LEVELS, curves, strict=True)},
            }
    return figures


class Level:
    """One level's limits, applied to all frames.

    Example::

        Level([labels], [results], *LEVELS["moderate"]).roles(is_class=cars, is_detected=found_cars).truths

    Args:
        truths: ground truth of each frame.
        results: detections of the same frames.
        height: least height in the picture (px).
        occlusion: greatest occlusion.
        truncation: greatest truncation.
    """

    def __init__(
        self, truths: Sequence[Labels], results: Sequence[Labels], height: int, occlusion: int, truncation: float
    ) -> None:
        self._valid = (
            (_joined([_heights(labels) for labels in truths]) > height)
            & (_joined([labels.occlusion for labels in truths]) <= occlusion)
            & (_joined([labels.truncation for labels in truths]) <= truncation)
        )
        # Detections may have top and bottom swapped, and still be high enough.
        self._low = np.abs(_joined([_heights(labels) for labels in results])) < height

    def roles(self, is_class: Flags, is_detected: Flags) -> Roles:
        """The roles for a class, from the objects [G] and the detections [D] of its type."""
        return Roles(truths=is_class & self._valid, detections=is_detected & ~self._low, low=self._low)


def _of_class(overlaps: Overlaps, matchable: Flags, least: float) -> Overlaps:
    """The overlaps that exceed a limit; objects only those of the class and its neighbours, ``matchable`` [G]."""
    return Overlaps(objects=overlaps.objects.of(matchable).above(least), areas=overlaps.areas.above(least))


def _heights(labels: Labels) -> NDArray[np.float64]:
    return labels.boxes_2d[:, 3] - labels.boxes_2d[:, 1]


def is_matchable(types: NDArray[np.str_], name: str) -> Flags:
    """Which objects [G] a class's detections may be matched with: those of the class, and of its neighbours.

    >>> is_matchable(np.array(["car", "van", "cyclist"]), "car").tolist()
    [True, True, False]
    """
    return np.isin(types, [name, *(other for other, one in NEIGHBOURS.items() if one == name)])


def types_of(frames: Sequence[Labels]) -> NDArray[np.str_]:
    """Types of all frames together, without case (rule 9)."""
    return np.array([name.lower() for labels in frames for name in labels.types], np.str_)


def _joined(columns: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(columns) if columns else np.zeros(0)

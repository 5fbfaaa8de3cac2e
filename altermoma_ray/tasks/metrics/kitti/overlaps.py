"""Overlaps of KITTI's boxes, in bird's-eye view and in space, kept where they are great enough to count anywhere.

Notation: over all frames together there are G ground truths, D detections and P pairs; a pair lies within one frame.
A frame's rows keep the order of its file, because the official program breaks ties by this order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from altermoma_ray.data.kitti.labels import Labels
from altermoma_ray.tasks.detection.iou import intersection_area

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

METRICS = ("3d", "bev")
LEAST_OVERLAP = 0.5
"""The lowest limit of any class: pairs which do not exceed it count nowhere."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """P pairs of a ground truth and a detection, sorted by ground truth, then by detection."""

    truths: Indices
    """[P] indices of ground truths, in the order of frames and of lines in a file."""
    detections: Indices
    """[P] indices of detections, in the same order."""
    overlaps: Floats
    """[P] the shared part: of the union, or for ``DontCare`` areas of the detection alone."""

    def above(self, limit: float) -> Pairs:
        """The pairs whose overlap exceeds a limit; an equal one does not (rule 5)."""
        return self._where(self.overlaps > limit)

    def of(self, chosen: NDArray[np.bool_]) -> Pairs:
        """The pairs of the chosen ground truths [G]."""
        return self._where(chosen[self.truths])

    def _where(self, kept: NDArray[np.bool_]) -> Pairs:
        return Pairs(truths=self.truths[kept], detections=self.detections[kept], overlaps=self.overlaps[kept])


@dataclass(frozen=True, kw_only=True)
class Overlaps:
    """All that one metric needs to know of places and sizes."""

    objects: Pairs
    """Ground truth and detections."""
    areas: Pairs
    """``DontCare`` areas, counted among the ground truth, and detections."""


def find_overlaps(
    truths: Sequence[Labels], detections: Sequence[Labels], objects: NDArray[np.bool_], areas: NDArray[np.bool_]
) -> Mapping[str, Overlaps]:
    """The overlaps above :data:`LEAST_OVERLAP` for each of :data:`METRICS`.

    Args:
        truths: ground truth of each frame.
        detections: of each frame, in the same order of frames.
        objects: [G] which ground truths are objects that may be matched.
        areas: [G] which are ``DontCare`` areas.
    """
    found: dict[str, list[list[tuple[Indices, Indices, Floats]]]] = {metric: [[], []] for metric in METRICS}
    first_truth = first_detection = 0
    for labels, results in zip(truths, detections, strict=True):
        for kind, chosen in enumerate((objects, areas)):
            # Only the rows of this kind are compared: most labels are of other types.
            rows = np.flatnonzero(chosen[first_truth : first_truth + len(labels)])
            if not (len(rows) and len(results)):
                continue
            # Absurdly great numbers overflow to infinite or unknown overlaps, which exceed nothing.
            with np.errstate(over="ignore", invalid="ignore"):
                values_by_metric = _frame_overlaps(labels, rows, results, of_detection=kind == 1)
            for metric, values in values_by_metric.items():
                near = np.nonzero(values > LEAST_OVERLAP)
                found[metric][kind].append((rows[near[0]] + first_truth, near[1] + first_detection, values[near]))
        first_truth += len(labels)
        first_detection += len(results)
    return {metric: Overlaps(objects=_joined(kinds[0]), areas=_joined(kinds[1])) for metric, kinds in found.items()}


def _joined(parts: list[tuple[Indices, Indices, Floats]]) -> Pairs:
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    truths, detections, overlaps = columns or (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    return Pairs(truths=truths, detections=detections, overlaps=overlaps)


def _frame_overlaps(labels: Labels, rows: Indices, results: Labels, *, of_detection: bool) -> dict[str, Floats]:
    """The overlaps [R, M] of the chosen R labels of a frame with its M results, for each metric.

    Args:
        labels: ground truth of the frame.
        rows: [R] those to compare.
        results: detections of the frame.
        of_detection: whether the shared part is taken of the detection alone, in place of the union.
    """
    heights, bottoms = labels.sizes[rows, 0, None], labels.locations[rows, 1, None]
    shared_area = intersection_area(_rectangles(labels, rows), _rectangles(results, slice(None)))
    # y points down: the bottom face has the greatest y.
    bottom = np.minimum(bottoms, results.locations[:, 1])
    top = np.maximum(bottoms - heights, results.locations[:, 1] - results.sizes[:, 0])
    shared_volume = shared_area * np.maximum(bottom - top, 0)
    area, area_detection = _products(labels.sizes[rows], (1, 2)), _products(results.sizes, (1, 2))
    # Factors in the order of the official program, height, length, width: another one rounds otherwise.
    volume, volume_detection = _products(labels.sizes[rows], (0, 2, 1)), _products(results.sizes, (0, 2, 1))
    if of_detection:
        return {
            "bev": _share(shared_area, np.broadcast_to(area_detection, shared_area.shape)),
            "3d": _share(shared_volume, np.broadcast_to(volume_detection, shared_area.shape)),
        }
    return {
        "bev": _share(shared_area, area[:, None] + area_detection - shared_area),
        "3d": _share(shared_volume, volume_detection + volume[:, None] - shared_volume),
    }


def _rectangles(labels: Labels, rows: Indices | slice) -> Floats:
    """Ground rectangles as rows of :func:`intersection_area`, whose x and y are x and z here.

    Length and width of opposite signs, or of 0, enclose nothing. Both may be negative, as those of ``DontCare`` areas
    are: the official program then sees the rectangle turned by 180°.
    """
    sizes, locations = labels.sizes[rows], labels.locations[rows]
    length, width = np.where(sizes[:, 1:2] * sizes[:, 2:3] > 0, np.abs(sizes[:, [2, 1]]), 0).T
    height = np.zeros_like(length)
    # KITTI's heading turns from x towards −z, hence the sign.
    return np.stack((locations[:, 0], locations[:, 2], height, length, width, height, -labels.rotation_y[rows]), axis=1)


def _products(sizes: Floats, columns: tuple[int, ...]) -> Floats:
    product = sizes[:, columns[0]]
    for column in columns[1:]:
        product = product * sizes[:, column]
    return product


def _share(part: Floats, whole: Floats) -> Floats:
    """``part / whole``, 0 where nothing is shared."""
    return np.divide(part, whole, out=np.zeros_like(part), where=(part > 0) & (whole > 0))

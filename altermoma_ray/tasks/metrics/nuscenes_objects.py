"""Which annotated objects of nuScenes a model finds, by the matching of the official detection metric.

The rule (Caesar et al., CVPR 2020, section 3.1): predictions of a class choose in the order of their confidence; each
takes the nearest free object of its class in its sample, if their centres lie less than 2 m apart on the ground. The
objects and predictions are those that the official evaluation keeps, by range, points and bike racks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from nuscenes.eval.detection.data_classes import DetectionBox

from altermoma_ray.data.batch import Detections
from altermoma_ray.objects import FoundObject, FoundObjects
from altermoma_ray.tasks.metrics.nuscenes_detection import CONFIGURATION, IndexEval, placement, results_of

if TYPE_CHECKING:
    from altermoma_ray.data.nuscenes.index import Index

VISIBILITIES = {1: "0 to 40 %", 2: "40 to 60 %", 3: "60 to 80 %", 4: "80 to 100 %"}
"""nuScenes' four levels of visibility: the share of an object that all pictures together show."""
RANGES = {20.0: "up to 20 m", 30.0: "20 to 30 m", 40.0: "30 to 40 m", 50.0: "40 to 50 m"}
"""Distances from the vehicle, by their ends (m); the official evaluation ends at 50 m."""


def found_objects(detections: Mapping[str, Detections], index: Index, rows: Sequence[int]) -> FoundObjects:
    """The objects of samples with their slices ``class``, ``range`` and ``visibility``.

    Args:
        detections: by sample token, in the lidar frame; one entry for each of ``rows``.
        index: the data set.
        rows: the samples.

    Raises:
        ValueError: a sample has no entry, or an entry is not finite.
    """
    records = [index.record(row) for row in rows]
    official = IndexEval(results_of(detections, records), records)
    found: list[FoundObject] = []
    alarms: list[float] = []
    for row, record in zip(rows, records, strict=True):
        truths, predictions = official.gt_boxes[record.token], official.pred_boxes[record.token]
        scores, alone = match(truths, predictions)
        alarms += alone
        # The devkit's boxes have no token; a box's exact place tells it among those of its sample.
        table = record.boxes
        of_place = {placement(box)["translation"]: number for number, box in enumerate(table.global_boxes)}
        for truth, score in zip(truths, scores, strict=True):
            number = of_place[truth.translation]
            slices = {"class": truth.detection_name, "range": _range_of(truth.ego_dist)}
            # 0: not annotated.
            if (visibility := VISIBILITIES.get(int(table.visibility[number]))) is not None:
                slices["visibility"] = visibility
            found.append(FoundObject(name=table.tokens[number], row=row, slices=slices, score=score))
    return FoundObjects(objects=tuple(found), false_alarms=tuple(alarms))


def match(truths: Sequence[DetectionBox], predictions: Sequence[DetectionBox]) -> tuple[list[float], list[float]]:
    """Match one sample's predictions with its objects.

    A prediction's match does not depend on less confident ones, so that the objects found above any confidence are
    those with at least this score.

    Returns:
        The score of each object, 0 where it is not found; and the scores of the predictions without an object.
    """
    scores = [0.0] * len(truths)
    alone = []
    free = set(range(len(truths)))
    # The devkit sorts upwards and reads from the end: of two equal scores, the later prediction chooses first.
    order = sorted(range(len(predictions)), key=lambda number: (predictions[number].detection_score, number))
    for prediction in (predictions[number] for number in reversed(order)):
        distances = {
            number: float(np.hypot(*np.subtract(truths[number].translation[:2], prediction.translation[:2])))
            for number in sorted(free)
            if truths[number].detection_name == prediction.detection_name
        }
        nearest = min(distances, key=distances.__getitem__, default=None)
        if nearest is not None and distances[nearest] < CONFIGURATION.dist_th_tp:
            free.remove(nearest)
            scores[nearest] = float(prediction.detection_score)
        else:
            alone.append(float(prediction.detection_score))
    return scores, alone


def _range_of(distance: float) -> str:
    return next((name for end, name in RANGES.items() if distance < end), RANGES[50.0])

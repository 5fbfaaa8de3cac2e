"""The official nuScenes detection metric (Caesar et al., CVPR 2020) on ground truth from the index.

The devkit's own code computes every number: the filters by range, points and bike racks, matching, average precision
and true-positive errors, in its CVPR 2019 configuration. Only the devkit's look-ups in the JSON tables are answered
from the index instead.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.common.loaders import add_center_dist, filter_eval_boxes
from nuscenes.eval.detection.data_classes import DetectionBox, DetectionConfig
from nuscenes.eval.detection.evaluate import DetectionEval
from scipy.spatial.transform import Rotation

from altermoma_ray.data.batch import Detections
from altermoma_ray.data.nuscenes.classes import CLASSES
from altermoma_ray.data.nuscenes.records import SampleRecord
from altermoma_ray.tasks.detection.metrics import METRICS, TRUE_POSITIVE_ERRORS
from altermoma_ray.tasks.metrics.nuscenes_attributes import attribute

if TYPE_CHECKING:
    from altermoma_ray.data.nuscenes.index import Index

Array = NDArray[np.float64]

CONFIGURATION: DetectionConfig = config_factory("detection_cvpr_2019")
"""The official ranges, thresholds and weights."""
SENSORS = ("camera", "lidar")


def evaluate(detections: Mapping[str, Detections], index: Index, rows: Sequence[int]) -> dict[str, float]:
    """Score detections as the official evaluation does.

    Args:
        detections: by sample token, in the lidar frame; one entry for each of ``rows``. As the rules have it, the 500
            best of a sample count.
        index: the data set.
        rows: the samples to score.

    Returns:
        ``map`` and ``nds``; ``ap/<class>``; the mean true-positive errors ``tp/mATE`` (m), ``tp/mASE``, ``tp/mAOE``
        (rad), ``tp/mAVE`` (m/s), ``tp/mAAE``; and ``map_present``, the mean AP of the classes present in the ground
        truth (the official ``map`` counts absent classes as 0), 0 where no class is present.

    Raises:
        ValueError: a sample has no entry, or an entry is not finite.
    """
    records = [index.record(row) for row in rows]
    return _figures(IndexEval(results_of(detections, records), records))


def evaluate_scene(detections: Mapping[str, Detections], index: Index, rows: Sequence[int]) -> dict[str, float]:
    """Score the detections of one scene, as if the data set had only the classes of the scene's objects.

    :func:`evaluate` counts a class without an object as 0. In one scene most classes are absent: two models would then
    differ by a fraction of what they differ by in the classes that are there.

    Args:
        detections: see :func:`evaluate`.
        index: see :func:`evaluate`.
        rows: the samples of the scene.

    Returns:
        The metrics of :func:`evaluate`; NaN for the AP of an absent class, and NaN everywhere for a scene without
        objects.

    Raises:
        ValueError: see :func:`evaluate`.
    """
    records = [index.record(row) for row in rows]
    official = IndexEval(results_of(detections, records), records)
    if not official.present:
        return dict.fromkeys((metric.name for metric in METRICS), float("nan"))
    official.cfg = copy(CONFIGURATION)
    official.cfg.class_names = official.present
    with warnings.catch_warnings():
        # The mean of no class: an error that the metric does not define for any class of the scene.
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        return _figures(official)


def _figures(official: IndexEval) -> dict[str, float]:
    """The metrics by name, over the classes of the evaluation's configuration."""
    metrics, _ = official.evaluate()
    precisions = {name: float(value) for name, value in metrics.mean_dist_aps.items()}
    present = official.present
    return {
        "map": float(metrics.mean_ap),
        "nds": float(metrics.nd_score),
        "map_present": float(np.mean([precisions[name] for name in present])) if present else 0.0,
        **{f"ap/{name}": precisions.get(name, float("nan")) for name in CLASSES},
        **{f"tp/{name}": float(metrics.tp_errors[key]) for key, name in TRUE_POSITIVE_ERRORS.items()},
    }


def submission(
    detections: Mapping[str, Detections], index: Index, rows: Sequence[int], sensors: Collection[str] = SENSORS
) -> dict[str, Any]:
    """Detections in the form of an official results file: global frame, attributes guessed from the speed.

    Args:
        detections: by sample token, in the lidar frame; one entry for each of ``rows``.
        index: the data set.
        rows: the samples to report.
        sensors: the model's, out of ``camera``, ``lidar`` and ``radar``.

    Returns:
        The dict to write as JSON: ``meta``, and ``results`` with at most 500 boxes a sample.

    Example: a file for the devkit's evaluation server::

        Path("results.json").write_text(json.dumps(submission(detections, data.index(), rows)))

    Raises:
        ValueError: a sample has no entry, or an entry is not finite.
    """
    return {"meta": used(sensors), "results": results_of(detections, [index.record(row) for row in rows])}


def used(sensors: Collection[str]) -> dict[str, bool]:
    """What a results file says of the data that its boxes were made from.

    >>> [name for name, is_used in used(("camera", "radar")).items() if is_used]
    ['use_camera', 'use_radar']
    """
    return {f"use_{source}": source in sensors for source in ("camera", "lidar", "radar", "map", "external")}


class IndexEval(DetectionEval):
    """The devkit's evaluation, with the index's records in the place of a results file and the JSON tables."""

    def __init__(self, results: Mapping[str, list[dict[str, Any]]], records: Sequence[SampleRecord]) -> None:
        # DetectionEval.__init__ reads files; here are its later steps alone.
        self.verbose = False
        self.cfg = CONFIGURATION
        tables = Tables(records)
        self.pred_boxes = self._prepare(EvalBoxes.deserialize(results, DetectionBox), tables)
        self.gt_boxes = self._prepare(_ground_truth(records), tables)
        self.sample_tokens = self.gt_boxes.sample_tokens

    @property
    def present(self) -> list[str]:
        """The classes of the ground truth after the devkit's filters: one whose objects are all too far is absent."""
        return sorted({box.detection_name for box in self.gt_boxes.all})

    def _prepare(self, boxes: EvalBoxes, tables: Tables) -> EvalBoxes:
        if not boxes.all:  # The devkit's filter cannot tell the task of no boxes at all.
            return boxes
        return filter_eval_boxes(tables, add_center_dist(tables, boxes), self.cfg.class_range)


class Tables:
    """Stands in for the devkit's ``NuScenes``: answers its filters' calls of ``get`` from records of the index.

    Example::

        tables = Tables(records)
        filter_eval_boxes(tables, add_center_dist(tables, boxes), class_range)
    """

    def __init__(self, records: Sequence[SampleRecord]) -> None:
        self._rows: dict[tuple[str, str], dict[str, Any]] = {}
        for record in records:
            # A sample has one pose here, the pose at its LiDAR's time; the sample's token names both.
            key = record.token
            self._rows["sample", key] = {"data": {"LIDAR_TOP": key}, "anns": record.boxes.tokens}
            self._rows["sample_data", key] = {"ego_pose_token": key}
            self._rows["ego_pose", key] = {"translation": record.lidar.ego_to_global[:3, 3]}
            boxes = record.boxes
            for token, category, box in zip(boxes.tokens, boxes.categories, boxes.global_boxes, strict=True):
                self._rows["sample_annotation", token] = {"category_name": category, **placement(box)}

    def get(self, table: str, token: str) -> dict[str, Any]:
        return self._rows[table, token]


def _ground_truth(records: Sequence[SampleRecord]) -> EvalBoxes:
    """The boxes of the records, in the form in which the devkit's ``load_gt`` gives them."""
    boxes = EvalBoxes()
    for record in records:
        table = record.boxes
        points = table.num_lidar_pts + table.num_radar_pts
        boxes.add_boxes(
            record.token,
            [
                DetectionBox(
                    sample_token=record.token,
                    **placement(table.global_boxes[row]),
                    velocity=tuple(table.global_boxes[row, 7:].tolist()),
                    num_pts=int(points[row]),
                    detection_name=CLASSES[table.labels[row]],
                    attribute_name=table.attributes[row],
                )
                # A label of -1 marks a category outside the ten detection classes.
                for row in np.nonzero(table.labels >= 0)[0]
            ],
        )
    return boxes


def placement(box: Array) -> dict[str, tuple[float, ...]]:
    """Translation, size (width, length, height) and rotation (w, x, y, z) of an upright box [9].

    >>> placement(np.array([1.0, 2.0, 3.0, 4.5, 1.8, 1.5, 0.0, 0.0, 0.0]))["size"]
    (1.8, 4.5, 1.5)
    """
    x, y, z, length, width, height, yaw = box[:7].tolist()
    return {
        "translation": (x, y, z),
        "size": (width, length, height),
        "rotation": (float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))),
    }


def results_of(
    detections: Mapping[str, Detections], records: Sequence[SampleRecord]
) -> dict[str, list[dict[str, Any]]]:
    """The ``results`` of an official results file: by sample token the 500 best boxes, best first.

    Example::

        results_of(detections, [index.record(row) for row in rows])[token][0]["detection_name"]

    Args:
        detections: by sample token, in the lidar frame; one entry for each record.
        records: the samples.

    Raises:
        ValueError: a sample has no entry, or an entry is not finite.
    """
    missing = [record.token for record in records if record.token not in detections]
    if missing:
        raise ValueError(f"every sample needs detections, if only none, but {len(missing)} have no entry: {missing[0]}")
    return {record.token: _sample_results(detections[record.token], record) for record in records}


def _sample_results(found: Detections, record: SampleRecord) -> list[dict[str, Any]]:
    """The detections of one sample in the global frame, best first."""
    best = found.scores.argsort(descending=True, stable=True)[: CONFIGURATION.max_boxes_per_sample]
    boxes, scores, labels = (
        values[best].detach().cpu().double().numpy() for values in (found.boxes, found.scores, found.labels)
    )
    if len(boxes) == 0:
        return []
    # Velocities may be NaN (unknown); the devkit leaves these out of its mean.
    if not (np.isfinite(boxes[:, :7]).all() and np.isfinite(scores).all()):
        raise ValueError(f"detections of sample {record.token} are not finite")
    to_global = record.lidar_to_global
    centres = boxes[:, :3] @ to_global[:3, :3].T + to_global[:3, 3]
    velocities = boxes[:, 7:9] @ to_global[:2, :2].T
    rotations = Rotation.from_matrix(to_global[:3, :3]) * Rotation.from_euler("z", boxes[:, 6:7])
    quaternions = np.roll(rotations.as_quat(), 1, axis=1)  # scipy's x, y, z, w as w, x, y, z
    speeds = np.hypot(boxes[:, 7], boxes[:, 8])
    names = [CLASSES[int(label)] for label in labels]
    return [
        {
            "sample_token": record.token,
            "translation": centres[row].tolist(),
            "size": boxes[row, [4, 3, 5]].tolist(),
            "rotation": quaternions[row].tolist(),
            "velocity": velocities[row].tolist(),
            "detection_name": name,
            "detection_score": float(scores[row]),
            "attribute_name": attribute(name, speeds[row]),
        }
        for row, name in enumerate(names)
    ]

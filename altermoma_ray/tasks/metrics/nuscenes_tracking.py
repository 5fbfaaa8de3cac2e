"""The official nuScenes tracking metric (Caesar et al., CVPR 2020) on ground truth from the index.

The devkit's own code filters and interpolates the boxes, finds the thresholds of the 40 recalls, and holds the
formulas; motmetrics matches objects and tracks. Two things differ from the devkit's ``TrackingEval``, for speed alone.
A scene is matched once for all thresholds that leave the same tracks in it, and only the metrics of
:mod:`altermoma_ray.tasks.tracking.metrics` are computed: the devkit's others walk through a table of all events once
for each object and threshold.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import numpy as np
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.common.loaders import add_center_dist, filter_eval_boxes
from nuscenes.eval.tracking.algo import TrackingEvaluation
from nuscenes.eval.tracking.data_classes import TrackingBox, TrackingConfig
from nuscenes.eval.tracking.loaders import interpolate_tracks
from nuscenes.eval.tracking.metrics import mota_custom, motar
from nuscenes.eval.tracking.utils import category_to_tracking_name
from sklearn.metrics.pairwise import euclidean_distances

from altermoma_ray.data.batch import Detections
from altermoma_ray.data.nuscenes.classes import CLASSES
from altermoma_ray.data.nuscenes.records import SampleRecord
from altermoma_ray.models.configurations.tracker import TrackerConfig
from altermoma_ray.tasks.metrics.clear_mot import Counts, Frame, Scene
from altermoma_ray.tasks.metrics.nuscenes_detection import SENSORS, Tables, placement, results_of, used
from altermoma_ray.tasks.tracking.tracker import UNTRACKED, Tracker

if TYPE_CHECKING:
    from altermoma_ray.data.nuscenes.index import Index

CONFIGURATION: TrackingConfig = config_factory("tracking_nips_2019")
"""The official classes, ranges and thresholds."""
Tracks = dict[str, dict[int, list[TrackingBox]]]
"""Boxes by scene token and timestamp (µs), in order of time."""


class ClassEvaluation(TrackingEvaluation):
    """The devkit's evaluation of one class.

    Example::

        ClassEvaluation(truth, tracks, "car").figures()["amota"]
    """

    def __init__(self, truth: Tracks, tracks: Tracks, name: str) -> None:
        """Sort the boxes of the class into frames.

        Args:
            truth: the annotated objects, interpolated.
            tracks: the tracks of the same scenes and times, interpolated, with their mean scores.
            name: of the class.
        """
        super().__init__(
            truth,
            tracks,
            name,
            CONFIGURATION.dist_fcn_callable,
            CONFIGURATION.dist_th_tp,
            CONFIGURATION.min_recall,
            CONFIGURATION.num_thresholds,
            CONFIGURATION.metric_worst,
            verbose=False,
        )
        self._scenes, self._objects = [], 0
        for scene, times in truth.items():
            numbers = _Numbers()
            frames = [_frame(boxes, tracks[scene][time], name, numbers) for time, boxes in times.items()]
            self._objects += sum(len(frame.objects) for frame in frames)
            self._scenes.append(Scene(frames))

    def figures(self) -> dict[str, float] | None:
        """``amota`` and ``amotp``, and at the best threshold ``motar``, ``motp``, ``mota``, ``recall`` and ``ids``.

        The best threshold has the highest MOTA. None for a class without an object.
        """
        if not self._objects:
            return None
        thresholds, _ = self.compute_thresholds(self._objects)
        # Thresholds rise; NaN stands first, for recalls that no threshold reaches.
        reached = [threshold for threshold in thresholds if not np.isnan(threshold)]
        if not reached:
            worst = {name: self.metric_worst[name] for name in ("amota", "amotp", "motar", "motp", "mota", "recall")}
            return {**worst, "ids": float("nan")}
        rows = [self._at(threshold) for threshold in reached]
        # Of equal values the first: that of the highest recall.
        best = rows[int(np.nanargmax([row["mota"] for row in rows]))]
        means = {mean: self._mean([row[name] for row in rows], mean) for mean, name in _MEANS.items()}
        return {**best, **means}

    def accumulate_threshold(self, threshold: float | None = None) -> tuple[None, list[float]]:
        """The scores of the matched boxes, of which the devkit makes the thresholds."""
        assert threshold is None
        return None, [score for scene in self._scenes for score in scene.matched_scores()]

    def _at(self, threshold: float) -> dict[str, float]:
        """The metrics of one threshold."""
        counts = reduce(add, (scene.counts(threshold) for scene in self._scenes), Counts())
        wrong = (counts.misses, counts.switches, counts.false_positives)
        found = counts.matches + counts.switches
        return {
            "motar": float(motar(None, counts.matches, *wrong, self._objects)),
            "motp": counts.distance / found if found else float("nan"),
            "mota": float(mota_custom(None, *wrong, self._objects)),
            "recall": found / self._objects,
            "ids": float(counts.switches),
        }

    def _mean(self, curve: Sequence[float], name: str) -> float:
        """The mean over all recalls of a curve over the reached ones; the others, and gaps, have the worst value."""
        worst = self.metric_worst[name]
        values = np.concatenate((np.full(self.num_thresholds - len(curve), worst), curve))
        return float(np.nan_to_num(values, nan=worst).mean())


_MEANS = {"amota": "motar", "amotp": "motp"}
"""Metrics averaged over recalls, and the metrics that they are means of."""


class _Numbers(dict[str, int]):
    """A number for each name, in the order in which the names come: motmetrics is quicker with numbers."""

    def __missing__(self, name: str) -> int:
        self[name] = len(self)
        return self[name]


def _frame(objects: Sequence[TrackingBox], tracks: Sequence[TrackingBox], name: str, numbers: _Numbers) -> Frame:
    objects, tracks = ([box for box in boxes if box.tracking_name == name] for boxes in (objects, tracks))
    distances = np.zeros((len(objects), len(tracks)))
    if distances.size:
        # The devkit's function: near 0 its rounding is no less than 1e-5 m in coordinates of a map.
        places = (np.array([box.translation[:2] for box in boxes]) for boxes in (objects, tracks))
        distances = euclidean_distances(*places)
    distances[distances >= CONFIGURATION.dist_th_tp] = np.nan
    return Frame(
        objects=np.array([numbers[box.tracking_id] for box in objects], np.int64),
        tracks=np.array([numbers[box.tracking_id] for box in tracks], np.int64),
        scores=np.array([box.tracking_score for box in tracks], np.float64),
        distances=distances,
    )


def evaluate(
    detections: Mapping[str, Detections], index: Index, rows: Sequence[int], config: TrackerConfig
) -> dict[str, float]:
    """Track detections, and score the tracks as the official evaluation does.

    Args:
        detections: by sample token, in the lidar frame; one entry for each of ``rows``.
        index: the data set.
        rows: the samples to score. The samples of a scene form its sequence, in order of time, without those left out.
        config: of the tracker.

    Returns:
        ``amota``; ``amotp`` (m); ``mota``, ``recall`` and ``switches``; ``amota/<class>``. As the devkit has it, the
        means are over the classes with an object, and the AMOTA of another class is NaN. Without any object ``amota``,
        ``mota`` and ``recall`` are 0, and ``amotp`` has its worst value, 2 m.

    Raises:
        ValueError: a sample has no entry, or an entry is not finite.
    """
    records = [index.record(row) for row in rows]
    truth = _tracks(_ground_truth(records), records)
    tracks = _tracks(EvalBoxes.deserialize(_tracked(detections, records, config), TrackingBox), records)
    # Before the interpolation, as the devkit does: boxes put into gaps must not weigh in the mean.
    _score_by_track(tracks)
    for boxes in (*truth.values(), *tracks.values()):
        interpolate_tracks(boxes)
    found = {name: ClassEvaluation(truth, tracks, name).figures() for name in CONFIGURATION.class_names}
    present = [one for one in found.values() if one is not None]
    worst = {"amota": 0.0, "amotp": CONFIGURATION.metric_worst["amotp"], "mota": 0.0, "recall": 0.0}
    means = {
        key: float(np.nanmean([one[key] for one in present])) if present else value for key, value in worst.items()
    }
    return {
        **means,
        "switches": float(np.nansum([one["ids"] for one in present])),
        **{f"amota/{name}": float("nan") if one is None else one["amota"] for name, one in found.items()},
    }


def submission(
    detections: Mapping[str, Detections],
    index: Index,
    rows: Sequence[int],
    config: TrackerConfig,
    sensors: Collection[str] = SENSORS,
) -> dict[str, Any]:
    """Tracks in the form of an official results file of the tracking challenge.

    Args:
        detections: see :func:`evaluate`.
        index: the data set.
        rows: the samples to report.
        config: of the tracker.
        sensors: the model's, out of ``camera``, ``lidar`` and ``radar``.

    Returns:
        The dict to write as JSON: ``meta``, and ``results`` with at most 500 boxes a sample.

    Example: a file for the devkit's evaluation server::

        Path("tracks.json").write_text(json.dumps(submission(detections, data.index(), rows, TrackerConfig())))

    Raises:
        ValueError: a sample has no entry, or an entry is not finite.
    """
    return {"meta": used(sensors), "results": _tracked(detections, [index.record(row) for row in rows], config)}


def _tracked(
    detections: Mapping[str, Detections], records: Sequence[SampleRecord], config: TrackerConfig
) -> dict[str, list[dict[str, Any]]]:
    """The tracked detections of each sample in the global frame, with their identities."""
    found = results_of(detections, records)
    tracked: dict[str, list[dict[str, Any]]] = {}
    for frames in _scenes(records):
        tracker, before = Tracker(config, classes=CLASSES), frames[0].timestamp
        for frame in frames:
            boxes = found[frame.token]
            identities = tracker.step(
                np.array([box["translation"][:2] for box in boxes]),
                np.array([box["velocity"] for box in boxes]),
                np.array([CLASSES.index(box["detection_name"]) for box in boxes], np.int64),
                seconds=(frame.timestamp - before) / 1e6,
            )
            before = frame.timestamp
            tracked[frame.token] = [
                {
                    **{name: box[name] for name in ("sample_token", "translation", "size", "rotation", "velocity")},
                    "tracking_id": str(identity),
                    "tracking_name": box["detection_name"],
                    "tracking_score": box["detection_score"],
                }
                for box, identity in zip(boxes, identities.tolist(), strict=True)
                # The devkit refuses names of classes that it does not know, whatever a user's tracker follows.
                if identity != UNTRACKED and box["detection_name"] in CONFIGURATION.class_names
            ]
    return tracked


def _scenes(records: Iterable[SampleRecord]) -> list[list[SampleRecord]]:
    """The samples of each scene, in order of time."""
    scenes: dict[str, list[SampleRecord]] = defaultdict(list)
    for record in records:
        scenes[record.scene_token].append(record)
    return [sorted(frames, key=lambda frame: frame.timestamp) for frames in scenes.values()]


def _ground_truth(records: Sequence[SampleRecord]) -> EvalBoxes:
    """The boxes of the records, in the form in which the devkit's ``load_gt`` gives them."""
    boxes = EvalBoxes()
    for record in records:
        table = record.boxes
        points = table.num_lidar_pts + table.num_radar_pts
        named = [(row, category_to_tracking_name(category)) for row, category in enumerate(table.categories)]
        boxes.add_boxes(
            record.token,
            [
                TrackingBox(
                    sample_token=record.token,
                    **placement(table.global_boxes[row]),
                    velocity=tuple(table.global_boxes[row, 7:].tolist()),
                    num_pts=int(points[row]),
                    tracking_id=table.instance_tokens[row],
                    tracking_name=name,
                    tracking_score=-1.0,
                )
                for row, name in named
                if name is not None
            ],
        )
    return boxes


def _tracks(boxes: EvalBoxes, records: Sequence[SampleRecord]) -> Tracks:
    """Boxes within the official ranges, by scene and time; not interpolated yet."""
    if boxes.all:  # The devkit's filter cannot tell the task of no boxes at all.
        tables = Tables(records)
        boxes = filter_eval_boxes(tables, add_center_dist(tables, boxes), CONFIGURATION.class_range)
    return {
        frames[0].scene_token: {frame.timestamp: boxes.boxes[frame.token] for frame in frames}
        for frames in _scenes(records)
    }


def _score_by_track(tracks: Tracks) -> None:
    """Give the boxes of a track their mean score, in place."""
    for frames in tracks.values():
        boxes: dict[str, list[TrackingBox]] = defaultdict(list)
        for box in (box for frame in frames.values() for box in frame):
            boxes[box.tracking_id].append(box)
        for track in boxes.values():
            mean = float(np.mean([box.tracking_score for box in track]))
            for box in track:
                box.tracking_score = mean

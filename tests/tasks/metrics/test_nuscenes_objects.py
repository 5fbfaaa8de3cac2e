"""Which objects are found, against the official evaluation of the same detections."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from nuscenes.eval.common.utils import center_distance
from nuscenes.eval.detection.algo import accumulate
from nuscenes.eval.detection.data_classes import DetectionBox

from altermoma_ray.data.batch import Detections
from altermoma_ray.data.nuscenes.classes import CLASSES
from altermoma_ray.data.nuscenes.index import open_index
from altermoma_ray.storage import Location
from altermoma_ray.tasks.metrics.nuscenes_detection import IndexEval, evaluate, evaluate_scene, results_of
from altermoma_ray.tasks.metrics.nuscenes_objects import found_objects, match


@pytest.fixture(scope="module")
def index(synthetic_root, tmp_path_factory):
    storage = Location.parse(tmp_path_factory.mktemp("storage"))
    return open_index(Location.parse(synthetic_root), "v1.0-trainval", storage, progress=False)


@pytest.fixture(scope="module")
def detections(index):
    """The truth twice over, shifted, sometimes of another class, with tied scores."""
    random, found = np.random.default_rng(0), {}
    for row in range(len(index)):
        record = index.record(row)
        known = record.boxes.learnable
        boxes = record.boxes.boxes[known].repeat(2, axis=0)
        boxes[:, :2] += random.normal(0, 1.0, (len(boxes), 2))
        wrong = random.random(len(boxes)) < 0.2
        labels = np.where(wrong, random.integers(0, 10, len(boxes)), record.boxes.labels[known].repeat(2))
        found[record.token] = Detections(
            boxes=torch.tensor(boxes, dtype=torch.float32),
            scores=torch.tensor(random.integers(1, 12, len(boxes)) / 12, dtype=torch.float32),
            labels=torch.tensor(labels),
        )
    return found


def box(x, score=-1.0, kind="car"):
    return DetectionBox(sample_token="s", translation=(x, 0.0, 0.0), detection_name=kind, detection_score=score)


def test_the_surest_prediction_chooses_first_and_takes_the_nearest_free_object():
    truths = [box(0.0), box(1.5), box(9.0), box(0.1, kind="bus")]
    # .9 takes the car at 1.5; .8 is nearer to it, but finds the one at 0 free; .7 finds no free car within 2 m.
    scores, alone = match(truths, [box(1.0, 0.8), box(1.2, 0.9), box(0.4, 0.7), box(7.0, 0.6)])
    assert scores == [0.8, 0.9, 0.0, 0.0]
    # 2 m away is too far: the rule is less than 2 m.
    assert alone == [0.7, 0.6]


def test_as_many_objects_are_found_as_the_devkit_matches(index, detections):
    rows = list(range(len(index)))
    told = found_objects(detections, index, rows)
    records = [index.record(row) for row in rows]
    official = IndexEval(results_of(detections, records), records)
    assert len(told.objects) == len(official.gt_boxes.all)
    assert len({one.name for one in told.objects}) == len(told.objects)
    for kind in CLASSES:
        scores = np.array([one.score for one in told.objects if one.slices["class"] == kind])
        if len(scores) == 0:
            continue
        curve = accumulate(official.gt_boxes, official.pred_boxes, kind, center_distance, 2.0)
        assert (scores > 0).mean() == pytest.approx(curve.max_recall_ind / 100, abs=0.01)
    found = sum(one.score > 0 for one in told.objects)
    assert 0 < found < len(told.objects)
    assert found + len(told.false_alarms) == len(official.pred_boxes.all)


def test_objects_have_their_annotation_s_class_range_and_visibility(index, detections):
    for one in found_objects(detections, index, [0, 1]).objects:
        table = index.record(one.row).boxes
        number = table.tokens.index(one.name)
        ego = index.record(one.row).lidar.ego_to_global[:2, 3]
        distance = math.dist(table.global_boxes[number, :2], ego)
        assert one.slices["class"] == CLASSES[table.labels[number]]
        low, high = {"up to 20 m": (0, 20), "20 to 30 m": (20, 30), "30 to 40 m": (30, 40), "40 to 50 m": (40, 50)}[
            one.slices["range"]
        ]
        assert low <= distance < high
        levels = ("0 to 40 %", "40 to 60 %", "60 to 80 %", "80 to 100 %")
        assert one.slices["visibility"] == levels[table.visibility[number] - 1]


def test_a_scene_is_scored_over_its_own_classes(index, detections):
    alone = evaluate(detections, index, [0])
    scene = evaluate_scene(detections, index, [0])
    present = {one.slices["class"] for one in found_objects(detections, index, [0]).objects}
    assert scene["map"] == pytest.approx(alone["map_present"])
    assert {name for name in CLASSES if math.isfinite(scene[f"ap/{name}"])} == present
    assert all(scene[f"ap/{name}"] == alone[f"ap/{name}"] for name in present)
    assert math.isfinite(scene["nds"])
    assert scene.keys() == alone.keys()


def test_a_scene_without_objects_has_no_figure(index, detections):
    class Unhit:
        """The index with a keyframe whose objects no point hits, which the metric drops."""

        def record(self, row):
            record = index.record(row)
            none = np.zeros(len(record.boxes), int)
            return replace(record, boxes=replace(record.boxes, num_lidar_pts=none, num_radar_pts=none))

    assert all(math.isnan(value) for value in evaluate_scene(detections, Unhit(), [0]).values())
    assert found_objects(detections, Unhit(), [0]).objects == ()

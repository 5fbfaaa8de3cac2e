from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.data_classes import DetectionMetrics
from nuscenes.eval.detection.evaluate import DetectionEval

from altermoma_ray.data.batch import Detections
from altermoma_ray.data.nuscenes.classes import CLASSES
from altermoma_ray.data.nuscenes.index import Index, open_index
from altermoma_ray.data.nuscenes.records import SampleRecord
from altermoma_ray.storage import Location
from altermoma_ray.tasks.metrics.nuscenes_detection import TRUE_POSITIVE_ERRORS, evaluate, submission


@pytest.fixture(scope="module")
def synthetic(synthetic_root, tmp_path_factory) -> Index:
    storage = Location.parse(tmp_path_factory.mktemp("storage"))
    return open_index(Location.parse(synthetic_root), "v1.0-trainval", storage, progress=False)


@pytest.fixture(scope="module")
def keyframe(real_nuscenes, tmp_path_factory) -> Index:
    storage = Location.parse(tmp_path_factory.mktemp("storage"))
    return open_index(Location.parse(real_nuscenes), "v1.0-mini", storage, progress=False)


def official(root, version, split, results, folder) -> DetectionMetrics:
    """What the devkit says of a results file, with its own tables."""
    path = folder / "results.json"
    path.write_text(json.dumps(results))
    nusc = NuScenes(version, str(root), verbose=False)
    config = config_factory("detection_cvpr_2019")
    metrics, _ = DetectionEval(nusc, config, str(path), split, str(folder / "out"), verbose=False).evaluate()
    return metrics


def truth(record: SampleRecord) -> Detections:
    """The annotated objects as detections, through our own box convention.

    Those that no sensor hit are left out: the metric drops them from its ground truth, as detections they are false.
    """
    known = record.boxes.learnable
    return Detections(
        boxes=torch.tensor(record.boxes.boxes[known], dtype=torch.float32),
        scores=torch.ones(int(known.sum())),
        labels=torch.tensor(record.boxes.labels[known], dtype=torch.int64),
    )


def mistaken(record: SampleRecord, random: np.random.Generator) -> Detections:
    """The truth, shifted, resized, turned, sometimes missed or mistaken, with false alarms and tied scores."""
    found = truth(record)
    boxes = found.boxes.double().numpy().repeat(2, axis=0)
    labels = found.labels.numpy().repeat(2)
    count = len(boxes)
    boxes[:, :3] += random.normal(0, 0.8, (count, 3))
    boxes[:, 3:6] *= random.uniform(0.7, 1.4, (count, 3))
    boxes[:, 6:] += random.normal(0, 0.3, (count, 3))
    wrong = random.random(count) < 0.2
    labels = np.where(wrong, random.integers(0, 10, count), labels)
    kept = random.random(count) < 0.8
    scores = random.integers(1, 12, count) / 12
    return Detections(
        boxes=torch.tensor(boxes[kept], dtype=torch.float32),
        scores=torch.tensor(scores[kept], dtype=torch.float32),
        labels=torch.tensor(labels[kept]),
    )


def assert_same(own: dict[str, float], metrics: DetectionMetrics) -> None:
    assert own["map"] == pytest.approx(metrics.mean_ap, abs=1e-9)
    assert own["nds"] == pytest.approx(metrics.nd_score, abs=1e-6)
    for name in CLASSES:
        assert own[f"ap/{name}"] == pytest.approx(metrics.mean_dist_aps[name], abs=1e-9)
    for key, name in TRUE_POSITIVE_ERRORS.items():
        assert own[f"tp/{name}"] == pytest.approx(metrics.tp_errors[key], abs=1e-6)


def test_equals_the_official_evaluation_with_its_tables(synthetic, synthetic_root, tmp_path, capsys):
    rows, random = synthetic.samples("val"), np.random.default_rng(0)
    detections = {record.token: mistaken(record, random) for record in map(synthetic.record, rows)}
    own = evaluate(detections, synthetic, rows)
    assert capsys.readouterr().out == ""
    assert 0.02 < own["map"] < 0.95
    results = submission(detections, synthetic, rows)
    assert_same(own, official(synthetic_root, "v1.0-trainval", "val", results, tmp_path))


def test_the_truth_is_perfect_on_the_synthetic_set(synthetic):
    rows = synthetic.samples("val")
    own = evaluate({record.token: truth(record) for record in map(synthetic.record, rows)}, synthetic, rows)
    assert own["map_present"] == pytest.approx(1)
    assert own["tp/mATE"] < 1 - own["map"] + 1e-3  # an absent class counts as an error of 1


def test_the_truth_is_perfect_on_a_real_keyframe(keyframe, real_nuscenes, tmp_path):
    rows = keyframe.samples("train")
    detections = {record.token: truth(record) for record in map(keyframe.record, rows)}
    own = evaluate(detections, keyframe, rows)
    metrics = official(real_nuscenes, "v1.0-mini", "mini_train", submission(detections, keyframe, rows), tmp_path)
    assert_same(own, metrics)
    present = {"pedestrian", "barrier", "car", "traffic_cone", "truck"}
    expected = {name: float(name in present) for name in CLASSES}
    assert {name: metrics.mean_dist_aps[name] for name in CLASSES} == pytest.approx(expected)
    assert own["map"] == pytest.approx(0.5)
    assert own["map_present"] == pytest.approx(1)
    for name in present:
        assert metrics.get_label_tp(name, "trans_err") < 1e-3
        assert metrics.get_label_tp(name, "scale_err") < 1e-3
        if name != "traffic_cone":
            assert metrics.get_label_tp(name, "orient_err") < 1e-3


def test_mistakes_on_a_real_keyframe_score_as_officially(keyframe, real_nuscenes, tmp_path):
    rows, random = keyframe.samples("train"), np.random.default_rng(1)
    detections = {record.token: mistaken(record, random) for record in map(keyframe.record, rows)}
    results = submission(detections, keyframe, rows)
    metrics = official(real_nuscenes, "v1.0-mini", "mini_train", results, tmp_path)
    assert_same(evaluate(detections, keyframe, rows), metrics)


def nothing() -> Detections:
    return Detections(boxes=torch.zeros(0, 9), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.int64))


def test_no_detections_at_all_score_zero(synthetic):
    rows = synthetic.samples("val")
    own = evaluate({synthetic.record(row).token: nothing() for row in rows}, synthetic, rows)
    assert own["map"] == own["nds"] == 0
    assert own["tp/mATE"] == 1


def test_the_velocity_is_turned_into_the_global_frame(synthetic):
    (row, *_) = synthetic.samples("val")
    record = synthetic.record(row)
    results = submission({record.token: truth(record)}, synthetic, [row])["results"][record.token]
    known = record.boxes.learnable
    got = np.array([box["velocity"] for box in results])
    np.testing.assert_allclose(got, record.boxes.global_boxes[known, 7:], atol=2e-2)


def test_only_the_best_500_boxes_are_submitted(synthetic):
    (row, *_) = synthetic.samples("val")
    token = synthetic.record(row).token
    boxes = torch.ones(600, 9)
    many = Detections(boxes=boxes, scores=torch.linspace(0, 1, 600), labels=torch.zeros(600, dtype=torch.int64))
    scores = [box["detection_score"] for box in submission({token: many}, synthetic, [row])["results"][token]]
    assert len(scores) == 500
    assert scores[0] == 1
    assert min(scores) > 0.16


def test_what_is_missing_or_not_finite_is_named(synthetic):
    (row, *_) = synthetic.samples("val")
    token = synthetic.record(row).token
    with pytest.raises(ValueError, match=f"1 have no entry: {token}"):
        evaluate({}, synthetic, [row])
    boxes = torch.full((1, 9), math.nan)
    broken = Detections(boxes=boxes, scores=torch.ones(1), labels=torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match=f"detections of sample {token} are not finite"):
        evaluate({token: broken}, synthetic, [row])

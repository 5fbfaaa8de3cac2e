from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.tracking.evaluate import TrackingEval

from altermoma_ray.data.batch import Detections
from altermoma_ray.data.nuscenes.index import Index, open_index
from altermoma_ray.data.nuscenes.records import SampleRecord
from altermoma_ray.data.synthetic import generate
from altermoma_ray.models.configurations.tracker import TrackerConfig
from altermoma_ray.storage import Location
from altermoma_ray.tasks.metrics.nuscenes_tracking import evaluate, submission
from altermoma_ray.tasks.tracking.metrics import METRICS, TRACKED

TRACKER = TrackerConfig()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two scenes of four keyframes in the training split, with occlusions; the pictures are as small as can be."""
    folder = tmp_path_factory.mktemp("tracks") / "nuscenes"
    small = {"width": 64, "cameras": 1, "sweeps": 0, "azimuths": 240}
    generate(folder, scenes=3, seed=1, keyframes=4, occlusion=True, processes=1, progress=False, **small)
    return folder


@pytest.fixture(scope="module")
def index(root, tmp_path_factory) -> Index:
    storage = Location.parse(tmp_path_factory.mktemp("storage"))
    return open_index(Location.parse(root), "v1.0-trainval", storage, progress=False)


def truth(record: SampleRecord) -> Detections:
    """The annotated objects which a sensor hit, in the lidar frame, with their velocities."""
    known = record.boxes.learnable
    return Detections(
        boxes=torch.tensor(record.boxes.boxes[known]),
        scores=torch.ones(int(known.sum())),
        labels=torch.tensor(record.boxes.labels[known], dtype=torch.int64),
    )


def mistaken(record: SampleRecord, random: np.random.Generator) -> Detections:
    """The truth twice, shifted, sometimes missed or of another class, with wrong velocities and tied scores."""
    found = truth(record)
    boxes, labels = found.boxes.numpy().repeat(2, axis=0), found.labels.numpy().repeat(2)
    boxes[:, :2] += random.normal(0, 0.7, (len(boxes), 2))
    boxes[:, 7:] += random.normal(0, 1.0, (len(boxes), 2))
    labels = np.where(random.random(len(labels)) < 0.1, random.integers(0, 10, len(labels)), labels)
    kept = random.random(len(boxes)) < 0.7
    # Few scores make few thresholds, each of which costs the devkit a second.
    scores = random.choice([0.25, 0.75], len(boxes))
    return Detections(
        boxes=torch.tensor(boxes[kept]),
        scores=torch.tensor(scores[kept], dtype=torch.float32),
        labels=torch.tensor(labels[kept]),
    )


def test_equals_the_official_evaluation_with_its_tables(index, root, tmp_path, capsys):
    rows, random = index.samples("train"), np.random.default_rng(0)
    detections = {record.token: mistaken(record, random) for record in map(index.record, rows)}
    own = evaluate(detections, index, rows, TRACKER)
    assert capsys.readouterr().out == ""
    file = tmp_path / "tracks.json"
    file.write_text(json.dumps(submission(detections, index, rows, TRACKER)))
    configuration = config_factory("tracking_nips_2019")
    official, _ = TrackingEval(
        configuration, str(file), "train", str(tmp_path / "out"), "v1.0-trainval", str(root), verbose=False
    ).evaluate()
    names = {"amota": "amota", "amotp": "amotp", "mota": "mota", "recall": "recall", "switches": "ids"}
    assert {name: own[name] for name in names} == pytest.approx(
        {name: official.compute_metric(theirs) for name, theirs in names.items()}, abs=1e-9
    )
    for name in TRACKED:
        assert own[f"amota/{name}"] == pytest.approx(official.compute_metric("amota", name), abs=1e-9, nan_ok=True)
    assert 0.05 < own["amota"] < 0.95
    assert own["switches"] > 0
    assert {metric.name for metric in METRICS} == own.keys()


def test_the_truth_is_perfect_also_through_occlusions(index):
    rows = index.samples("train")
    records = [index.record(row) for row in rows]
    hidden = [record.boxes.num_lidar_pts + record.boxes.num_radar_pts == 0 for record in records]
    assert sum(map(np.count_nonzero, hidden)) > 0, "no object of these scenes is ever hidden"
    own = evaluate({record.token: truth(record) for record in records}, index, rows, TRACKER)
    present = {name: value for name, value in own.items() if name.startswith("amota/") and not math.isnan(value)}
    assert len(present) >= 4
    assert present == pytest.approx(dict.fromkeys(present, 1.0))
    assert (own["amota"], own["mota"], own["recall"], own["switches"]) == pytest.approx((1, 1, 1, 0))
    assert own["amotp"] < 1e-3


def test_an_absent_class_counts_in_no_mean(index):
    rows = index.samples("train")
    own = evaluate({record.token: truth(record) for record in map(index.record, rows)}, index, rows, TRACKER)
    found = {category for row in rows for category in index.record(row).boxes.categories}
    absent = [name for name in TRACKED if not any(category.split(".")[1].startswith(name) for category in found)]
    assert all(math.isnan(own[f"amota/{name}"]) for name in absent if name != "pedestrian")


def nothing() -> Detections:
    return Detections(boxes=torch.zeros(0, 9), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.int64))


def test_no_detections_at_all_have_the_worst_figures(index):
    rows = index.samples("train")
    own = evaluate({index.record(row).token: nothing() for row in rows}, index, rows, TRACKER)
    assert (own["amota"], own["amotp"], own["mota"], own["recall"]) == (0, 2, 0, 0)


def test_a_scene_is_followed_from_its_own_beginning(index):
    """The order of rows is no matter, and identities begin anew in every scene."""
    rows = index.samples("train")
    detections = {record.token: truth(record) for record in map(index.record, rows)}
    forth, back = (submission(detections, index, order, TRACKER)["results"] for order in (rows, rows[::-1]))
    assert forth == back
    firsts = {}
    for row in rows:
        record = index.record(row)
        firsts.setdefault(record.scene_token, {int(box["tracking_id"]) for box in forth[record.token]})
    assert len(firsts) == 2
    assert all(min(identities) == 0 for identities in firsts.values())


def test_what_is_missing_is_named(index):
    (row, *_) = index.samples("train")
    with pytest.raises(ValueError, match=f"1 have no entry: {index.record(row).token}"):
        evaluate({}, index, [row], TRACKER)

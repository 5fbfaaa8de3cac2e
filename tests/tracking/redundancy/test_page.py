"""The page of a redundancy report: whole in itself, and saying what the figures say."""

from __future__ import annotations

import base64
import re

import pytest
import torch

from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.reports import REPORT_TAG, ReportTracker
from altermoma_ray.tracking.redundancy.page import page
from altermoma_ray.tracking.redundancy.pictures import LONGEST_NAME, short_names
from altermoma_ray.tracking.redundancy.records import (
    BEFORE,
    FINE_TUNED,
    INTACT,
    MASKED,
    OCCUPIED,
    PRUNED,
    REACTIVATED,
    UNPRUNED,
    FeatureFigures,
    GroupFigures,
    LayerFigures,
    RedundancyReport,
    Removal,
    SensorFigures,
)
from altermoma_ray.tracking.redundancy.summary import print_summary
from altermoma_ray.tracking.redundancy.text import indicators_text, sensors_text

ROWS = (("camera", "lidar"), ("lidar", "camera"), ("fused", "lidar"), ("fused", "camera"))
LAYERS = (("camera", "a.0.weight", 0.8, 0.2), ("camera", "a.1.weight", 0.2, 0.8), ("lidar", "b.weight", 1.0, 1.0))


def make(**changes):
    layers = [
        LayerFigures(
            name=name,
            group=group,
            weights=10,
            weight_share=0.5,
            deci_share=deci,
            reri_share=reri,
            reri_by_pass={"lidar" if group == "camera" else "camera": reri},
            spearman=None if name == "b.weight" else 0.5,
        )
        for group, name, deci, reri in LAYERS
    ]
    groups = [
        GroupFigures(
            name=name,
            weights=20,
            deci=2.0,
            reri={masked: 8.0},
            spearman=0.9,
            pass_spearman=None,
            overlap=0.4,
            overlap_by_chance=0.1,
            shift=0.3,
            ranks=[[1.0, 0.0], [0.0, 1.0]],
        )
        for name, masked in (("camera", "lidar"), ("lidar", "camera"))
    ]
    removals = [
        Removal(
            criterion=criterion,
            sparsity={"total": 0.8, "camera": camera, "lidar": 0.5},
            layers={name: 0.5 for _, name, _, _ in LAYERS},
            overlap={"one": 0.3, "two": 0.3},
            overlap_removed={"one": 0.3, "two": 0.3},
        )
        for criterion, camera in (("one", 0.7), ("two", 0.9))
    ]
    sensors = [
        SensorFigures(state=state, lost=lost, figures={"map": score, "nds": 0.5})
        for state in (UNPRUNED, PRUNED, FINE_TUNED)
        for lost, score in ((INTACT, 0.9), ("camera", 0.4), ("lidar", 0.1))
    ]
    sensors += [SensorFigures(state=REACTIVATED, lost="camera", figures={"map": 0.8, "nds": 0.5})]
    sensors += [SensorFigures(state=REACTIVATED, lost="lidar", figures={"map": 0.1, "nds": 0.5})]
    features = [
        FeatureFigures(map=name, masked=masked, state=state, contrast=1.5, likeness=0.9)
        for name, masked in ROWS
        for state in (BEFORE, MASKED, REACTIVATED, PRUNED, FINE_TUNED)
    ]
    fields = {
        "dataset": "nuscenes",
        "model": "toy",
        "checkpoint": "0123",
        "dataroot": "/data/<nuscenes>",
        "criterion": "one",
        "sparsity": 0.8,
        "seed": 0,
        "reactivation_steps": 4,
        "reactivation_learning_rate": 1e-4,
        "scoring_batches": 2,
        "fine_tune_steps": None,
        "validation_samples": 2,
        "feature_samples": 1,
        "sample": "token",
        "groups": groups,
        "layers": layers,
        "removals": removals,
        "sensors": sensors,
        "features": features,
    }
    fields |= {"titles": {"map": "mAP", "nds": "NDS"}, "sign": 1}
    return RedundancyReport(**{**fields, **changes})


@pytest.fixture
def tensors():
    names = [f"{name} ({masked} masked)" for name, masked in ROWS]
    states = (BEFORE, MASKED, REACTIVATED, PRUNED, FINE_TUNED)
    maps = {f"{row}/{state}": torch.rand(4, 4) for row in names for state in states}
    return {**maps, OCCUPIED: torch.eye(4, dtype=torch.bool)}


def test_the_page_holds_its_pictures_and_links_to_nothing(tensors):
    html = page(make(), tensors, (-2.0, 2.0, -2.0, 2.0))
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert len(pictures) == html.count("<img") == 5
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)
    assert not re.search(r"https?://|href=|<script|<link", html)
    assert "/data/&lt;nuscenes&gt;" in html
    assert html.count('class="redundant"') == 1


def test_features_without_any_activity_still_make_a_page(tensors):
    empty = {key: torch.zeros_like(tensor) for key, tensor in tensors.items()}
    assert "<img" in page(make(), empty, (-2.0, 2.0, -2.0, 2.0))


def test_sentences_follow_the_figures():
    report = make()
    lines = sensors_text(report)
    camera, lidar = lines[0], lines[1]
    assert "80% of what was lost: much of what the sensor says is there twice" in camera
    assert "0% of what was lost: the rest of the model has next to nothing in store" in lidar
    assert "camera adds +0.500 mAP to the unpruned model and +0.500 to the fine-tuned one" in lines[-2]
    unused = [
        entry.model_copy(update={"figures": {"map": 0.9, "nds": 0.5}})
        if (entry.state, entry.lost) == (FINE_TUNED, "camera")
        else entry
        for entry in report.sensors
    ]
    assert sensors_text(make(sensors=unused))[-2].endswith("the pruned model makes no use of it.")

    assert "1 of 2 layers are fusion-redundant and hold 80% of its ReRI" in indicators_text(report)[0]
    assert "no layer is fusion-redundant" in indicators_text(report)[1]
    opposite = [group.model_copy(update={"spearman": -0.5}) for group in report.groups]
    assert "they rank in opposite ways" in indicators_text(make(groups=opposite))[0]


def test_short_names_drop_what_a_group_has_in_common_and_stay_short():
    long = "model.camera." + "part." * 20 + "weight"
    found = short_names({"camera": ["model.camera.neck.weight", long], "lidar": ["lidar.only.weight"]})
    assert found["model.camera.neck.weight"] == "neck"
    assert len(found[long]) == LONGEST_NAME
    assert found["lidar.only.weight"] == "lidar.only"


def test_the_summary_shows_every_state_and_criterion(capsys):
    print_summary(make())
    printed = capsys.readouterr().out
    for text in ("1 of 2", "two", "fine-tuned", "0.900 / 0.500", "camera lost"):
        assert text in printed


def test_a_report_is_one_run_of_the_model_s_experiment(tmp_path):
    tracker = ReportTracker.open(None, Location.parse(tmp_path))
    import mlflow

    report, client = make(), mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    for content in (b"old", b"new"):
        run_id = tracker.log_report(
            "redundancy-toy",
            dataset="nuscenes",
            model="toy",
            files={"redundancy-toy.html": content},
            params={"seed": 0},
            metrics=report.metrics(),
        )
    experiment = client.get_experiment_by_name("altermoma-nuscenes-toy")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == run_id
    assert run.info.status == "FINISHED"
    assert run.data.tags[REPORT_TAG] == "redundancy-toy"
    assert run.data.metrics["map/unpruned/camera_lost"] == 0.4
    assert run.data.metrics["sparsity/one/camera"] == 0.7
    path = client.download_artifacts(run_id, "redundancy-toy.html", str(tmp_path))
    with open(path, "rb") as file:
        assert file.read() == b"new"

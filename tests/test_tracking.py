"""Searches in MLflow, in the default SQLite file and through a real ``mlflow server``."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from torch import nn

from altermoma_ray.errors import UserError
from altermoma_ray.leaderboard import EARLIER as FIGURES
from altermoma_ray.metrics import SPARSITY, Metric
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.store import TrackingError
from altermoma_ray.tracking.mlflow.tracker import Tracker
from altermoma_ray.tracking.objective import Objective
from altermoma_ray.tracking.pictures import pareto_front
from altermoma_ray.tracking.result import TrialResult

MODEL_NAME = "altermoma-nusc-toy"


@pytest.fixture(params=["file", "server"])
def place(request, tmp_path):
    """(tracking URI for Tracker.open, storage, tracking URI for MLflow itself)"""
    storage = Location.parse(tmp_path / "the storage")
    if request.param == "server":
        uri = request.getfixturevalue("tracking_server").address
        return uri, storage, uri
    return None, storage, f"sqlite:///{storage.path}/mlflow.db"


@pytest.fixture
def storage(tmp_path):
    return Location.parse(tmp_path / "storage")


@pytest.fixture
def tracker(storage, empty_store):
    shutil.copytree(empty_store, storage.path)
    return Tracker.open(None, storage)


def make_result(number=0, status="finished", **changes):
    fields = {
        "reason": "the loss is not finite at step 7" if status == "failed" else None,
        "params": {"beta": 0.5, "schedule": "cubic", "rounds": 3, "ratio_camera": None},
        "metrics": {"map": 0.5 + number / 100, "nds": 0.6, "ap/car": 0.7, "tp/mAVE": math.nan},
        "history": [
            {"step": 25, "metrics": {"map": 0.3, "nds": 0.4}},
            {"step": 50, "metrics": {"map": 0.4, "nds": 0.5}},
            {"step": 75, "metrics": {"map": 0.4, "extra": 1.0}},
        ],
        "sparsity": {"total": 0.8, "camera": 0.9, "lidar": 0.7, "fusion": 0.6},
        "layer_sparsity": {f"encoders.camera.layer{index}.weight": index / 1200 for index in range(1200)},
        "params_left": 20,
        "params_total": 100,
        "configuration": {"model": {"channels": [1, 2]}},
        "histogram": {"camera": {"edges": [0.0, 0.5, 1.0], "kept": [0, 5], "pruned": [7, 1]}},
        "seconds": {"fine_tune": 12.5},
    }
    return TrialResult(**{"number": number, "status": status, "started": 100.0, "ended": 130.0, **fields, **changes})


def make_model():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()


def start(tracker, name="first", **changes):
    return tracker.start_search(
        name, **{"dataset": "nusc", "model": "toy", "figures": FIGURES, "params": {"trials": 2}, **changes}
    )


def runs_of(uri, parent):
    client = MlflowClient(uri)
    experiment = client.get_run(parent).info.experiment_id
    return client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")


def run_python(code, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_result_survives_json_with_undefined_metrics():
    result = make_result()
    again = TrialResult.from_json(result.to_json())
    assert math.isnan(again.metrics["tp/mAVE"])
    assert again.model_copy(update={"metrics": {}}) == result.model_copy(update={"metrics": {}})
    assert [type(value) for value in again.params.values()] == [float, str, int, type(None)]


def test_result_checks_itself():
    with pytest.raises(ValueError, match="a failed trial, and only that, has a reason"):
        make_result(status="failed", reason=None)
    with pytest.raises(ValueError, match="one edge more than its counts, but got 2 edges, 2 kept"):
        make_result(histogram={"camera": {"edges": [0, 1], "kept": [1, 2], "pruned": [1]}})


def test_pareto_front_against_all_pairs():
    generator = torch.Generator().manual_seed(0)
    points = [tuple(point) for point in (torch.rand(60, 2, generator=generator) * 10).round().tolist()]
    naive = {p for p in points if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)}
    assert pareto_front(points, SPARSITY, Metric("map", "mAP")) == sorted(naive)
    naive = {p for p in points if not any(q != p and q[0] >= p[0] and q[1] <= p[1] for q in points)}
    assert pareto_front(points, SPARSITY, Metric("loss", "loss", "minimize")) == sorted(naive)


def test_a_search_from_start_to_champion(place, tmp_path, capfd):
    uri, storage, mlflow_uri = place
    tracker, model = Tracker.open(uri, storage), make_model()
    parent = start(tracker, objective=Objective.parse("map,sparsity", FIGURES))
    tracker.log_reference(parent, {"map": 0.55, "nds": 0.6})
    weights = storage.join("trials", "0", "model.safetensors")
    weights.write_bytes(b"weights")
    files = {"model.safetensors": weights, "masks.safetensors": b"masks"}
    run_ids = [tracker.log_trial(parent, make_result(number), files, lambda: model) for number in range(2)]
    assert tracker.register_champion(parent, run_ids[1]) == 1
    assert tracker.register_champion(parent, run_ids[1]) == 1
    tracker.finish_search(parent)
    assert capfd.readouterr() == ("", "")

    client = MlflowClient(mlflow_uri)
    run = client.get_run(run_ids[1])
    assert (run.info.status, run.info.start_time, run.info.end_time) == ("FINISHED", 100_000, 130_000)
    assert run.data.params == {"beta": "0.5", "schedule": "cubic", "rounds": "3", "ratio_camera": "null"}
    history = client.get_metric_history(run_ids[1], "map")
    assert [(point.step, point.value) for point in history] == [(25, 0.3), (50, 0.4), (75, 0.51)]
    assert len([key for key in run.data.metrics if key.startswith("layer_sparsity/")]) == 1200
    expected = {
        "sparsity/total": 0.8,
        "sparsity/camera": 0.9,
        "params_left": 20,
        "extra": 1.0,
        "seconds/fine_tune": 12.5,
    }
    assert expected.items() <= run.data.metrics.items()

    folder = Path(client.download_artifacts(run_ids[1], "", str(tmp_path)))
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert (folder / "masks.safetensors").read_bytes() == b"masks"
    assert json.loads((folder / "configuration.json").read_text()) == {"model": {"channels": [1, 2]}}
    assert json.loads((folder / "histogram.json").read_text())["camera"]["pruned"] == [7, 1]
    assert len(json.loads((folder / "layer_sparsity.json").read_text())) == 1200
    drawn = (folder / "histogram.html").read_text()
    assert "<figcaption>camera</figcaption>" in drawn
    assert 'class="pruned" d="M0 200V0.0H160.0V' in drawn  # 7 weights, the most of a bin, reach the top
    Image.open(client.download_artifacts(parent, "pareto.png", str(tmp_path))).verify()
    assert client.get_run(parent).info.status == "FINISHED"

    code = """
import json, sys, mlflow, torch
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pytorch.load_model(sys.argv[2])
print(json.dumps(model(torch.ones(1, 4)).tolist()))
"""
    predicted = run_python(code, mlflow_uri, f"models:/{MODEL_NAME}@champion")
    torch.testing.assert_close(torch.tensor(predicted), model(torch.ones(1, 4)))

    rows = tracker.leaderboard("first")
    assert [(row.rank, row.trial, row.run_id, row.status) for row in rows] == [
        (1, 1, run_ids[1], "finished"),
        (2, 0, run_ids[0], "finished"),
    ]
    assert (rows[0].metrics["map"], rows[0].delta, rows[0].params_left) == (0.51, 0.51 - 0.55, 20)


def test_an_ended_trial_is_not_logged_again(tracker, storage):
    parent = start(tracker)
    for status in ("finished", "stopped", "failed"):
        number = len(status)
        run_id = tracker.log_trial(parent, make_result(number, status), {})
        assert tracker.log_trial(parent, make_result(number, status), {}, lambda: pytest.fail("built")) == run_id
    runs = {run.data.tags["altermoma.status"]: run for run in runs_of(f"sqlite:///{storage.path}/mlflow.db", parent)}
    ended = {status: run.info.status for status, run in runs.items()}
    assert ended == {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}
    assert runs["failed"].data.tags["altermoma.reason"] == "the loss is not finite at step 7"


def test_a_half_written_trial_is_logged_afresh(tracker, storage):
    parent = start(tracker)
    with pytest.raises(FileNotFoundError):
        tracker.log_trial(parent, make_result(), {"masks.safetensors": storage.join("missing")})
    assert tracker.leaderboard() == []
    run_id = tracker.log_trial(parent, make_result(), {"masks.safetensors": b"masks"})
    runs = runs_of(f"sqlite:///{storage.path}/mlflow.db", parent)
    assert [(run.info.run_id, run.info.status) for run in runs] == [(run_id, "FINISHED")]


def test_a_failure_that_was_tried_again_is_replaced(tracker):
    parent = start(tracker)
    failed = tracker.log_trial(parent, make_result(status="failed"), {})
    finished = tracker.log_trial(parent, make_result(), {})
    assert failed != finished
    assert [row.status for row in tracker.leaderboard()] == ["finished"]


def test_leaderboard_puts_failures_last_with_null_metrics(tracker):
    parent = start(tracker, objective=Objective.parse("nds", FIGURES))
    tracker.log_trial(parent, make_result(0, "failed"), {})
    tracker.log_trial(parent, make_result(1, "stopped", metrics={"map": 0.9, "nds": 0.1}), {})
    tracker.log_trial(parent, make_result(2, metrics={"map": 0.1, "nds": 0.9}), {})
    tracker.log_trial(parent, make_result(3, metrics={"map": math.nan, "nds": 0.9}), {})
    rows = tracker.leaderboard()
    assert [(row.rank, row.trial, row.status) for row in rows] == [
        (1, 2, "finished"),
        (2, 3, "finished"),
        (3, 1, "stopped"),
        (4, 0, "failed"),
    ]
    assert (rows[1].metrics["map"], rows[1].delta) == (None, None)
    assert {*rows[3].metrics.values(), *rows[3].sparsity.values(), rows[3].params_left, rows[3].delta} == {None}


def test_more_trials_than_one_page(tracker, monkeypatch):
    monkeypatch.setattr("altermoma_ray.tracking.mlflow.reader._PAGE_SIZE", 2)
    parent = start(tracker)
    for number in range(5):
        tracker.log_trial(parent, make_result(number, "failed", layer_sparsity={}, histogram={}), {})
    assert [row.trial for row in tracker.leaderboard()] == list(range(5))


def test_names_are_unique_and_resumed(tracker):
    parent = start(tracker)
    with pytest.raises(UserError, match=r"search 'first' is already in .*; --resume it or choose another --name"):
        start(tracker, model="other")
    tracker.finish_search(parent, "stopped")
    assert start(tracker, resume=True, params={"trials": 9}) == parent
    with pytest.raises(UserError, match="search 'first' belongs to altermoma-nusc-toy, not to altermoma-nusc-other"):
        start(tracker, model="other", resume=True)
    with pytest.raises(UserError, match='search name "it\'s" must be letters'):
        start(tracker, "it's")
    second = start(tracker, "second", resume=True)
    assert tracker.find_search() == second
    with pytest.raises(UserError, match=r"no search 'third' in .*; known: first, second"):
        tracker.find_search("third")


def test_the_next_champion_is_the_next_version(tracker, storage):
    for version, name in enumerate(("first", "second"), start=1):
        parent = start(tracker, name)
        run_id = tracker.log_trial(parent, make_result(), {}, make_model)
        assert tracker.register_champion(parent, run_id) == version
    client = MlflowClient(f"sqlite:///{storage.path}/mlflow.db")
    assert client.get_model_version_by_alias(MODEL_NAME, "champion").run_id == run_id


def test_the_real_model_comes_back_as_sparse_as_logged(tracker, storage):
    from altermoma_ray.models.bevfusion import FusionModel
    from altermoma_ray.models.configurations.named import configuration
    from altermoma_ray.pruning.groups import prunable_weights
    from altermoma_ray.pruning.masks import global_masks

    torch.manual_seed(0)
    model = FusionModel(configuration("bevfusion-mit-toy"))
    weights = prunable_weights(model)
    masks = global_masks({name: weight.detach().abs() for name, weight in weights.items()}, 0.8)
    with torch.no_grad():
        for name, weight in weights.items():
            weight.mul_(masks[name])
    parent = start(tracker, model="bevfusion-mit-toy")
    result = make_result(sparsity={"total": masks.sparsity()}, params_left=masks.kept())
    tracker.register_champion(parent, tracker.log_trial(parent, result, {}, lambda: model))
    code = """
import json, sys, mlflow, torch
from altermoma_ray.data.batch import Batch
from altermoma_ray.pruning.groups import prunable_weights
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pytorch.load_model("models:/altermoma-nusc-bevfusion-mit-toy@champion")
weights = list(prunable_weights(model).values())
kept, total = sum(int(weight.count_nonzero()) for weight in weights), sum(weight.numel() for weight in weights)
inputs = model.config.inputs
cameras, (height, width) = len(inputs.cameras), inputs.image_size
low, high = torch.tensor(inputs.point_range[:3]), torch.tensor(inputs.point_range[3:])
points = torch.cat([low + (high - low) * torch.rand(500, 3), torch.zeros(500, 2)], dim=1)
batch = Batch(
    tokens=["one"], images=torch.randn(1, cameras, 3, height, width), points=[points],
    camera_intrinsics=torch.eye(3).expand(1, cameras, 3, 3), camera_to_lidar=torch.eye(4).expand(1, cameras, 4, 4),
    image_augmentation=torch.eye(3).expand(1, cameras, 3, 3), lidar_augmentation=torch.eye(4).expand(1, 4, 4),
    boxes=[torch.zeros(0, 9)], labels=[torch.zeros(0, dtype=torch.long)],
)
with torch.no_grad():
    outputs = model(batch)
print(json.dumps([kept, total, model.training, all(bool(value.isfinite().all()) for value in outputs.values())]))
"""
    kept, total, training, finite = run_python(code, f"sqlite:///{storage.path}/mlflow.db")
    row = tracker.leaderboard()[0]
    assert kept == row.params_left
    assert 1 - kept / total == pytest.approx(row.sparsity["total"], abs=1e-12)
    assert finite
    assert not training


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_trial_without_a_finite_objective_comes_last_among_the_ended_ones(value, tracker):
    parent = start(tracker)
    tracker.log_trial(parent, make_result(0, metrics={"map": value, "nds": value}, history=[]), {})
    tracker.log_trial(parent, make_result(1, metrics={"map": 0.1, "nds": 0.2}, history=[]), {})
    rows = tracker.leaderboard()
    assert [(row.trial, row.metrics["map"], row.metrics["nds"]) for row in rows] == [(1, 0.1, 0.2), (0, None, None)]


def run_mlflow(line):
    """Runs a line of MLflow's own command line that a message told, in a process of its own, as a user would."""
    [address, line] = line.split(" mlflow ") if line.startswith("MLFLOW_TRACKING_URI=") else ["", line[7:]]
    environment = dict([shlex.split(address)[0].split("=", 1)]) if address else {}
    command = [sys.executable, "-m", "mlflow", *shlex.split(line)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_deleted_experiment_is_told_with_lines_that_work(tracker):
    parent = start(tracker)
    tracker.log_trial(parent, make_result(), {})
    client = MlflowClient(tracker.store.uri)
    number = client.get_run(parent).info.experiment_id
    tracker.check_open("nusc", "toy")

    def told(call):
        with pytest.raises(
            UserError, match=rf"experiment '{MODEL_NAME}' was deleted in sqlite:.*mlflow.db; restore it: "
        ) as caught:
            call()
        assert not isinstance(caught.value, TrackingError)
        return str(caught.value).split("restore it: ")[1].split(", or remove it for good: ")

    client.delete_experiment(number)
    calls = [
        lambda: tracker.check_open("nusc", "toy"),
        lambda: start(tracker, "second"),
        lambda: start(tracker, resume=True),
    ]
    calls += [lambda: tracker.find_search("first"), lambda: tracker.leaderboard(), lambda: tracker.champion("first")]
    lines = [told(call) for call in calls]
    assert all(line == lines[0] for line in lines)
    assert f"--experiment-id {number}" in lines[0][0]

    run_mlflow(lines[0][0])
    assert [row.trial for row in tracker.leaderboard("first")] == [0]
    client.delete_experiment(number)
    run_mlflow(lines[0][1])
    tracker.check_open("nusc", "toy")
    assert start(tracker) != parent
    with pytest.raises(UserError, match=r"no search 'third' in .*; known: first"):
        tracker.find_search("third")


def test_a_deleted_search_is_told_with_a_line_that_works(tracker):
    parent = start(tracker)
    client = MlflowClient(tracker.store.uri)
    client.delete_run(parent)
    with pytest.raises(UserError, match=r"search 'first' was deleted in .*; restore it: .* --sync$") as caught:
        tracker.leaderboard("first")
    run_mlflow(str(caught.value).split("restore it: ")[1].split(", or log it again")[0])
    assert tracker.leaderboard("first") == []

"""The main job as users run it: the commands, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from altermoma_ray.workloads.nusc import SHIPPED

SPACE = """
from altermoma_ray.engine.space import SearchSpace

SPACE = SearchSpace(
    scoring_batches=1, reactivation_steps=(1, 2), reactivation_learning_rates=(1e-3,), criteria=("altermoma", "taylor"),
    fine_tune_epochs=1.0, iterative_rounds=2, pruning_phase=0.5, rungs=(0.5,), rung_samples=2,
)
"""
FIELDS = [
    "rank",
    "trial",
    "run_id",
    "status",
    "map",
    "nds",
    "sparsity",
    "sparsity_camera",
    "sparsity_lidar",
    "sparsity_fusion",
    "params_left",
    "delta_map",
]
TRIALS = 3


def command(module, *arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", f"altermoma_ray.{module}", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        **options,
    )


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, synthetic_root):
    """A storage folder, and the options of a small search in it."""
    folder = tmp_path_factory.mktemp("workplace")
    space = folder / "space.py"
    space.write_text(SPACE)
    options = ["nusc", "--dataroot", synthetic_root, "--model", "bevfusion-mit-toy", "--checkpoint", SHIPPED]
    options += ["--space", space, "--trials", TRIALS, "--storage", folder / "storage", "--sparsity", 0.8]
    return folder / "storage", options


@pytest.fixture(scope="module")
def searched(workplace):
    """A finished search."""
    storage, options = workplace
    detections = ("--save-detections", storage / "detections")
    done = command("search", *options, "--name", "first", "--resume-or-start", *detections)
    assert done.returncode == 0, done.stderr
    assert "starting first, which is not in" in done.stderr
    return done


@pytest.fixture
def leaderboard(printed, workplace):
    """Reads a search's rows."""
    storage, _ = workplace
    return lambda name: json.loads(printed("leaderboard", name, "--storage", storage, "--format", "json"))


def figures(rows):
    """What a row says of its trial, without what differs from search to search."""
    return {row["trial"]: {key: row[key] for key in FIELDS if key != "run_id"} for row in rows}


def test_every_trial_is_on_the_leaderboard_and_in_mlflow(searched, workplace, leaderboard):
    import mlflow

    storage, _ = workplace
    rows = leaderboard("first")
    assert [list(row) for row in rows] == [FIELDS] * TRIALS
    assert sorted(row["trial"] for row in rows) == list(range(TRIALS))
    assert [row["rank"] for row in rows] == list(range(1, TRIALS + 1))
    assert all(abs(row["sparsity"] - 0.8) < 1e-5 for row in rows)
    client = mlflow.MlflowClient(f"sqlite:///{storage}/mlflow.db")
    experiment = client.get_experiment_by_name("altermoma-nuscenes-bevfusion-mit-toy")
    runs = client.search_runs([experiment.experiment_id], "tags.`altermoma.trial` != ''")
    assert sorted(run.info.run_id for run in runs) == sorted(row["run_id"] for row in rows)
    assert {run.info.status for run in runs} == {"FINISHED"}
    parents = {run.data.tags["mlflow.parentRunId"] for run in runs}
    assert len(parents) == 1
    parent = client.get_run(parents.pop())
    assert "reference/map" in parent.data.metrics
    assert "pareto.png" in [file.path for file in client.list_artifacts(parent.info.run_id)]
    assert "trial 0" in searched.stderr
    assert "left" in searched.stderr
    assert "ray" not in searched.stderr.lower().replace("altermoma_ray", "").replace("array", "")


def test_the_detections_of_the_champion_are_saved(searched, workplace, printed):
    storage, options = workplace
    results = json.loads((storage / "detections" / "results_nusc.json").read_text())["results"]
    rows = json.loads(printed("leaderboard", "first", "--storage", storage, "--format", "json"))
    found = json.loads(printed("evaluate", *options[:5], "--storage", storage, "--pruned", "first", "--format", "json"))
    assert found["map"] == pytest.approx(rows[0]["map"])
    assert len(results) > 1


LOAD_CHAMPION = """
import sys, mlflow
from altermoma_ray.pruning import count_sparsity, prunable_weights
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pytorch.load_model("models:/altermoma-nuscenes-bevfusion-mit-toy@champion")
version = mlflow.MlflowClient().get_model_version_by_alias("altermoma-nuscenes-bevfusion-mit-toy", "champion")
print(count_sparsity(model, prunable_weights(model)), version.run_id)
"""


def test_the_champion_loads_in_a_new_process_as_sparse_as_logged(searched, workplace, leaderboard):
    storage, _ = workplace
    best = leaderboard("first")[0]
    done = subprocess.run(
        [sys.executable, "-c", LOAD_CHAMPION, f"sqlite:///{storage}/mlflow.db"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    sparsity, run_id = done.stdout.split()
    assert run_id == best["run_id"]
    assert float(sparsity) == pytest.approx(best["sparsity"], abs=1e-9)


@pytest.mark.slow
def test_a_killed_search_resumes_to_what_an_undisturbed_one_finds(searched, workplace, leaderboard):
    storage, options = workplace
    arguments = [sys.executable, "-m", "altermoma_ray.search", *map(str, options), "--name", "second"]
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, start_new_session=True)
    trials = storage / "searches" / "second" / "trials"
    deadline = time.monotonic() + 400
    while not list(trials.glob("*/result.json")):
        assert process.poll() is None, "the search ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {file: file.read_bytes() for file in trials.glob("*/result.json")}
    assert 0 < len(before) < TRIALS

    resumed = command("search", "nusc", "--resume", "--name", "second", "--storage", storage)
    assert resumed.returncode == 0, resumed.stderr
    assert {file: file.read_bytes() for file in before} == before
    rows = leaderboard("second")
    assert sorted(row["trial"] for row in rows) == list(range(TRIALS))
    first, second = figures(leaderboard("first")), figures(rows)
    for number in first:
        assert second[number] == {
            key: pytest.approx(value, abs=1e-6) if isinstance(value, float) else value
            for key, value in first[number].items()
        }


def test_a_finished_search_is_not_run_again(searched, workplace, leaderboard, answer):
    _, options = workplace
    before = leaderboard("first")
    again = command("search", *options, "--name", "first", "--resume-or-start")
    assert again.returncode == 0, again.stderr
    assert "going on with first, which is in" in again.stderr
    assert leaderboard("first") == before
    assert "search 'first' is already in" in answer("search", *options, "--name", "first")

"""Searches as jobs of a running cluster, logged to a running MLflow server that asks who they are."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import mlflow
import pytest

TRIALS = 3
MANY = 24
"""Trials of a search that is still running when it is stopped: one takes less than a second."""
MODEL = "altermoma-own-two-branch"


@pytest.fixture
def client(mlflow_server, monkeypatch):
    """A client of the server with the credentials of the cluster's user."""
    for name, value in mlflow_server.user.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.address)
    mlflow.set_tracking_uri(mlflow_server.address)  # whatever another test has set
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri("")


@pytest.fixture
def leaderboard(head, mlflow_server, tmp_path):
    """Reads a search's rows from the server, as the command does from any machine: it needs no storage."""

    def read(name):
        line = [name, "--tracking-uri", mlflow_server.address, "--storage", tmp_path / "elsewhere", "--format", "json"]
        done = subprocess.run(
            [sys.executable, "-m", "altermoma_ray.leaderboard", *map(str, line)],
            capture_output=True,
            text=True,
            timeout=300,
            env=head.environment | mlflow_server.user,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return read


def searches(client):
    """Runs of searches in MLflow by name."""
    experiment = client.get_experiment_by_name(MODEL)
    runs = client.search_runs([experiment.experiment_id], "tags.`altermoma.search` != ''")
    return {run.data.tags["altermoma.search"]: run for run in runs}


def files_with(text, *folders):
    return [file for folder in folders for file in folder.rglob("*") if file.is_file() and text in file.read_bytes()]


def test_a_search_is_submitted_and_its_leaderboard_read_back(
    head, mlflow_server, client, leaderboard, tiny_search, tmp_path
):
    storage = tmp_path / "storage"
    options = ["--trials", TRIALS, "--name", "job", "--storage", storage, "--tracking-uri", mlflow_server.address]
    done = head.submit("search", "--id", "job", "--", *tiny_search, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.rstrip().endswith("job job: succeeded")
    rows = leaderboard("job")
    assert sorted(row["trial"] for row in rows) == list(range(TRIALS))
    assert [row["rank"] for row in rows] == list(range(1, TRIALS + 1))
    assert {row["status"] for row in rows} == {"finished"}
    assert searches(client)["job"].info.status == "FINISHED"

    best = rows[0]
    champion = client.get_model_version_by_alias(MODEL, "champion")
    assert champion.run_id == best["run_id"]
    got = client.download_artifacts(best["run_id"], "model.safetensors", str(tmp_path))
    kept = storage / "searches" / "job" / "trials" / f"{best['trial']:04d}" / "model.safetensors"
    assert Path(got).read_bytes() == kept.read_bytes()
    model = mlflow.artifacts.download_artifacts(f"models:/{MODEL}@champion", dst_path=str(tmp_path / "model"))
    assert "pytorch" in Path(model, "MLmodel").read_text()

    password = mlflow_server.user["MLFLOW_TRACKING_PASSWORD"]
    assert password not in done.stdout + done.stderr
    assert files_with(b"champion", head.sessions) != []
    assert files_with(password.encode(), head.sessions, storage) == []


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_module_names_the_workload_as_a_file_does(workers, head, mlflow_server, leaderboard, tiny_search, tmp_path):
    boards = []
    for kind, reference in (("file", "examples/own_model.py:WORKLOAD"), ("module", "examples.own_model:WORKLOAD")):
        name, storage = f"{kind}-{workers}", tmp_path / kind
        options = ["--trials", 2, "--name", name, "--storage", storage, "--tracking-uri", mlflow_server.address]
        line = [reference, *tiny_search[1:], "--workers", workers, *options]
        done = head.submit("search", "--id", name, "--", *line)
        assert done.returncode == 0, done.stdout + done.stderr
        boards.append([row | {"run_id": None} for row in leaderboard(name)])
    assert boards[0] == boards[1]
    assert len(boards[0]) == 2


@pytest.mark.slow
def test_a_stopped_search_is_marked_and_resumed(head, mlflow_server, client, leaderboard, tiny_search, tmp_path):
    storage = tmp_path / "storage"
    options = [
        "--trials",
        MANY,
        "--repeat",
        "--name",
        "stopped",
        "--storage",
        storage,
        "--tracking-uri",
        mlflow_server.address,
    ]
    line = [*tiny_search, *options]
    assert head.submit("search", "--id", "first", "--no-wait", "--", *line).returncode == 0
    trials = storage / "searches" / "stopped" / "trials"
    deadline = time.monotonic() + 400
    while not list(trials.glob("*/result.json")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    ray = Path(sys.executable).with_name("ray")
    told = subprocess.run(
        [ray, "job", "stop", "--address", head.address, "first"],
        capture_output=True,
        text=True,
        timeout=300,
        env=head.environment,
    )
    assert "was stopped" in told.stdout + told.stderr
    before = {file: file.read_bytes() for file in trials.glob("*/result.json")}
    assert 0 < len(before) < MANY
    assert searches(client)["stopped"].info.status == "KILLED"

    resumed = head.submit("search", "--id", "second", "--", *line, "--resume")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert {file: file.read_bytes() for file in before} == before
    assert Counter(row["trial"] for row in leaderboard("stopped")) == Counter(range(MANY))
    parent = searches(client)["stopped"]
    assert parent.info.status == "FINISHED"
    children = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert Counter(int(run.data.tags["altermoma.trial"]) for run in children) == Counter(range(MANY))
    assert {run.info.status for run in children} == {"FINISHED"}

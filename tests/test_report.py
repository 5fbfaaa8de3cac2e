"""The redundancy report as users make it: the command, in a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from altermoma_ray import cli, report
from altermoma_ray.workloads.nusc import SHIPPED

SPACE = """
from altermoma_ray.engine.space import SearchSpace

SPACE = SearchSpace(
    scoring_batches=1, reactivation_steps=(2,), reactivation_learning_rates=(1e-3,), fine_tune_epochs=2.0,
)
"""


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "altermoma_ray.report", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.fixture(scope="module")
def options(tmp_path_factory, synthetic_root):
    folder = tmp_path_factory.mktemp("report")
    space = folder / "space.py"
    space.write_text(SPACE)
    found = ["redundancy", "nusc", "--dataroot", synthetic_root, "--model", "bevfusion-mit-toy"]
    return [*found, "--checkpoint", SHIPPED, "--space", space, "--storage", folder / "storage"], folder


@pytest.fixture(scope="module")
def made(options):
    arguments, folder = options
    done = command(*arguments, "--criterion", "deci", "--sparsity", 0.7, "--out", folder / "page.html")
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_a_report_is_a_page_a_table_and_a_run(made, options):
    import mlflow

    _, folder = options
    (page,) = (folder / "storage" / "reports").glob("*.html")
    assert page.read_bytes() == (folder / "page.html").read_bytes()
    assert len(re.findall('src="data:image/png;base64,', page.read_text())) == 5
    figures = json.loads((page.with_suffix("") / "report.json").read_text())
    states = {(entry["state"], entry["lost"]) for entry in figures["sensors"]}
    three = {"none", "camera", "lidar"}
    expected = {(state, lost) for state in ("unpruned", "pruned", "fine-tuned") for lost in three}
    assert states == expected | {("reactivated", "camera"), ("reactivated", "lidar")}
    removed = {entry["criterion"]: entry["sparsity"]["total"] for entry in figures["removals"]}
    assert {"altermoma", "deci", "reri", "magnitude", "snip", "random"} <= removed.keys()
    assert all(total == pytest.approx(0.7, abs=1e-5) for total in removed.values())
    assert "fine-tuned" in made.stdout
    assert made.stdout.splitlines()[-1].endswith("page.html")
    client = mlflow.MlflowClient(f"sqlite:///{folder}/storage/mlflow.db")
    experiment = client.get_experiment_by_name("altermoma-nuscenes-bevfusion-mit-toy")
    (run,) = client.search_runs([experiment.experiment_id])
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {page.name, "report.json"}


@pytest.mark.slow
def test_a_trial_s_folder_is_taken_as_the_pruned_model(made, options):
    arguments, folder = options
    (trial,) = (folder / "storage" / "reports").glob("*/trials/0000")
    done = command(*arguments, "--pruned", trial)
    assert done.returncode == 0, done.stderr
    first, second = (
        json.loads(file.read_text())
        for file in sorted(
            (folder / "storage" / "reports").glob("*/report.json"), key=lambda file: file.stat().st_mtime
        )
    )
    assert second["sparsity"] == pytest.approx(0.7, abs=1e-5)
    assert second["sensors"] == first["sensors"]
    by_name = {entry["criterion"]: entry for entry in second["removals"]}
    assert by_name["this pruned model"]["overlap"]["deci"] == pytest.approx(1, abs=1e-3)
    assert "pruning" not in done.stderr


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        (("--pruned", "/nowhere"), "no masks.safetensors in /nowhere; give --pruned the folder of a trial"),
        (("--criterion", "guess"), "argument --criterion: invalid choice: 'guess'"),
        (("--sparsity", 0.99999), "a total sparsity of 0.99999 cannot be met"),
        (("--out", "/"), "--out / is a folder; give the name of a file"),
    ],
)
def test_a_bad_option_is_one_line(options, extra, line, monkeypatch, capsys):
    arguments, _ = options
    monkeypatch.setattr(sys, "argv", ["report", *map(str, (*arguments, *extra))])
    with pytest.raises(SystemExit, match="2"):
        cli.run(report.main)
    (printed,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error:")]
    assert line in printed


def test_a_workload_without_feature_maps_has_no_report(answer):
    told = answer("report", "redundancy", f"{Path(__file__).parent / 'workloads' / 'two_branch.py'}:WORKLOAD")
    assert "error: no redundancy report of two-branch: its model has no `features`; " in told


@pytest.mark.slow
def test_a_robustness_report_is_a_table_a_csv_and_a_run(options):
    import mlflow

    arguments, folder = options
    weights = [value for value in arguments if value != "redundancy" and value not in arguments[-4:-2]]
    done = command("robustness", *weights, "--pruned", SHIPPED, "--out", folder / "robustness.csv")
    assert done.returncode == 0, done.stderr
    rows = [line.split(",")[:2] for line in (folder / "robustness.csv").read_text().splitlines()[1:]]
    conditions = ["as is", "lidar lost", "camera lost", "LiDAR limited to ±60°", "LiDAR limited to ±90°"]
    conditions += ["half of the objects without LiDAR points"]
    assert rows == [[model, condition] for model in ("unpruned", str(SHIPPED)) for condition in conditions]
    assert all(condition in done.stdout for condition in conditions)
    client = mlflow.MlflowClient(f"sqlite:///{folder}/storage/mlflow.db")
    experiment = client.get_experiment_by_name("altermoma-nuscenes-bevfusion-mit-toy")
    (run,) = [
        run for run in client.search_runs([experiment.experiment_id]) if run.info.run_name.startswith("robustness-")
    ]
    assert run.data.metrics["unpruned/as-is/map"] == run.data.metrics["pruned-1/as-is/map"]
    again = command("robustness", *weights, "--pruned", SHIPPED)
    assert "measured earlier" in again.stderr


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        (("--pruned", "/nowhere/pruned"), "no model at /nowhere/pruned; give the folder or file of a pruned model"),
        (("--out", "/"), "--out / is a folder; give the name of a file"),
        (("--criterion", "snip"), "unrecognized arguments: --criterion snip"),
    ],
)
def test_a_bad_option_of_a_robustness_report_is_one_line(extra, line, answer):
    workload = f"{Path(__file__).parent / 'workloads' / 'two_branch.py'}:WORKLOAD"
    assert line in answer("report", "robustness", workload, *extra)


def test_an_unknown_report_is_told_with_the_known_ones(answer):
    assert "invalid choice: 'beauty' (choose from 'redundancy', 'robustness')" in answer("report", "beauty")

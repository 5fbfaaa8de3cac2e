"""Comparisons as users run them: the command, in a process of its own."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from altermoma_ray import cli, compare

SPACE = """
from altermoma_ray.engine.space import SearchSpace

SPACE = SearchSpace(
    scoring_batches=1, reactivation_steps=(1,), reactivation_learning_rates=(1e-3,), fine_tune_epochs=0.5,
)
"""


def command(module, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"altermoma_ray.{module}", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    space = folder / "space.py"
    space.write_text(SPACE)
    workload = Path(__file__).parent / "workloads" / "two_branch.py"
    return [f"{workload}:WORKLOAD", "--space", space, "--storage", folder / "storage"]


@pytest.fixture(scope="module")
def compared(options):
    """A finished comparison of two criteria."""
    asked = ["--criteria", "altermoma,magnitude", "--sparsities", "0.8", "--seeds", 2, "--name", "both"]
    done = command("compare", *options, *asked, "--objective", "error,error/without-radar")
    assert done.returncode == 0, done.stderr
    return done


def trials(storage, name):
    with (storage / "searches" / name / "comparison" / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_criterion_has_every_seed_and_a_row_in_the_table(compared, options):
    rows = trials(options[-1], "both")
    assert sorted((row["criterion"], row["seed"]) for row in rows) == sorted(
        (name, seed) for name in ("altermoma", "magnitude", "unpruned") for seed in ("0", "1")
    )
    assert {row["status"] for row in rows} == {"finished"}
    for name in ("AlterMOMA", "magnitude"):
        assert f"| {name} |" in compared.stdout
    folder = options[-1] / "searches" / "both" / "comparison"
    assert (folder / "comparison.md").read_text().strip() == compared.stdout.strip()
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_a_metric_without_a_modality_is_compared_too(compared, options):
    rows = trials(options[-1], "both")
    assert any(float(row["error/without-radar"]) != float(row["error"]) for row in rows)
    assert "| criterion | squared error | squared error without radar | correlation |" in compared.stdout


def test_figures_come_from_scenes_that_no_search_tunes_on(compared, options):
    plan = json.loads((options[-1] / "searches" / "both" / "search.json").read_text())
    assert plan["validation_part"] == "reporting"


def test_a_comparison_is_logged_like_a_search_but_ships_no_model(compared, options):
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{options[-1]}/mlflow.db")
    experiment = client.get_experiment_by_name("altermoma-own-two-branch")
    runs = client.search_runs([experiment.experiment_id], "tags.`altermoma.trial` != ''")
    assert len(runs) == 6
    parent = runs[0].data.tags["mlflow.parentRunId"]
    files = {file.path for file in client.list_artifacts(parent)}
    assert {"comparison.md", "comparison.png", "trials.csv"} <= files
    assert client.search_registered_models() == []


def test_a_finished_comparison_is_told_again_and_not_run_again(compared, options):
    folder = options[-1] / "searches" / "both" / "trials"
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    again = command("compare", "--resume", "--name", "both", "--storage", options[-1])
    assert again.returncode == 0, again.stderr
    assert again.stdout == compared.stdout
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before


def test_a_comparison_is_not_resumed_as_a_search(compared, options, answer):
    for name in ([], ["--name", "both"]):
        said = answer("search", "--resume", *name, "--storage", options[-1])
        assert ("'both' is a comparison" if name else "no search to resume in") in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--criteria", "snip,snap"], "error: unknown criterion 'snap'; choose out of altermoma"),
        (["--sparsities", "0.8,1.2"], "must be in [0, 1), but got 1.2"),
        (["--budget", "0"], "must be a number above 0, but got 0"),
        (["--search", "nothing"], "error: no search 'nothing'"),
        (["--ablate", "alpha"], "invalid choice: 'alpha'"),
        (["--objective", "error,sparsity"], "a comparison sets the sparsity of its trials"),
    ],
)
def test_bad_input_gets_one_line(options, arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["compare", *map(str, options), *arguments])
    with pytest.raises(SystemExit, match="2"):
        cli.run(compare.main)
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line

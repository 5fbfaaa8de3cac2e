"""The leaderboard command."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from altermoma_ray import leaderboard
from altermoma_ray.errors import UserError
from altermoma_ray.leaderboard import EARLIER as FIGURES
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.tracker import Tracker
from altermoma_ray.tracking.result import TrialResult

FIELDS = ["rank", "trial", "run_id", "status", "map", "nds"]
FIELDS += ["sparsity", "sparsity_camera", "sparsity_lidar", "sparsity_fusion", "params_left", "delta_map"]


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """A store with the searches ``empty``, ``first`` (one trial) and ``second`` (two trials, one failed)."""
    location = Location.parse(tmp_path_factory.mktemp("storage"))
    tracker = Tracker.open(None, location)
    for name, numbers in (("empty", []), ("first", [0]), ("second", [0, 1])):
        parent = tracker.start_search(name, dataset="nusc", model="toy", figures=FIGURES, params={})
        tracker.log_reference(parent, {"map": 0.5, "nds": 0.5})
        for number in numbers:
            failed = number == 0 and name == "second"
            result = TrialResult(
                number=number,
                status="failed" if failed else "finished",
                reason="out of memory" if failed else None,
                metrics={} if failed else {"map": 0.75, "nds": 0.625},
                sparsity={"total": 0.9, "camera": 0.95, "lidar": 0.8, "fusion": 0.7},
                params_left=10,
                params_total=100,
                started=0,
                ended=1,
            )
            tracker.log_trial(parent, result, {})
    return location


@pytest.fixture
def call(storage, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["leaderboard", "--storage", storage.path, *arguments])
        leaderboard.main()
        return capsys.readouterr().out

    return run


def test_json_has_exactly_the_fields_and_null_for_what_is_not_there(call):
    best, failed = json.loads(call("--format", "json"))
    assert list(best) == list(failed) == FIELDS
    assert len(best.pop("run_id")) == len(failed.pop("run_id")) == 32
    assert list(best.values()) == [1, 1, "finished", 0.75, 0.625, 0.9, 0.95, 0.8, 0.7, 10, 0.25]
    assert list(failed.values()) == [2, 0, "failed"] + 8 * [None]


def test_csv_is_the_same_as_json(call):
    rows = list(csv.DictReader(io.StringIO(call("second", "--format", "csv"))))
    expected = json.loads(call("second", "--format", "json"))
    assert rows == [{key: "" if value is None else str(value) for key, value in row.items()} for row in expected]


def test_a_search_without_a_trial_has_all_columns_and_no_row(call):
    assert call("empty", "--format", "csv").splitlines() == [",".join(FIELDS)]


def test_table_shows_every_figure(call):
    lines = call("first").splitlines()
    row = next(line for line in lines if "finished" in line)
    rank, trial, _, *figures = row.split()
    assert (rank, trial) == ("1", "0")
    assert figures == ["finished", "0.7500", "0.6250", "0.9000", "0.9500", "0.8000", "0.7000", "10", "0.2500"]


def test_picture_is_made_again(call, storage):
    call("first")
    parent = Tracker.open(None, storage).find_search("first")
    (picture,) = Path(storage.path, "mlartifacts").glob(f"*/{parent}/artifacts/pareto.png")
    picture.unlink()
    call("first")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_unknown_search_names_those_there_are(call):
    with pytest.raises(UserError, match=r"no search 'third' in .*; known: empty, first, second"):
        call("third")


def test_command_prints_one_line_and_leaves_nothing(tmp_path):
    command = [sys.executable, "-m", "altermoma_ray.leaderboard", "--storage", str(tmp_path / "nowhere")]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no MLflow store at ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []

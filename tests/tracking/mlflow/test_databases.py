"""Databases that are not as MLflow needs them, made anew by two at once, or in folders with odd names."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from altermoma_ray.errors import UserError
from altermoma_ray.leaderboard import EARLIER as FIGURES
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.databases import sqlite_file, sqlite_uri
from altermoma_ray.tracking.mlflow.store import TrackingError
from altermoma_ray.tracking.mlflow.tracker import Tracker
from altermoma_ray.tracking.result import TrialResult

NAMES = ["what?", "feature%2Fpruning", "a#b", "ä b", "100%", "what?a=b&c", "file:x", 'it\'s; "x"', "%3F"]


@pytest.fixture
def storage(tmp_path, empty_store):
    return Location.parse(shutil.copytree(empty_store, tmp_path / "storage"))


def change(storage, *statements):
    with sqlite3.connect(f"{storage.path}/mlflow.db") as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


OTHER_SCHEMAS = [
    (
        "UPDATE alembic_version SET version_num = '451aebb31d03'",
        r"database sqlite:\S+mlflow.db is of an older MLflow \(schema 451aebb31d03, MLflow \S+ needs \w+\); "
        r"make a backup of it, then run: mlflow db upgrade sqlite:\S+/mlflow.db$",
    ),
    (
        "UPDATE alembic_version SET version_num = 'ffffffffffff'",
        r"made by a newer MLflow than this \(MLflow \S+ does not know its schema ffffffffffff\); upgrade MLflow here",
    ),
    (
        "DELETE FROM alembic_version",
        r"mlflow.db is half made; make a backup of it, then run: mlflow db upgrade sqlite:",
    ),
]


@pytest.mark.parametrize(("statement", "pattern"), OTHER_SCHEMAS, ids=["older", "newer", "half made"])
@pytest.mark.parametrize("create", [True, False])
def test_a_database_of_another_schema_is_refused_and_left_as_it_is(statement, pattern, create, storage):
    change(storage, statement, "DROP TABLE model_versions")  # MLflow itself would make such a table, and so upgrade
    before = Path(storage.path, "mlflow.db").read_bytes()
    with pytest.raises(UserError, match=pattern):
        Tracker.open(None, storage, create=create)
    assert Path(storage.path, "mlflow.db").read_bytes() == before


def test_databases_of_something_else(tmp_path):
    storage = Location.parse(tmp_path)
    change(storage, "CREATE TABLE studies (x)", "CREATE TABLE alembic_version (version_num)")
    with pytest.raises(UserError, match=r"mlflow.db is not MLflow's \(its tables: studies\); name another --track"):
        Tracker.open(None, storage)
    file = tmp_path / "mlflow.db"
    file.write_bytes(b"no database at all" * 1000)
    with pytest.raises(TrackingError, match="file is not a database; it is another kind of file; correct the folder"):
        Tracker.open(None, storage, create=False)
    file.write_bytes(b"")
    with pytest.raises(UserError, match=r"no MLflow store at .*mlflow\.db; name the storage folder"):
        Tracker.open(None, storage, create=False)
    assert file.read_bytes() == b""


def test_a_damaged_database_gets_one_line(storage, capfd):
    file = Path(storage.path, "mlflow.db")
    content = bytearray(file.read_bytes())
    content[4096 * 2 :] = bytes(len(content) - 4096 * 2)
    file.write_bytes(content)
    with pytest.raises(TrackingError, match=r"malformed.*; the file is damaged: put a copy of it back"):
        Tracker.open(None, storage).leaderboard()
    assert capfd.readouterr() == ("", "")


def test_a_locked_database_gets_one_line(storage):
    holder = sqlite3.connect(f"{storage.path}/mlflow.db")
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(TrackingError, match="database is locked; another process holds it; wait until that ends"):
        Tracker.open(None, storage)
    holder.close()


def test_two_at_once_make_one_database(tmp_path):
    code = """
import sys
from altermoma_ray.leaderboard import EARLIER as FIGURES
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.tracker import Tracker
tracker = Tracker.open(None, Location.parse(sys.argv[1]))
tracker.start_search(sys.argv[2], dataset="nusc", model="toy", figures=FIGURES, params={"trials": 1})
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-c", code, str(tmp_path / "storage")]
    both = [subprocess.Popen([*line, name], env=environment, stderr=subprocess.PIPE, text=True) for name in "ab"]
    errors = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    tracker = Tracker.open(None, Location.parse(tmp_path / "storage"))
    assert tracker.find_search("a") != tracker.find_search("b")
    assert [file.name for file in (tmp_path / "storage").iterdir()] == ["mlflow.db"]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_any_name_holds_all(name, tmp_path, empty_store, printed, champion):
    """The database, the files and the champion are in the folder, and nothing is beside it."""
    place = tmp_path / "all" / name
    shutil.copytree(empty_store, place)
    storage, model = Location.parse(place), nn.Linear(4, 2).eval()
    tracker = Tracker.open(None, storage)
    parent = tracker.start_search("first", dataset="nusc", model="toy", figures=FIGURES, params={"trials": 1})
    result = TrialResult(number=0, status="finished", metrics={"map": 0.5}, started=1.0, ended=2.0)
    run_id = tracker.log_trial(parent, result, {"masks.safetensors": b"masks"}, lambda: model)
    tracker.register_champion(parent, run_id)
    assert "0.5" in printed("leaderboard", "--storage", place)
    loaded = champion(tracker.store.uri, "altermoma-nusc-toy")
    torch.testing.assert_close(loaded(torch.ones(1, 4)), model(torch.ones(1, 4)))
    assert [file.name for file in place.parent.iterdir()] == [name]
    assert {file.name for file in place.iterdir()} == {"mlflow.db", "mlartifacts"}
    assert (place / "mlartifacts" / "altermoma-nusc-toy" / run_id / "artifacts" / "masks.safetensors").is_file()


@pytest.mark.parametrize("name", ["plain", *NAMES])
def test_an_address_names_its_file_alone(name, tmp_path):
    file = tmp_path / name / "mlflow.db"
    assert sqlite_file(sqlite_uri(file)) == file


def test_an_address_that_names_another_file_is_refused(tmp_path):
    for name in ("what?", "feature%2Fpruning"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=r"'\?' ends the file's name in a URI; write %3F in its place"):
        Tracker.open(f"sqlite:///{tmp_path}/what?/mlflow.db", Location.parse(tmp_path))
    with pytest.raises(UserError, match=r"names .*/feature/pruning/mlflow.db; write %25 for '%' to name "):
        Tracker.open(f"sqlite:///{tmp_path}/feature%2Fpruning/mlflow.db", Location.parse(tmp_path))
    assert {file.name for file in tmp_path.iterdir()} == {"what?", "feature%2Fpruning"}

"""Finding a pruned model by what a user calls it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from altermoma_ray.errors import UserError
from altermoma_ray.leaderboard import EARLIER as FIGURES
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.models import open_model
from altermoma_ray.tracking.mlflow.tracker import Tracker
from altermoma_ray.tracking.result import TrialResult

NAME = "altermoma-nusc-toy"


@pytest.fixture(scope="module")
def store(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Location, dict[str, str]]:
    """A storage with the searches ``empty`` and ``first``, whose trial 1 is the champion and trial 2 failed."""
    folder = tmp_path_factory.mktemp("models") / "storage"
    shutil.copytree(empty_store, folder)
    storage = Location.parse(folder)
    tracker = Tracker.open(None, storage)
    runs = {"empty": tracker.start_search("empty", dataset="nusc", model="toy", figures=FIGURES, params={})}
    runs["first"] = tracker.start_search("first", dataset="nusc", model="toy", figures=FIGURES, params={})
    for number in range(3):
        failed = number == 2
        result = TrialResult(
            number=number,
            status="failed" if failed else "finished",
            reason="out of memory" if failed else None,
            metrics={} if failed else {"map": 0.5 + number / 10},
            started=0,
            ended=1,
        )
        files = {} if failed else {"model.safetensors": f"weights {number}".encode()}
        runs[f"first/{number}"] = tracker.log_trial(runs["first"], result, files)
    tracker.register_champion(runs["first"], runs["first/1"])
    return storage, runs


def read(reference: str, storage: Location) -> str:
    with open_model(reference, storage) as checkpoint:
        return checkpoint.read_text()


@pytest.mark.parametrize(
    ("reference", "number"),
    [("first", 1), ("first/0", 0), ("first/1", 1), (f"models:/{NAME}@champion", 1), (f"models:/{NAME}/1", 1)],
)
def test_models_by_search_trial_and_registered_name(store, reference, number):
    assert read(reference, store[0]) == f"weights {number}"


def test_models_by_run(store):
    storage, runs = store
    assert read(runs["first/0"], storage) == "weights 0"
    assert read(runs["first"], storage) == "weights 1"


def test_models_by_file_and_folder_need_no_store(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_text("weights")
    nowhere = Location.parse("/nowhere")
    assert read(str(tmp_path), nowhere) == read(str(tmp_path / "model.safetensors"), nowhere) == "weights"
    monkeypatch.chdir(tmp_path.parent)
    assert read(tmp_path.name, nowhere) == "weights"


def test_a_copy_out_of_the_store_is_gone_afterwards_and_the_store_whole(store):
    storage, _ = store
    with open_model("first/0", storage) as checkpoint:
        assert checkpoint.exists()
    assert checkpoint.within(storage) is not None or not checkpoint.exists()
    assert read("first/0", storage) == "weights 0"


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("second", "no search 'second' in .*; known: empty, first"),
        ("empty", "search 'empty' in .* has no champion yet; name a trial: empty/0"),
        ("first/7", "search 'first' in .* has no trial 7; choose one of its leaderboard"),
        ("0" * 32, f"no run {'0' * 32} in .*; python -m altermoma_ray.leaderboard lists the runs"),
        ("models:/mine@champion", "no registered model mine@champion in .*; the champions are named altermoma-"),
        (f"models:/{NAME}/9", f"no registered model {NAME}/9 in "),
        ("/nowhere/model.safetensors", "no model at /nowhere/model.safetensors; give the folder or file"),
    ],
)
def test_nothing_of_that_name(store, reference, words):
    with pytest.raises(UserError, match=words):
        read(reference, store[0])


def test_a_failed_trial_has_no_model(store):
    storage, runs = store
    with pytest.raises(UserError, match=f"run {runs['first/2']} in .* has no model: it failed, or is no trial"):
        read("first/2", storage)


def test_no_file_and_no_store(tmp_path):
    with pytest.raises(UserError, match="first is no file or folder here, and no MLflow store at "):
        read("first", Location.parse(tmp_path))
    with pytest.raises(UserError, match=r"holds no model.safetensors; give a folder that prune"):
        read(str(tmp_path), Location.parse(tmp_path))

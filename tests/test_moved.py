"""A storage folder that was moved or copied: everything works there, and the former place is left alone."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from torch import nn

from altermoma_ray.engine.search.driver import sole_driver
from altermoma_ray.engine.search.plan import SearchPlan
from altermoma_ray.engine.search.resuming import resume_search
from altermoma_ray.engine.space import PruningSetting
from altermoma_ray.engine.trials.job import TrialTask
from altermoma_ray.engine.trials.results import record_failure
from altermoma_ray.errors import UserError
from altermoma_ray.leaderboard import EARLIER as FIGURES
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.store import StrayFiles
from altermoma_ray.tracking.mlflow.tracker import Tracker
from altermoma_ray.tracking.result import TrialResult
from altermoma_ray.workloads.nusc import SHIPPED
from tests.plans import toy_plan

MODEL = "altermoma-nuscenes-bevfusion-mit-toy"
SETTING = PruningSetting(
    scope="global", sparsity=0.8, beta=1, reactivation_steps=1, reactivation_learning_rate=1e-3, learning_rate=1e-3
)


def make_plan(place, name="first", dataroot=None, **changes):
    """Plan a search, of the synthetic set in the storage by default; nothing is made of that set."""
    plan = toy_plan(place, dataroot, **{"name": name, "checkpoint": SHIPPED, "trials": 2, **changes})
    plan.save()
    return plan


def log(tracker, plan, trials, *, end=True):
    """Log what a search would, with a small model in place of its own."""
    parent = tracker.start_search(
        plan.name, dataset=plan.dataset, model=plan.model, figures=FIGURES, params=plan.params(), resume=True
    )
    for number in trials:
        result = TrialResult(number=number, status="finished", metrics={"map": 0.5 + number}, started=1, ended=2)
        run_id = tracker.log_trial(parent, result, {"masks.safetensors": b"masks"}, make_model)
    if end:
        tracker.register_champion(parent, run_id)
        tracker.finish_search(parent)
    return parent


def make_model():
    torch.manual_seed(0)
    return nn.Linear(4, 2).eval()


def tree(place):
    return {str(file.relative_to(place)): file.is_file() and file.read_bytes() for file in Path(place).rglob("*")}


def addresses(uri):
    client = MlflowClient(uri)
    experiments = [found for found in client.search_experiments() if found.name.startswith("altermoma-")]
    runs = client.search_runs([found.experiment_id for found in experiments])
    return {found.artifact_location for found in experiments} | {run.info.artifact_uri for run in runs}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The storage of a finished search, to be copied."""
    place = tmp_path_factory.mktemp("finished") / "storage"
    log(Tracker.open(None, Location.parse(place)), make_plan(place), range(2))
    return place


@pytest.fixture(params=["moved", "copied"])
def moved(request, finished, tmp_path):
    """The former place of a finished search's storage, and the present one, not opened there yet."""
    was, now = tmp_path / "was" / "storage", tmp_path / "the new" / "storage"
    shutil.copytree(finished, was)
    Tracker.open(None, Location.parse(was))  # which it follows from the fixture's
    now.parent.mkdir()
    if request.param == "moved":
        was.rename(now)
    else:
        shutil.copytree(was, now)
    return was, now


def test_all_works_in_the_new_place_and_the_former_is_left_alone(moved, printed, champion, monkeypatch):
    was, now = moved
    before, storage = tree(was), Location.parse(now)
    monkeypatch.chdir(now.parent)
    assert [row["trial"] for row in json.loads(printed("leaderboard", "--storage", "storage/", "--format", "json"))]
    loaded = champion(f"sqlite:///{now}/mlflow.db", MODEL)
    torch.testing.assert_close(loaded(torch.ones(1, 4)), make_model()(torch.ones(1, 4)))

    again = resume_search(storage, None, {"sparsity": 0.8, "trials": 2})
    assert again.folder.path == f"{now}/searches/first"
    assert Location.parse(again.checkpoint).exists()
    assert again.workload.options.dataroot == f"{now}/synthetic-nuscenes"
    tracker = Tracker.open(again.tracking_uri, storage)
    log(tracker, again, [2])
    log(tracker, make_plan(now, "second"), range(1))
    assert {address.startswith(f"{now}/mlartifacts/") for address in addresses(tracker.store.uri)} == {True}
    assert tree(was) == before
    assert was.exists() == bool(before)


def test_a_plan_names_nothing_in_its_storage_by_its_whole_address(finished, dataroot, tmp_path):
    assert str(finished) not in (finished / "searches" / "first" / "search.json").read_text()
    own = shutil.copytree(dataroot, tmp_path / "here" / "my data")
    for place, kept in ((dataroot, str(dataroot)), (own, "my data")):
        plan = make_plan(tmp_path / "here", f"of-{len(kept)}", str(place))
        saved = json.loads((tmp_path / "here" / "searches" / plan.name / "search.json").read_text())["workload"]
        assert (saved["storage"], saved["options"]["dataroot"]) == (".", kept)
        assert SearchPlan.load(plan.storage, plan.name) == plan
        record_failure(plan.trial_job(), TrialTask(number=0, setting=SETTING), "it broke")
        left = (tmp_path / "here" / "searches" / plan.name / "trials" / "0000" / "result.json").read_text()
        assert str(tmp_path / "here") not in left
        assert plan.params()["dataroot"] == kept


def test_plans_of_earlier_releases_are_read_where_they_are_now(finished, tmp_path):
    """They hold whole addresses: in the former storage, which are found in the new one, and out of it, which stay."""
    now = Path(shutil.copytree(finished, tmp_path / "storage"))
    file = now / "searches" / "first" / "search.json"
    fields = json.loads(file.read_text())
    del fields["workload"], fields["validation_part"]
    fields |= {"dataset": "nuscenes", "model": "bevfusion-mit-toy"}
    fields["source"] = {"dataroot": "/old/storage/synthetic-nuscenes", "storage": "/old/storage"}
    fields["source"] |= {"version": "v1.0-trainval", "validation_part": "tuning"}
    fields |= {"checkpoint": f"/old/storage/{fields['checkpoint']}", "tracking_uri": "sqlite:////old/storage/x.db"}
    file.write_text(json.dumps(fields))
    plan = resume_search(Location.parse(now), "first")
    assert (plan.workload.name, plan.workload.storage) == ("nusc", str(now))
    assert (plan.dataset, plan.model, plan.validation_part) == ("nuscenes", "bevfusion-mit-toy", "tuning")
    assert plan.workload.options.dataroot == f"{now}/synthetic-nuscenes"
    assert Path(plan.checkpoint).is_file()
    assert plan.tracking_uri == f"sqlite:///{now}/x.db"
    fields["source"]["dataroot"] = "/old/storage-2/nuscenes"
    file.write_text(json.dumps(fields))
    assert resume_search(Location.parse(now), "first").workload.options.dataroot == "/old/storage-2/nuscenes"
    for broken in ({}, [], {"source": {"storage": 3}}, fields | {"checkpoint": "../../etc/passwd"}):
        file.write_text(json.dumps(broken))
        with pytest.raises(UserError, match=r"search.json is broken or of another release; start the search again"):
            resume_search(Location.parse(now), "first")


def test_a_search_without_a_trial_yet_moves_too(tmp_path):
    was, now = tmp_path / "was", tmp_path / "now"
    log(Tracker.open(None, Location.parse(was)), make_plan(was), [], end=False)
    shutil.copytree(was, now)
    before = tree(was)
    tracker = Tracker.open(None, Location.parse(now))
    log(tracker, SearchPlan.load(Location.parse(now), "first"), range(2))
    assert tree(was) == before
    assert {address.startswith(f"{now}/mlartifacts/") for address in addresses(tracker.store.uri)} == {True}


def test_runs_of_another_storage_stay_where_they_are(tmp_path):
    """Two storages with one database: neither takes the other's for its own former place."""
    database = f"sqlite:///{tmp_path}/shared.db"
    for name in ("one", "two"):
        place = tmp_path / name
        log(Tracker.open(database, Location.parse(place)), make_plan(place, f"of-{name}"), range(1))
    before = addresses(database)
    for name in ("one", "two"):
        Tracker.open(database, Location.parse(tmp_path / name))
    assert addresses(database) == before
    own = Tracker.open(f"sqlite:///{tmp_path}/one/mlflow.db", Location.parse(tmp_path / "two"))
    log(own, make_plan(tmp_path / "two", "three"), range(1))  # one's database holds what lies in two
    before = addresses(own.store.uri)
    assert addresses(Tracker.open(None, Location.parse(tmp_path / "one")).store.uri) == before


def test_a_copy_does_not_write_through_the_database_of_the_original(finished, tmp_path, printed):
    was, now = tmp_path / "was", tmp_path / "now"
    shutil.copytree(finished, was)
    Tracker.open(None, Location.parse(was))
    shutil.copytree(was, now)
    before = tree(was)
    theirs = f"sqlite:///{was}/mlflow.db"
    assert "finished" in printed("leaderboard", "--storage", now, "--tracking-uri", theirs)
    tracker = Tracker.open(theirs, Location.parse(now))
    with pytest.raises(
        StrayFiles, match=r"they lie in .*was, whose own database this is; copy .*was/mlflow.db elsewher"
    ):
        log(tracker, make_plan(now, "second"), range(1))
    assert tree(was) == before


def test_a_server_that_was_not_told_of_the_move(finished, tmp_path):
    """What it passes on would make the former folder anew."""
    now = Path(shutil.copytree(finished, tmp_path / "now"))
    gone = Tracker.open(None, Location.parse(shutil.copytree(finished, tmp_path / "gone")))
    shutil.rmtree(tmp_path / "gone" / "mlartifacts")
    shutil.copy(tmp_path / "gone" / "mlflow.db", now.parent / "else.db")
    shutil.rmtree(tmp_path / "gone")
    client = MlflowClient(f"sqlite:///{tmp_path}/else.db")
    store = type(gone.store)(client=client, uri="http://server", artifacts=None)
    with pytest.raises(
        StrayFiles, match=r"lay in .*gone, which is not there; if that storage moved, first run python -m"
    ):
        store.check_place(client.get_experiment_by_name(MODEL))


def test_one_folder_by_many_names(finished, tmp_path, monkeypatch, printed):
    place = tmp_path / "home" / "storage"
    shutil.copytree(finished, place)
    Tracker.open(None, Location.parse(place))
    (tmp_path / "link").symlink_to(place)
    before = addresses(f"sqlite:///{place}/mlflow.db")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for folder, name in ((tmp_path, "link"), (tmp_path, "home/storage/"), (place, "../storage"), ("/", "~/storage")):
        os.chdir(folder)
        assert "finished" in printed("leaderboard", "first", "--storage", name)
        assert resume_search(Location.parse(name), "first").storage.is_same(Location.parse(place))
    assert addresses(f"sqlite:///{place}/mlflow.db") == before


def test_a_leaderboard_makes_no_folders(tmp_path, answer):
    for options in ([], ["--sync"], ["--tracking-uri", f"sqlite:///{tmp_path}/nowhere/mlflow.db"]):
        answer("leaderboard", *options, "--storage", tmp_path / "nowhere" / "storage")
    assert not list(tmp_path.iterdir())


def test_a_copy_of_a_search_that_runs_is_not_in_its_hands(finished, tmp_path):
    was, now = tmp_path / "was", tmp_path / "now"
    shutil.copytree(finished, was)
    with sole_driver(Location.parse(was / "searches" / "first")):
        shutil.copytree(was, now)
        driver = json.loads((now / "searches" / "first" / "driver.json").read_text())
        (now / "searches" / "first" / "driver.json").write_text(
            json.dumps(driver | {"pid": os.getppid(), "started": 0})
        )
        assert resume_search(Location.parse(now), "first")


def test_a_plan_knows_the_database_of_its_storage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = {
        uri: make_plan("here", f"s-{number}", tracking_uri=uri).tracking_uri
        for number, uri in enumerate(
            (
                "sqlite:///here/mlflow.db",
                f"sqlite:///{tmp_path}/here/mlflow.db",
                "sqlite:///else.db",
                "http://server:5000",
            )
        )
    }
    assert list(kept.values()) == [None, None, f"sqlite:///{tmp_path}/else.db", "http://server:5000"]

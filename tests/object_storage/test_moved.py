"""A storage that was copied into a bucket, or from one prefix to another; names and files taken once in a bucket."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from altermoma_ray.engine.search.plan import SearchPlan
from altermoma_ray.engine.search.planning import begin_search
from altermoma_ray.engine.search.resuming import resume_search
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.tracker import Tracker
from tests.test_moved import MODEL, addresses, log, make_model, make_plan, tree


@pytest.fixture
def upload(buckets):
    """Copies a folder, or a prefix of a bucket, to another prefix."""

    def copy(was, now):
        bucket, _, prefix = now.path.partition("/")
        if isinstance(was, Path):
            for file in was.rglob("*"):
                if file.is_file():
                    buckets.upload_file(str(file), bucket, f"{prefix}/{file.relative_to(was)}")
            return
        source, _, start = was.path.partition("/")
        for entry in buckets.list_objects_v2(Bucket=source, Prefix=f"{start}/")["Contents"]:
            name = entry["Key"].removeprefix(start)
            buckets.copy_object(CopySource={"Bucket": source, "Key": entry["Key"]}, Bucket=bucket, Key=prefix + name)

    return copy


def check_works(now, database, printed, champion, objects):
    """Leaderboard, champion, ``--resume`` and a new search, all in the bucket's prefix ``now``."""
    board = ["leaderboard", "first", "--storage", now, "--tracking-uri", database, "--format", "json"]
    assert [row["trial"] for row in json.loads(printed(*board))] == [1, 0]
    torch.testing.assert_close(champion(database, MODEL)(torch.ones(1, 4)), make_model()(torch.ones(1, 4)))
    again = resume_search(now, "first", {"sparsity": 0.8})
    assert (again.workload.storage, Location.parse(again.checkpoint).exists()) == (str(now), True)
    tracker = Tracker.open(database, now)
    log(tracker, again, [2])
    log(tracker, make_plan(now, "second"), range(1))
    assert {address.startswith(f"{now.plain}/mlartifacts/") for address in addresses(database)} == {True}
    assert len([name for name in objects(now) if name.endswith("/masks.safetensors")]) == 4


def test_from_a_folder_to_a_bucket(s3, upload, printed, champion, objects, tmp_path):
    was = tmp_path / "storage"
    log(Tracker.open(None, Location.parse(was)), make_plan(was), range(2))
    upload(was, s3)
    shutil.copy(was / "mlflow.db", tmp_path / "mlflow.db")
    before = tree(was)
    check_works(s3, f"sqlite:///{tmp_path}/mlflow.db", printed, champion, objects)
    assert tree(was) == before


@pytest.mark.parametrize("removed", [False, True], ids=["copied", "moved"])
def test_from_a_prefix_to_another(removed, s3, upload, printed, champion, objects, tmp_path):
    database, was, now = f"sqlite:///{tmp_path}/mlflow.db", s3.join("was 50% ä"), s3.join("now")
    log(Tracker.open(database, was), make_plan(was), range(2))
    upload(was, now)
    if removed:
        was.delete()
    before = objects(was)
    assert bool(before) != removed
    check_works(now, database, printed, champion, objects)
    assert objects(was) == before


def test_a_search_without_a_trial_yet_moves_too(s3, upload, objects, tmp_path):
    database, was, now = f"sqlite:///{tmp_path}/mlflow.db", s3.join("was"), s3.join("now")
    log(Tracker.open(database, was), make_plan(was), [], end=False)
    upload(was, now)
    before = objects(was)
    log(Tracker.open(database, now), SearchPlan.load(now, "first"), range(1))
    assert objects(was) == before


def test_runs_of_another_prefix_stay_where_they_are(s3, tmp_path):
    database = f"sqlite:///{tmp_path}/mlflow.db"
    log(Tracker.open(database, s3.join("one")), make_plan(s3.join("one"), "of-one"), range(1))
    before = addresses(database)
    log(Tracker.open(database, s3.join("two")), make_plan(s3.join("two"), "of-two"), range(1))
    assert before < addresses(database)
    Tracker.open(database, s3.join("two"))
    assert before < addresses(database)


@pytest.mark.parametrize("place", ["bucket", "disk"])
def test_a_new_file_is_written_once(place, request, tmp_path):
    folder = request.getfixturevalue("s3") if place == "bucket" else Location.parse(tmp_path / "folder")
    with ThreadPoolExecutor(6) as threads:
        wrote = list(threads.map(lambda number: folder.join("a", "new").write_new(b"%d" % number), range(6)))
    assert wrote.count(True) == 1
    assert folder.join("a", "new").read_bytes() == b"%d" % wrote.index(True)
    assert not folder.join("a", "new").write_new(b"other")
    assert [file.name for file in folder.join("a").children() if file.size() >= 0] == ["new"]


def test_a_claim_that_was_left_behind_counts_no_more(s3, monkeypatch):
    s3.join(".new.claims", "left").write_bytes(b"claimed")
    time.sleep(1.1)  # the server tells time in seconds
    monkeypatch.setattr("altermoma_ray.storage._CLAIM_TRIES", 1)
    assert not s3.join("new").write_new(b"content")
    monkeypatch.setattr("altermoma_ray.storage._STALE_CLAIM", 0.5)
    assert s3.join("new").write_new(b"content")


@pytest.mark.parametrize("place", ["bucket", "disk"])
def test_searches_that_begin_at_once_get_names_of_their_own(place, request, tmp_path):
    folder = request.getfixturevalue("s3") if place == "bucket" else Location.parse(tmp_path / "folder")
    plan = make_plan(folder, "nusc-1").model_copy(update={"name": "nusc-2"})
    plans = [plan.model_copy(update={"seed": seed}) for seed in range(3)]
    folder.join("searches", "nusc-4", "driver.json").write_text("{}")  # of one that died before its plan was saved

    def begin(plan):
        return begin_search(plan, numbered=True, is_free=lambda name: name != "nusc-3")

    with ThreadPoolExecutor(3) as threads:
        begun = list(threads.map(begin, plans))
    assert sorted(plan.name for plan in begun) == ["nusc-2", "nusc-4", "nusc-5"]
    for plan in begun:
        assert SearchPlan.load(folder, plan.name) == plan
    with pytest.raises(UserError, match=r"search 'nusc-\d' is already in .*; --resume it or choose another --name"):
        begin_search(begun[0], numbered=False)


def test_buckets_of_odd_names(s3, tmp_path):
    root = str(s3)
    for name, path in (("a b", "a b"), ("50%", "50%"), ("ä%20b", "ä b")):
        assert Location.parse(f"{root}/{name}").name == path
        assert Location.parse(str(Location.parse(f"{root}/{name}"))).name == path
    for name in ("a#b", "what?"):
        with pytest.raises(UserError, match=r"in a URI '#' and '\?' end the path; write %23 and %3F in their place"):
            Location.parse(f"{root}/{name}")
    with pytest.raises(UserError, match=r"MLflow cannot keep files in .*/what%3F, for its '\?' or '#'; choose another"):
        Tracker.open(f"sqlite:///{tmp_path}/mlflow.db", Location.parse(f"{root}/what%3F"))

"""MLflow's stores and Ray's clusters: missing, wrong, of another kind, or deleted in part."""

from __future__ import annotations

import contextlib
import http.server
import re
import shutil
import socket
import sqlite3
import threading

import pytest
from mlflow import MlflowClient

from altermoma_ray.engine.space.setting import PruningSetting
from altermoma_ray.engine.trials.job import TrialTask
from altermoma_ray.errors import UserError
from altermoma_ray.leaderboard import EARLIER as FIGURES
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.tracker import Tracker

TRACKED = ("checkpoints", "mlflow.db")
TRACKED = ("checkpoints", "mlflow.db")
PLANNED = ("checkpoints", "searches")


def test_tracking_server_that_does_not_answer(bench, check):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # a port that nobody listens on
        check(
            "tracking server that does not answer",
            bench.search("--tracking-uri", f"http://127.0.0.1:{probe.getsockname()[1]}"),
            r"server http://127.0.0.1:\d+ does not answer; start it",
            ("checkpoints",),
        )


def test_name_already_taken_in_mlflow(bench, check):
    bench.begin()
    check(
        "name already taken in MLflow",
        bench.search("--name", "first"),
        r"search 'first' is already in sqlite:.*; --resume it or choose another",
        TRACKED,
    )


def test_leaderboard_of_nothing(bench, check):
    check(
        "leaderboard of nothing",
        ["leaderboard", *bench.stored()],
        r"no MLflow store at .*mlflow.db; name the storage folder or tracking URI that the",
    )


def test_leaderboard_of_an_unknown_search(bench, check):
    bench.begin()
    check(
        "leaderboard of an unknown search",
        ["leaderboard", "second", *bench.stored()],
        r"no search 'second' in sqlite:.*mlflow.db; known: first$",
        ("mlflow.db",),
    )


@pytest.mark.parametrize(
    ("what", "arguments", "pattern"),
    [
        (
            "certificate of an unknown search",
            ["second", "--certify"],
            r"no search 'second' in .*; choose one of: .*first$",
        ),
        (
            "certificate of a search without a finished trial",
            ["first", "--certify"],
            r"search 'first' in sqlite:.*mlflow.db has no champion yet; certify it when a trial has finished$",
        ),
        (
            "certificate of a comparison",
            ["compared", "--certify"],
            r"is a comparison, which has no champion to certify; name a search, or read the comparison's own intervals",
        ),
        (
            "certificate as a table of a spreadsheet",
            ["first", "--certify", "--format", "csv"],
            r"--format csv does not go with --certify, whose figures are no single table; take table or json$",
        ),
        (
            "option of a certificate alone",
            ["first", "--margin", "0.1"],
            r"--margin goes with --certify alone; add it, or leave the option out$",
        ),
    ],
)
def test_a_certificate_that_cannot_be(bench, check, empty_store, what, arguments, pattern):
    shutil.copytree(empty_store, bench.storage)
    plan = bench.plan("first")
    setting = PruningSetting(scope="global", sparsity=0.5, criterion="snip", learning_rate=1e-3)
    plan.model_copy(update={"name": "compared", "grid": (TrialTask(number=0, setting=setting),)}).save()
    bench.begin()
    left = {file.name for file in bench.storage.iterdir()}
    check(what, ["leaderboard", *arguments, *bench.stored()], pattern, tuple(left))


def test_database_of_an_older_mlflow(bench, check):
    bench.begin()
    bench.change_database("UPDATE alembic_version SET version_num = '451aebb31d03'")
    pattern = (
        r"is of an older MLflow \(schema 451aebb31d03, MLflow \S+ needs \w+\); make a backup of it, then run: mlfl"
    )
    check("database of an older MLflow", ["leaderboard", *bench.stored()], pattern, ("mlflow.db",))


def test_database_of_a_newer_mlflow(bench, check):
    bench.begin()
    bench.change_database("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    pattern = (
        r"was made by a newer MLflow than this \(MLflow \S+ does not know its schema ffffffffffff\); upgrade MLflow"
    )
    check("database of a newer MLflow", ["leaderboard", *bench.stored()], pattern, ("mlflow.db",))


def test_database_of_something_else(bench, check):
    with contextlib.closing(sqlite3.connect(bench.folder / "optuna.db")) as connection:
        connection.execute("CREATE TABLE studies (study_id INTEGER)")
        connection.execute("CREATE TABLE trials (trial_id INTEGER)")
    check(
        "database of something else",
        bench.search("--tracking-uri", f"sqlite:///{bench.folder}/optuna.db"),
        r"database sqlite:\S+/optuna.db is not MLflow's \(its tables: studies, trials\); name another --tracking-uri$",
        ("checkpoints",),
    )


def test_database_that_another_process_holds(bench, check):
    bench.begin()
    with contextlib.closing(sqlite3.connect(bench.storage / "mlflow.db")) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        pattern = (
            r"mlflow.db: \(sqlite3.OperationalError\) database is locked; another process holds it; wait until that"
        )
        check("database that another process holds", ["leaderboard", *bench.stored()], pattern, ("mlflow.db",))


def test_question_mark_in_a_databases_address(bench, check):
    (bench.folder / "what?").mkdir()
    uri = f"sqlite:///{bench.folder}/what?/mlflow.db"
    pattern = r"'\?' ends the file's name in a URI; write %3F in its place$"
    check("question mark in a database's address", bench.search("--tracking-uri", uri), pattern, ("checkpoints",))
    assert {file.name for file in bench.folder.iterdir()} == {"nuscenes", "what?", "storage"}


def test_question_mark_in_a_buckets_address(bench, check):
    pattern = r"cannot open s3://bucket/what: in a URI '#' and '\?' end the path; write %23 and %3F in their place$"
    check("question mark in a bucket's address", bench.search("--storage", "s3://bucket/what?"), pattern)


def test_copy_of_a_storage_with_the_database_of_the_original(bench, complaint, documented):
    """Told when the search begins, since it may have waited."""
    pattern = r"they lie in \S+, whose own database this is; copy \S+/mlflow.db elsewhere and name the copy with --trac"
    assert re.search(pattern, documented["copy of a storage with the database of the original"])
    bench.begin()
    client = Tracker.open(None, Location.parse(bench.storage)).store.client
    run = client.search_runs(["1"])[0]
    client.log_text(run.info.run_id, "text", "file")
    shutil.copytree(bench.storage, bench.folder / "copy")
    tracker = Tracker.open(f"sqlite:///{bench.storage}/mlflow.db", Location.parse(bench.folder / "copy"))
    with pytest.raises(UserError, match=pattern):
        tracker.start_search("second", dataset="nuscenes", model="bevfusion-mit-toy", figures=FIGURES, params={})


def test_a_cluster_that_does_not_answer_is_named_at_once(bench, complaint, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{probe.getsockname()[1]}")
        found = complaint(bench.search())
    assert re.search(r"no Ray cluster answers at RAY_ADDRESS=127.0.0.1:\d+; start it or unset the variable$", found)
    assert not bench.storage.exists()


def test_more_than_the_machine_has_is_refused_instead_of_waited_for(bench, complaint):
    found = complaint(bench.search("--gpus-per-worker", "1000", "--name", "first"))
    assert re.search(r"this machine has \d+ GPUs, but the workers need 1000; take fewer --workers or --gpus-per", found)
    assert not (bench.storage / "searches").exists()  # so that the name is still free


@pytest.mark.parametrize(
    ("what", "variable", "value", "pattern"),
    [
        (
            "address of a dashboard",
            "RAY_ADDRESS",
            "http://127.0.0.1:8265",
            r"is the address of a dashboard, which takes",
        ),
        (
            "address of Ray's client",
            "RAY_ADDRESS",
            "ray://127.0.0.1:10001",
            r"is for Ray's client, from which no search",
        ),
        (
            "cluster without a port",
            "RAY_ADDRESS",
            "head",
            r"RAY_ADDRESS=head is no address of a cluster; set HOST:PORT",
        ),
        (
            "folder too long for Ray",
            "RAY_TMPDIR",
            "/scratch" + 7 * "/folder",
            r"bytes and may have 39; set RAY_TMPDIR to",
        ),
        (
            "unwritable folder for Ray",
            "RAY_TMPDIR",
            "/proc/a",
            r"Ray cannot work in RAY_TMPDIR=/proc/a: cannot write to",
        ),
    ],
)
def test_what_ray_is_told(what, variable, value, pattern, bench, check, monkeypatch):
    monkeypatch.setenv(variable, value)
    check(what, bench.search(), pattern)
    assert not bench.storage.exists()


def test_a_server_that_is_no_cluster(bench, check, monkeypatch):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as dashboard:
        threading.Thread(target=dashboard.serve_forever, daemon=True).start()
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{dashboard.server_address[1]}")
        check(
            "server that is no cluster", bench.search(), r"the server at RAY_ADDRESS=127.0.0.1:\d+ is no Ray cluster;"
        )
        dashboard.shutdown()


def test_an_experiment_deleted_in_mlflow(bench, check, complaint):
    bench.begin()
    client = MlflowClient(f"sqlite:///{bench.storage}/mlflow.db")
    [number] = [found.experiment_id for found in client.search_experiments(filter_string="name LIKE 'altermoma%'")]
    client.delete_experiment(number)
    pattern = r"experiment 'altermoma-nuscenes-bevfusion-mit-toy' was deleted in sqlite:.*mlflow.db; restore it: MLFLOW"
    check("experiment deleted in MLflow", bench.search("--name", "second"), pattern, TRACKED)
    for line in (["leaderboard", "first", *bench.stored()], ["report", "redundancy", *bench.search()[1:]]):
        assert re.search(pattern, complaint(line))
    bench.plan("planned")
    assert re.search(pattern, complaint(["search", "nusc", *bench.stored("--resume")]))
    client.restore_experiment(number)
    client.delete_run(client.search_runs([number])[0].info.run_id)
    check(
        "leaderboard of a search that was deleted in MLflow",
        ["leaderboard", "first", *bench.stored()],
        r"search 'first' was deleted in sqlite:.*; restore it: .* mlflow runs restore --run-id \w+, or log it again",
        (*TRACKED, *PLANNED),
    )

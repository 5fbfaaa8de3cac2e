"""Options, search spaces, places for results, names of searches."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import shutil
import socket
import sqlite3
import threading
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from altermoma_ray.engine.comparison import criteria_settings, grid
from altermoma_ray.engine.driver import Driver
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.engine.space_files import load_space
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location
from altermoma_ray.tracking.tracker import Tracker

TRACKED = ("checkpoints", "mlflow.db")
PLANNED = ("checkpoints", "searches")
OPTIONS = [
    ("missing dataroot", "--dataroot /nowhere", r"dataroot /nowhere is no folder; give --dataroot the folder that"),
    ("wrong version", "--version v1.0-mini", r"no version 'v1.0-mini'; choose a version that is there: v1.0-trainval$"),
    ("missing checkpoint", "--checkpoint /nowhere/a.pth", r"no checkpoint at /nowhere/a.pth; give the path of a .safe"),
    (
        "checkpoint of another model",
        "--model bevfusion-mit",
        r"is of model 'bevfusion-mit-toy', not 'bevfusion-mit'; choose that",
    ),
    ("unknown model", "--model resnet", r"unknown model 'resnet'; choose one of: bevfusion-mit, bevfusion-mit-toy$"),
    ("missing space file", "--space /nowhere/mine.py", r"no search space file /nowhere/mine.py; give the path of a Py"),
    ("sparsity of 1", "--sparsity 1", r"argument --sparsity: must be in \[0, 1\), but got 1; see --help$"),
    ("negative sparsity", "--sparsity -0.1", r"argument --sparsity: must be in \[0, 1\), but got -0.1; see --help$"),
    (
        "total sparsity not to be met",
        "--sparsity 0.99999",
        r"of 0.99999 cannot be met: it keeps \d+ of \d+ weights, but",
    ),
    (
        "sparsity that is searched too",
        "--objective map,sparsity --sparsity 0.9",
        r"with sparsity as an objective each trial draws its own; leave --sparsity out$",
    ),
    ("unknown metric", "--objective speed", r"objective 'speed' must be distinct metrics out of map, nds, sparsity"),
    ("unknown class", "--objective ap/unicorn", r"objective 'ap/unicorn' must be distinct metrics out of map, nds"),
    ("negative trials", "--trials -3", r"argument --trials: must be a whole number above 0, but got -3; see --help$"),
    (
        "negative seed",
        "--seed -1",
        r"argument --seed: must be a whole number in 0..4294967295, but got -1;",
    ),
    (
        "negative seconds",
        "--save-every -1",
        r"argument --save-every: must be a number of at least 0, but got -1; see --help$",
    ),
    (
        "no name to find again",
        "--resume-or-start",
        r"--resume-or-start needs a --name, by which it finds again what it started$",
    ),
    (
        "two ways to go on",
        "--resume --resume-or-start --name first",
        r"argument --resume-or-start: not allowed with argument --resume; see --help$",
    ),
    ("unknown option", "--rations 1", r"unrecognized arguments: --rations 1; see --help$"),
    ("too many workers", "--workers 9", r"9 workers cannot share a batch of \d samples; take fewer --workers$"),
    (
        "unwritable storage",
        "--storage /proc/a",
        r"cannot write to folder /proc/a: No such file or directory; choose",
    ),
    (
        "name with a slash",
        "--name my/search",
        r"search name 'my/search' must be letters, digits, '.', '_' and '-'; choose",
    ),
    (
        "no tracking URI",
        "--tracking-uri host:5000",
        r"'host:5000' is neither a server's http:// nor a database's; try",
    ),
]


@pytest.mark.parametrize(("what", "options", "pattern"), OPTIONS, ids=[what for what, _, _ in OPTIONS])
def test_option(what, options, pattern, bench, check):
    check(what, bench.search(*options.split()), pattern, ("checkpoints",) if "--tracking-uri" in options else ())


RATIO = """PruningSetting(scope="group", sparsity=0.9, ratios={"camera": 1.2}, beta=0, reactivation_steps=4,
    reactivation_learning_rate=1e-4, learning_rate=1e-3)"""
SPACES = [
    (
        "sparsity of 1 in a space file",
        "SPACE = SearchSpace(sparsity=(0.5, 1))",
        r": `0 <= sparsity < 1` must hold",
    ),
    ("ratio above 1 in a space file", RATIO, r": `0 <= ratio < 1` must hold, but camera got 1.2; lower it$"),
    (
        "no choice of B in a space file",
        "SPACE = SearchSpace(reactivation_steps=())",
        r": reactivation_steps: .* at le",
    ),
    ("space file that does not run", "SPACE = SearchSpace(", r" does not run: SyntaxError: .*; mend the file$"),
    ("space file without a space", "", r" does not define SPACE = SearchSpace\(\.\.\.\); add it$"),
]


@pytest.mark.parametrize(("what", "text", "pattern"), SPACES, ids=[what for what, _, _ in SPACES])
def test_space_file(what, text, pattern, bench, check):
    file = bench.file("mine.py", f"from altermoma_ray.engine.space import PruningSetting, SearchSpace\n{text}\n")
    check(what, bench.search("--space", file), rf"search space .*mine.py{pattern}")


def test_tracking_server_that_does_not_answer(bench, check):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # a port that nobody listens on
        check(
            "tracking server that does not answer",
            bench.search("--tracking-uri", f"http://127.0.0.1:{probe.getsockname()[1]}"),
            r"server http://127.0.0.1:\d+ does not answer; start it",
            ("checkpoints",),
        )


def test_storage_below_a_file(bench, check):
    check(
        "storage below a file",
        bench.search("--storage", bench.file("file") + "/storage"),
        r"cannot write to folder .*file/storage: Not a directory; choose a folder that you may",
    )


def test_name_already_taken(bench, check):
    bench.plan("first")
    check(
        "name already taken",
        bench.search("--name", "first"),
        r"search 'first' is already in .*storage; --resume it or choose another --name$",
        PLANNED,
    )


def test_name_already_taken_in_mlflow(bench, check):
    bench.begin()
    check(
        "name already taken in MLflow",
        bench.search("--name", "first"),
        r"search 'first' is already in sqlite:.*; --resume it or choose another",
        TRACKED,
    )


def test_nothing_to_resume(bench, check):
    check(
        "nothing to resume",
        ["search", "nusc", *bench.stored("--resume")],
        r"no search to resume in .*storage; start one without --resume$",
    )


def test_unknown_search_to_resume(bench, check):
    bench.plan("first")
    check(
        "unknown search to resume",
        ["search", "nusc", *bench.stored("--resume", "--name", "second")],
        r"no search 'second' to resume in .*storage; choose one of: first$",
        PLANNED,
    )


def test_resumed_with_another_option(bench, check):
    bench.plan("first")
    check(
        "resumed with another option",
        bench.search("--resume", "--sparsity", "0.85", "--trials", "16"),
        r"'first' was started with another --trials 8; to --resume it leave",
        PLANNED,
    )


def test_broken_plan_of_a_search(bench, check):
    bench.plan("first")
    os.truncate(bench.storage / "searches" / "first" / "search.json", 200)
    check(
        "broken plan of a search",
        ["search", "nusc", *bench.stored("--resume")],
        r"search.json is broken or of another release; start the search again",
        PLANNED,
    )


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("resumed while it runs", ["search", "nusc", "--resume"]),
        ("brought in while it runs", ["leaderboard", "first", "--sync"]),
    ],
)
def test_a_search_that_runs_in_another_process(what, line, bench, check):
    bench.plan("first")
    driver = bench.storage / "searches" / "first" / "driver.json"
    driver.write_text(Driver.of(psutil.Process().parent()).model_dump_json())
    held = driver.read_bytes()
    pattern = r"search 'first' in .*storage is in the hands of process \d+ of this machine; wait for its end"
    check(what, bench.stored(*line), pattern, (*PLANNED, *TRACKED))
    assert driver.read_bytes() == held


@pytest.mark.parametrize("given", [["--storage", "storage"], []], ids=["given", "by default"])
def test_relative_storage_in_a_job(given, bench, check, monkeypatch):
    monkeypatch.delenv("ALTERMOMA_STORAGE", raising=False)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")  # as Ray does for a job's process
    pattern = r"storage lies in the job's working directory, which Ray deletes; give an absolute path or a URI, or set"
    check("relative storage in a job", ["search", "nusc", *given], pattern)


def test_nothing_to_bring_in(bench, check):
    pattern = r"no search in .*storage; give --storage the folder that the search used$"
    check("nothing to bring in", ["leaderboard", *bench.stored("--sync")], pattern)


def test_unknown_search_to_bring_in(bench, check):
    bench.plan("first")
    pattern = r"no search 'second' in .*storage; choose one of: first$"
    check("unknown search to bring in", ["leaderboard", "second", *bench.stored("--sync")], pattern, PLANNED)


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
        tracker.start_search("second", dataset="nuscenes", model="bevfusion-mit-toy", params={})


def test_trained_checkpoint_where_none_can_be(bench, check):
    check(
        "trained checkpoint where none can be",
        ["train", "nusc", *bench.stored("--out", "/proc/a/model.safetensors")],
        r"cannot write to folder /proc/a: No such file or directory; choose a fo",
    )


def test_no_synthetic_scenes(bench, check):
    check(
        "no synthetic scenes",
        ["data.synthetic", "--out", str(bench.storage), "--scenes", "0"],
        r"scenes must be in 1..850, but got 0$",
    )


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


def test_a_list_without_a_value(bench, check):
    check(
        "list without a value",
        ["compare", *bench.search("--sparsities", ",")[1:]],
        r"argument --sparsities: must have a value, or several between commas, but got ','; see --help$",
    )


def test_an_ablation_of_another_criterion(bench, check):
    check(
        "ablation of another criterion",
        ["compare", *bench.search("--ablate", "beta", "--criteria", "snip")[1:]],
        r"an ablation varies AlterMOMA alone; leave --criteria or --ablate out$",
    )


@pytest.mark.parametrize(
    ("option", "value", "was"),
    [
        ("--criteria", "synflow", "with another --criteria snip,taylor"),
        ("--sparsities", "0.8", "with another --sparsities 0.8,0.9"),
        ("--seeds", "3", "with another --seeds 2"),
        ("--budget", "1", "with another --budget 0.5"),
        ("--ablate", "beta", "without --ablate"),
        ("--search", "other", "without --search"),
        ("--seed", "7", "with another --seed 0"),
        ("--workers", "2", "with another --workers 1"),
    ],
)
def test_a_comparison_resumed_with_another_option(option, value, was, bench, complaint, documented):
    settings = criteria_settings(SearchSpace(), ["snip", "taylor"], [0.8, 0.9])
    bench.plan("first", grid=grid({"": settings}, seeds=[0, 1], budgets=[0.5]))
    line = ["compare", "nusc", *bench.stored("--resume")]
    pattern = rf"comparison 'first' was started {was}; to --resume it leave that option out, or start a new comparison$"
    assert re.search(pattern, found := complaint([*line, option, value])), found
    if option == "--criteria":
        assert documented["comparison resumed with another option"] == found
    # options that say what the plan says are passed over: the one that does not is named
    same = ["--criteria", "taylor,snip", "--sparsities", "0.9,0.8", "--seeds", "2", "--budget", "0.5", "--seed", "0"]
    same = [text for pair in zip(same[::2], same[1::2], strict=True) if pair[0] != option for text in pair]
    assert complaint([*line, *same, option, value]) == found


FEW = """from altermoma_ray.engine.space import SearchSpace

SPACE = SearchSpace(scopes=("global",), criteria=("snip",), learning_rate=(1e-3, 1e-3))
"""
"""Four settings, one for each schedule; the paper's own is the fifth."""


@pytest.mark.parametrize("repeat", [False, True])
def test_a_space_of_few_settings_is_told_at_the_start(repeat, bench, answer):
    bench.begin()
    client = MlflowClient(f"sqlite:///{bench.storage}/mlflow.db")
    client.delete_experiment(client.get_experiment_by_name("altermoma-nuscenes-bevfusion-mit-toy").experiment_id)
    options = ["--space", bench.file("few.py", FEW), "--trials", "12", *(["--repeat"] if repeat else [])]
    said = answer(*bench.search(*options))  # ends here, before data and Ray
    line = "trials 5 instead of 12: the search space has no more different settings; --repeat runs settings again"
    assert (line in said) == (not repeat)


def test_a_search_that_was_cut_is_resumed_by_the_line_that_started_it(bench, complaint):
    file = bench.file("few.py", FEW)
    bench.plan("first", space=load_space(None, Path(file)), trials=12)
    plan = json.loads((bench.storage / "searches" / "first" / "search.json").read_text())
    assert (plan["trials"], plan["repeat"]) == (5, False)
    again = bench.search("--resume", "--space", file)
    assert "was started with another --seed 0; to" in complaint([*again, "--trials", "12", "--seed", "1"])
    assert "was started with another --trials 5; to" in complaint([*again, "--trials", "4"])
    assert "was started without --repeat; to" in complaint(bench.search("--resume", "--repeat"))
    bench.plan("second", space=load_space(None, Path(file)), trials=12, repeat=True)
    plan = json.loads((bench.storage / "searches" / "second" / "search.json").read_text())
    assert (plan["trials"], plan["repeat"]) == (12, True)

"""Options, search spaces, places for results, names of searches."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from altermoma_ray.engine.search.comparison import criteria_settings, grid
from altermoma_ray.engine.search.driver import Driver
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.engine.space.files import load_space

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
    (
        "unknown model",
        "--model resnet",
        r"unknown model 'resnet'; choose one of: bevfusion-mit, bevfusion-mit-toy, "
        r"bevfusion-mit-r101-second, bevfusion-mit-r101-second-toy, bevfusion-mit-seg, bevfusion-mit-seg-toy, "
        r"bevfusion-r, bevfusion-r-toy, bevfusion-trio-toy, bevfusion-mit-track, bevfusion-mit-track-toy, "
        r"bevfusion-pku, bevfusion-pku-dual, bevfusion-pku-toy, "
        r"bevfusion-pku-r101-pointpillars, bevfusion-pku-r101-pointpillars-toy, "
        r"bevfusion-mit-centerpoint, bevfusion-mit-centerpoint-toy, bevfusion-mit-pointpillars, "
        r"bevfusion-mit-pointpillars-toy$",
    ),
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
    (
        "unknown metric",
        "--objective speed",
        r"objective 'speed' must be distinct metrics out of map, nds, map_present, sparsity",
    ),
    (
        "objective of another task",
        "--model bevfusion-mit-track-toy --objective map",
        r"objective 'map' must be distinct metrics out of amota, amotp, mota, recall, switches, sparsity",
    ),
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
    (
        "parameter that a criterion refuses",
        "from altermoma_ray.engine.space import Choice\n"
        'SPACE = SearchSpace(criteria=("imp",), parameters={"imp": {"rounds": Choice((0, 2))}})',
        r": criterion imp refuses rounds=0: IMP needs rounds >= 1",
    ),
    (
        "mistake in a suggest function",
        "def suggest(trial, workload):\n    return {'criterion': workload.criterion}",
        r", line 3: suggest raised AttributeError: 'SuggestContext' object has no attr.*; mend the file$",
    ),
    ("space file that does not run", "SPACE = SearchSpace(", r" does not run: SyntaxError: .*; mend the file$"),
    ("space file without a space", "", r" defines neither SPACE = SearchSpace\(\.\.\.\) nor suggest"),
]


@pytest.mark.parametrize(("what", "text", "pattern"), SPACES, ids=[what for what, _, _ in SPACES])
def test_space_file(what, text, pattern, bench, check):
    file = bench.file("mine.py", f"from altermoma_ray.engine.space import PruningSetting, SearchSpace\n{text}\n")
    check(what, bench.search("--space", file), rf"search space .*mine.py{pattern}")


def test_ratios_that_cannot_be_met(bench, check):
    space = (
        'from altermoma_ray.engine.space import Fixed, SearchSpace\nSPACE = SearchSpace(ratios={"camera": Fixed(0.1)})'
    )
    pattern = r"search space: a total sparsity of 0.85 cannot be met with camera=0.1: .* cannot make up the rest; raise"
    check("ratio that leaves too much", bench.search("--space", bench.file("mine.py", space)), pattern)


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


def test_resumed_on_other_data(bench, check):
    earlier = {"train": "fingerprint of other tables", "validation": "fingerprint of other tables"}
    bench.plan("first").model_copy(update={"data": earlier}).save()
    check(
        "resumed on other data",
        ["search", "nusc", *bench.stored("--resume")],
        r"the train and validation data of search 'first' have changed since it began; put them back",
        (*PLANNED, *TRACKED, "index"),
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


def test_redundancy_off_its_dial(bench, check):
    check(
        "redundancy off its dial",
        ["data.synthetic", "--out", str(bench.storage), "--redundancy", "1.5"],
        r"redundancy must be in 0\.\.1, but got 1\.5; leave it out for the usual set$",
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

"""Every bad input ends a command with one line that says what is wrong, exit code 2, and nothing half-written.

``docs/errors.md`` shows the same cases with the line that each prints.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
import torch
from safetensors.torch import load_file, save_file

from altermoma_ray import cli
from altermoma_ray.data.nuscenes import NuScenesDataset
from altermoma_ray.data.sampling import load_batches
from altermoma_ray.engine.dataset import find_data
from altermoma_ray.engine.plan import plan_search
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.errors import UserError
from altermoma_ray.models.checkpoint import read_header, save_checkpoint
from altermoma_ray.models.config import configuration
from altermoma_ray.models.fusion import FusionModel
from altermoma_ray.storage import Location
from altermoma_ray.tracking.tracker import Tracker

VERSION = "v1.0-trainval"


@dataclass
class Bench:
    """Good inputs in a folder of their own, for one test to break."""

    folder: Path
    dataroot: Path
    checkpoint: Path

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    def search(self, *options: str) -> list[str]:
        """A search that would run, with options that replace its own."""
        own = {"--dataroot": str(self.dataroot), "--model": "bevfusion-mit-toy", "--checkpoint": str(self.checkpoint)}
        own = {key: value for key, value in own.items() if key not in options}
        return ["search", "nusc", *(text for pair in own.items() for text in pair), *self.stored(*options)]

    def stored(self, *options: str) -> list[str]:
        return [*options] if "--storage" in options else [*options, "--storage", str(self.storage)]

    def index(self) -> list[str]:
        return ["index", "nusc", "--dataroot", str(self.dataroot), *self.stored()]

    def file(self, name: str, content: str | bytes = "") -> str:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def first(self, pattern: str) -> Path:
        return min(self.dataroot.glob(pattern))

    def edit(self, table: str, change: Callable[[list[dict]], object]) -> None:
        file = self.dataroot / VERSION / f"{table}.json"
        records = json.loads(file.read_text())
        change(records)
        file.write_text(json.dumps(records))

    def plan(self, name: str) -> None:
        """Leave a search of that name behind, planned and not begun."""
        plan = plan_search(
            name=name,
            dataset="nusc",
            source=find_data("nusc", str(self.dataroot), None, str(self.storage)),
            synthetic=False,
            model="bevfusion-mit-toy",
            checkpoint=str(self.checkpoint),
            space=SearchSpace(),
            objective="map",
            sparsity=0.85,
            trials=8,
            seed=0,
            workers=1,
            gpus_per_worker=0,
        )
        plan.save()


Make = Callable[[Bench], list[str]]
CASES: dict[str, tuple[Make, str, tuple[str, ...]]] = {}
"""What is wrong: how to make it so (returns the command line), the line's pattern, what may be left in storage."""
PLANNED = ("checkpoints", "searches")
TRACKED = ("checkpoints", "mlflow.db")


def case(what: str, pattern: str, left: tuple[str, ...] = ()) -> Callable[[Make], None]:
    def add(make: Make) -> None:
        assert what not in CASES
        CASES[what] = (make, pattern, left)

    return add


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
for _what, _options, _pattern in OPTIONS:
    _left = ("checkpoints",) if "--tracking-uri" in _options else ()
    case(_what, _pattern, _left)(lambda bench, given=_options: bench.search(*given.split()))


# --- the data set -----------------------------------------------------------------------------------------------------


@case("missing table", r"v1.0-trainval lacks ego_pose.json; copy all 13 tables of nuScenes there$")
def _(bench: Bench) -> list[str]:
    (bench.dataroot / VERSION / "ego_pose.json").unlink()
    return bench.search()


@case("table cut in the middle", r"sample_data.json is not valid JSON \(.*\); copy the tables again$")
def _(bench: Bench) -> list[str]:
    file = bench.dataroot / VERSION / "sample_data.json"
    os.truncate(file, file.stat().st_size // 2)
    return bench.index()


@case("tables of two data sets", r"do not fit together: no record or field '.*'; copy the tables again$")
def _(bench: Bench) -> list[str]:
    bench.edit("ego_pose", lambda records: records.clear())
    return bench.index()


@case("table with other values", r"hold values that nuScenes does not \(.*\); copy the tables again$")
def _(bench: Bench) -> list[str]:
    bench.edit("ego_pose", lambda records: [record.update(translation="north") for record in records])
    return bench.index()


@case("file name that leaves the dataroot", r"name '../../etc/passwd' leaves its folder .*; use names", ("index",))
def _(bench: Bench) -> list[str]:
    bench.edit("sample_data", lambda records: [record.update(filename="../../etc/passwd") for record in records])
    return bench.index()


@case(
    "truncated LiDAR file",
    r"file .*pcd.bin has \d+ bytes, no whole number of 20-byte points",
    (*TRACKED, "index"),
)
def _(bench: Bench) -> list[str]:
    file = bench.first("samples/LIDAR_TOP/*")
    os.truncate(file, file.stat().st_size - 7)
    return bench.search()


@case("missing picture", r"lacks 1 of the \d+ pictures and LiDAR files .* samples/CAM_BACK/.*jpg for one;", ("index",))
def _(bench: Bench) -> list[str]:
    bench.first("samples/CAM_BACK/*").unlink()
    return bench.index()


@case("empty picture", r"picture .*jpg is empty; copy it from nuScenes again$", ("index",))
def _(bench: Bench) -> list[str]:
    os.truncate(bench.first("samples/CAM_BACK/*"), 0)
    return bench.index()


@case(
    "no validation scenes",
    r"has no keyframe of split 'val'; it has: other, train; choose a",
    (*TRACKED, "index"),
)
def _(bench: Bench) -> list[str]:
    bench.edit("scene", lambda scenes: [scene.update(name="scene-9999") for scene in scenes[-2:]])
    return bench.search()


@case("unknown data set", r"unknown data set 'waymo'; choose nusc$")
def _(bench: Bench) -> list[str]:
    return ["search", "waymo", *bench.stored()]


@case("version without a dataroot", r"the synthetic nuScenes has no version 'v1.0-mini'; give --dataroot or leave it")
def _(bench: Bench) -> list[str]:
    return ["search", "nusc", *bench.stored("--version", "v1.0-mini")]


# --- the checkpoint ---------------------------------------------------------------------------------------------------


class Payload:
    """Runs a command where it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@case("no checkpoint for one's own data", r"no weights for bevfusion-mit: give --checkpoint FILE .*, or train one with")
def _(bench: Bench) -> list[str]:
    return ["search", "nusc", *bench.stored("--dataroot", str(bench.dataroot))]


@case("checkpoint with missing tensors", r"does not fit the model: no encoders\S+; no .* and \d+ more; check")
def _(bench: Bench) -> list[str]:
    kept = {name: tensor for name, tensor in load_file(bench.checkpoint).items() if "encoders" not in name}
    save_file(kept, bench.folder / "fewer.safetensors", metadata=read_header(bench.checkpoint.read_bytes()))
    return bench.search("--checkpoint", f"{bench.folder}/fewer.safetensors")


@case("truncated checkpoint", r"cut.safetensors is no safetensors file or is damaged \(.*\); give a checkpoint that")
def _(bench: Bench) -> list[str]:
    return bench.search("--checkpoint", bench.file("cut.safetensors", bench.checkpoint.read_bytes()[:-1000]))


@case("truncated .pth", r"cut.pth is no checkpoint, or a damaged one; copy it again, or give another file$")
def _(bench: Bench) -> list[str]:
    torch.save({"state_dict": {"weight": torch.zeros(1000)}}, bench.folder / "whole.pth")
    return bench.search("--checkpoint", bench.file("cut.pth", (bench.folder / "whole.pth").read_bytes()[:-1000]))


@case("pickle instead of weights", r"is a pickle that holds more than weights \(posix.system\), which is not")
def _(bench: Bench) -> list[str]:
    return bench.search("--checkpoint", bench.file("model.pth", pickle.dumps(Payload(f"touch {bench.folder}/harm"), 2)))


@case("pickle of Python's own", r"model.pkl is a pickle that torch.save did not write, which is not read for safety;")
def _(bench: Bench) -> list[str]:
    return bench.search("--checkpoint", bench.file("model.pkl", pickle.dumps(Payload(f"touch {bench.folder}/harm"))))


@case("weights of something else", r"other.pth holds no BEVFusion weights \(its tensors: weight\); give a checkpoint")
def _(bench: Bench) -> list[str]:
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, bench.folder / "other.pth")
    return bench.search("--checkpoint", f"{bench.folder}/other.pth")


# --- the search space -------------------------------------------------------------------------------------------------

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
for _what, _text, _pattern in SPACES:
    _text = f"from altermoma_ray.engine.space import PruningSetting, SearchSpace\n{_text}\n"
    case(_what, rf"search space .*mine.py{_pattern}")(
        lambda bench, text=_text: bench.search("--space", bench.file("mine.py", text))
    )


# --- where results go, and searches that were begun -------------------------------------------------------------------


def begun(bench: Bench) -> None:
    """Leave a search named first in MLflow."""
    tracker = Tracker.open(None, Location.parse(bench.storage))
    tracker.start_search("first", dataset="nuscenes", model="bevfusion-mit-toy", params={})


@case(
    "tracking server that does not answer", r"server http://127.0.0.1:\d+ does not answer; start it", ("checkpoints",)
)
def _(bench: Bench) -> list[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # a port that nobody listens on
        return bench.search("--tracking-uri", f"http://127.0.0.1:{probe.getsockname()[1]}")


@case("storage below a file", r"cannot write to folder .*file/storage: Not a directory; choose a folder that you may")
def _(bench: Bench) -> list[str]:
    return bench.search("--storage", bench.file("file") + "/storage")


@case("name already taken", r"search 'first' is already in .*storage; --resume it or choose another --name$", PLANNED)
def _(bench: Bench) -> list[str]:
    bench.plan("first")
    return bench.search("--name", "first")


@case("name already taken in MLflow", r"search 'first' is already in sqlite:.*; --resume it or choose another", TRACKED)
def _(bench: Bench) -> list[str]:
    begun(bench)
    return bench.search("--name", "first")


@case("nothing to resume", r"no search to resume in .*storage; start one without --resume$")
def _(bench: Bench) -> list[str]:
    return ["search", "nusc", *bench.stored("--resume")]


@case("unknown search to resume", r"no search 'second' to resume in .*storage; choose one of: first$", PLANNED)
def _(bench: Bench) -> list[str]:
    bench.plan("first")
    return ["search", "nusc", *bench.stored("--resume", "--name", "second")]


@case("resumed with another option", r"'first' was started with another --trials 8; to --resume it leave", PLANNED)
def _(bench: Bench) -> list[str]:
    bench.plan("first")
    return bench.search("--resume", "--sparsity", "0.85", "--trials", "16")


@case("broken plan of a search", r"search.json is broken or of another release; start the search again", PLANNED)
def _(bench: Bench) -> list[str]:
    bench.plan("first")
    os.truncate(bench.storage / "searches" / "first" / "search.json", 200)
    return ["search", "nusc", *bench.stored("--resume")]


# --- the other commands -----------------------------------------------------------------------------------------------


@case("leaderboard of nothing", r"no MLflow store at .*mlflow.db; name the storage folder or tracking URI that the")
def _(bench: Bench) -> list[str]:
    return ["leaderboard", *bench.stored()]


@case("leaderboard of an unknown search", r"no search 'second' in sqlite:.*mlflow.db; known: first$", ("mlflow.db",))
def _(bench: Bench) -> list[str]:
    begun(bench)
    return ["leaderboard", "second", *bench.stored()]


@case("trained checkpoint where none can be", r"cannot write to folder /proc/a: No such file or directory; choose a fo")
def _(bench: Bench) -> list[str]:
    return ["train", "nusc", *bench.stored("--out", "/proc/a/model.safetensors")]


@case("no synthetic scenes", r"scenes must be in 1..850, but got 0$")
def _(bench: Bench) -> list[str]:
    return ["data.synthetic", "--out", str(bench.storage), "--scenes", "0"]


# --- the tests --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_checkpoint(Location.parse(file), FusionModel(configuration("bevfusion-mit-toy")), {})
    return file


@pytest.fixture
def bench(synthetic_root: Path, good_checkpoint: Path, tmp_path: Path) -> Bench:
    shutil.copytree(synthetic_root, tmp_path / "nuscenes")
    return Bench(tmp_path, tmp_path / "nuscenes", good_checkpoint)


@pytest.fixture
def complaint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """Runs a command that must fail, and gives its one line."""

    def run(line: list[str]) -> str:
        command, *arguments = line
        monkeypatch.setattr(sys, "argv", [command, *arguments])
        module = "data.synthetic.__main__" if command == "data.synthetic" else command
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.run(importlib.import_module(f"altermoma_ray.{module}").main)
        printed = capsys.readouterr()
        assert stop.value.code == 2, printed.err
        assert printed.out == ""
        assert "Traceback" not in printed.err
        lines = printed.err.splitlines()
        assert [text for text in lines if text.startswith("error: ")] == lines[-1:]
        return lines[-1]

    return run


def test_the_documented_lines_are_these():
    text = (Path(__file__).parents[1] / "docs" / "errors.md").read_text()
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split(" | ")] for line in text.splitlines() if "error:" in line
    ]
    documented = {what: line for what, _, line in rows}
    for what, (_, pattern, _) in CASES.items():
        assert re.search(pattern, documented[what]), what


@pytest.mark.parametrize("what", CASES)
def test_bad_input_is_one_line_before_anything_costly_begins(what, bench, complaint):
    make, pattern, left = CASES[what]
    line = make(bench)
    before = time.monotonic()
    found = complaint(line)
    assert re.search(pattern, found), found
    assert time.monotonic() - before < 30
    assert not ray.is_initialized()
    assert not (bench.folder / "harm").exists()
    if bench.storage.exists():
        assert {file.name for file in bench.storage.iterdir()} <= set(left)
        assert not list(bench.storage.rglob(".*"))


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


def test_a_broken_picture_is_one_line_out_of_a_loading_process_too(bench):
    picture = bench.first("samples/CAM_FRONT/*")
    os.truncate(picture, picture.stat().st_size // 2)
    index = find_data("nusc", str(bench.dataroot), None, str(bench.storage)).index()
    dataset = NuScenesDataset(index, [0], configuration("bevfusion-mit-toy").inputs, augment=False)
    with pytest.raises(UserError, match=r"^picture .*jpg is broken \(.*\); copy it from nuScenes again$"):
        list(load_batches(dataset, [[0]], processes=1))


@pytest.mark.parametrize(
    ("split", "scored"),
    [(0, False), (-1, True)],
    ids=["while scoring", "in a trial"],
)
@pytest.mark.slow
def test_a_broken_picture_ends_the_search_from_inside_ray(split, scored, bench, complaint):
    """A picture of a training scene is met by a Ray Train worker, one of a validation scene by a Tune trial."""
    picture = sorted(bench.dataroot.glob("samples/CAM_FRONT/*"))[split]
    os.truncate(picture, picture.stat().st_size // 2)
    small = "SearchSpace(scoring_batches=1, reactivation_steps=(1,), reactivation_learning_rates=(1e-4,), rungs=())"
    space = bench.file("small.py", f"from altermoma_ray.engine.space import SearchSpace\nSPACE = {small}\n")
    line = bench.search("--space", space, "--trials", "3", "--name", "first")
    found = complaint(line)
    assert re.search(rf"picture .*{picture.name[-20:]} is broken \(.*\); copy it from nuScenes again$", found), found
    assert bool(list(bench.storage.glob("indicators/*/reri*"))) == scored
    assert not list(bench.storage.glob("searches/first/trials/*/result.json"))  # so that --resume runs every trial

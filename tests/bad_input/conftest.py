"""Good inputs for a test to break, and what a command must then say: one line, exit code 2, nothing half-written."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from altermoma_ray import cli
from altermoma_ray.engine.search.plan import SearchPlan
from altermoma_ray.leaderboard import EARLIER as FIGURES
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.checkpoint import save_checkpoint
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.tracker import Tracker
from tests.plans import toy_plan


@dataclass
class Bench:
    """Good inputs in a folder of their own, for one test to break."""

    folder: Path
    dataroot: Path
    checkpoint: Path
    version: str = "v1.0-trainval"

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
        file = self.dataroot / self.version / f"{table}.json"
        records = json.loads(file.read_text())
        change(records)
        file.write_text(json.dumps(records))

    def plan(self, name: str, tracking_uri: str | None = None, **options: Any) -> SearchPlan:
        """Leave a search of that name behind, planned and not begun; ``options`` are fields of its request."""
        fields = {"name": name, "checkpoint": self.checkpoint, "sparsity": 0.85, "tracking_uri": tracking_uri}
        plan = toy_plan(self.storage, self.dataroot, **fields, **options)
        plan.save()
        return plan

    def begin(self) -> None:
        """Leave a search named first in MLflow."""
        tracker = Tracker.open(None, Location.parse(self.storage))
        tracker.start_search("first", dataset="nuscenes", model="bevfusion-mit-toy", figures=FIGURES, params={})

    def change_database(self, statement: str) -> None:
        with contextlib.closing(sqlite3.connect(self.storage / "mlflow.db")) as connection, connection:
            connection.execute(statement)


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def documented() -> dict[str, str]:
    """The lines in docs/errors.md, by what is wrong."""
    text = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split(" | ")] for line in text.splitlines() if "error:" in line
    ]
    return {what: line for what, _, line in rows}


@pytest.fixture
def check(
    bench: Bench, complaint: Callable[[list[str]], str], documented: dict[str, str]
) -> Callable[[str, list[str], str, tuple[str, ...]], None]:
    """Runs a command on a bad input: it must say so in the documented line before anything costly begins."""

    def run(what: str, line: list[str], pattern: str, left: tuple[str, ...] = ()) -> None:
        """``left`` may be in the storage folder afterwards, and nothing else."""
        assert re.search(pattern, documented[what]), documented[what]
        before = time.monotonic()
        found = complaint(line)
        assert re.search(pattern, found), found
        assert time.monotonic() - before < 30
        assert not ray.is_initialized()
        assert not (bench.folder / "harm").exists()
        if bench.storage.exists():
            assert {file.name for file in bench.storage.iterdir()} <= set(left)
            assert not list(bench.storage.rglob(".*"))

    return run

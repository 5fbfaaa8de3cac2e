"""Data sets that tests share."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from altermoma_ray import cli


@pytest.fixture(scope="session")
def real_nuscenes() -> Path:
    """The folder of one real nuScenes keyframe (version ``v1.0-mini``)."""
    folder = os.environ.get("ALTERMOMA_NUSCENES", "")
    if not folder:
        pytest.skip("ALTERMOMA_NUSCENES is not set: it names the folder of one real nuScenes keyframe")
    if not Path(folder).is_dir():
        pytest.skip(f"ALTERMOMA_NUSCENES names {folder}, which is no folder")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic nuScenes (version ``v1.0-trainval``): five training scenes, one for validation."""
    from altermoma_ray.data.synthetic import generate

    folder = tmp_path_factory.mktemp("synthetic") / "nuscenes"
    generate(folder, scenes=6, seed=0, processes=1, progress=False)
    return folder


@pytest.fixture
def dataroot(synthetic_root: Path, tmp_path: Path) -> Path:
    """A data set of one test's own, to be spoilt."""
    return Path(shutil.copytree(synthetic_root, tmp_path / "nuscenes"))


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Runs a command that must fail with one line, and gives all that it printed."""

    def run(command: str, *arguments: object) -> str:
        line = [command, *map(str, arguments), "--storage", str(tmp_path / "storage")]
        monkeypatch.setattr(sys, "argv", line[:-2] if "--storage" in line[:-2] else line)
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.run(importlib.import_module(f"altermoma_ray.{command}").main)
        printed = capsys.readouterr()
        assert stop.value.code == 2, printed.err
        assert "Traceback" not in printed.err
        assert printed.err.splitlines()[-1].startswith("error: ")
        return printed.out + printed.err

    return run

"""A search of a workload that nothing in the package knows, as users run it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SPACE = """
from altermoma_ray.engine.space import SearchSpace

SPACE = SearchSpace(
    scoring_batches=2, reactivation_steps=(2,), fine_tune_epochs=2.0, criteria=("altermoma", "snip"), rung_samples=8
)
"""


def command(module, *arguments):
    line = [sys.executable, "-m", f"altermoma_ray.{module}", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=600)


def figures(content):
    """What a trial found, without how long it took and where."""
    result = json.loads(content)
    return {name: result[name] for name in ("number", "params", "metrics", "history", "sparsity")}


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_foreign_workload_is_searched_to_its_end_and_resumed(workers, tmp_path, printed):
    """Its file is gone when the search is gone on with: what workers need of it lies in storage."""
    file = Path(shutil.copy(Path(__file__).with_name("two_branch.py"), tmp_path / "fusion.py"))
    (tmp_path / "space.py").write_text(SPACE)
    storage = ["--storage", tmp_path / "storage"]
    options = [
        "--space",
        tmp_path / "space.py",
        "--trials",
        3,
        "--objective",
        "error,error/without-radar",
        "--sparsity",
        0.4,
    ]
    done = command("search", f"{file}:WORKLOAD", *options, "--workers", workers, *storage)
    assert done.returncode == 0, done.stderr
    assert "the knee of the Pareto front of squared error and squared error without radar" in done.stderr
    rows = json.loads(printed("leaderboard", *storage, "--format", "json"))
    assert list(rows[0])[4:] == [
        *("error", "r", "error/without-radar", "sparsity", "sparsity_radar", "sparsity_audio", "sparsity_fusion"),
        *("params_left", "delta_error"),
    ]
    errors = [row["error"] for row in rows]
    assert errors == sorted(errors)
    assert all(row["error/without-radar"] != row["error"] for row in rows)

    folder = tmp_path / "storage" / "searches" / "fusion-1" / "trials"
    before = {number: (folder / f"{number:04d}" / "result.json").read_bytes() for number in range(3)}
    processes = {json.loads(content)["configuration"]["process"] for content in before.values()}
    if workers == 2 and (os.cpu_count() or 1) < 4:  # room for one group, whose workers stay
        assert len(processes) == 1

    file.unlink()
    (folder / "0002" / "result.json").unlink()
    again = command("search", "--resume", *storage)
    assert again.returncode == 0, again.stderr
    for number, content in before.items():
        assert figures((folder / f"{number:04d}" / "result.json").read_bytes()) == figures(content)

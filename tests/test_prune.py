"""The commands that prune without a search and measure what it gained, as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from altermoma_ray.workloads.nusc import SHIPPED


@pytest.mark.slow
def test_a_pruned_model_is_written_and_measured_beside_the_unpruned_one(synthetic_root, tmp_path):
    def run(command, *options):
        line = [sys.executable, "-m", f"altermoma_ray.{command}", "nusc", "--dataroot", synthetic_root]
        line += ["--model", "bevfusion-mit-toy", "--checkpoint", SHIPPED, "--storage", tmp_path / "storage", *options]
        return subprocess.run(list(map(str, line)), check=True, capture_output=True, text=True).stdout

    out = tmp_path / "pruned"
    assert run("prune", "--sparsity", 0.5, "--criterion", "snip", "--out", out).strip() == str(out)
    figures = json.loads((out / "figures.json").read_text())
    assert figures["granularity"] == "channel"
    assert figures["params"] < 0.55 * figures["unpruned_params"]
    assert figures["macs"] < figures["unpruned_macs"]
    assert {"map", "nds"} <= figures["metrics"].keys()
    shapes = json.loads((out / "shapes.json").read_text())
    assert all(before != after for before, after in shapes.values())
    measured = json.loads(run("benchmark", "--pruned", out, "--samples", 1, "--repeats", 2, "--format", "json"))
    assert {"ratio", "latency_ms", "unpruned_ms", "device", "threads"} <= measured.keys()
    assert measured["macs"] < measured["unpruned_macs"]


@pytest.mark.slow
def test_distillation_does_not_depend_on_the_number_of_workers(tmp_path):
    figures = {}
    for name, options in {"plain": [], "one": ["--distil", "1"], "two": ["--distil", "1", "--workers", "2"]}.items():
        line = ["examples/own_model.py:WORKLOAD", "--sparsity", "0.4", "--criterion", "snip", "--finetune", "2"]
        line += [*options, "--storage", str(tmp_path / name), "--out", str(tmp_path / name / "pruned")]
        done = subprocess.run([sys.executable, "-m", "altermoma_ray.prune", *line], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        figures[name] = json.loads((tmp_path / name / "pruned" / "figures.json").read_text())
    assert (figures["plain"]["distillation"], figures["one"]["distillation"]) == (0, 1)
    assert figures["two"]["metrics"] == pytest.approx(figures["one"]["metrics"], abs=1e-5)
    assert figures["plain"]["metrics"]["error"] != pytest.approx(figures["one"]["metrics"]["error"], abs=1e-4)


@pytest.mark.slow
def test_a_limit_is_answered_without_training_and_kept_with_it(synthetic_root, tmp_path):
    def run(*options):
        line = [sys.executable, "-m", "altermoma_ray.prune", "nusc", "--dataroot", synthetic_root]
        line += ["--model", "bevfusion-mit-toy", "--checkpoint", SHIPPED, "--storage", tmp_path / "storage"]
        line += ["--criterion", "snip", "--max-macs", "5e8", "--out", tmp_path / "pruned", *options]
        return subprocess.run(list(map(str, line)), check=True, capture_output=True, text=True)

    run("--dry-run")
    answered = json.loads((tmp_path / "pruned" / "budget.json").read_text())
    assert answered["macs"] <= 5e8 < answered["unpruned_macs"]
    assert not (tmp_path / "pruned" / "figures.json").exists()
    assert "0 computed, 1 from storage" in run().stderr
    figures = json.loads((tmp_path / "pruned" / "figures.json").read_text())
    assert figures["macs"] == answered["macs"]
    assert figures["widths"] == answered["widths"]
    assert figures["ratio"] > 0

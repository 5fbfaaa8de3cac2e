"""A whole search whose data and storage are in a bucket."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from altermoma_ray.workloads.nusc import SHIPPED

SPACE = """
from altermoma_ray.engine.space import SearchSpace

SPACE = SearchSpace(
    scoring_batches=1, reactivation_steps=(1,), reactivation_learning_rates=(1e-3,), fine_tune_epochs=1.0,
    iterative_rounds=2, pruning_phase=0.5, rungs=(), schedules=("one-shot",),
)
"""
TRIALS = 3


@pytest.mark.slow
def test_a_search_in_a_bucket_is_killed_and_resumed(s3, environment, dataroot, objects, tmp_path):
    """Data and storage are on S3. Nothing of the credentials is in what the search leaves behind."""
    (tmp_path / "space.py").write_text(SPACE)
    database = f"sqlite:///{tmp_path}/mlflow.db"
    common = ["--storage", str(s3), "--tracking-uri", database, "--name", "first"]
    options = ["--dataroot", dataroot, "--model", "bevfusion-mit-toy", "--checkpoint", str(SHIPPED)]
    options += ["--space", str(tmp_path / "space.py"), "--trials", str(TRIALS)]
    command = [sys.executable, "-m", "altermoma_ray.search", "nusc", *common]
    elsewhere = {**os.environ, **environment, "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def results() -> dict[str, bytes]:
        return {name: content for name, content in objects(s3).items() if name.endswith("/result.json")}

    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*command, *options], stderr=log, stdout=log, env=elsewhere, start_new_session=True)
    deadline = time.monotonic() + 1200
    try:
        while not results():
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.2)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    before = results()
    assert 0 < len(before) < TRIALS

    resumed = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=1200, env=elsewhere)
    assert resumed.returncode == 0, resumed.stderr
    after = results()
    assert len(after) == TRIALS
    assert before.items() <= after.items()
    board = [sys.executable, "-m", "altermoma_ray.leaderboard", "first", *common[:4], "--format", "json"]
    shown = subprocess.run(board, capture_output=True, text=True, timeout=300, env=elsewhere, check=True)
    assert sorted(row["trial"] for row in json.loads(shown.stdout)) == list(range(TRIALS))

    left = objects(s3)
    assert any(name.endswith("/model.safetensors") for name in left)
    left |= {file.name: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    left |= {"stderr": resumed.stderr.encode(), "stdout": resumed.stdout.encode()}
    secrets = [environment[name].encode() for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    assert not [name for name, content in left.items() if any(secret in content for secret in secrets)]

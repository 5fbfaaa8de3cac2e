"""Jobs go to a running head as users send them: its token, what a job prints, how it ends and is stopped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from jobs.definitions import DRIVER, runtime_env

SLOW_TO_STOP = """
import pathlib, signal, sys, time

def stop(number, frame):
    time.sleep(5)  # longer than the 3 seconds after which Ray kills by default
    pathlib.Path(sys.argv[1]).write_text(signal.Signals(number).name)
    sys.exit(0)

signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(600)
"""


def test_the_dashboard_wants_the_token(head, http_status):
    assert http_status(f"{head.address}/api/jobs/") == 401
    assert http_status(f"{head.address}/api/jobs/", Authorization=f"Bearer another{head.token}") == 403
    refused = head.submit("index", "--", "nusc", RAY_AUTH_TOKEN=f"another{head.token}")
    assert refused.returncode == 2
    assert "refuses the token; set RAY_AUTH_TOKEN" in refused.stderr
    assert head.token not in refused.stderr


def test_a_job_is_submitted_and_followed(head):
    done = head.submit("index", "--id", "help", "--", "--help")
    assert done.returncode == 0, done.stderr
    assert "usage: python -m altermoma_ray.index" in done.stdout
    assert "resource 'driver'" not in done.stderr
    assert f"ray job stop --address {head.address} help" in done.stderr
    assert done.stderr.rstrip().endswith("job help: succeeded")


def test_a_failed_jobs_line_and_code_arrive(head):
    done = head.submit("search", "--", "nusc", "--trials", "0")
    assert done.returncode == 1
    assert "--trials: must be a whole number above 0" in done.stdout


def test_stopping_a_job_leaves_it_time_to_end(head, tmp_path):
    """Ray sends SIGTERM, and kills only after the time that the runtime environment grants."""
    script, told = tmp_path / "driver.py", tmp_path / "told"
    script.write_text(SLOW_TO_STOP)
    ray = Path(sys.executable).with_name("ray")
    granted = {"env_vars": runtime_env()["env_vars"]}
    lines = f"""
import subprocess, time
from ray.job_submission import JobSubmissionClient
client = JobSubmissionClient({head.address!r})
name = client.submit_job(entrypoint="exec {sys.executable} {script} {told}", entrypoint_resources={dict(DRIVER)!r},
                         runtime_env={granted!r})
while "ready" not in client.get_job_logs(name):
    time.sleep(0.2)
subprocess.run([{str(ray)!r}, "job", "stop", "--address", {head.address!r}, name], check=True, capture_output=True)
print(client.get_job_status(name))
"""
    command = [sys.executable, "-c", lines]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=head.environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["STOPPED"]
    assert told.read_text() == "SIGTERM"

"""A real head with dashboard and token on loopback, as docs/cluster.md starts it; jobs go to it as users send them."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from jobs.definitions import CHECKOUT, DRIVER, runtime_env

TOKEN = "0123456789abcdef" * 4
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


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for probe in sockets:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in sockets]
    for probe in sockets:
        probe.close()
    return ports


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """Address of a running head's dashboard, and the environment of its users."""
    documented = re.search(r"^ray start --head .*$", (CHECKOUT / "docs" / "cluster.md").read_text(), re.MULTILINE)
    folder = tmp_path_factory.mktemp("head")
    server, dashboard, agent, client = free_ports(4)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "HOME": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    line = [*shlex.split(documented[0]), "--block", "--port", server, "--dashboard-port", dashboard, "--num-cpus", 1]
    line += ["--dashboard-agent-listen-port", agent, "--ray-client-server-port", client]
    line += ["--min-worker-port", 0, "--max-worker-port", 0, "--object-store-memory", 100_000_000]
    process = subprocess.Popen(
        list(map(str, line)),
        env=environment | {"ALTERMOMA_STORAGE": str(folder / "storage")},
        stdout=(folder / "log").open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        deadline = time.monotonic() + 300
        while status(f"{address}/api/jobs/", TOKEN) != 200:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.5)
        yield address, environment
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def status(address, token=None):
    """Status of one request; 0 when nothing answers."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=60) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def run(*command, environment):
    return subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, timeout=500, env=environment, cwd=CHECKOUT
    )


def test_the_dashboard_wants_the_token(head):
    address, environment = head
    assert status(f"{address}/api/jobs/") == 401
    assert status(f"{address}/api/jobs/", "another" + TOKEN) == 403
    refused = run(
        *("jobs.submit", "index", "--address", address, "--", "nusc"),
        environment=environment | {"RAY_AUTH_TOKEN": "another" + TOKEN},
    )
    assert refused.returncode == 2
    assert "refuses the token; set RAY_AUTH_TOKEN" in refused.stderr
    assert TOKEN not in refused.stderr


def test_a_job_is_submitted_and_followed(head):
    address, environment = head
    done = run("jobs.submit", "index", "--id", "help", "--address", address, "--", "--help", environment=environment)
    assert done.returncode == 0, done.stderr
    assert "usage: python -m altermoma_ray.index" in done.stdout
    assert "resource 'driver'" not in done.stderr
    assert f"ray job stop --address {address} help" in done.stderr
    assert done.stderr.rstrip().endswith("job help: succeeded")


def test_a_failed_jobs_line_and_code_arrive(head):
    address, environment = head
    done = run(*("jobs.submit", "search", "--address", address, "--", "nusc", "--trials", "0"), environment=environment)
    assert done.returncode == 1
    assert "--trials: must be a whole number above 0" in done.stdout


def test_stopping_a_job_leaves_it_time_to_end(head, tmp_path):
    """Ray sends SIGTERM, and kills only after the time that the runtime environment grants."""
    address, environment = head
    script, told = tmp_path / "driver.py", tmp_path / "told"
    script.write_text(SLOW_TO_STOP)
    ray = Path(sys.executable).with_name("ray")
    granted = {"env_vars": runtime_env()["env_vars"]}
    lines = f"""
import subprocess, time
from ray.job_submission import JobSubmissionClient
client = JobSubmissionClient({address!r})
name = client.submit_job(entrypoint="exec {sys.executable} {script} {told}", entrypoint_resources={dict(DRIVER)!r},
                         runtime_env={granted!r})
while "ready" not in client.get_job_logs(name):
    time.sleep(0.2)
subprocess.run([{str(ray)!r}, "job", "stop", "--address", {address!r}, name], check=True, capture_output=True)
print(client.get_job_status(name))
"""
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["STOPPED"]
    assert told.read_text() == "SIGTERM"

"""The MLflow server as ``cluster.mlflow.start`` starts it: a real one, on loopback, with authentication."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location
from altermoma_ray.tracking.store import open_store
from cluster.mlflow.start import check_password

ROOT = Path(__file__).parents[2]
PASSWORD = "0f9c1fa0e6a24b17aa"
SEARCH = "/api/2.0/mlflow/experiments/search"
HOSTS = "mlflow,mlflow:5000,localhost:*,127.0.0.1:*"  # as in cluster/mlflow/kubernetes.yaml


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A running server: its address, its data folder, its log."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "log"
    arguments = ["--data", folder / "data", "--port", port, "--workers", 1, "--allowed-hosts", HOSTS]
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "cluster.mlflow.start", *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | {"MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            if process.poll() is not None or answer(f"{address}/health") == 200:
                break
            time.sleep(0.5)
        assert process.poll() is None, log.read_text()
        yield address, folder / "data", log
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def credentials(monkeypatch):
    def use(user, password):
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)

    return use


def answer(address, *, body=None, **headers):
    """Status of one request; 0 when nothing answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.mark.parametrize(
    ("password", "complaint"),
    [
        (None, "has no password"),
        ("", "has no password"),
        ("short", "fewer than 12"),
        ("password1234", "common default"),
        ("ChangeMe-please", "common default"),
    ],
)
def test_weak_passwords_are_refused(password, complaint):
    environment = {} if password is None else {"MLFLOW_AUTH_ADMIN_PASSWORD": password}
    with pytest.raises(UserError, match=complaint) as refused:
        check_password(environment)
    assert "openssl rand" in str(refused.value)


def test_nothing_without_credentials(server):
    address, _, _ = server
    assert answer(address + SEARCH, body={"max_results": 1}) == 401
    assert answer(f"{address}/") == 401
    assert answer(f"{address}/api/2.0/mlflow-artifacts/artifacts") == 401
    assert answer(address + SEARCH, body={"max_results": 1}, Authorization="Basic YWRtaW46cGFzc3dvcmQxMjM0") == 401


def test_other_names_for_the_server_are_refused(server):
    address, _, _ = server
    assert answer(address + SEARCH, body={"max_results": 1}, Host="evil.example") == 403
    assert answer(address + SEARCH, body={"max_results": 1}, Host="mlflow:5000") == 401  # known, and then asks who
    assert answer(f"{address}/health", Host="localhost") == 200


def test_it_listens_on_loopback_alone(server):
    address, _, _ = server
    port = int(address.rsplit(":", 1)[1])
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if line.split()[3] == "0A"]
    assert [place.split(":")[0] for place in listening if int(place.split(":")[1], 16) == port] == ["0100007F"]


def test_the_search_is_told_what_to_set(server, credentials, tmp_path):
    address, _, _ = server
    credentials("admin", "not the password")
    with pytest.raises(UserError, match=r"refuses access \(401\).*MLFLOW_TRACKING_PASSWORD"):
        open_store(address, Location.parse(tmp_path), create=True)


def test_a_user_logs_runs_and_artifacts_through_it(server, credentials, tmp_path):
    from mlflow.server import get_app_client

    address, data, _ = server
    credentials("admin", PASSWORD)
    get_app_client("basic-auth", tracking_uri=address).create_user("ray", "a password for Ray's nodes")
    credentials("ray", "a password for Ray's nodes")
    client = open_store(address, Location.parse(tmp_path), create=True).client
    experiment = client.create_experiment("altermoma-nusc-toy")
    run = client.create_run(experiment).info.run_id
    client.log_metric(run, "map", 0.5)
    client.log_text(run, "what a trial left", "result.json")
    assert client.get_run(run).data.metrics == {"map": 0.5}
    kept = client.download_artifacts(run, "result.json", str(tmp_path))
    assert Path(kept).read_text() == "what a trial left"
    assert client.get_run(run).info.artifact_uri.startswith("mlflow-artifacts:")
    assert [file.read_text() for file in data.rglob("result.json")] == ["what a trial left"]


def test_its_files_are_private_and_its_log_holds_no_password(server):
    _, data, log = server
    assert data.stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in data.iterdir())
    assert PASSWORD not in log.read_text()
    assert PASSWORD not in (data / "users.ini").read_text()

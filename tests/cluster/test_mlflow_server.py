"""The MLflow server as ``cluster.mlflow.start`` starts it: a real one, on loopback, with authentication."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.store import open_store
from cluster.mlflow.start import check_password

SEARCH = "/api/2.0/mlflow/experiments/search"


@pytest.fixture
def credentials(monkeypatch):
    def use(user):
        for name, value in user.items():
            monkeypatch.setenv(name, value)

    return use


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


def test_nothing_without_credentials(mlflow_server, http_status):
    address = mlflow_server.address
    assert http_status(address + SEARCH, body={"max_results": 1}) == 401
    assert http_status(f"{address}/") == 401
    assert http_status(f"{address}/api/2.0/mlflow-artifacts/artifacts") == 401
    default = "Basic YWRtaW46cGFzc3dvcmQxMjM0"  # what used to be MLflow's own password
    assert http_status(address + SEARCH, body={"max_results": 1}, Authorization=default) == 401


def test_other_names_for_the_server_are_refused(mlflow_server, http_status):
    address = mlflow_server.address
    assert http_status(address + SEARCH, body={"max_results": 1}, Host="evil.example") == 403
    assert http_status(address + SEARCH, body={"max_results": 1}, Host="mlflow:5000") == 401  # known, then asks who
    assert http_status(f"{address}/health", Host="localhost") == 200


def test_it_listens_on_loopback_alone(mlflow_server):
    port = int(mlflow_server.address.rsplit(":", 1)[1])
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if line.split()[3] == "0A"]
    assert [place.split(":")[0] for place in listening if int(place.split(":")[1], 16) == port] == ["0100007F"]


def test_a_password_is_remembered_until_it_is_changed(mlflow_server, credentials, http_status):
    from mlflow.server import get_app_client

    def status(password):
        word = base64.b64encode(f"guest:{password}".encode()).decode()
        return http_status(mlflow_server.address + SEARCH, body={"max_results": 1}, Authorization=f"Basic {word}")

    credentials(mlflow_server.admin)
    admin = get_app_client("basic-auth", tracking_uri=mlflow_server.address)
    admin.create_user("guest", "4c1b7a90d2e83f65")
    assert [status("4c1b7a90d2e83f65"), status("4c1b7a90d2e83f65"), status("4c1b7a90d2e83f66")] == [200, 200, 401]
    admin.update_user_password("guest", "e07d53c8a9164fb2")
    assert [status("4c1b7a90d2e83f65"), status("e07d53c8a9164fb2")] == [401, 200]
    admin.delete_user("guest")
    assert status("e07d53c8a9164fb2") == 401


def test_the_search_is_told_what_to_set(mlflow_server, credentials, tmp_path):
    credentials(mlflow_server.admin | {"MLFLOW_TRACKING_PASSWORD": "not the password"})
    with pytest.raises(UserError, match=r"refuses access \(401\).*MLFLOW_TRACKING_PASSWORD"):
        open_store(mlflow_server.address, Location.parse(tmp_path), create=True)


def test_a_user_logs_runs_and_artifacts_through_it(mlflow_server, credentials, tmp_path):
    credentials(mlflow_server.user)
    client = open_store(mlflow_server.address, Location.parse(tmp_path), create=True).client
    experiment = client.create_experiment("altermoma-nusc-toy")
    run = client.create_run(experiment).info.run_id
    client.log_metric(run, "map", 0.5)
    client.log_text(run, "what a trial left", "left.txt")
    assert client.get_run(run).data.metrics == {"map": 0.5}
    kept = client.download_artifacts(run, "left.txt", str(tmp_path))
    assert Path(kept).read_text() == "what a trial left"
    assert client.get_run(run).info.artifact_uri.startswith("mlflow-artifacts:")
    assert [file.read_text() for file in mlflow_server.data.rglob("left.txt")] == ["what a trial left"]


def test_its_files_are_private_and_its_log_holds_no_password(mlflow_server):
    data = mlflow_server.data
    assert data.stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in data.iterdir())
    for user in (mlflow_server.admin, mlflow_server.user):
        assert user["MLFLOW_TRACKING_PASSWORD"] not in mlflow_server.log.read_text()
    assert mlflow_server.admin["MLFLOW_TRACKING_PASSWORD"] not in (data / "users.ini").read_text()

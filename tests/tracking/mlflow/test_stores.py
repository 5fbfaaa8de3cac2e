"""Stores that cannot be opened, and servers that are not there, die or refuse: told in one line, within seconds."""

from __future__ import annotations

import http.server
import socket
import threading
import time

import pytest
from mlflow import MlflowClient

from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.store import Store, TrackingError
from altermoma_ray.tracking.mlflow.tracker import Tracker
from altermoma_ray.tracking.result import TrialResult
from tests.processes import free_port


@pytest.fixture
def storage(tmp_path):
    return Location.parse(tmp_path / "storage")


def test_stores_that_cannot_be_opened(tmp_path):
    storage = Location.parse(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no MLflow store at .*nowhere/mlflow\.db; name the storage folder"):
        Tracker.open(None, storage, create=False)
    assert not storage.exists()
    with pytest.raises(UserError, match="is neither a server's http:// nor a database's"):
        Tracker.open("file:///tmp/mlruns", storage)
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match=r"cannot open database .*mlflow\.db: .*file is not a database"):
        Tracker.open(None, Location.parse(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*/file"):
        Tracker.open(None, Location.parse(tmp_path / "file"))


def test_a_server_that_is_not_there_is_told_in_seconds(storage):
    began = time.monotonic()
    uri = f"http://me:secret@127.0.0.1:{free_port()}"
    with pytest.raises(TrackingError, match=r"tracking server http://127\S+ does not answer; start it") as caught:
        Tracker.open(uri, storage)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        with pytest.raises(TrackingError, match="does not answer; start it or correct --tracking-uri"):
            Tracker.open(f"http://127.0.0.1:{deaf.getsockname()[1]}", storage)
    assert "secret" not in str(caught.value)
    assert time.monotonic() - began < 30
    assert not storage.exists()


def test_a_server_that_dies_is_told_in_seconds():
    uri, began = f"http://me:secret@127.0.0.1:{free_port()}", time.monotonic()
    tracker = Tracker(Store(client=MlflowClient(uri), uri=uri, artifacts=None))
    result = TrialResult(number=0, status="finished", metrics={"map": 0.5}, started=1, ended=2)
    with pytest.raises(TrackingError, match=r"tracking store http://127\S+: .*; see that it works") as caught:
        tracker.log_trial("parent", result, {})
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, r"refuses access \(401\); set MLFLOW_TRACKING_USERNAME"), (404, "answers 404, not as an MLflow server")],
)
def test_a_server_that_refuses(status, message, storage):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_error(status)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as refusing:
        threading.Thread(target=refusing.serve_forever, daemon=True).start()
        with pytest.raises(UserError, match=message):
            Tracker.open(f"http://127.0.0.1:{refusing.server_address[1]}", storage)
        refusing.shutdown()

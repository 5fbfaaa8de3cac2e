"""Data sets, servers and a small search that tests share."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from altermoma_ray import cli
from tests.processes import Server

ROOT = Path(__file__).parents[1]
TINY_SPACE = """
from altermoma_ray.engine.space import SearchSpace

SPACE = SearchSpace(
    scoring_batches=1, reactivation_steps=(1,), reactivation_learning_rates=(1e-3,), criteria=("altermoma",),
    scopes=("global",), schedules=("one-shot",), fine_tune_epochs=0.5, iterative_rounds=2, rungs=(),
)
"""


LONGEST = ("test_search.py", "test_scoring.py", "test_nodes.py", "test_search_job.py", "test_autoscaling.py")
LONGEST += ("test_workers.py", "test_submit.py", "test_synaptic_flow.py", "test_compare.py", "test_tracking.py")
"""Files that take longest; two processes that share the files begin with these, so that neither waits at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


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
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an MLflow store without searches: to copy it is quicker than to make its tables anew."""
    from altermoma_ray.storage import Location
    from altermoma_ray.tracking.mlflow.tracker import Tracker

    folder = tmp_path_factory.mktemp("empty")
    Tracker.open(None, Location.parse(folder))
    return folder


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


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command in this process, which is quicker than in one of its own, and gives its standard output."""

    def run(command: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [command, *map(str, arguments)])
        capsys.readouterr()
        cli.run(importlib.import_module(f"altermoma_ray.{command}").main)
        return capsys.readouterr().out

    return run


@pytest.fixture
def champion(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], object]]:
    """Loads the champion of a registered model from a store, by their addresses, as README.md says."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # which MLflow sets too

    def load(uri: str, name: str) -> object:
        mlflow.set_tracking_uri(uri)
        return mlflow.pytorch.load_model(f"models:/{name}@champion")

    yield load
    mlflow.set_tracking_uri("")


@pytest.fixture(scope="session")
def tiny_search(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments of a search that is as short as one can be: a small network of two branches, one batch to score on."""
    space = tmp_path_factory.mktemp("space") / "space.py"
    space.write_text(TINY_SPACE)
    return [f"{ROOT / 'tests' / 'workloads' / 'two_branch.py'}:WORKLOAD", "--space", str(space)]


@pytest.fixture(scope="session")
def free_ports() -> Callable[[int], list[int]]:
    """Gives ports on which nothing listens."""

    def find(count: int) -> list[int]:
        with contextlib.ExitStack() as stack:
            probes = [stack.enter_context(socket.socket()) for _ in range(count)]
            for probe in probes:
                probe.bind(("127.0.0.1", 0))
            return [probe.getsockname()[1] for probe in probes]

    return find


@pytest.fixture(scope="session")
def http_status() -> Callable[..., int]:
    """Gives the status of one request; 0 when nothing answers."""

    def ask(address: str, *, body: object = None, **headers: str) -> int:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(address, data, {"Content-Type": "application/json", **headers})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    return ask


@contextlib.contextmanager
def _ray_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as name:
        try:
            yield Path(name)
        finally:
            while running := _processes_in(name):
                for process in running:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                time.sleep(0.1)


def _processes_in(folder: str) -> list[int]:
    """Processes whose command line names something in a folder, or which have a file open there.

    Ray's agents replace their command lines.
    """
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            opened = (os.readlink(file) for file in (process / "fd").iterdir())
            if f"{folder}/".encode() in (process / "cmdline").read_bytes() or any(
                name.startswith(f"{folder}/") for name in opened
            ):
                found.append(int(process.name))
    return [process for process in found if process != os.getpid()]


@pytest.fixture(scope="session")
def ray_folder() -> Callable[[], contextlib.AbstractContextManager[Path]]:
    """Opens a folder for the sessions of a Ray of one's own; what still runs there in the end is killed.

    Its name is short: Ray's sockets lie in it, and the kernel takes paths of at most 107 characters.
    """
    return _ray_folder


@pytest.fixture(scope="session")
def _running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def tracking_server(_running_server: Server) -> Server:
    """A running MLflow server for everyone, which a test may kill; its searches are those of all tests."""
    _running_server.up()
    return _running_server


@dataclass(frozen=True, kw_only=True)
class MlflowServer:
    """A running MLflow server, as :mod:`cluster.mlflow.start` starts it."""

    address: str
    data: Path
    log: Path
    admin: dict[str, str]
    """Credentials as environment variables: the administrator's,"""
    user: dict[str, str]
    """and those of a user, as docs/cluster.md makes one for the cluster."""


@pytest.fixture(scope="session")
def mlflow_users() -> tuple[dict[str, str], dict[str, str]]:
    """Credentials of the MLflow server's administrator and of the cluster's user."""
    pairs = (("admin", "0f9c1fa0e6a24b17aa"), ("ray", "b56d0c27f0e64dd2"))
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    admin, user = (dict(zip(names, pair, strict=True)) for pair in pairs)
    return admin, user


@pytest.fixture(scope="session")
def mlflow_server(
    tmp_path_factory: pytest.TempPathFactory,
    mlflow_users: tuple[dict[str, str], dict[str, str]],
    free_ports: Callable[[int], list[int]],
    http_status: Callable[..., int],
) -> Iterator[MlflowServer]:
    """A real one on loopback, with authentication and the user ``ray``."""
    folder, [port], (admin, user) = tmp_path_factory.mktemp("mlflow"), free_ports(1), mlflow_users
    hosts = "mlflow,mlflow:5000,localhost:*,127.0.0.1:*"  # as in cluster/mlflow/kubernetes.yaml
    arguments = ["--data", folder / "data", "--port", port, "--workers", 1, "--allowed-hosts", hosts]
    server = MlflowServer(
        address=f"http://127.0.0.1:{port}", data=folder / "data", log=folder / "log", admin=admin, user=user
    )
    with server.log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "cluster.mlflow.start", *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | {"MLFLOW_AUTH_ADMIN_PASSWORD": admin["MLFLOW_TRACKING_PASSWORD"]},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        for _ in range(600):
            if process.poll() is not None or http_status(f"{server.address}/health") == 200:
                break
            time.sleep(0.5)
        assert process.poll() is None, server.log.read_text()
        with pytest.MonkeyPatch.context() as patch:
            from mlflow import set_tracking_uri
            from mlflow.server import get_app_client

            for name, value in {**admin, "MLFLOW_TRACKING_URI": server.address}.items():
                patch.setenv(name, value)
            set_tracking_uri(server.address)  # which another test may have set to something else
            get_app_client("basic-auth", tracking_uri=server.address).create_user(*user.values())
            set_tracking_uri("")
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

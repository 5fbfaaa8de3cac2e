"""One real head with dashboard and token on loopback, as docs/cluster.md starts it, for all tests of jobs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.definitions import CHECKOUT


@dataclass(frozen=True, kw_only=True)
class Head:
    """A running head."""

    address: str
    """Of its dashboard."""
    token: str
    environment: dict[str, str]
    """What its users' shells hold: the token, and nothing of MLflow."""
    sessions: Path
    """Where Ray keeps its logs, and those of jobs."""

    def submit(self, command: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """What ``python -m jobs.submit`` does in a shell that may hold more."""
        line = [sys.executable, "-m", "jobs.submit", command, "--address", self.address, *map(str, arguments)]
        return subprocess.run(
            line, capture_output=True, text=True, timeout=900, env=self.environment | environment, cwd=CHECKOUT
        )


@pytest.fixture(scope="module")
def head(
    tmp_path_factory: pytest.TempPathFactory,
    ray_folder: Callable[[], AbstractContextManager[Path]],
    mlflow_users: tuple[dict[str, str], dict[str, str]],
    free_ports: Callable[[int], list[int]],
    http_status: Callable[..., int],
) -> Iterator[Head]:
    """It holds two CPUs, and MLflow's credentials in its environment alone."""
    documented = re.search(r"^ray start --head .*$", (CHECKOUT / "docs" / "cluster.md").read_text(), re.MULTILINE)
    assert documented is not None
    folder = tmp_path_factory.mktemp("head")
    port, dashboard, agent, client = free_ports(4)
    token = "0123456789abcdef" * 4
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= {"HOME": str(folder), "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}"}
    line = [*shlex.split(documented[0]), "--block", "--port", port, "--dashboard-port", dashboard, "--num-cpus", 2]
    line += ["--dashboard-agent-listen-port", agent, "--ray-client-server-port", client]
    line += ["--min-worker-port", 0, "--max-worker-port", 0, "--object-store-memory", 100_000_000]
    address = f"http://127.0.0.1:{dashboard}"
    with ray_folder() as sessions, (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*map(str, line), "--temp-dir", str(sessions)],
            env=environment | mlflow_users[1] | {"ALTERMOMA_STORAGE": str(folder / "storage")},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline = time.monotonic() + 300
            while http_status(f"{address}/api/jobs/", Authorization=f"Bearer {token}") != 200:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.5)
            yield Head(address=address, token=token, environment=environment, sessions=sessions)
        finally:
            process.kill()
            process.wait()

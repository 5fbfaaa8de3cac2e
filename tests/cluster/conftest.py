"""Searches on clusters of several nodes, all of them on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Search = Callable[..., "subprocess.Popen[Any]"]


@pytest.fixture(scope="session")
def cluster_environment() -> dict[str, str]:
    """Environment of a cluster's processes and of its users, without what other tests or a user's shell set."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
    return environment | token | {"RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture
def search_on(cluster_environment: dict[str, str], tiny_search: list[str]) -> Search:
    """Starts a search on the cluster at an address; what it prints goes to ``log`` in the storage's folder."""

    def start(address: str, storage: Path, *options: object) -> subprocess.Popen[Any]:
        line = [sys.executable, "-m", "altermoma_ray.search", *tiny_search, "--storage", storage, *options]
        storage.mkdir(exist_ok=True)
        with (storage / "log").open("w") as log:
            return subprocess.Popen(
                list(map(str, line)), env=cluster_environment | {"RAY_ADDRESS": address}, stdout=log, stderr=log
            )

    return start

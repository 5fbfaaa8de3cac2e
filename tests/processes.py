"""Processes of a test's own that can be killed, an MLflow server among them.

Only processes that descend from these are ever touched, so that others of the machine go on undisturbed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
TOKEN = secrets.token_hex(32)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Group:
    """A process started in a session of its own, with all that ever descended from it."""

    def __init__(self, line: list[object], log: Path, environment: dict[str, str]) -> None:
        with log.open("a") as stream:
            self.process = subprocess.Popen(
                [str(part) for part in line],
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                cwd=ROOT,
                start_new_session=True,
            )
        self.log = log
        self._seen = {psutil.Process(self.process.pid)}

    def alive(self) -> list[psutil.Process]:
        """All its processes that run, also orphans that were seen before they became it."""
        everyone = list(psutil.process_iter(["ppid"]))
        count = 0
        while count != len(self._seen):
            count, parents = len(self._seen), {process.pid for process in self._seen if process.is_running()}
            self._seen |= {process for process in everyone if process.info["ppid"] in parents}
        return [process for process in self._seen if process.is_running() and _status(process) != psutil.STATUS_ZOMBIE]

    def find(self, *names: str) -> list[psutil.Process]:
        """Those whose title holds one of the names."""
        return [process for process in self.alive() if any(name in title_of(process) for name in names)]

    def kill(self) -> None:
        for process in self.alive():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()


def _status(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status()
    return psutil.STATUS_ZOMBIE


def title_of(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        line = process.cmdline() or [""]
        if "-m" in line:
            return line[line.index("-m") + 1]
        return line[0] if line[0].startswith("ray::") else Path(line[0]).name
    return ""


class Server:
    """An MLflow server for everyone, which comes back on the same port, database and artifacts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.group: Group | None = None
        self.hangs = False
        """Whether it takes requests without an answer."""
        self.up()

    def up(self) -> None:
        """Start it if it is down, and wait until it answers."""
        if self.group is None:
            self.start()
        assert self.group is not None
        wait_for(self.answers, self.group)

    def start(self) -> None:
        line = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", self.port, "--workers", 1]
        line += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        line += ["--artifacts-destination", self.folder / "artifacts"]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self.group = Group(line, self.folder / "mlflow.log", environment() | quiet)

    def kill(self) -> None:
        if self.group is not None:
            self.group.kill()
            self.group, self.hangs = None, False

    def hang(self) -> None:
        """Stop all its processes; the system still takes connections to its port."""
        self._each(psutil.Process.suspend)
        self.hangs = True

    def wake(self) -> None:
        """Let it go on after :meth:`hang`, if it was not killed since."""
        self._each(psutil.Process.resume)
        self.hangs = False

    def _each(self, action: Callable[[psutil.Process], None]) -> None:
        for process in self.group.alive() if self.group is not None else ():
            with contextlib.suppress(psutil.NoSuchProcess):
                action(process)

    def answers(self) -> bool:
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"{self.address}/health", timeout=2).status == 200
        return False


def environment() -> dict[str, str]:
    """This process's, without what would lead to another cluster or server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    return kept | {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}


def wait_for(ready: Callable[[], bool], group: Group, seconds: float = 180) -> None:
    """Wait until a process that was started is ready."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert group.process.poll() is None, group.log.read_text()
        assert time.monotonic() < deadline, group.log.read_text()
        time.sleep(0.2)

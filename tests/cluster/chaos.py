"""A search that meets faults at random, seeded moments, and the ledger of the faults.

Processes are killed, the disk with the storage is full for seconds, the MLflow server hangs.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import psutil

from tests.cluster.processes import Cluster
from tests.processes import ROOT, Group, Server, environment, title_of, wait_for

KINDS = ("trial", "scoring", "raylet", "driver", "mlflow")
"""Processes that are killed."""
FAULTS = ("storage", "hang")
"""Faults without a kill: writes to storage fail, and the MLflow server takes requests without an answer."""
TITLES = {
    "trial": ("TrialActor", "ResourceTrainable", "ImplicitFunc", "_evaluate_reference"),
    "scoring": ("RayTrainWorker", "TrainController"),
}
"""Parts of the titles that Ray gives to the processes of a kind."""
MOST = 2
"""Kills of one trial's process, or in the scoring of one driver: what dies a fourth time under one driver fails."""
MOST_OF_A_KIND = 5
"""Faults of one kind in one search."""
MOST_EARLY = 7
"""Faults in one search before a trial has finished, so that not all fall on its start."""


@dataclass
class Ledger:
    """Every fault, in order."""

    rows: list[dict[str, object]] = field(default_factory=list)

    def note(self, search: str, kind: str, pid: int, victim: str, doing: str) -> None:
        moment = datetime.now().strftime("%H:%M:%S.%f")[:-4]
        row = {"time": moment, "search": search, "kind": kind, "pid": pid, "victim": victim, "doing": doing}
        self.rows.append(row)
        print(*row.values(), sep=" | ", flush=True)

    def counts(self, search: str | None = None) -> Counter[str]:
        """Faults by kind, of one search or of all."""
        return Counter(row["kind"] for row in self.rows if search in (None, row["search"]))

    def table(self) -> str:
        names = ("time", "search", "kind", "pid", "victim", "doing")
        lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
        return "\n".join([*lines, *(f"| {' | '.join(str(row[name]) for name in names)} |" for row in self.rows)])


class Disk:
    """A small disk in memory, mounted on a new folder; while it is full, every write to it fails."""

    def __init__(self, folder: Path, *, megabytes: int = 1000) -> None:
        folder.mkdir()
        line = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            folder.rmdir()
            raise OSError(f"cannot mount a disk on {folder}: {done.stderr.strip()}")
        self.folder, self._ballast = folder, folder / "ballast"

    @property
    def full(self) -> bool:
        return self._ballast.exists()

    def fill(self) -> None:
        free = os.statvfs(self.folder)
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)

    def free(self) -> None:
        self._ballast.unlink()

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


class Search:
    """One search: its driver, started again whenever it dies, and what its storage showed while it ran.

    Args:
        name: of the search; its storage is a disk of its own, mounted on a folder of that name.
        options: of the command ``search``.
        workers: of each trial.
        folder: for the storage and the drivers' logs.
        cluster: on which it runs.
        server: MLflow's.
    """

    def __init__(
        self, name: str, options: list[object], workers: int, folder: Path, cluster: Cluster, server: Server
    ) -> None:
        self.name, self.workers, self.storage = name, workers, folder / name
        self.disk = Disk(self.storage)
        options = [*options, "--workers", workers]
        self._where = ["--storage", self.storage, "--tracking-uri", server.address]
        self._line = [sys.executable, "-m", "altermoma_ray.search", *options, "--name", name, *self._where]
        self._environment = environment() | {"RAY_ADDRESS": cluster.address}
        self._server = server
        self.trials = int(options[options.index("--trials") + 1])
        self.folder = self.storage / "searches" / name
        self.driver: Group | None = None
        self.starts = 0
        self.seen: dict[int, bytes] = {}
        """Content of every result of a finished trial when it was first seen."""
        self.changed: list[str] = []
        """Finished trials whose result was lost or written anew."""
        self.surprises: list[str] = []
        """How drivers ended that nobody killed, beside success, MLflow being away and a full disk."""
        self.synced = 0
        """How often ``leaderboard --sync`` brought in what MLflow had missed."""
        self._missed = False

    @property
    def log(self) -> Path:
        return self.storage.with_name(f"{self.name}.{self.starts}.log")

    @property
    def planned(self) -> bool:
        return (self.folder / "search.json").exists()

    @property
    def scoring(self) -> bool:
        """Whether the driver waits for scoring workers; Ray keeps their controller until the driver ends."""
        return bool(re.search(r"^scoring ", self._told(), re.MULTILINE)) and " computed, " not in self._told()

    def _told(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def start(self) -> None:
        """Start the driver; what it could not log for want of a server is brought in first, if there is one again."""
        if self._missed and self._server.answers():
            self._missed = False
            done = self.command("leaderboard", self.name, "--sync")
            self.synced += done.returncode == 0
            if done.returncode not in (0, 2):  # 2: it had not begun to log
                self.surprises.append(f"{self.name}, sync: {done.stderr[-300:]}")
        self.starts += 1
        self.driver = Group([*self._line, "--resume-or-start"], self.log, self._environment)

    def watch(self) -> None:
        """Look at storage: a finished trial's result must stay as it was first seen."""
        for number in range(self.trials):
            file = self.folder / "trials" / f"{number:04d}" / "result.json"
            content = file.read_bytes() if file.exists() else b""
            if number in self.seen:
                if content != self.seen[number]:
                    self.changed.append(f"trial {number} of {self.name}: {'rewritten' if content else 'gone'}")
                    self.seen[number] = content
            elif content and json.loads(content)["status"] == "finished":
                self.seen[number] = content

    def results(self) -> dict[int, dict]:
        files = sorted((self.folder / "trials").glob("*/result.json"))
        return {int(file.parent.name): json.loads(file.read_bytes()) for file in files}

    def doing(self) -> str:
        """What the driver last said, and how far the search is."""
        lines = self._told().splitlines()
        told = [line.strip() for line in lines if re.match(r"\s*(data|scoring|trials?|champion|MLflow)\b", line)]
        stage = told[-1].split(" | ")[0][:50] if told else "starting"
        return f"start {self.starts}, {len(self.seen)} finished; {stage}"

    def ended(self) -> str | None:
        """Why the driver is gone.

        ``done``, ``killed``, ``mlflow`` (code 2, for want of the server), ``storage`` (code 2, for want of room on its
        disk), or ``other``.
        """
        code = self.driver.process.poll() if self.driver is not None else None
        if code is None:
            return None
        lines = self._told().splitlines()
        self.driver = None
        if code in (0, -signal.SIGKILL):
            return "killed" if code else "done"
        if code == 2 and any(line.startswith("error: tracking ") for line in lines[-10:]):
            self._missed = self.planned
            return "mlflow"
        if code == 2 and any(re.match("error: .*No space left on device", line) for line in lines[-10:]):
            return "storage"
        self.surprises.append(f"{self.name}, start {self.starts}: code {code}: {' '.join(lines[-1:])[:300]}")
        return "other"

    def command(self, module: str, *options: object) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", f"altermoma_ray.{module}", *map(str, options), *map(str, self._where)]
        return subprocess.run(line, capture_output=True, text=True, timeout=300, env=self._environment, cwd=ROOT)

    def leaderboard(self) -> list[dict]:
        done = self.command("leaderboard", self.name, "--format", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


class Chaos:
    """Runs searches amid faults.

    Args:
        cluster: whose processes are killed.
        server: MLflow's.
        seed: of moments and victims.
        gap: least and most seconds between two faults, times the workers of a trial, which start more slowly.
        each: faults in one search, after which it may end in peace.
    """

    def __init__(
        self, cluster: Cluster, server: Server, *, seed: int, gap: tuple[float, float] = (3, 12), each: int = 28
    ) -> None:
        self._cluster, self._server = cluster, server
        self._random, self._gap, self._each = random.Random(seed), gap, each
        self.ledger = Ledger()

    def run(self, search: Search, *, disturb: bool = True, seconds: float = 1800) -> None:
        """Run a search to its end."""
        self._killed: Counter[str] = Counter()
        self._due: list[tuple[float, str]] = [(0, "driver")]
        try:
            self._run(search, self._each if disturb else 0, time.monotonic() + seconds)
        finally:
            if search.driver is not None:
                search.driver.kill()

    def _run(self, search: Search, left: int, deadline: float) -> None:
        fault_at = time.monotonic() + self._pause(search)
        while True:
            assert time.monotonic() < deadline, f"{search.name} does not end: {search.log.read_text()[-3000:]}"
            search.watch()
            self._bring_back(search)
            ended = search.ended()
            if ended == "done":
                break
            if ended is not None:
                assert len(search.surprises) < 5, search.surprises
                self._later("driver")
            if left and time.monotonic() >= fault_at:
                left -= self._disturb(search)
                fault_at = time.monotonic() + self._pause(search)
            time.sleep(0.1)
        while self._due:
            self._bring_back(search)
            time.sleep(0.1)
        search.watch()
        wait_for(self._server.answers, self._server.group)

    def _pause(self, search: Search) -> float:
        return self._random.uniform(*self._gap) * search.workers

    def _later(self, what: str, most: float = 3.0) -> None:
        self._due.append((time.monotonic() + self._random.uniform(0, most), what))

    def _bring_back(self, search: Search) -> None:
        """Start again what was killed, and end other faults, when their time has come."""
        for when, what in list(self._due):
            if time.monotonic() < when:
                continue
            if what == "driver":
                # how wide a search is planned follows from the nodes at its first start
                if not search.planned and len(self._cluster.raylets()) < 2:
                    continue
                search.start()
                self._killed.pop("scoring", None)
            elif what == "mlflow":
                self._server.start()
            elif what == "hang":
                self._server.wake()
            elif what == "storage":
                search.disk.free()
            else:
                self._cluster.add_node()
            self._due.remove((when, what))

    def _disturb(self, search: Search) -> bool:
        """Cause a fault of a kind that has been rare so far; False when there is no victim."""
        victims = self._victims(search)
        if not victims:
            return False
        kinds, counts = sorted(victims), self.ledger.counts()
        kind = self._random.choices(kinds, [1 / (1 + counts[kind]) ** 2 for kind in kinds])[0]
        process, key = self._random.choice(victims[kind])
        title, doing = title_of(process), search.doing()
        node = self._cluster.raylets().get(process)
        if kind == "mlflow":
            self._server.kill()
            self._later("mlflow", 8.0)
        elif kind == "hang":
            self._server.hang()
            self._later("hang", 40.0)  # a request is given up after 30 seconds
        elif kind == "storage":
            search.disk.fill()
            self._later("storage", 6.0)
        else:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                return False
        if node is not None:
            self._cluster.lose(node)
            self._later("node", 5.0)
        self._killed[key] += 1
        self.ledger.note(search.name, kind, process.pid, title, f"{key} {self._killed[key]}; {doing}")
        return True

    def _victims(self, search: Search) -> dict[str, list[tuple[psutil.Process, str]]]:
        """Processes that may be hit now, by the kind of fault, each with the key that its kills are counted by."""
        workers = self._cluster.find(*TITLES["scoring"])
        scoring = workers if search.scoring else []
        trials = [(process, _trial_of(process)) for process in self._cluster.find(*TITLES["trial"])]
        if search.workers > 1 and not scoring and trials:  # one trial at a time has all workers
            trials += [(process, trials[0][1]) for process in workers]
        victims = {"trial": [(process, trial) for process, trial in trials if self._killed[trial] < MOST]}
        spared = bool(scoring) and self._killed["scoring"] >= MOST
        if not spared:
            victims["scoring"] = [(process, "scoring") for process in scoring]
        if search.planned and not spared:
            victims["raylet"] = [(process, "scoring" if scoring else "node") for process in self._cluster.raylets()]
        if search.driver is not None:
            victims["driver"] = [(psutil.Process(search.driver.process.pid), "driver")]
        if search.driver is not None and not search.disk.full:
            victims["storage"] = [(psutil.Process(search.driver.process.pid), "disk")]
        if self._server.group is not None:
            server = psutil.Process(self._server.group.process.pid)
            victims["mlflow"] = [(server, "server")]
            if not self._server.hangs:
                victims["hang"] = [(server, "server")]
        done = self.ledger.counts(search.name)
        if not search.seen and sum(done.values()) >= MOST_EARLY:
            return {}
        return {kind: found for kind, found in victims.items() if found and done[kind] < MOST_OF_A_KIND}


def _trial_of(process: psutil.Process) -> str:
    """Tune's name of the trial that an actor runs: its working directory."""
    with contextlib.suppress(psutil.Error):
        return f"trial {Path(process.cwd()).name}" if "reference" not in title_of(process) else "reference"
    return "gone"

"""What a search costs the process that drives it: many trials without work, on a simulated cluster of many nodes.

    python -m benchmarks.controller [--trials 1000] [--nodes 100]

The product's own path: proposals by Optuna with early stopping, Tune with reused actors, results in storage, and the
logbook, which logs them to a running ``mlflow server``. Only the trials are not real: each leaves at once a result of
a real one's size, and no model. What logging a model adds is measured apart, on the toy's.

A promoted trial runs in two segments, each of which Tune sees as a trial of its own. MLflow gets finished trials while
the search runs; trials that stay at their rung follow at its end, which is left out here. Times are the driver's CPU
time, as all nodes and the server share this machine; wall time is told beside it.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray import tune
from safetensors.torch import save as save_tensors

from altermoma_ray.cli import positive_int, run
from altermoma_ray.console import console
from altermoma_ray.data.nuscenes.source import synthetic_folder
from altermoma_ray.data.synthetic import generate_at
from altermoma_ray.engine.ray.workers import ray_session
from altermoma_ray.engine.search.logbook import Logbook
from altermoma_ray.engine.search.plan import SearchPlan
from altermoma_ray.engine.search.planning import SearchRequest, plan_search
from altermoma_ray.engine.search.run import tune_trials
from altermoma_ray.engine.search.searcher import ProposalSearcher
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.leaderboard import EARLIER as FIGURES
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.checkpoint import load_checkpoint
from altermoma_ray.pruning import Masks, group_weights, prunable_weights
from altermoma_ray.pruning.targets import Target
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.store import TrackingError
from altermoma_ray.tracking.mlflow.tracker import Tracker
from altermoma_ray.tracking.result import Evaluation, Histogram, TrialResult
from altermoma_ray.workloads.nusc import SHIPPED
from altermoma_ray.workloads.reference import find_workload
from benchmarks.no_work import NoWork
from benchmarks.report import RESULTS, publish
from benchmarks.report import Target as Figure
from benchmarks.simulated import simulated_cluster, stored_bytes

EVERY = 50
"""Segments after which the driver's memory is read again."""


class Server:
    """A running ``mlflow server``, and the requests that its access log tells of."""

    def __init__(self, uri: str, log: Path) -> None:
        self.uri, self._log, self._read = uri, log, 0

    def requests(self) -> Counter[str]:
        """API requests since the last call, by method and path."""
        time.sleep(1)  # the log's last lines
        lines = self._log.read_text().splitlines()
        new, self._read = lines[self._read :], len(lines)
        found = re.findall(r'"([A-Z]+ /api/\S+) HTTP', "\n".join(new))
        return Counter(re.sub(r"\?.*|(?<=artifacts)/.*", "", line) for line in found)


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[Server]:
    """Start a server on SQLite, as a user would, with artifacts through it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/runs.db", "--artifacts-destination", f"{folder}/artifacts"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    server = Server(f"http://127.0.0.1:{port}", folder / "log")
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                Tracker.open(server.uri, Location.parse(folder))
                break
            except TrackingError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        yield server
    finally:
        process.terminate()
        process.wait(30)


class Searcher(ProposalSearcher):
    """The product's, with a watch on its two calls and on the driver's memory."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.proposing = self.reading = 0.0
        self.asked = self.segments = 0
        self.memory: list[tuple[int, float]] = []
        self.proposed: list[float] = []
        self.ends: list[float] = []

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        began = time.thread_time()
        found = super().suggest(trial_id)
        self.proposing += time.thread_time() - began
        self.asked += 1
        return found

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        began = time.thread_time()
        super().on_trial_complete(trial_id, result, error)
        self.reading += time.thread_time() - began
        self.segments += 1
        self.ends.append(time.monotonic())
        if self.segments % EVERY == 0:
            self.memory.append((self.segments, own_memory()))
            self.proposed.append(round(self.proposing, 2))


class Records(Logbook):
    """The product's, which logs results but no model: there is none. It watches its own thread."""

    cpu = wall = 0.0
    logged = 0

    def _log(self, result: TrialResult) -> None:
        cpu, wall = time.thread_time(), time.monotonic()
        self._runs[result.number] = self._tracker.log_trial(self._open(), result, {})
        self.cpu += time.thread_time() - cpu
        self.wall += time.monotonic() - wall
        self.logged += 1

    def leave(self) -> int:
        """Stop logging, as a stopped search does: trials without work end faster than MLflow takes them.

        Returns:
            Results that MLflow had not got yet.
        """
        with self._queue.mutex:
            behind = len(self._queue.queue)
            self._queue.queue.clear()
        return behind


def own_memory() -> float:
    """This process's share of physical memory (PSS), in MB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000


def search_plan(options: Namespace, storage: Path, server: Server, lookahead: int) -> SearchPlan:
    """A search on the toy, of whose data only the index is read."""
    workload = find_workload("nusc", str(storage))
    # A few scenes in the place of the synthetic set: MLflow is told of left-out records, which the index counts.
    generate_at(synthetic_folder(Location.parse(storage)), scenes=6, progress=False)
    request = SearchRequest(
        workload=workload,
        name="controller",
        space=SearchSpace(),
        sparsity=0.85,
        trials=options.trials,
        seed=options.seed,
        tracking_uri=server.uri,
    )
    return plan_search(request).model_copy(update={"lookahead": lookahead})


def real_size(plan: SearchPlan) -> TrialResult:
    """A result as the toy's trials leave it: its layers, three histograms of 50 bins, the official metrics."""
    model, _ = load_checkpoint(Location.parse(SHIPPED))
    layers = list(prunable_weights(model))
    job = plan.trial_job()
    errors = [f"tp/{name}" for name in ("mATE", "mASE", "mAOE", "mAVE", "mAAE")]
    metrics = dict.fromkeys(
        ["map", "nds", "map_present", *(f"ap/class_{number}" for number in range(10)), *errors], 0.123456789012345
    )
    bins = [0.123456789012345 * number for number in range(51)]
    return TrialResult(
        number=0,
        status="finished",
        params={"scoring_batches": 8, "fine_tune_epochs": 0.2, "label": "altermoma", "ratio_camera": 0.123456789012345},
        metrics=metrics,
        history=[Evaluation(step=60, metrics=metrics)],
        sparsity=dict.fromkeys(("total", "camera", "lidar", "fusion"), 0.849999964),
        layer_sparsity=dict.fromkeys(layers, 0.849999964237213),
        params_left=168_000,
        params_total=1_120_000,
        configuration={"job": job.model_dump(mode="json"), "fine_tune_steps": 60, "floored_layers": []},
        histogram=dict.fromkeys(plan.sizes, Histogram(edges=bins, kept=[12345] * 50, pruned=[12345] * 50)),
        seconds=dict.fromkeys(("criterion", "score", "fine_tune", "evaluate", "write"), 1.23456789012345),
        started=0,
        ended=0,
    )


def drive(plan: SearchPlan, logbook: Records, template: Location) -> Searcher:
    """What :mod:`altermoma_ray.engine.search.run` does for the trials, with trials that do no work."""
    job = plan.trial_job()
    searcher = Searcher(plan.proposer(), job, logbook.trial_ended)
    logbook.start([])
    parameters = {"folder": job.folder, "template": str(template), "rungs": len(job.rungs)}
    trainable = tune.with_parameters(NoWork, **parameters)
    tune_trials(plan, searcher, tune.with_resources(trainable, {"CPU": 1, "GPU": 0}))
    return searcher


def with_model(plan: SearchPlan, server: Server, folder: Path) -> tuple[Counter[str], int]:
    """Requests, and bytes of files, of logging one trial with the toy's model and its masks."""
    location = Location.parse(SHIPPED)
    model, _ = load_checkpoint(location)
    weights = {name: model.get_parameter(name).detach().abs() for name in prunable_weights(model)}
    groups = group_weights(list(weights), FusionModel.group_of)
    masks: Masks = Target(groups=groups, sparsity=plan.sparsity).masks(weights)
    tracker = Tracker.open(server.uri, plan.storage)
    parent = tracker.start_search("one", dataset="nusc", model="toy", figures=FIGURES, params={})
    files = {"model.safetensors": location, "masks.safetensors": save_tensors(masks.to_tensors())}
    server.requests()
    run_id = tracker.log_trial(parent, real_size(plan), files, lambda: model)
    kept = [file.stat().st_size for file in folder.rglob(f"{run_id}/**/*") if file.is_file()]
    return server.requests(), sum(kept)


def main() -> None:
    """Measure, print and write ``results/controller.json``."""
    options = _options()
    slots = options.slots or options.nodes
    with (
        tempfile.TemporaryDirectory() as scratch,
        mlflow_server(Path(scratch)) as server,
        simulated_cluster(options.nodes, slots),
        ray_session(),
    ):
        plan = search_plan(options, Path(scratch, "storage"), server, lookahead=2 * slots)
        template = plan.folder.join("template.json")
        template.write_text(real_size(plan).to_json())
        size = template.info().size
        tracker = Tracker.open(server.uri, plan.storage)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        logbook = Records(plan, tracker, resume=False)
        server.requests()
        stored, memory = stored_bytes(nodes), own_memory()
        began, cpu, thread = time.monotonic(), time.process_time(), time.thread_time()
        with logbook, Path(os.devnull).open("w") as nowhere, _printed_to(nowhere):
            searcher = drive(plan, logbook, template)
            ended, cpu, thread = time.monotonic(), time.process_time() - cpu, time.thread_time() - thread
            cpu -= logbook.cpu  # told by the result that was logged
            behind = logbook.leave()
        after = [new - old for new, old in zip(stored_bytes(nodes), stored, strict=True)]
        requests = server.requests()
        one, kept = with_model(plan, server, Path(scratch))
    segments, trials = searcher.segments, options.trials
    half = searcher.memory[len(searcher.memory) // 2 :]
    growth = statistics.linear_regression(*zip(*half, strict=True)).slope if len(half) > 1 else float("nan")
    late = searcher.ends[len(searcher.ends) // 2 :]
    tune_itself = thread - searcher.proposing - searcher.reading
    parts = {
        "proposals: Optuna, early stopping": (searcher.proposing, segments),
        "results: reading, printing": (searcher.reading, segments),
        "Tune's loop, the rest of its thread": (tune_itself, segments),
        "Ray's own threads": (cpu - thread, segments),
        "MLflow, in its thread": (logbook.cpu, logbook.logged),
    }
    each = cpu / trials + logbook.cpu / logbook.logged  # MLflow gets a trial once, however many segments it had
    publish(
        options,
        "controller",
        f"The driver of {trials} trials without work, {len(nodes) - 1} simulated nodes, {slots} trials at a time",
        measured={
            part: {"CPU s": seconds, "segments": count, "ms a segment": 1000 * seconds / count}
            for part, (seconds, count) in parts.items()
        },
        targets=[
            Figure("controller's CPU time a trial, its logging included (ms)", 1000 * each),
            Figure("wall time a trial (ms)", 1000 * (ended - began) / trials),
            Figure("wall time a segment, second half (ms)", 1000 * (late[-1] - late[0]) / (len(late) - 1)),
            Figure("segments a trial", segments / trials),
            Figure("driver's memory before (MB)", memory),
            Figure("driver's memory at the end (MB)", searcher.memory[-1][1] if searcher.memory else memory),
            Figure("driver's growth a segment, second half (kB)", 1000 * growth),
            Figure("object store, bytes a trial", after[0] / trials),
            Figure("MLflow requests a result", requests.total() / logbook.logged),
            Figure("MLflow: wall seconds a result", logbook.wall / logbook.logged),
            Figure("finished trials MLflow had not got when the last one ended", behind),
            Figure("MLflow requests of a trial with its model", one.total()),
            Figure("MB of files of a trial with its model", kept / 1e6),
        ],
        details={
            "result.json, bytes": size,
            "searcher asked": searcher.asked,
            "wall seconds": ended - began,
            "object store": dict(zip(("bytes created", "objects created", "bytes spilled"), after, strict=True)),
            "requests": dict(requests),
            "requests with a model": dict(one),
            "memory by segments (MB)": searcher.memory,
            "CPU seconds of proposals by segments": searcher.proposed,
            "seconds by segments": [round(end - began, 2) for end in searcher.ends[::EVERY]],
        },
    )


@contextlib.contextmanager
def _printed_to(file: Any) -> Iterator[None]:
    """A line for each trial is part of the work, but not for this terminal."""
    terminal, console.file = console.file, file
    try:
        yield
    finally:
        console.file = terminal


def _options() -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=positive_int, default=1000, help="(default: %(default)s)")
    parser.add_argument("--nodes", type=positive_int, default=100, help="raylets beside the head's (default: 100)")
    parser.add_argument("--slots", type=positive_int, help="nodes with a CPU, each for one trial (default: all)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the figures (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn (default: 0)")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

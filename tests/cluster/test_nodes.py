"""A search on a cluster of several nodes, and one that loses a node on the way (``ray.cluster_utils.Cluster``)."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

CLUSTER = """
import json, sys
from ray.cluster_utils import Cluster

cluster = Cluster()
cluster.add_node(
    num_cpus=0,
    resources={"driver": 1},
    include_dashboard=False,
    temp_dir=sys.argv[1],
    gcs_server_port=int(sys.argv[2]),
    object_store_memory=100_000_000,
)

def identifier(node):
    table = cluster.global_state.node_table()
    return next(entry["NodeID"] for entry in table if entry["RayletSocketName"] == node.raylet_socket_name)

def add():
    return identifier(cluster.add_node(num_cpus=1, object_store_memory=100_000_000))

def lose(name):
    [lost] = [node for node in cluster.worker_nodes if identifier(node) == name]
    cluster.remove_node(lost, allow_graceful=False)

def actors():
    table = cluster.global_state.actor_table(None)
    fields = {"kind": "ActorClassName", "pid": "Pid", "state": "State"}
    return [
        {name: actor[field] for name, field in fields.items()} | {"node": actor["Address"]["NodeID"]}
        for actor in table.values()
    ]

print(json.dumps(cluster.address), flush=True)
for line in sys.stdin:
    name, *arguments = json.loads(line)
    print(json.dumps(globals()[name](*arguments)), flush=True)
"""
"""Holds a cluster for a test, and does what it is told; pytest's own process has nothing to do with Ray."""


class Cluster:
    """A head that holds drivers alone, and worker nodes with one CPU each."""

    def __init__(self, process):
        self._process = process
        self.address = self._answer()

    def _answer(self):
        line = self._process.stdout.readline()
        assert line, "the cluster's process ended"
        return json.loads(line)

    def tell(self, *command):
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()


@pytest.fixture(scope="module")
def cluster(ray_folder, free_ports, cluster_environment, tmp_path_factory):
    log = tmp_path_factory.mktemp("cluster") / "log"
    with ray_folder() as folder, log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER, str(folder), str(free_ports(1)[0])],
            env=cluster_environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            yield Cluster(process)
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def workers(cluster):
    """Identifiers of two worker nodes."""
    return [cluster.tell("add") for _ in range(2)]


@pytest.fixture(scope="module")
def longer(tiny_search, tmp_path_factory):
    """A space whose trials outlast an actor's start: Tune drops one that still starts if another is free."""
    tiny = Path(tiny_search[-1]).read_text()
    space = tmp_path_factory.mktemp("longer") / "space.py"
    space.write_text(tiny.replace("fine_tune_epochs=0.5", "fine_tune_epochs=400.0"))
    return ["--space", space]


def results(storage):
    found = [json.loads(file.read_bytes()) for file in storage.glob("searches/*/trials/*/result.json")]
    return {result["number"]: result for result in found}


def logged(storage):
    """How often each trial is in MLflow."""
    line = [sys.executable, "-m", "altermoma_ray.leaderboard", "--storage", storage, "--format", "json"]
    shown = subprocess.run(list(map(str, line)), capture_output=True, text=True, timeout=300, check=True)
    return Counter(row["trial"] for row in json.loads(shown.stdout))


def finished(search, storage):
    try:
        assert search.wait(600) == 0, (storage / "log").read_text()
    finally:
        search.kill()
    return results(storage)


@pytest.mark.slow
def test_a_search_runs_on_all_nodes(cluster, workers, search_on, longer, tmp_path):
    ended = finished(search_on(cluster.address, tmp_path, *longer, "--trials", 2), tmp_path)
    assert {number: result["status"] for number, result in ended.items()} == {0: "finished", 1: "finished"}
    actors = cluster.tell("actors")
    node_of = {actor["pid"]: actor["node"] for actor in actors}
    pids = [int(result["configuration"]["process"].rpartition(":")[2]) for result in ended.values()]
    assert {node_of[pid] for pid in pids} == set(workers)
    assert {actor["node"] for actor in actors if actor["kind"] == "RayTrainWorker"} == set(workers)
    waiting = {actor["node"] for actor in actors if actor["kind"] == "TrainController"}
    assert waiting.isdisjoint(workers)
    [reference] = (tmp_path / "references").glob("*.json")
    assert 0 < json.loads(reference.read_bytes())["error"] < 2


@pytest.mark.slow
def test_a_search_outlives_the_loss_of_a_node(cluster, workers, search_on, longer, tmp_path):
    search = search_on(cluster.address, tmp_path, *longer, "--trials", 4)
    try:
        deadline = time.monotonic() + 400
        while workers[0] not in at_work(cluster):
            assert search.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (cluster.tell("actors"), (tmp_path / "log").read_text())
            time.sleep(0.1)
        time.sleep(3)  # into the trial
        assert workers[0] in at_work(cluster)
        cluster.tell("lose", workers[0])
        workers[0] = cluster.tell("add")
        ended = finished(search, tmp_path)
    finally:
        search.kill()
    assert {number: result["status"] for number, result in ended.items()} == dict.fromkeys(range(4), "finished")
    assert logged(tmp_path) == Counter(range(4))


def at_work(cluster):
    """Nodes on which trials run; Tune has its own name for what it makes of TrialActor."""
    alive = [actor for actor in cluster.tell("actors") if actor["state"] == "ALIVE"]
    return {actor["node"] for actor in alive if actor["kind"].endswith("ResourceTrainable")}

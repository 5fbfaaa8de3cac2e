"""Ray's own autoscaler brings worker nodes for a search and takes them away after it."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
import ray
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FAKE_HEAD_NODE_TYPE,
    FakeMultiNodeProvider,
)

TRIALS = 3
CONFIG = {
    "cluster_name": "test",
    "max_workers": 2,
    "idle_timeout_minutes": 0.2,
    "upscaling_speed": 1,
    "provider": {
        "type": "external",  # Ray's wheel lacks the file of defaults for "fake_multinode"
        "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}",
        "launch_multiple": True,
        "head_node_id": FAKE_HEAD_NODE_ID,
    },
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "cluster_synced_files": [],
    "head_node_type": FAKE_HEAD_NODE_TYPE,
    "available_node_types": {
        FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 0, "driver": 1}, "node_config": {}, "max_workers": 0},
        "worker": {
            "resources": {"CPU": 1, "object_store_memory": 100_000_000},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 2,
        },
    },
}
"""Like cluster/aws.yaml, but a worker node is a raylet on this machine (the provider of Ray's own tests)."""

WATCH = """
import sys, time
from ray._private.state import GlobalState
from ray._raylet import GcsClientOptions

state = GlobalState()
state._initialize_global_state(
    GcsClientOptions.create(sys.argv[1], None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False)
)
while True:
    print(sum(node["Alive"] and "driver" not in node["Resources"] for node in state.node_table()), flush=True)
    time.sleep(0.2)
"""


@pytest.fixture
def cluster(ray_folder, cluster_environment, free_ports, tmp_path):
    """A running head that may scale: its address, and a function that gives the numbers of worker nodes so far."""
    port, dashboard = free_ports(2)
    address = f"{ray.util.get_node_ip_address()}:{port}"
    config = tmp_path / "cluster.json"  # JSON is YAML
    config.write_text(json.dumps(CONFIG | {"provider": CONFIG["provider"] | {"gcs_address": address}}))
    environment = cluster_environment | {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_autoscaler_v2": "1",  # as `ray up` and KubeRay start it
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    seen = tmp_path / "nodes"
    with ray_folder() as folder:
        line = ["ray", "start", "--head", f"--autoscaling-config={config}", "--port", port, "--temp-dir", folder]
        line += ["--num-cpus", 0, "--resources", json.dumps({"driver": 1}), "--dashboard-port", dashboard]
        line += ["--include-dashboard", "false", "--object-store-memory", 100_000_000]
        line += ["--min-worker-port", 0, "--max-worker-port", 0, "--dashboard-agent-listen-port", 0]
        with (tmp_path / "start").open("w") as log:  # not a pipe, which all of Ray's processes would keep open
            subprocess.run(list(map(str, line)), env=environment, check=True, stdout=log, stderr=log, timeout=300)
        with seen.open("w") as numbers:
            watcher = subprocess.Popen([sys.executable, "-c", WATCH, address], stdout=numbers, env=cluster_environment)
        try:
            yield address, lambda: list(map(int, seen.read_text().splitlines()))
        finally:
            watcher.kill()
            watcher.wait()
            for log in folder.glob("session_latest/logs/monitor.*"):  # pytest shows it when the test fails
                print(f"--- {log.name}\n{log.read_text()[-20_000:]}")


def wait_until(true, seconds=120):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_workers_come_for_a_search_and_go_after_it(cluster, search_on, tmp_path):
    address, numbers = cluster
    wait_until(numbers)
    assert set(numbers()) == {0}
    storage = tmp_path / "storage"
    search = search_on(address, storage, "--trials", TRIALS, "--name", "first")
    try:
        assert search.wait(400) == 0, (storage / "log").read_text()
    finally:
        search.kill()
    results = [json.loads(file.read_bytes()) for file in storage.glob("searches/first/trials/*/result.json")]
    assert sorted(result["number"] for result in results) == list(range(TRIALS))
    assert {result["status"] for result in results} == {"finished"}
    assert max(numbers()) == 2
    wait_until(lambda: numbers()[-1] == 0)

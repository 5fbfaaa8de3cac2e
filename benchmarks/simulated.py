"""A cluster of many nodes on one machine: real raylets and real workers, but one pair of agents for all of them.

A raylet takes 10 MB; its two Python agents (dashboard, runtime environments) would take 120 MB more. Here all raylets
are told the ports of the head's, and have something that sleeps in place of their own.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from ray._private import services
from ray._private.internal_api import node_stats
from ray.cluster_utils import Cluster

from altermoma_ray.errors import UserError

_PORTS = ("metrics_agent", "metrics_export", "dashboard_agent_listen", "runtime_env_agent")
_NODE, _HEAD = 0.125, 1.0
"""GB of memory that a node with one trial takes, and what the head, the driver and MLflow take."""
_STORE = 80 << 20  # bytes of each node's object store, the least that Ray takes
_ENVIRONMENT = {
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # each raylet would watch the same memory
    "RAY_raylet_report_resources_period_milliseconds": "1000",
    "RAY_health_check_period_ms": "30000",  # a slow start of so many processes is no failure
    "RAY_agent_register_timeout_ms": "120000",
    "RAY_health_check_timeout_ms": "60000",
}


@contextlib.contextmanager
def simulated_cluster(nodes: int, slots: int) -> Iterator[Cluster]:
    """A head that runs nothing, and nodes that run one worker each; ``RAY_ADDRESS`` names the cluster meanwhile.

    Args:
        nodes: raylets beside the head's.
        slots: how many of them have a CPU.

    Raises:
        UserError: this machine has too little memory.
    """
    needed, free = slots * _NODE + nodes * 0.01 + _HEAD, _free_memory()
    if needed > free:
        raise UserError(f"{nodes} nodes need {needed:.1f} GB of memory, but {free:.1f} are free; take fewer --slots")
    with tempfile.TemporaryDirectory(prefix="ac-", ignore_cleanup_errors=True) as folder:
        settings = _ENVIRONMENT | {"RAY_TMPDIR": folder}
        with mock.patch.dict(os.environ, settings):
            cluster = Cluster(
                initialize_head=True,
                head_node_args={
                    "num_cpus": 0,
                    "object_store_memory": 2 * _STORE,
                    "include_dashboard": False,
                    "dashboard_agent_listen_port": 0,
                },
            )
            try:
                with _shared_agents(Path(folder), cluster.head_node.node_id):
                    for number in range(nodes):
                        cluster.add_node(num_cpus=int(number < slots), object_store_memory=_STORE)
                os.environ["RAY_ADDRESS"] = cluster.address
                yield cluster
            finally:
                cluster.shutdown()


def stored_bytes(nodes: list[dict[str, Any]]) -> tuple[int, int, int]:
    """Bytes and objects ever created in the object stores of nodes (of ``ray.nodes()``), and bytes ever spilled."""
    stats = [
        node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False).store_stats
        for node in nodes
    ]
    return (
        sum(stat.cumulative_created_bytes for stat in stats),
        sum(stat.cumulative_created_objects for stat in stats),
        sum(stat.spilled_bytes_total for stat in stats),
    )


@contextlib.contextmanager
def _shared_agents(folder: Path, head: str) -> Iterator[None]:
    """Start raylets with something that sleeps for agents, and with port files that name those of node ``head``."""
    idle = folder / "idle"
    idle.write_text("#!/bin/sh\nexec sleep 3600\n")
    idle.chmod(0o755)
    start = services.start_ray_process

    def lean(command: list[str], *arguments: Any, **options: Any) -> Any:
        flags = dict(part[2:].split("=", 1) for part in command if part.startswith("--") and "=" in part)
        if "dashboard_agent_command" in flags:
            for name in _PORTS:
                ports = Path(flags["session_dir"])
                shutil.copy(ports / f"{name}_port_{head}", ports / f"{name}_port_{flags['node_id']}")
            command = [re.sub(r"^(--\w+_agent_command)=.*", rf"\1={idle}", part) for part in command]
        return start(command, *arguments, **options)

    with mock.patch.object(services, "start_ray_process", lean):
        yield


def _free_memory() -> float:
    """GB that could be taken without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1e6

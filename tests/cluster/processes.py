"""A small Ray cluster of a test's own, whose processes can be killed.

Nodes are real ones: each a ``ray start --block`` with a raylet, workers and agents of its own.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from pathlib import Path

import psutil

from tests.processes import Group, environment, free_port, wait_for


class Cluster:
    """A head that runs drivers only, and worker nodes of one CPU each."""

    def __init__(self, folder: Path) -> None:
        """``folder``: short, since Ray's sockets lie in it."""
        self._folder, self._port = folder, free_port()
        self.address = f"127.0.0.1:{self._port}"
        self._environment = environment() | {
            "RAY_health_check_period_ms": "1000",  # so that a node is known to be dead after seconds
            "RAY_health_check_failure_threshold": "3",
            "RAY_enable_metrics_collection": "0",
        }
        head = ["--head", "--port", self._port, "--num-cpus", 0, "--resources", '{"driver": 1}']
        head += ["--include-dashboard", "false", "--temp-dir", folder / "ray", "--ray-client-server-port", free_port()]
        self.head = self._start("head", *head)
        self.nodes: list[Group] = []
        self._gone: list[Group] = []
        wait_for(lambda: _answers(self._port), self.head)

    def _start(self, name: str, *options: object) -> Group:
        line = [Path(sys.executable).with_name("ray"), "start", "--block", "--disable-usage-stats", *options]
        line += ["--min-worker-port", 0, "--max-worker-port", 0, "--object-store-memory", 100_000_000]
        line += ["--dashboard-agent-listen-port", free_port()]
        return Group(line, self._folder / f"{name}.log", self._environment)

    def add_node(self) -> None:
        name = f"node-{len(self.nodes) + len(self._gone)}"
        self.nodes.append(self._start(name, "--address", self.address, "--num-cpus", 1))

    def raylets(self) -> dict[psutil.Process, Group]:
        """Raylets of the worker nodes."""
        return {process: node for node in self.nodes for process in node.find("raylet")}

    def lose(self, node: Group) -> None:
        """Forget a node whose raylet was killed; what else it had dies by itself."""
        self.nodes.remove(node)
        self._gone.append(node)

    def find(self, *names: str) -> list[psutil.Process]:
        """Processes of the head and the nodes, by a part of their title."""
        return [process for node in (self.head, *self.nodes) for process in node.find(*names)]

    def kill(self) -> None:
        for node in (*self.nodes, *self._gone, self.head):
            node.kill()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
        return True
    return False

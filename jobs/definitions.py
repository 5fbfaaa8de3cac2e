"""What is submitted for each command: entry point, runtime environment, resources of the driver.

Three things hold for every job:

- **The driver does not run on a spot machine.** It takes a little of the resource ``driver``, which the cluster files
  give to the head alone.
- **Results survive the job.** Ray throws a job's working directory away: a relative ``--storage`` is refused;
  without the option, the head's ``ALTERMOMA_STORAGE`` says where.
- **No secrets.** Ray shows entry points and runtime environments on its dashboard: credentials in an argument are
  refused; MLflow's and the bucket's come from the nodes' environment.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from altermoma_ray.addresses import without_credentials
from altermoma_ray.errors import UserError

CHECKOUT = Path(__file__).parents[1]
"""The folder whose code a job runs."""

DRIVER: Mapping[str, float] = MappingProxyType({"driver": 0.01})
"""What an entry point takes: a head with ``driver: 1`` holds a hundred of them."""

STORAGE = '--storage "${ALTERMOMA_STORAGE:?set it on the nodes, or give --storage}"'
TRACKING = '${MLFLOW_TRACKING_URI:+--tracking-uri "$MLFLOW_TRACKING_URI"}'
"""Options that the head's shell fills in, see :meth:`Job.entrypoint`."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One command, as a cluster runs it."""

    module: str
    """What ``python -m`` runs."""
    help: str
    tracks: bool = True
    """Whether the command takes ``--tracking-uri``."""

    def entrypoint(self, arguments: Sequence[str]) -> str:
        """The shell line that the head runs.

        The storage and the MLflow server that ``arguments`` leave out are those of the head's environment.

        Raises:
            UserError: results would be lost with the job, or a secret would be seen.
        """
        check_arguments(arguments)
        line = [f"python -m {self.module}", shlex.join(arguments)]
        if _value(arguments, "--storage") is None:
            line.append(STORAGE)
        if self.tracks and _value(arguments, "--tracking-uri") is None:
            line.append(TRACKING)
        return " ".join(filter(None, line))

    def submission(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Keyword arguments for :meth:`ray.job_submission.JobSubmissionClient.submit_job`."""
        return {
            "entrypoint": self.entrypoint(arguments),
            "runtime_env": runtime_env(),
            "entrypoint_resources": dict(DRIVER),
        }


JOBS: Mapping[str, Job] = MappingProxyType(
    {
        "search": Job(module="altermoma_ray.search", help="search how to prune a fusion model"),
        "compare": Job(module="altermoma_ray.compare", help="compare pruning criteria"),
        "train": Job(module="altermoma_ray.train", help="train a model from scratch", tracks=False),
        "index": Job(module="altermoma_ray.index", help="build a data set's index", tracks=False),
        "report": Job(module="altermoma_ray.report", help="write up a search or a comparison"),
        "leaderboard": Job(module="altermoma_ray.leaderboard", help="print a search's trials, best first"),
    }
)
"""By command."""


def runtime_env() -> dict[str, Any]:
    """The runtime environment of every job (``jobs/runtime_env.yaml``), with this checkout as working directory."""
    environment: dict[str, Any] = yaml.safe_load((CHECKOUT / "jobs" / "runtime_env.yaml").read_text())
    return environment | {"working_dir": str(CHECKOUT)}


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse what a job must not be told.

    Raises:
        UserError: an address carries credentials, or ``--storage`` is a folder of the job's own working directory.
    """
    for argument in arguments:
        if without_credentials(argument) != argument:
            raise UserError(
                f"{without_credentials(argument)} was given with credentials, which the dashboard would show; "
                "leave them out and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on the nodes"
            )
    storage = _value(arguments, "--storage")
    if storage is not None and "://" not in storage and not storage.startswith("/"):
        raise UserError(
            f"--storage {storage} lies in the job's working directory, which Ray deletes; "
            "give an s3:// or gs:// address, or the absolute path of a folder that every node mounts"
        )


def _value(arguments: Sequence[str], option: str) -> str | None:
    """The value given to an option, as ``--option value`` or ``--option=value``; None when it is absent."""
    for position, argument in enumerate(arguments):
        if argument == option:
            return arguments[position + 1] if position + 1 < len(arguments) else ""
        if argument.startswith(f"{option}="):
            return argument.removeprefix(f"{option}=")
    return None

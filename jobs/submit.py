"""``python -m jobs.submit search -- nusc --trials 64``: run a command on a Ray cluster, and follow it.

What stands behind ``--`` is the command's own. Ctrl-C stops following; the job goes on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from altermoma_ray.cli import Parser, run
from altermoma_ray.console import console
from altermoma_ray.errors import UserError
from jobs.definitions import DRIVER, JOBS

if TYPE_CHECKING:
    from ray.job_submission import JobStatus, JobSubmissionClient

LOCAL = "http://127.0.0.1:8265"
"""Where a dashboard on this machine answers, or one that ``ray dashboard`` or ``kubectl port-forward`` brings here."""


def main() -> None:
    """Parse, submit, follow."""
    ours, arguments = split(sys.argv[1:])
    options = _parser().parse_args(ours)
    job = JOBS[options.command].submission(arguments)
    address = options.address or _address()
    client = connect(address)
    if not has_driver_nodes(address):
        del job["entrypoint_resources"]
        console.print("[yellow]no node offers the resource 'driver'[/]: Ray puts the driver on the head")
    try:
        identifier = client.submit_job(**job, submission_id=options.id)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the cluster at {address} did not take the job: {str(error).splitlines()[0]}") from error
    console.print(f"job [bold]{identifier}[/], stop it with: ray job stop --address {address} {identifier}")
    if options.no_wait:
        return
    try:
        status = follow(client, identifier)
    except KeyboardInterrupt:
        console.print(f"the job goes on; see it again with: ray job logs --follow --address {address} {identifier}")
        sys.exit(130)
    console.print(f"job {identifier}: {status.lower()}")
    sys.exit(status != "SUCCEEDED")


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before the first ``--``, and what stands behind it."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return list(arguments[:end]), list(arguments[end + 1 :])


def connect(address: str) -> JobSubmissionClient:
    """A client of the cluster's dashboard.

    Raises:
        UserError: none answers there, or it refuses the token.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    os.environ.setdefault("RAY_AUTH_MODE", "token")
    for name in ("ray.dashboard", "ray._private"):  # else they list each file that they leave out
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise UserError(_refused(address)) from error
    except (ConnectionError, RuntimeError) as error:
        if "401" in str(error) or "403" in str(error) or "uthenti" in str(error):
            raise UserError(_refused(address)) from error
        raise UserError(f"no Ray dashboard answers at {address}; forward its port or give --address") from error


def _refused(address: str) -> str:
    return f"the cluster at {address} refuses the token; set RAY_AUTH_TOKEN or write the token to ~/.ray/auth_token"


def has_driver_nodes(address: str) -> bool:
    """Whether a node of the cluster offers what :data:`DRIVER` asks for; else a job would wait for ever."""
    from ray.util.state import list_nodes

    nodes: list[Any] = list_nodes(address=address, filters=[("state", "=", "ALIVE")], limit=10_000)
    return any((node.resources_total or {}).get(name, 0) >= share for node in nodes for name, share in DRIVER.items())


def follow(client: JobSubmissionClient, identifier: str) -> JobStatus:
    """Print the job's output until it ends; returns its last status."""

    async def tail() -> None:
        async for lines in client.tail_job_logs(identifier):
            print(lines, end="", flush=True)

    asyncio.run(tail())
    while not (status := client.get_job_status(identifier)).is_terminal():
        time.sleep(1)
    return status


def _address() -> str:
    given = os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS", "")
    return given if given.startswith("http") else LOCAL


def _parser() -> Parser:
    parser = Parser(
        usage="python -m jobs.submit COMMAND [--address URL] [--id NAME] [--no-wait] -- ARGUMENTS OF THE COMMAND",
        description=__doc__,
    )
    parser.add_argument(
        "command", choices=tuple(JOBS), help="; ".join(f"{name}: {job.help}" for name, job in JOBS.items())
    )
    parser.add_argument("--address", help=f"of the dashboard (default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, {LOCAL})")
    parser.add_argument("--id", help="name of the job (default: one that Ray makes)")
    parser.add_argument("--no-wait", action="store_true", help="do not follow the job")
    return parser


if __name__ == "__main__":
    run(main)

"""Every use of undocumented parts of Ray; each part has a test, which fails once a release of Ray has moved the part.

The functions import Ray themselves: commands which only read the environment start without Ray.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}
"""Settings under which Tune writes no files of its own, processes without a GPU keep their view of the GPUs, and Tune
uses its older output; the newer output prints to stdout even when silenced."""
BUSYWORK = (
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER",
    "RAY_TRAIN_METRICS_ENABLED",
    "RAY_enable_metrics_collection",
    "RAY_task_events_report_interval_ms",
)
"""Switches of Ray's periodic work for dashboards and spot machines."""
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Variable set by Ray for the process of a submitted job, and for no other."""
SESSION = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest path of a socket of Ray below its temporary folder."""
CLEANER = "PlacementGroupCleanerCallback"
"""Class of Train's callback which frees the places of a dead controller."""
LOST_NODE = "node has died"
"""Ray's words for an actor whose node is gone."""
_FULL = re.compile(r"\(IP: (?P<node>[^,)]+).*?(?P<used>[\d.]+)GB used / (?P<limit>[\d.]+)GB limit", re.DOTALL)
"""Ray's words for a node without memory left."""


def silence() -> None:
    """Set :data:`QUIET` for this process and the processes of Ray; the user's own settings stay.

    Example:
        Before the session, whose processes inherit the environment::

            silence()
            ray.init()
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def without_busywork() -> Iterator[None]:
    """Switch :data:`BUSYWORK` off for a Ray started inside the ``with`` block; the user's own settings stay.

    Example:
        On one machine, where busywork takes CPU from the workers::

            with without_busywork():
                ray.init()
    """
    # Noted before the block: only these are removed afterwards, and a user's setting survives.
    unset = [name for name in BUSYWORK if name not in os.environ]
    os.environ.update(dict.fromkeys(unset, "0"))
    try:
        yield
    finally:
        for name in unset:
            os.environ.pop(name, None)


def worker_processes() -> list[psutil.Process]:
    """The worker processes, and Ray's agents, of a Ray that this process has started on this machine."""
    found: list[psutil.Process] = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # ended meanwhile
            found += child.children() if child.name() == "raylet" else []
    return found


def end(processes: Sequence[psutil.Process]) -> None:
    """Kill what is left of a session's processes when Ray itself has been shut down.

    Ray forgets a worker that has said goodbye, but the worker may still hang: in Ray 2.60 it sometimes waits forever,
    while native objects are destroyed, for a queue that is gone already. Its memory would stay taken.

    Example:
        The end of a session on this machine::

            workers = worker_processes()
            ray.shutdown()
            end(workers)
    """
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # psutil tells a new process of the same number apart
            process.kill()


def in_submitted_job() -> bool:
    """Whether ``ray job submit`` started this process; Ray deletes a submitted job's working directory afterwards."""
    return JOB in os.environ


def in_folder(folder: str | None) -> dict[str, Any]:
    """Arguments of ``ray.init`` which start Ray in a folder; none for the folder of Ray's own choice.

    >>> in_folder("/tmp/ray"), in_folder(None)
    ({'_temp_dir': '/tmp/ray'}, {})

    The documented variable ``RAY_TMPDIR`` would reach every process started later.
    """
    return {} if folder is None else {"_temp_dir": folder}


def address_of_this_machine() -> str:
    """HOST:PORT of the cluster meant by ``auto`` on this machine; ``auto`` where Ray itself has to find the cluster.

    Raises:
        ConnectionError: Ray knows of no cluster here.
    """
    # Asked for a quick connection of our own: `ray.init` tries for minutes to reach a cluster which has gone.
    from ray._private.services import get_ray_address_from_environment

    return get_ray_address_from_environment("auto", None)


def most_resources() -> dict[str, float]:
    """The resources of an autoscaling cluster at its largest, by name; empty for a cluster of fixed size.

    A cluster of up to four nodes with 8 CPUs each gives ``{"CPU": 32.0}``, even while only one node runs.
    """
    # `ray.cluster_resources`, the documented way, counts running nodes only.
    from ray._private.state import state

    return dict(state.get_max_resources_from_cluster_config() or {})


def quiet_trainer() -> type[TorchTrainer]:
    """A trainer which leaves Ctrl-C to the command, and ends at once where there is no dashboard."""
    # Two private methods are replaced: Train offers no option for either.
    from ray.train.torch import TorchTrainer

    class Trainer(TorchTrainer):
        def _register_sigint_handler(self, controller: Any) -> None:
            """Install no handler: Ray's own would stay after the job, and end the process with code 0."""

        def _create_default_callbacks(self) -> list[Any]:
            """Leave out the callback which frees a dead controller's places; :func:`free_places` frees them.

            The callback asks the dashboard every second. Without a dashboard, every job waits 12 s at its end.
            """
            # By name: an import from Train's private modules would fail once a release moves the class.
            return [one for one in super()._create_default_callbacks() if type(one).__name__ != CLEANER]

    return Trainer


def free_places(group: str) -> None:
    """Remove a placement group by its number in hexadecimal digits.

    Ray forgets the group when a worker dies just after its start, and later jobs would wait for ever.

    Args:
        group: for example ``"3f2a91..."``, as written by a worker of the job.
    """
    # The documented way needs the group's object, which died with the controller: a new one is made of the number.
    import ray
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))


def free_abandoned_places() -> int:
    """Remove the placement groups of dead Train controllers.

    Ray removes the groups of a dying actor, except for a group still in the making at that moment. Its CPUs stay taken
    as long as the cluster lives, and later jobs wait for them for ever.

    Returns:
        The number of removed groups.
    """
    import ray
    from ray._private.state import state
    from ray.core.generated import gcs_pb2
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    tables = state._connect_and_get_accessor()
    freed = 0
    for content in tables.get_placement_group_table():
        # The documented table of groups does not name a group's maker; the raw record does.
        group = gcs_pb2.PlacementGroupTableData.FromString(content)
        # A detached group is meant to outlive its maker.
        if group.is_detached or group.state == gcs_pb2.PlacementGroupTableData.REMOVED:
            continue
        # A group made by a driver has no actor, and Ray removes it with the driver.
        maker = ray.ActorID(group.creator_actor_id)
        found = None if maker.is_nil() else tables.get_actor_info(maker)
        if found is not None and gcs_pb2.ActorTableData.FromString(found).state == gcs_pb2.ActorTableData.DEAD:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
            freed += 1
    return freed


def failures_of_workers(error: BaseException) -> list[Exception]:
    """The errors of a Train job's workers; empty where the job failed otherwise."""
    return list(getattr(error, "worker_failures", {}).values())


def is_death(error: BaseException) -> bool:
    """Whether an error tells of a dead process, itself or by a failed health check or controller in it."""
    import ray

    # Train wraps the death of a worker into a failed health check, and the death of its controller into its own error.

    causes = [error, getattr(error, "controller_failure", None)]
    return any(isinstance(getattr(one, "health_check_failure", one), ray.exceptions.RayActorError) for one in causes)


def told_out_of_memory(error: BaseException) -> str:
    """One line on a node on which Ray ended processes for want of memory; empty for any other error.

    Args:
        error: raised by Ray, Tune or Train; the causes behind the error are searched too.
    """
    import ray

    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None:
            continue
        if isinstance(one, ray.exceptions.OutOfMemoryError):
            found = _FULL.search(str(one))
            # Without the expected words the line still says what happened, only not where.
            where = "node {node} ({used} of {limit} GB in use)".format(**found.groupdict()) if found else "a node"
            return (
                f"Ray ended processes because memory ran out on {where}; end other programs there or start Ray with "
                "fewer CPUs, then run the command again: a search goes on with --resume"
            )
        waiting += [one.__cause__, getattr(one, "cause", None), *failures_of_workers(one)]
    return ""


def forgive_lost_node(trial: Any) -> bool:
    """Take the last failure off a trial's count where the node was lost: Tune then tries the trial again.

    Args:
        trial: the argument of ``Callback.on_trial_recover``.

    Returns:
        Whether the node was lost.
    """
    # Tune hands over no error, only the file of the trial's failures, the last one at its end.
    last = Path(trial.error_file).read_text().rpartition("Failure #")[2]
    lost = LOST_NODE in last
    if lost:
        trial.run_metadata.num_failures -= 1
    return lost

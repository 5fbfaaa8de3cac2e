"""All that is used of Ray without being documented by Ray; each part has a test, which fails when a Ray has moved it.

Ray is imported by the functions, so that commands which only read the environment start without it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}
"""Settings under which Tune writes no files of its own, processes without a GPU keep their view of the GPUs, and Tune's
older output is used: the newer one prints to stdout even when it is told to be silent."""
BUSYWORK = (
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER",
    "RAY_TRAIN_METRICS_ENABLED",
    "RAY_enable_metrics_collection",
    "RAY_task_events_report_interval_ms",
)
"""Switches of what Ray keeps busy with for dashboards and spot machines."""
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""What Ray sets for the process of a submitted job, and for no other."""
SESSION = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest path of a socket of Ray below its temporary folder."""
CLEANER = "PlacementGroupCleanerCallback"
"""The class of Train's callback that frees the places of a controller that dies."""
LOST_NODE = "node has died"
"""What Ray says of an actor whose node is gone."""


def silence() -> None:
    """Set :data:`QUIET` for this process and those that Ray starts; what the user has set stays."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def without_busywork() -> Iterator[None]:
    """Switch :data:`BUSYWORK` off for a Ray that is started meanwhile; on one machine it takes CPU from the workers.

    What the user has set stays as it is.
    """
    unset = [name for name in BUSYWORK if name not in os.environ]
    os.environ.update(dict.fromkeys(unset, "0"))
    try:
        yield
    finally:
        for name in unset:
            os.environ.pop(name, None)


def in_submitted_job() -> bool:
    """Whether this process was started by ``ray job submit``, whose working directory Ray deletes afterwards."""
    return JOB in os.environ


def in_folder(folder: str | None) -> dict[str, Any]:
    """Arguments of ``ray.init`` that start Ray in a folder; none for the folder of Ray's own choice.

    The documented variable ``RAY_TMPDIR`` would hold for all processes of this machine's user that are started later.
    """
    return {} if folder is None else {"_temp_dir": folder}


def address_of_this_machine() -> str:
    """HOST:PORT of the cluster that ``auto`` means on this machine; ``auto`` where Ray itself has to find it.

    ``ray.init`` would try to reach the cluster for minutes, also one that has gone.

    Raises:
        ConnectionError: Ray knows of no cluster here.
    """
    from ray._private.services import get_ray_address_from_environment

    return get_ray_address_from_environment("auto", None)


def most_resources() -> dict[str, float]:
    """What an autoscaling cluster may grow to, by the names of resources; nothing where the cluster does not grow.

    ``ray.cluster_resources`` tells of the nodes that are there.
    """
    from ray._private.state import state

    return dict(state.get_max_resources_from_cluster_config() or {})


def quiet_trainer() -> type[TorchTrainer]:
    """A trainer that leaves Ctrl-C to the command, and ends at once where there is no dashboard."""
    from ray.train.torch import TorchTrainer

    class Trainer(TorchTrainer):
        def _register_sigint_handler(self, controller: Any) -> None:
            """Leave Ctrl-C to the command: Ray's handler would stay after the job, and end the process with code 0."""

        def _create_default_callbacks(self) -> list[Any]:
            """Leave out what frees the places of a controller that dies: :func:`free_places` does.

            It asks the dashboard every second; where there is none, every job waits 12 s for it in the end.
            """
            return [one for one in super()._create_default_callbacks() if type(one).__name__ != CLEANER]

    return Trainer


def free_places(group: str) -> None:
    """Remove a placement group by its number in hexadecimal digits.

    Ray forgets the group when a worker dies just after its start, and jobs that come next would wait for ever. What is
    documented removes a group only by the object that made it, which died with the controller.
    """
    import ray
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))


def free_abandoned_places() -> int:
    """Remove the placement groups of Train controllers that are dead; returns how many there were.

    Ray removes the groups of an actor that dies, but not one that was still being made at that moment. Such a group
    holds its CPUs as long as the cluster lives, and jobs that come next wait for them for ever.
    """
    import ray
    from ray._private.state import state
    from ray.core.generated import gcs_pb2
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    tables = state._connect_and_get_accessor()
    freed = 0
    for content in tables.get_placement_group_table():
        group = gcs_pb2.PlacementGroupTableData.FromString(content)
        if group.is_detached or group.state == gcs_pb2.PlacementGroupTableData.REMOVED:
            continue
        maker = ray.ActorID(group.creator_actor_id)
        found = None if maker.is_nil() else tables.get_actor_info(maker)
        if found is not None and gcs_pb2.ActorTableData.FromString(found).state == gcs_pb2.ActorTableData.DEAD:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
            freed += 1
    return freed


def failures_of_workers(error: BaseException) -> list[Exception]:
    """What the workers of a Train job failed of; empty where the job failed otherwise."""
    return list(getattr(error, "worker_failures", {}).values())


def is_death(error: BaseException) -> bool:
    """Whether an error, or what a health check or the controller's end left in it, tells of a process that died."""
    import ray

    causes = [error, getattr(error, "controller_failure", None)]
    return any(isinstance(getattr(one, "health_check_failure", one), ray.exceptions.RayActorError) for one in causes)


def forgive_lost_node(trial: Any) -> bool:
    """Take the last failure off a trial's count if it was its node's, so that Tune tries the trial again.

    Args:
        trial: as Tune hands it to ``Callback.on_trial_recover``.

    Returns:
        Whether the node was lost.
    """
    last = Path(trial.error_file).read_text().rpartition("Failure #")[2]
    lost = LOST_NODE in last
    if lost:
        trial.run_metadata.num_failures -= 1
    return lost

"""Ray: the session, jobs on Ray Train workers, and what their workers share."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import uuid
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import ray
import torch
import torch.distributed as distributed
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from altermoma_ray.console import console
from altermoma_ray.engine.ray import private
from altermoma_ray.engine.ray.cluster import check_cluster, cluster_address, short_folders
from altermoma_ray.engine.ray.progress import ProgressBar
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

_RESTARTS = 3
_LOST = re.compile("Connection (reset|closed) by peer")
"""What gloo says of a process that is gone."""
_ANSWER_SECONDS = 120  # for a node to start a process and look


@contextlib.contextmanager
def ray_session() -> Iterator[None]:
    """Join the cluster that ``RAY_ADDRESS`` names (``ray job submit`` sets it), or start Ray on this machine.

    Ray's own lines stay out of the terminal; they are in its session folder.
    """
    if ray.is_initialized():
        yield
        return
    private.silence()
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    check_cluster()
    cluster = cluster_address()
    with contextlib.nullcontext() if cluster else private.without_busywork():
        _start_ray(cluster)
        try:
            yield
        finally:
            ray.shutdown()


def _start_ray(cluster: str) -> None:
    local: dict[str, Any] = {} if cluster else {"include_dashboard": False, "object_store_memory": 1 << 30}
    told_to_stop = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.nullcontext() if cluster else short_folders() as folder:
            if folder is not None:
                console.print(f"[yellow]Ray[/] works in {folder}: the name in TMPDIR is too long for its sockets")
            local |= private.in_folder(folder)
            ray.init(address=cluster or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
        if callable(told_to_stop):  # Ray's own aborts the process after 3 seconds, whatever is being tidied up
            signal.signal(signal.SIGTERM, told_to_stop)
    except Exception as error:
        if cluster:
            raise UserError(
                f"no Ray cluster answers at RAY_ADDRESS={cluster}; start it or unset the variable"
            ) from error
        raise UserError(f"Ray does not start on this machine ({error}); try again when it is less busy") from error
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what happens to a trial is told in a line of ours
    logging.getLogger("ray.train").setLevel(logging.ERROR)


def worker_slots(gpus_per_worker: float) -> int:
    """How many workers can run at once, each with one CPU and ``gpus_per_worker`` GPUs.

    On an autoscaling cluster that is what it may grow to: nodes come when trials ask for them.
    """
    resources = dict(ray.cluster_resources())
    for name, most in private.most_resources().items():
        resources[name] = max(resources.get(name, 0), most)
    slots = int(resources.get("CPU", 1))
    if gpus_per_worker > 0:
        slots = min(slots, int(resources.get("GPU", 0) / gpus_per_worker))
    return max(1, slots)


def driver_resources() -> dict[str, float]:
    """What a process asks for that only waits for others: a place on a node that stays, where the cluster has such."""
    if "driver" in ray.cluster_resources():
        return {"CPU": 0, "driver": 0.01}
    return {"CPU": 0, "memory": 1}  # Ray refuses a request for nothing at all


def check_room(workers: int, gpus_per_worker: float) -> None:
    """Find out whether this machine holds so many workers; a cluster may still grow, so it is not asked.

    Raises:
        UserError: it does not, and a job would wait for ever.
    """
    if cluster_address():
        return
    resources = ray.cluster_resources()
    for name, each in (("CPU", 1.0), ("GPU", gpus_per_worker)):
        there = resources.get(name, 0)
        if workers * each > there:
            raise UserError(
                f"this machine has {there:g} {name}s, but the workers need {workers * each:g}; "
                f"take fewer --workers{' or --gpus-per-worker' if name == 'GPU' else ''}"
            )


def result_of(reference: Any) -> Any:
    """What a Ray task returned.

    Raises:
        UserError: the task raised one.
    """
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        _raise_user_error(error)
        raise


def check_shared(storage: Location) -> None:
    """Find out whether the cluster's other nodes see a storage folder that is on this machine's disk.

    Nodes that come later are not asked.

    Raises:
        UserError: one does not.
    """
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    if not storage.is_local or not others:
        return
    marker = storage.join(f".{uuid.uuid4().hex}.probe")
    marker.write_text("")
    try:
        asked = {
            _sees.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                str(marker)
            ): node["NodeManagerAddress"]
            for node in others
        }
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_SECONDS)
        for answer in answered:
            with contextlib.suppress(ray.exceptions.RayError):  # a node that goes meanwhile reads no storage
                if not ray.get(answer):
                    raise UserError(
                        f"storage {storage} is another folder on node {asked[answer]}; give --storage a folder that "
                        "all nodes mount, or an s3:// or gs:// address"
                    )
    finally:
        marker.delete()


@ray.remote(num_cpus=0)
def _sees(file: str) -> bool:
    return Location.parse(file).exists()


def run_on_workers(
    function: Callable[[Any, Any], None],
    job: Any,
    *,
    workers: int,
    gpus_per_worker: float = 0.0,
    storage: Location,
    describe: str,
    total: int,
) -> None:
    """Run ``function(job, reporter)`` on Ray Train workers and wait, with a progress bar.

    When a worker's process or node dies, all of them start again, up to three times.

    Args:
        function: what every worker runs, with ``torch.distributed`` set up; ``reporter.advance(n)`` moves the bar.
        job: picklable description of the work.
        workers: number of workers, each with one CPU.
        gpus_per_worker: GPUs of each worker.
        storage: where Ray may keep its files while the job runs; every node must reach it.
        describe: the bar's text.
        total: steps of the whole job.

    Raises:
        UserError: a worker raised one.
        ray.train.TrainingFailedError: a worker failed otherwise, or died once more.
    """
    for again in reversed(range(_RESTARTS + 1)):
        try:
            _run_once(function, job, workers, gpus_per_worker, storage, describe, total)
            return
        except Exception as error:
            _raise_user_error(error)
            if not again or not has_died(error):
                raise
        console.print(f"  {describe}: a worker died; all start again ({_RESTARTS + 1 - again} of {_RESTARTS} times)")


def _run_once(
    function: Callable[[Any, Any], None],
    job: Any,
    workers: int,
    gpus_per_worker: float,
    storage: Location,
    describe: str,
    total: int,
) -> None:
    from ray.train import RunConfig, ScalingConfig

    private.free_abandoned_places()
    with ProgressBar(describe, total) as bar, scratch_folder(storage) as scratch:
        reserved = scratch.join("reserved")
        trainer = private.quiet_trainer()(
            _worker_main,
            train_loop_config={"function": function, "job": job, "reporter": bar.reporter, "reserved": str(reserved)},
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=gpus_per_worker > 0,
                resources_per_worker={"CPU": 1, **({"GPU": gpus_per_worker} if gpus_per_worker > 0 else {})},
            ),
            run_config=RunConfig(name="job", storage_path=scratch.path, storage_filesystem=scratch.filesystem),
        )
        try:
            trainer.fit()
        except Exception:
            if reserved.exists():
                private.free_places(reserved.read_text())
            raise


def has_died(error: Exception) -> bool:
    """Whether a job failed because a process of it died: the others then complain of a lost connection."""
    failures = private.failures_of_workers(error)
    if failures and all(isinstance(one, distributed.DistError) or _LOST.search(str(one)) for one in failures):
        return True
    return any(private.is_death(one) for one in (*failures, error))


@contextlib.contextmanager
def scratch_folder(storage: Location) -> Iterator[Location]:
    """A folder in storage for what Ray writes on the way; nothing of it is needed afterwards."""
    folder = storage.join("ray", uuid.uuid4().hex)
    folder.make_folder()
    try:
        yield folder
    finally:
        folder.delete()


def _worker_main(config: dict[str, Any]) -> None:
    group = get_current_placement_group()
    assert group is not None
    Location.parse(config["reserved"]).write_text(group.id.hex())
    config["function"](config["job"], config["reporter"])


def _raise_user_error(error: Exception) -> None:
    """Raise the :class:`UserError` that made a worker fail, if one did."""
    for failure in (error, *private.failures_of_workers(error)):
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, UserError) and not isinstance(cause, ray.exceptions.RayTaskError):
                raise UserError(str(cause)) from error
            cause = getattr(cause, "cause", None) or cause.__cause__


def rank_and_world() -> tuple[int, int]:
    """This worker's rank and the number of workers; (0, 1) outside a job."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def worker_device() -> torch.device:
    """The GPU that Ray gave this process, made current, else the CPU."""
    if not torch.cuda.is_available() or not ray.get_gpu_ids():
        return torch.device("cpu")
    if distributed.is_initialized():  # workers of a job see all GPUs of their node
        from ray.train.torch import get_device

        device = get_device()
    else:
        device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    return device


def sum_over(group: distributed.ProcessGroup | None, world: int) -> Callable[[list[Tensor]], None]:
    """A function that sums tensors in place over the workers of a group, in one message."""

    def reduce(tensors: list[Tensor]) -> None:
        if world == 1 or not tensors:
            return
        if len(tensors) == 1:
            distributed.all_reduce(tensors[0], group=group)
            return
        flat = _flatten_dense_tensors(tensors)
        distributed.all_reduce(flat, group=group)
        for tensor, total in zip(tensors, _unflatten_dense_tensors(flat, tensors), strict=True):
            tensor.copy_(total)

    return reduce

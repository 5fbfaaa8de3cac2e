"""Ray: the session, jobs on Ray Train workers, and the workers' sums."""

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
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from altermoma_ray.console import console
from altermoma_ray.engine.ray import private
from altermoma_ray.engine.ray.cluster import check_cluster, cluster_address, short_folders
from altermoma_ray.engine.ray.progress import ProgressBar
from altermoma_ray.engine.ray.trainer import fit_once
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

_RESTARTS = 3
_LOST = re.compile("Connection (reset|closed) by peer")
"""Words of gloo for a process which is gone."""
_ANSWER_SECONDS = 120  # for a node to start a process and look


@contextlib.contextmanager
def ray_session() -> Iterator[None]:
    """Join the cluster named by ``RAY_ADDRESS`` (``ray job submit`` sets it), or start Ray on this machine.

    Ray's own lines stay out of the terminal; they are in its session folder.

    Example:
        Everything with workers happens inside::

            with ray_session():
                run_on_workers(function, job, workers=2, storage=storage, describe="scoring", total=100)

    Raises:
        UserError: no cluster answers, Ray does not start, or memory runs out on a node.
    """
    # A command may open a session and call another's code which opens one too: the outer one stays.
    if ray.is_initialized():
        yield
        return
    private.silence()
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    check_cluster()
    # Busywork is switched off by variables which Ray's processes inherit: a running cluster keeps its own.
    cluster = cluster_address()
    with contextlib.nullcontext() if cluster else private.without_busywork():
        _start_ray(cluster)
        try:
            yield
        except Exception as error:
            # Ray may end any process of its own then, such as Tune's; none of them can tell the user why.
            if told := private.told_out_of_memory(error):
                raise UserError(told) from error
            raise
        finally:
            workers = [] if cluster else private.worker_processes()
            ray.shutdown()
            private.end(workers)


def _start_ray(cluster: str) -> None:
    # The object store is small on purpose: data pass through storage, and Ray would take 30 % of the memory for it.
    local: dict[str, Any] = {} if cluster else {"include_dashboard": False, "object_store_memory": 1 << 30}
    told_to_stop = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.nullcontext() if cluster else short_folders() as folder:
            if folder is not None:
                console.print(f"[yellow]Ray[/] works in {folder}: the name in TMPDIR is too long for its sockets")
            local |= private.in_folder(folder)
            ray.init(address=cluster or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
        # `ray.init` installs a handler of its own, which aborts the process after 3 seconds, tidied up or not.
        if callable(told_to_stop):
            signal.signal(signal.SIGTERM, told_to_stop)
    except Exception as error:
        if cluster:
            raise UserError(
                f"no Ray cluster answers at RAY_ADDRESS={cluster}; start it or unset the variable"
            ) from error
        raise UserError(f"Ray does not start on this machine ({error}); try again when it is less busy") from error
    # A trial's fate is told in a line of ours; Tune would add its traceback.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    logging.getLogger("ray.train").setLevel(logging.ERROR)


def worker_slots(gpus_per_worker: float) -> int:
    """Number of workers which can run at once, each with one CPU and ``gpus_per_worker`` GPUs.

    Example:
        On a machine with 16 CPUs and 2 GPUs::

            worker_slots(0.0)    # 16
            worker_slots(0.5)    # 4
    """
    # An autoscaling cluster counts at its largest: its nodes come only once trials ask for them.
    resources = dict(ray.cluster_resources())
    for name, most in private.most_resources().items():
        resources[name] = max(resources.get(name, 0), most)
    slots = int(resources.get("CPU", 1))
    if gpus_per_worker > 0:
        slots = min(slots, int(resources.get("GPU", 0) / gpus_per_worker))
    return max(1, slots)


def driver_resources() -> dict[str, float]:
    """The request of a process which only waits for others: a place on a lasting node, where the cluster has one."""
    if "driver" in ray.cluster_resources():
        return {"CPU": 0, "driver": 0.01}
    # One byte of memory: Ray refuses a request for nothing at all.
    return {"CPU": 0, "memory": 1}


def check_room(workers: int, gpus_per_worker: float) -> None:
    """Find out whether this machine has room for so many workers.

    Raises:
        UserError: the machine has too few CPUs or GPUs, and a job would wait for ever.
    """
    # A cluster may still grow: a job may wait there for a node.
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


def workers_of(asked: int | None, gpus_per_worker: float) -> int:
    """The number of workers of a job whose work can be shared by any number.

    Args:
        asked: the number that the user asked for; None takes the slots of the cluster, at most 8.
        gpus_per_worker: GPUs of each worker.

    Raises:
        UserError: the machine has too few CPUs or GPUs for them.
    """
    workers = asked or min(worker_slots(gpus_per_worker), 8)
    check_room(workers, gpus_per_worker)
    return workers


def result_of(reference: Any) -> Any:
    """The value returned by a Ray task.

    Raises:
        UserError: the task raised one.
        ray.exceptions.RayTaskError: the task failed otherwise.
    """
    # Ray raises a mixture of its own error and the task's, whose text is a whole traceback.
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        _raise_user_error(error)
        raise


def check_shared(storage: Location) -> None:
    """Find out whether the cluster's other nodes see a storage folder on this machine's disk.

    Nodes of an autoscaling cluster which come later are not asked.

    Raises:
        UserError: a node does not see the folder.
    """
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    if not storage.is_local or not others:
        return
    # A file with a new name, since each node may have a folder of the same path on its own disk.
    marker = storage.join(f".{uuid.uuid4().hex}.probe")
    marker.write_text("")
    try:
        asked = {
            _sees.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                str(marker)
            ): node["NodeManagerAddress"]
            for node in others
        }
        # `ray.wait` and not `ray.get`: one busy or dying node must not hold up the answers of the others.
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_SECONDS)
        for answer in answered:
            with contextlib.suppress(ray.exceptions.RayError):  # a node which leaves meanwhile reads no storage
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

    Example:
        Two workers count to ten together::

            def count(job, reporter):
                for _ in range(job // rank_and_world()[1]):
                    reporter.advance()

            run_on_workers(count, 10, workers=2, storage=storage, describe="counting", total=10)

    Args:
        function: run by every worker, with ``torch.distributed`` set up; ``reporter.advance(n)`` moves the bar.
        job: picklable description of the work.
        workers: number of workers, each with one CPU.
        gpus_per_worker: GPUs of each worker.
        storage: place for Ray's files while the job runs, within reach of every node.
        describe: the bar's text.
        total: steps of the whole job.

    Raises:
        UserError: a worker raised one.
        ray.train.TrainingFailedError: a worker failed otherwise, or died once more.
    """

    def attempt() -> None:
        with ProgressBar(describe, total) as bar:
            arguments = job, bar.reporter
            fit_once(function, arguments, workers=workers, gpus_per_worker=gpus_per_worker, storage=storage)

    start_again(attempt, describe)


def start_again(attempt: Callable[[], None], describe: str) -> None:
    """Call ``attempt()``, which runs on workers, again after the death of a worker, up to three times.

    Args:
        attempt: raises the error of its workers.
        describe: name of the work in messages.

    Raises:
        UserError: a worker raised one.
        ray.train.TrainingFailedError: a worker failed otherwise, or died once more.
    """
    # Not left to Train's own restarts: Train would also start again after an error of the job, which only comes again.
    for again in reversed(range(_RESTARTS + 1)):
        try:
            attempt()
            return
        except Exception as error:
            _raise_user_error(error)
            if not again or not has_died(error):
                raise
        console.print(f"  {describe}: a worker died; all start again ({_RESTARTS + 1 - again} of {_RESTARTS} times)")


def has_died(error: Exception) -> bool:
    """Whether a job failed by the death of one of its processes."""
    # The dead process itself says nothing: the survivors complain of a lost connection. All must complain of nothing
    # else, since a worker which raises an error of its own also cuts the connections of the others.
    failures = private.failures_of_workers(error)
    if failures and all(isinstance(one, distributed.DistError) or _LOST.search(str(one)) for one in failures):
        return True
    return any(private.is_death(one) for one in (*failures, error))


def _raise_user_error(error: Exception) -> None:
    """Raise the :class:`UserError` of a failed worker, if there is one."""
    for failure in (error, *private.failures_of_workers(error)):
        # Ray keeps the original error in `cause`, Python in `__cause__`, and both may be nested. Ray's own error is an
        # instance of the original's class as well: it is passed over for the original behind it.
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, UserError) and not isinstance(cause, ray.exceptions.RayTaskError):
                raise UserError(str(cause)) from error
            cause = getattr(cause, "cause", None) or cause.__cause__


def rank_and_world() -> tuple[int, int]:
    """This worker's rank and the number of workers; (0, 1) outside a job.

    >>> rank_and_world()
    (0, 1)
    """
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def worker_device() -> torch.device:
    """The GPU given to this process by Ray, made current; else the CPU."""
    # PyTorch alone is not asked: a worker without a GPU of its own still sees those of its node.
    if not torch.cuda.is_available() or not ray.get_gpu_ids():
        return torch.device("cpu")
    # Workers of a job see all GPUs of their node, and Train knows which is whose. A Tune actor sees only its own.
    if distributed.is_initialized():
        from ray.train.torch import get_device

        device = get_device()
    else:
        device = torch.device("cuda", 0)
    # Made current, since kernels and NCCL would otherwise start a context on GPU 0 for every worker.
    torch.cuda.set_device(device)
    return device


def sum_over(group: distributed.ProcessGroup | None, world: int) -> Callable[[list[Tensor]], None]:
    """A function which sums tensors in place over the workers of a group, in one message.

    >>> total = torch.ones(2)
    >>> sum_over(None, world=1)([total])  # one worker: nothing to add
    >>> total
    tensor([1., 1.])

    Args:
        group: the workers; None means all workers of the job.
        world: number of workers in the group.
    """

    def reduce(tensors: list[Tensor]) -> None:
        if world == 1 or not tensors:
            return
        if len(tensors) == 1:
            distributed.all_reduce(tensors[0], group=group)
            return
        # One message for all: a model has hundreds of tensors, and each message costs a round trip.
        flat = _flatten_dense_tensors(tensors)
        distributed.all_reduce(flat, group=group)
        for tensor, total in zip(tensors, _unflatten_dense_tensors(flat, tensors), strict=True):
            tensor.copy_(total)

    return reduce

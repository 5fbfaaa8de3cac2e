"""Ray: the session, jobs on Ray Train workers, and what their workers share."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import ray
import torch
import torch.distributed as distributed
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from altermoma_ray.cli import console
from altermoma_ray.errors import UserError

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def ray_session() -> Iterator[None]:
    """Join the cluster that ``RAY_ADDRESS`` names (``ray job submit`` sets it), or start Ray on this machine.

    Ray's own lines stay out of the terminal; they are in its session folder.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    cluster = os.environ.get("RAY_ADDRESS")
    local: dict[str, Any] = {} if cluster else {"include_dashboard": False, "object_store_memory": 1 << 30}
    try:
        ray.init(address=cluster or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
    except ConnectionError as error:
        raise UserError(f"no Ray cluster answers at RAY_ADDRESS={cluster}; start it or unset the variable") from error
    for name in ("ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def worker_slots(gpus_per_worker: float) -> int:
    """How many workers the cluster can run at once, each with one CPU and ``gpus_per_worker`` GPUs."""
    resources = ray.cluster_resources()
    slots = int(resources.get("CPU", 1))
    if gpus_per_worker > 0:
        slots = min(slots, int(resources.get("GPU", 0) / gpus_per_worker))
    return max(1, slots)


def run_on_workers(
    function: Callable[[Any, Any], None],
    job: Any,
    *,
    workers: int,
    gpus_per_worker: float = 0.0,
    describe: str,
    total: int,
) -> None:
    """Run ``function(job, reporter)`` on Ray Train workers and wait, with a progress bar.

    Args:
        function: what every worker runs, with ``torch.distributed`` set up; ``reporter.advance(n)`` moves the bar.
        job: picklable description of the work.
        workers: number of workers, each with one CPU.
        gpus_per_worker: GPUs of each worker.
        describe: the bar's text.
        total: steps of the whole job.

    Raises:
        UserError: a worker raised one.
        ray.train.TrainingFailedError: a worker failed otherwise.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    with ProgressBar(describe, total) as bar, tempfile.TemporaryDirectory(prefix="altermoma_ray-") as scratch:
        trainer = TorchTrainer(
            _worker_main,
            train_loop_config={"function": function, "job": job, "reporter": bar.reporter},
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=gpus_per_worker > 0,
                resources_per_worker={"CPU": 1, **({"GPU": gpus_per_worker} if gpus_per_worker > 0 else {})},
            ),
            run_config=RunConfig(name="job", storage_path=scratch),
        )
        try:
            trainer.fit()
        except Exception as error:
            _raise_user_error(error)
            raise


def _worker_main(config: dict[str, Any]) -> None:
    config["function"](config["job"], config["reporter"])


def _raise_user_error(error: Exception) -> None:
    """Raise the :class:`UserError` that made a worker fail, if one did."""
    for failure in getattr(error, "worker_failures", {}).values():
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, UserError):
                raise UserError(str(cause)) from error
            cause = getattr(cause, "cause", None) or cause.__cause__


def rank_and_world() -> tuple[int, int]:
    """This worker's rank and the number of workers; (0, 1) outside a job."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def worker_device() -> torch.device:
    """The GPU that Ray gave this process, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() and ray.get_gpu_ids() else torch.device("cpu")


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


@ray.remote(num_cpus=0)
class _Counter:
    """Counts finished steps of a job."""

    def __init__(self) -> None:
        self.done = 0.0
        self.text = ""

    def advance(self, amount: float, text: str) -> None:
        self.done += amount
        self.text = text or self.text

    def state(self) -> tuple[float, str]:
        return self.done, self.text


class Reporter:
    """A worker's end of a progress bar: fire and forget."""

    def __init__(self, counter: Any) -> None:
        self._counter = counter

    def advance(self, amount: float = 1.0, text: str = "") -> None:
        """Move the bar by ``amount`` steps; ``text`` replaces the note behind it."""
        self._counter.advance.remote(amount, text)


class ProgressBar:
    """The driver's end: a bar that follows what the workers report."""

    def __init__(self, describe: str, total: int) -> None:
        self._counter = _Counter.remote()
        self.reporter = Reporter(self._counter)
        self._describe, self._total = describe, total
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> ProgressBar:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task(self._describe, total=self._total, note="")
            tenths = 0
            while not self._stop.wait(1.0):
                done, note = ray.get(self._counter.state.remote())
                progress.update(task, completed=int(done), note=note)
                if not console.is_terminal and int(10 * done / self._total) > tenths:  # a log gets a line now and then
                    tenths = int(10 * done / self._total)
                    console.print(f"  {self._describe}: {int(done)}/{self._total} {note}")

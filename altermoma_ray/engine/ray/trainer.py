"""One start of Ray Train workers, with its files in storage and its places in the cluster."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from ray.util.placement_group import get_current_placement_group

from altermoma_ray.engine.ray import private
from altermoma_ray.storage import Location


def fit_once(
    function: Callable[..., None],
    arguments: tuple[Any, ...],
    *,
    workers: int,
    gpus_per_worker: float,
    storage: Location,
) -> None:
    """Run ``function(*arguments)`` on new Ray Train workers and wait, without a second try.

    Example:
        Two workers greet::

            fit_once(print, ("hello",), workers=2, gpus_per_worker=0.0, storage=storage)

    Args:
        function: run by every worker, with ``torch.distributed`` set up.
        arguments: picklable.
        workers: number of workers, each with one CPU.
        gpus_per_worker: GPUs of each worker.
        storage: place for Ray's files while the workers run, within reach of every node.

    Raises:
        ray.train.TrainingFailedError: a worker failed or died.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    # Before anything is asked for: places of a controller killed earlier would leave this job without CPUs.
    private.free_abandoned_places()
    with scratch_folder(storage) as scratch:
        reserved = scratch.join("reserved")
        trainer = private.quiet_trainer()(
            _worker_main,
            train_loop_config={"function": function, "arguments": arguments, "reserved": str(reserved)},
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=gpus_per_worker > 0,
                resources_per_worker={"CPU": 1, **({"GPU": gpus_per_worker} if gpus_per_worker > 0 else {})},
            ),
            # NCCL, Train's choice for GPUs, refuses two workers on one GPU.
            torch_config=TorchConfig(backend="gloo" if 0 < gpus_per_worker < 1 else None),
            run_config=RunConfig(name="job", storage_path=scratch.path, storage_filesystem=scratch.filesystem),
        )
        try:
            trainer.fit()
        # The group's number comes from storage: only workers can tell, and by now they may all be dead.
        except Exception:
            if reserved.exists():
                private.free_places(reserved.read_text())
            raise


def _worker_main(config: dict[str, Any]) -> None:
    # The first act of each worker: a death at any later moment leaves the group's number behind.
    group = get_current_placement_group()
    assert group is not None
    Location.parse(config["reserved"]).write_text(group.id.hex())
    config["function"](*config["arguments"])


@contextlib.contextmanager
def scratch_folder(storage: Location) -> Iterator[Location]:
    """A folder in storage for Ray's own files, deleted at the end of the ``with`` block.

    Example:
        The folder of one job::

            with scratch_folder(storage) as scratch:
                run_config = RunConfig(storage_path=scratch.path, storage_filesystem=scratch.filesystem)
    """
    folder = storage.join("ray", uuid.uuid4().hex)
    folder.make_folder()
    try:
        yield folder
    finally:
        folder.delete()

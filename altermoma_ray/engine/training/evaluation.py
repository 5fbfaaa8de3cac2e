"""Predict on validation samples, over any number of workers, and let the task score the predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as distributed
from torch import nn

from altermoma_ray.data.sampling import global_batches
from altermoma_ray.engine.ray.workers import rank_and_world, run_on_workers
from altermoma_ray.engine.training.batches import LazyBatches, RowLoader
from altermoma_ray.errors import UserError
from altermoma_ray.workloads.protocols import DataSource, Task, ValidationPart
from altermoma_ray.workloads.recipe import Recipe
from altermoma_ray.workloads.reference import WorkloadReference


class Evaluator:
    """Evaluates models on one set of validation samples.

    A reused process keeps its evaluator and decodes the samples once::

        evaluator = Evaluator(data, data.rows("validation"), batch_size=4)
        whole = evaluator(model, task)
        without_lidar = evaluator(model, task, masked=frozenset({"lidar"}))

    Args:
        data: gives samples and annotations.
        rows: the validation samples of all workers together.
        batch_size: samples of one forward pass on this worker.
        loader: loads the samples; other loops may share it. None loads in the worker itself.
    """

    def __init__(
        self, data: DataSource, rows: Sequence[int], *, batch_size: int, loader: RowLoader | None = None
    ) -> None:
        rank, world = rank_and_world()
        self._data = data
        self.rows = list(rows)
        """The validation samples of all workers together."""
        # Strided, without padding: a DistributedSampler repeats samples to give all workers as many, and a repeated
        # sample would count twice. Nothing below waits for other workers batch by batch, so counts may differ.
        own = self.rows[rank::world]
        self._batches = LazyBatches(loader or RowLoader(data, own), global_batches(own, batch_size))

    @classmethod
    def of(cls, data: DataSource, rows: Sequence[int], recipe: Recipe, loader: RowLoader | None = None) -> Evaluator:
        """An evaluator with the batch size of a recipe, and its loader processes where no loader is given.

        Other arguments are as above.
        """
        loader = loader or RowLoader(data, rows, processes=recipe.loader_processes)
        return cls(data, rows, batch_size=recipe.batch_size, loader=loader)

    def __call__(
        self,
        model: nn.Module,
        task: Task,
        *,
        masked: frozenset[str] = frozenset(),
        on_batch: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """The task's metrics of the model; the same on every worker.

        Normalisation runs on its running statistics; the model's training flag is restored.

        Args:
            model: the network itself, without a wrapper for data parallelism.
            task: decodes and scores predictions.
            masked: modalities to mask.
            on_batch: called after each batch of this worker.

        Raises:
            UserError: a sample's file is missing or broken, or the task's own ``evaluate`` raised the error.
        """
        found = self.predictions(model, task, masked=masked, on_batch=on_batch)
        return on_first_worker(lambda: task.evaluate(found, self._data, self.rows))

    def predictions(
        self,
        model: nn.Module,
        task: Task,
        *,
        masked: frozenset[str] = frozenset(),
        on_batch: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        """The decoded predictions by sample name: of all samples on rank 0, of their own samples on other workers.

        Arguments are as above.
        """
        device = next(model.parameters()).device
        training = model.training
        model.eval()
        found: dict[str, Any] = {}
        try:
            with torch.inference_mode():
                for decoded in self._batches:
                    batch = decoded.to(device)
                    found.update(task.decode(model(batch, masked), batch))
                    on_batch()
        finally:
            model.train(training)
        # A metric like mAP is no mean over samples: predictions are gathered, and one worker scores all of them.
        for part in _gathered(found):
            found.update(part)
        return found


class EvaluationJob(Protocol):
    """A job that evaluates models on validation samples."""

    # Properties, since the jobs are frozen: a protocol's plain attributes could be set.
    @property
    def workload(self) -> WorkloadReference:
        """The models' data and task."""

    @property
    def validation_part(self) -> ValidationPart:
        """The samples to evaluate on."""


def evaluate_on_workers(
    function: Callable[[Any, Any], None],
    job: EvaluationJob,
    *,
    workers: int,
    gpus_per_worker: float,
    describe: str,
    passes: int = 1,
) -> None:
    """Run ``function(job, reporter)`` on Ray Train workers, with a bar that counts the batches of its evaluations.

    Example::

        evaluate_on_workers(measure_worker, job, workers=2, gpus_per_worker=0.0, describe="measuring", passes=2)

    Args:
        function: run by every worker; reports each batch of its evaluators.
        job: names the workload and its validation samples; its models are in storage.
        workers: Ray Train workers, which share the samples.
        gpus_per_worker: GPUs of each worker.
        describe: the bar's text.
        passes: number of passes over the samples.
    """
    workload = job.workload.load()
    batches = math.ceil(len(workload.source().rows("validation", job.validation_part)) / workload.recipe.batch_size)
    run_on_workers(
        function,
        job,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        storage=job.workload.storage_location,
        describe=describe,
        total=passes * batches,
    )


def on_first_worker(compute: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Metrics computed by rank 0 alone, on one core, and told to the other workers.

    >>> on_first_worker(lambda: {"accuracy": 0.5})
    {'accuracy': 0.5}

    Args:
        compute: gives the metrics; called on rank 0 only.

    Raises:
        Exception: ``compute`` raised it; the other workers raise an error of the same text.
    """
    rank, world = rank_and_world()
    if world == 1:
        return compute()
    metrics: dict[str, float] = {}
    failure: Exception | None = None
    if rank == 0:
        try:
            metrics = compute()
        except Exception as error:
            failure = error
    # Told in any case: a worker that waited for metrics while rank 0 raised would wait for ever.
    told: list[Any] = [metrics, None if failure is None else _plain(failure)]
    distributed.broadcast_object_list(told, src=0)
    if failure is not None:
        raise failure
    if told[1] is not None:
        raise told[1]
    return dict(told[0])


def _plain(error: Exception) -> Exception:
    """The error as one which every worker can unpickle; the kinds with a meaning in the engine stay what they are."""
    for kind in (UserError, FloatingPointError):
        if isinstance(error, kind):
            return kind(str(error))
    return RuntimeError(f"{type(error).__name__}: {error}")


def _gathered(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The predictions of every worker, in order, on rank 0; nothing on the others."""
    rank, world = rank_and_world()
    if world == 1:
        return []
    # Predictions have different lengths on each worker, so they travel as pickled objects, not as tensors.
    parts: list[dict[str, Any]] | None = [{} for _ in range(world)] if rank == 0 else None
    distributed.gather_object(found, parts)
    return parts or []

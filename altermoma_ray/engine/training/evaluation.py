"""Predict on validation samples, over any number of workers, and let the task score the predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as distributed
from torch import nn

from altermoma_ray.engine.ray.workers import rank_and_world
from altermoma_ray.engine.training.batches import LazyBatches
from altermoma_ray.workloads.protocols import DataSource, Task


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
    """

    def __init__(self, data: DataSource, rows: Sequence[int], *, batch_size: int) -> None:
        rank, world = rank_and_world()
        self._data, self._rows = data, list(rows)
        # Strided, without padding: a DistributedSampler repeats samples to give all workers as many, and a repeated
        # sample would count twice. Nothing below waits for other workers batch by batch, so counts may differ.
        own = self._rows[rank::world]
        dataset = data.dataset(own, augment=False, seed=0)
        spans = [range(start, min(start + batch_size, len(own))) for start in range(0, len(own), batch_size)]
        self._batches = LazyBatches(dataset, data.collate, spans)

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
        """
        found = self.predictions(model, task, masked=masked, on_batch=on_batch)
        return task.evaluate(found, self._data, self._rows)

    def predictions(
        self,
        model: nn.Module,
        task: Task,
        *,
        masked: frozenset[str] = frozenset(),
        on_batch: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        """The decoded predictions of all samples, by sample name; the same on every worker. Arguments are as above."""
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
        # A metric like mAP is no mean over samples: predictions are gathered, and each worker scores all of them.
        for part in _gather(found):
            found.update(part)
        return found


def _gather(found: dict[str, Any]) -> list[dict[str, Any]]:
    _, world = rank_and_world()
    if world == 1:
        return []
    # Predictions have different lengths on each worker, so they travel as pickled objects, not as tensors.
    parts: list[dict[str, Any]] = [{} for _ in range(world)]
    distributed.all_gather_object(parts, found)
    return parts

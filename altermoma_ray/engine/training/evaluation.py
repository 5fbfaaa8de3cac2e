"""Detect on validation samples, over any number of workers, and score the detections with the official devkit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as distributed

from altermoma_ray.data.batch import Detections
from altermoma_ray.data.nuscenes.dataset import NuScenesDataset
from altermoma_ray.data.nuscenes.source import DataSource
from altermoma_ray.data.transforms import InputConfig
from altermoma_ray.engine.ray.workers import rank_and_world
from altermoma_ray.engine.training.batches import LazyBatches
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.tasks.detection.task import DetectionTask
from altermoma_ray.tasks.metrics.nuscenes_detection import evaluate


class Evaluator:
    """Evaluates models on one set of validation samples.

    Kept by a reused process, it decodes its samples once.
    """

    def __init__(self, source: DataSource, inputs: InputConfig, rows: Sequence[int], *, batch_size: int) -> None:
        rank, world = rank_and_world()
        self._index = source.index()
        self._rows = list(rows)
        own = self._rows[rank::world]
        dataset = NuScenesDataset(self._index, own, inputs, augment=False, seed=0)
        spans = [range(start, min(start + batch_size, len(own))) for start in range(0, len(own), batch_size)]
        self._batches = LazyBatches(dataset, spans)

    def __call__(
        self,
        model: FusionModel,
        task: DetectionTask,
        *,
        masked: frozenset[str] = frozenset(),
        on_batch: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """``map``, ``nds``, ``ap/<class>`` and ``tp/<error>`` of the model; the same on every worker.

        Normalisation runs on its running statistics; the model's training flag is restored.
        """
        device = next(model.parameters()).device
        training = model.training
        model.eval()
        found: dict[str, Detections] = {}
        try:
            with torch.inference_mode():
                for decoded in self._batches:
                    batch = decoded.to(device)
                    detections = task.decode(model(batch, masked), batch)
                    for token, detection in zip(batch.tokens, detections, strict=True):
                        found[token] = Detections(
                            boxes=detection.boxes.cpu(), scores=detection.scores.cpu(), labels=detection.labels.cpu()
                        )
                    on_batch()
        finally:
            model.train(training)
        for part in _gather(found):
            found.update(part)
        return evaluate(found, self._index, self._rows)


def _gather(found: dict[str, Detections]) -> list[dict[str, Detections]]:
    _, world = rank_and_world()
    if world == 1:
        return []
    parts: list[dict[str, Detections]] = [{} for _ in range(world)]
    distributed.all_gather_object(parts, found)
    return parts

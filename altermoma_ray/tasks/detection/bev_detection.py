"""The parts which the detection tasks of all heads share: the map, detections by sample, the official evaluation."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from altermoma_ray.data.batch import Batch, Detections
from altermoma_ray.objects import FoundObjects
from altermoma_ray.tasks.detection.boxes import BevGrid
from altermoma_ray.tasks.detection.metrics import METRICS, RESULTS

if TYPE_CHECKING:
    from altermoma_ray.data.nuscenes.source import NuScenes

POST_CENTRE_RANGE = (-61.2, -61.2, -10.0, 61.2, 61.2, 10.0)
"""Detections whose bottom centre lies outside (x0, y0, z0, x1, y1, z1; m, lidar frame) are dropped, as published."""


class BevDetection(ABC):
    """3D object detection on a BEV map; a subclass brings the losses and the decoding of one kind of head.

    Args:
        grid: where the map lies.
    """

    metrics = METRICS

    def __init__(self, grid: BevGrid) -> None:
        self.grid = grid

    @property
    def map_extent(self) -> tuple[float, float, float, float]:
        """Least and greatest x, then least and greatest y of the BEV map (m, lidar frame)."""
        (x, y), (length, width) = self.grid.origin, self.grid.extent
        return x, x + length, y, y + width

    @abstractmethod
    def loss(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Losses of each sample, [N] each, with ``total``, their sum."""

    @abstractmethod
    def detections(self, outputs: Mapping[str, Tensor], batch: Batch) -> list[Detections]:
        """The detections of each sample, best first, in the frame of ``batch`` (the lidar frame if un-augmented)."""

    def decode(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Detections]:
        """The detections by sample token, on the CPU."""
        return {
            token: Detections(boxes=found.boxes.cpu(), scores=found.scores.cpu(), labels=found.labels.cpu())
            for token, found in zip(batch.tokens, self.detections(outputs, batch), strict=True)
        }

    def evaluate(self, predictions: Mapping[str, Detections], data: NuScenes, rows: Sequence[int]) -> dict[str, float]:
        """``map``, ``nds``, ``ap/<class>`` and ``tp/<error>`` by the official evaluation of nuScenes.

        Args:
            predictions: results of :meth:`decode` by sample token, one for each of ``rows``.
            data: the data set with the samples' descriptions.
            rows: the samples to evaluate on.
        """
        # Imported here: the metric brings in pandas, scikit-learn and matplotlib, more than two seconds of CPU that
        # processes which only score or train do without.
        from altermoma_ray.tasks.metrics.nuscenes_detection import evaluate

        return evaluate(predictions, data.index(), rows)

    def evaluate_scene(
        self, predictions: Mapping[str, Detections], data: NuScenes, rows: Sequence[int]
    ) -> dict[str, float]:
        """The metrics of one scene, over the classes that it shows; arguments of :meth:`evaluate`."""
        from altermoma_ray.tasks.metrics.nuscenes_detection import evaluate_scene

        return evaluate_scene(predictions, data.index(), rows)

    def found_objects(self, predictions: Mapping[str, Detections], data: NuScenes, rows: Sequence[int]) -> FoundObjects:
        """The annotated objects by class, range and visibility, as they are found; arguments of :meth:`evaluate`."""
        from altermoma_ray.tasks.metrics.nuscenes_objects import found_objects

        return found_objects(predictions, data.index(), rows)

    def result_files(
        self, predictions: Mapping[str, Detections], data: NuScenes, rows: Sequence[int]
    ) -> dict[str, str]:
        """``results_nusc.json``, a file of detections for the official evaluation; arguments of :meth:`evaluate`."""
        from altermoma_ray.tasks.metrics.nuscenes_detection import submission

        return {RESULTS: json.dumps(submission(predictions, data.index(), rows, data.sensors))}

    def occupied(self, batch: Batch) -> Tensor:
        """The cells of the BEV map covered by an object, bool [N, X, Y]; the redundancy report looks at these cells."""
        return torch.stack([self.grid.occupied(boxes) for boxes in batch.boxes])

    def objects(self, batch: Batch, sample: int) -> tuple[Tensor, Tensor]:
        """The objects of a sample whose centre lies on the map: boxes [M, 9] in float64 and labels [M], on the CPU."""
        boxes, labels = batch.boxes[sample].cpu().double(), batch.labels[sample].cpu()
        on_map = self.grid.contains(boxes)
        return boxes[on_map], labels[on_map]


def inside_published_range(boxes: Tensor) -> Tensor:
    """Whether the bottom centres of boxes [..., 9] lie in :data:`POST_CENTRE_RANGE`, [...] bool.

    >>> inside_published_range(torch.tensor([[61.0, 0, 0, 4, 2, 2, 0, 0, 0], [62.0, 0, 0, 4, 2, 2, 0, 0, 0]]))
    tensor([ True, False])
    """
    # The published range is about the bottom of a box, as the boxes of the published code stand on their z.
    lower, upper = boxes.new_tensor(POST_CENTRE_RANGE).chunk(2)
    bottom = torch.cat((boxes[..., :2], boxes[..., 2:3] - boxes[..., 5:6] / 2), dim=-1)
    return ((bottom >= lower) & (bottom <= upper)).all(dim=-1)

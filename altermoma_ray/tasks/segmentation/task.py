"""Bird's-eye-view map segmentation: focal loss of each sample, and the overlaps that the IoU is made of.

Notation: ``N`` samples, ``K`` classes, ``T`` thresholds, ``X × Y`` raster cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from altermoma_ray.data.batch import Batch
from altermoma_ray.models.configurations.segmentation import SegmentationHeadConfig
from altermoma_ray.tasks.metrics.nuscenes_segmentation import THRESHOLDS, metrics_of, scene_scores, scores


class SegmentationTask:
    """The task of a model with a map segmentation head.

    >>> SegmentationTask(SegmentationHeadConfig()).metrics[0].title
    'mIoU'
    """

    def __init__(self, config: SegmentationHeadConfig) -> None:
        self.config = config
        self.metrics = metrics_of(config.classes)

    def loss(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Losses of each sample, [N] each: the focal loss of every class by its name, and ``total``, their sum."""
        logits = outputs["logits"].float()
        losses = map_focal_loss(logits, torch.stack(batch.rasters).to(logits), gamma=self.config.focal_gamma)
        return {**dict(zip(self.config.classes, losses.unbind(1), strict=True)), "total": losses.sum(1)}

    @torch.no_grad()
    def decode(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, np.ndarray]:
        """The overlaps of each sample with its raster, by token: int64 [3, K, T].

        The IoU is made of sums over frames, so that 126 counts stand for the 240,000 cells of a published frame.
        """
        probability = outputs["logits"].float().sigmoid()
        return {
            token: overlaps(one, raster)
            for token, one, raster in zip(batch.tokens, probability, batch.rasters, strict=True)
        }

    def evaluate(self, predictions: Mapping[str, np.ndarray], data: Any, rows: Sequence[int]) -> dict[str, float]:
        """``miou`` and ``iou/<class>``.

        Args:
            predictions: by sample token, what :meth:`decode` gave for each of ``rows``.
            data: where the rows are described.
            rows: the samples to evaluate on.
        """
        return scores(self._overlaps(predictions, data, rows), self.config.classes)

    def evaluate_scene(self, predictions: Mapping[str, np.ndarray], data: Any, rows: Sequence[int]) -> dict[str, float]:
        """The metrics of one scene, over the classes that it shows; arguments of :meth:`evaluate`."""
        return scene_scores(self._overlaps(predictions, data, rows), self.config.classes)

    @staticmethod
    def _overlaps(predictions: Mapping[str, np.ndarray], data: Any, rows: Sequence[int]) -> list[np.ndarray]:
        index = data.index()
        return [predictions[index.record(row).token] for row in rows]


def map_focal_loss(logits: Tensor, targets: Tensor, *, gamma: float) -> Tensor:
    """Sigmoid focal loss (Lin et al., ICCV 2017, Eq. 4: no weight α) by sample and class, the mean over cells.

    Args:
        logits: [N, K, X, Y].
        targets: [N, K, X, Y] zeros and ones.
        gamma: focus.

    Returns:
        [N, K].
    """
    probability = logits.sigmoid()
    missed = torch.where(targets > 0, 1 - probability, probability)
    entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (missed**gamma * entropy).mean(dim=(2, 3))


def overlaps(probability: Tensor, raster: Tensor) -> np.ndarray:
    """Cells in which prediction and raster are both true, cells predicted, cells true: int64 [3, K, T].

    Args:
        probability: [K, X, Y]; a cell is predicted where it reaches a threshold.
        raster: [K, X, Y] bool.
    """
    thresholds = probability.new_tensor(THRESHOLDS)
    predicted = probability.flatten(1)[:, None] >= thresholds[:, None]
    true = raster.flatten(1)[:, None].bool().expand_as(predicted)
    return torch.stack([(predicted & true).sum(2), predicted.sum(2), true.sum(2)]).cpu().numpy()

"""The map segmentation metric of the published BEVFusion: intersection over union (IoU), best over thresholds.

Cells are summed over all frames before the division. Each class takes its own best threshold. As in the published
code, a class that no frame has scores 0 and counts in the mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from altermoma_ray.metrics import Metric

THRESHOLDS = (0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65)
"""A cell is predicted where its probability reaches the threshold."""


def metrics_of(classes: Sequence[str]) -> tuple[Metric, ...]:
    """The mean IoU, then the IoU of each class."""
    return Metric("miou", "mIoU"), *(Metric(f"iou/{name}", f"IoU of {name}", is_column=False) for name in classes)


def scores(overlaps: Sequence[np.ndarray], classes: Sequence[str]) -> dict[str, float]:
    """The metrics of some frames.

    Args:
        overlaps: of each frame, int64 [3, class, threshold]: cells both predicted and true, predicted, true.
        classes: names of the classes.

    >>> scores([np.array([[[1]], [[2]], [[3]]]), np.array([[[1]], [[1]], [[1]]])], ["road"])
    {'miou': 0.4, 'iou/road': 0.4}
    """
    both, predicted, true = np.sum(overlaps, axis=0)
    iou = (both / np.maximum(predicted + true - both, 1)).max(axis=1)
    return {"miou": float(iou.mean()), **{f"iou/{name}": float(one) for name, one in zip(classes, iou, strict=True)}}


def scene_scores(overlaps: Sequence[np.ndarray], classes: Sequence[str]) -> dict[str, float]:
    """The metrics of one scene over the classes that it has; NaN for the others, and for a scene without any.

    >>> scene_scores([np.array([[[1], [0]], [[2], [9]], [[3], [0]]])], ["road", "stop"])
    {'miou': 0.25, 'iou/road': 0.25, 'iou/stop': nan}
    """
    found = scores(overlaps, classes)
    there = np.sum(overlaps, axis=0)[2].max(axis=1) > 0
    single = [found[f"iou/{name}"] if is_there else float("nan") for name, is_there in zip(classes, there, strict=True)]
    mean = float(np.nanmean(single)) if there.any() else float("nan")
    return {"miou": mean, **{f"iou/{name}": one for name, one in zip(classes, single, strict=True)}}

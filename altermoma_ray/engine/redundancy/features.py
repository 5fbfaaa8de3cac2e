"""BEV features of some samples in several states of a model: pictures of one, figures over all (AlterMOMA, Figure 3).

Notation: F [N, C, X, Y] a BEV map; ‖F‖ [N, X, Y] its norm over channels, which is what the pictures show.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from altermoma_ray.data.batch import Batch
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.tasks.detection.boxes import BevGrid
from altermoma_ray.tracking.redundancy.records import (
    BEFORE,
    FINE_TUNED,
    MASKED,
    PRUNED,
    REACTIVATED,
    FeatureFigures,
    row_name,
)

ROWS = (("camera", "lidar"), ("lidar", "camera"), ("fused", "lidar"), ("fused", "camera"))
"""The maps that are followed, and the modality that is masked meanwhile."""
STATES = (BEFORE, MASKED, REACTIVATED, PRUNED, FINE_TUNED)


class FeatureRecorder:
    """Looks at the same samples in one state after another.

    Args:
        batches: the samples, on the model's device, without augmentation.
        grid: where the BEV map lies.
        pictured: which sample, counted over all batches, the pictures show.
    """

    def __init__(self, batches: Sequence[Batch], grid: BevGrid, *, pictured: int) -> None:
        self._batches, self._pictured = batches, pictured
        self._occupied = torch.stack([occupied(boxes, grid) for batch in batches for boxes in batch.boxes])
        self._before: dict[str, Tensor] = {}
        self.pictures: dict[str, Tensor] = {}
        """``<row>/<state>``: ‖F‖ [X, Y] of the pictured sample."""
        self.figures: list[FeatureFigures] = []

    def record(self, model: FusionModel, state: str, *, masked: str | None = None) -> None:
        """Look at the model in a state: at all rows, or at those that mask one modality."""
        rows = [row for row in ROWS if masked in (None, row[1])]
        features = self._features(model, masked)
        for name, lost in rows:
            key = row_name(name, lost)
            feature = features[name]
            before = self._before.setdefault(name, feature)  # the first state recorded is the intact model's
            norm = feature.norm(dim=1)
            self.pictures[f"{key}/{state}"] = norm[self._pictured].cpu().contiguous()
            self.figures.append(
                FeatureFigures(
                    map=name,
                    masked=lost,
                    state=state,
                    contrast=contrast(norm, self._occupied),
                    likeness=float(torch.cosine_similarity(feature.flatten(), before.flatten(), dim=0)),
                )
            )

    def _features(self, model: FusionModel, masked: str | None) -> dict[str, Tensor]:
        mask = frozenset() if masked is None else frozenset({masked})
        training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                parts = [model.bev_features(batch, mask) for batch in self._batches]
        finally:
            model.train(training)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def occupied(boxes: Tensor, grid: BevGrid) -> Tensor:
    """The cells [X, Y] whose centre lies in one of the boxes [M, 9], or that hold a box's centre."""
    axes = [
        origin + cell * (torch.arange(count, device=boxes.device) + 0.5)
        for origin, cell, count in zip(grid.origin, grid.cell, grid.shape, strict=True)
    ]
    x, y = torch.meshgrid(*axes, indexing="ij")
    found = torch.zeros(grid.shape, dtype=torch.bool, device=boxes.device)
    for box in boxes:
        along, across = x - box[0], y - box[1]
        centre = (along.abs() <= grid.cell[0] / 2) & (across.abs() <= grid.cell[1] / 2)
        cosine, sine = box[6].cos(), box[6].sin()
        length, width = along * cosine + across * sine, across * cosine - along * sine
        found |= centre | ((length.abs() <= box[3] / 2) & (width.abs() <= box[4] / 2))
    return found


def contrast(norm: Tensor, inside: Tensor) -> float:
    """Mean norm of the cells marked ``inside`` over that of the others; NaN where a side is empty or all zero."""
    outside = norm[~inside].mean()
    return float(norm[inside].mean() / outside) if float(outside) > 0 else float("nan")

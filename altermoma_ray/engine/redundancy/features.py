"""BEV features of some samples in several states of a model: pictures of one, figures over all (AlterMOMA, Figure 3).

Notation: F [N, C, X, Y] a BEV map; ‖F‖ [N, X, Y] its norm over channels, as shown in the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from altermoma_ray.tracking.redundancy.records import (
    BEFORE,
    FINE_TUNED,
    MASKED,
    PRUNED,
    REACTIVATED,
    FeatureFigures,
    row_name,
)

FUSED = "fused"
"""Name of the fuser's map."""
STATES = (BEFORE, MASKED, REACTIVATED, PRUNED, FINE_TUNED)


def rows_of(modalities: Sequence[str]) -> list[tuple[str, str]]:
    """The maps to follow, each with the modality masked meanwhile.

    >>> rows_of(("lidar", "camera"))
    [('camera', 'lidar'), ('lidar', 'camera'), ('fused', 'lidar'), ('fused', 'camera')]

    Args:
        modalities: of the model, in the order in which they are masked.
    """
    # A masked branch gives nothing to see: a branch is followed while another is masked, the fused map under each mask.
    left = [(name, masked) for masked in modalities for name in reversed(modalities) if name != masked]
    return left + [(FUSED, masked) for masked in modalities]


class FeatureRecorder:
    """Looks at the same samples in one state of a model after another.

    The intact model is recorded first, for comparison::

        recorder = FeatureRecorder(batches, rows_of(("lidar", "camera")), occupied, pictured=0)
        recorder.record(model, "before")
        recorder.record(model, "masked", masked="lidar")
        recorder.figures

    Args:
        batches: the samples, on the model's device, without augmentation.
        rows: see :func:`rows_of`.
        occupied: the cells of each sample's map covered by an object, bool [N, X, Y].
        pictured: number of the sample in the pictures, counted over all batches.
    """

    def __init__(
        self, batches: Sequence[Any], rows: Sequence[tuple[str, str]], occupied: Tensor, *, pictured: int
    ) -> None:
        self._batches, self._rows, self._pictured = batches, rows, pictured
        self._occupied = occupied
        self._before: dict[str, Tensor] = {}
        self.pictures: dict[str, Tensor] = {}
        """``<row>/<state>``: ‖F‖ [X, Y] of the pictured sample."""
        self.figures: list[FeatureFigures] = []

    def record(self, model: nn.Module, state: str, *, masked: str | None = None) -> None:
        """Look at the model in a state: at all rows, or at the rows which mask one modality.

        Args:
            model: in the state.
            state: one of :data:`STATES`.
            masked: the masked modality; None masks none and records all rows.
        """
        rows = [row for row in self._rows if masked in (None, row[1])]
        features = self._features(model, masked)
        for name, lost in rows:
            key = row_name(name, lost)
            feature = features[name]
            # The first recorded state is the intact model's. By map and not by row: the intact model masks nothing, so
            # both rows of the fused map share their first state.
            before = self._before.setdefault(name, feature)
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

    def _features(self, model: nn.Module, masked: str | None) -> dict[str, Tensor]:
        mask = frozenset() if masked is None else frozenset({masked})
        # In evaluation mode, or looking would move the running statistics of the model under measurement.
        training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                parts = [model.features(batch, mask) for batch in self._batches]
        finally:
            model.train(training)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def contrast(norm: Tensor, inside: Tensor) -> float:
    """Mean norm of the cells marked ``inside`` over the mean of the others; NaN where a side is empty or all zero.

    >>> contrast(torch.tensor([6.0, 2.0, 2.0]), torch.tensor([True, False, False]))
    3.0
    """
    # The mean of no cells is NaN, and no comparison with NaN is true: an empty side needs no test of its own.
    outside = norm[~inside].mean()
    return float(norm[inside].mean() / outside) if float(outside) > 0 else float("nan")

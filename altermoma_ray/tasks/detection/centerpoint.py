"""3D object detection: targets, losses and decoding of the CenterPoint head (Yin et al., CVPR 2021).

Every loss is one value for each sample, divided by the objects of the sample, group by group. The published code
divides by the objects of a GPU's whole batch. Here the mean over samples is the same for every split of the samples
over workers.

Notation: ``N`` samples, ``K`` classes in ``T`` groups, ``X × Y`` BEV cells, ``M`` objects of a sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from altermoma_ray.data.batch import Batch, Detections
from altermoma_ray.models.configurations.centerpoint import CenterPointHeadConfig
from altermoma_ray.models.heads.centerpoint import REGRESSIONS
from altermoma_ray.models.heads.transfusion import strongest
from altermoma_ray.tasks.detection.bev_detection import BevDetection, inside_published_range
from altermoma_ray.tasks.detection.boxes import BevGrid, decode_boxes, encode_boxes
from altermoma_ray.tasks.detection.heatmap import heatmap_target
from altermoma_ray.tasks.detection.losses import gaussian_focal_loss
from altermoma_ray.tasks.detection.nms import circle_nms, rotated_nms


@dataclass(frozen=True, kw_only=True)
class CenterPointTargets:
    """The answers of one sample which the losses want from the head."""

    heatmap: Tensor
    """[K, X, Y] float32, 1 at the objects' cells."""
    group: Tensor
    """[M] int64, the group of each object's class."""
    cell: Tensor
    """[M] int64, each object's cell, x-major (y runs fastest)."""
    codes: Tensor
    """[M, 10] float32 as :func:`encode_boxes` gives them, with x, y from the cell's lower corner; NaN if unknown."""


class CenterPointTask(BevDetection):
    """The detection task of a model with a CenterPoint head.

    >>> task = CenterPointTask(CenterPointHeadConfig())
    >>> task.map_extent
    (-54.0, 54.0, -54.0, 54.0)

    Args:
        config: the head's configuration: map, groups, loss weights and suppression.
    """

    def __init__(self, config: CenterPointHeadConfig) -> None:
        super().__init__(BevGrid(origin=config.origin, cell=config.cell_size, shape=config.bev_size))
        self.config = config
        self._group_of = torch.tensor([group for group, labels in enumerate(config.class_groups) for _ in labels])

    def loss(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Losses of each sample, [N] each: weighted ``heatmap`` and ``box``, sums over groups, and their sum ``total``.

        Args:
            outputs: the outputs of :class:`altermoma_ray.models.heads.centerpoint.CenterPointHead`.
            batch: its ``boxes`` and ``labels`` are the objects. An object centred outside the map counts as absent, and
                an unknown (NaN) velocity is not learned from.
        """
        targets = [self.targets(batch, sample) for sample in range(len(batch))]
        # Under mixed precision the outputs are half precision, too coarse for the logarithms and sums below.
        losses = {
            "heatmap": self.config.loss_heatmap * self._heatmap_loss(outputs["dense_heatmap"].float(), targets),
            "box": self.config.loss_box
            * torch.stack([self._box_loss(group_codes(outputs, sample), one) for sample, one in enumerate(targets)]),
        }
        return {**losses, "total": losses["heatmap"] + losses["box"]}

    @torch.no_grad()
    def targets(self, batch: Batch, sample: int) -> CenterPointTargets:
        """The heat map, and each object's group, cell and code; on the CPU."""
        boxes, labels = self.objects(batch, sample)
        codes = encode_boxes(boxes, self.grid, self.config.height)
        cells = codes[:, :2].floor()
        heatmap = heatmap_target(
            codes[:, :2].numpy(),
            codes[:, 3:5].exp().numpy() / np.array(self.grid.cell),
            labels.numpy(),
            classes=self.config.num_classes,
            shape=self.grid.shape,
            min_overlap=self.config.gaussian_overlap,
            min_radius=self.config.gaussian_min_radius,
        )
        return CenterPointTargets(
            heatmap=torch.from_numpy(heatmap),
            group=self._group_of[labels],
            cell=(cells[:, 0] * self.grid.shape[1] + cells[:, 1]).long(),
            codes=torch.cat([codes[:, :2] - cells, codes[:, 2:]], dim=1).float(),
        )

    @torch.no_grad()
    def detections(self, outputs: Mapping[str, Tensor], batch: Batch) -> list[Detections]:
        """The detections of each sample, best first, in the frame of ``batch`` (the lidar frame if un-augmented).

        The hottest cells of each group are candidates, with the group's box at the cell; of those which describe one
        object the best stays.
        """
        return [self._sample_detections(outputs, sample) for sample in range(len(batch))]

    def _heatmap_loss(self, logits: Tensor, targets: list[CenterPointTargets]) -> Tensor:
        wanted = torch.stack([one.heatmap for one in targets]).to(logits.device)
        total = logits.new_zeros(len(logits))
        for labels in self.config.class_groups:
            of_group = slice(labels[0], labels[-1] + 1)
            # Objects in one cell share their peak; at least 1, so that an empty group has a loss of background.
            peaks = (wanted[:, of_group] == 1).flatten(1).sum(1).clamp(min=1)
            total = total + gaussian_focal_loss(logits[:, of_group], wanted[:, of_group]) / peaks
        return total

    def _box_loss(self, described: Tensor, targets: CenterPointTargets) -> Tensor:
        """The loss of one sample, a scalar.

        Args:
            described: [T, X·Y, 10] codes of all cells.
            targets: of the sample.
        """
        group, wanted = targets.group.to(described.device), targets.codes.to(described.device)
        found = described[group, targets.cell.to(described.device)]
        # An unknown velocity is NaN: 0 in its place, and no weight, keep the NaN out of the loss.
        weights = ~wanted.isnan() * described.new_tensor(self.config.box_weights)
        each = ((found - wanted.nan_to_num()).abs() * weights).sum(1)
        of_group = torch.bincount(group, minlength=len(self.config.class_groups))
        # The mean over a group's objects, summed over groups.
        return (each / of_group[group]).sum()

    def _sample_detections(self, outputs: Mapping[str, Tensor], sample: int) -> Detections:
        probability = outputs["dense_heatmap"][sample].float().sigmoid().flatten(1)
        codes = group_codes(outputs, sample)
        kept = [
            self._group_detections(group, probability[labels[0] : labels[-1] + 1], codes[group])
            for group, labels in enumerate(self.config.class_groups)
        ]
        boxes, scores, labels = (torch.cat(parts) for parts in zip(*kept, strict=True))
        # Stable, so that equal scores keep the groups' order and a run can be repeated to the last digit.
        order = scores.argsort(descending=True, stable=True)
        return Detections(boxes=boxes[order], scores=scores[order], labels=labels[order])

    def _group_detections(self, group: int, probability: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The kept boxes [B, 9], scores [B] and labels [B] of one group in one sample.

        Args:
            group: number of the group.
            probability: [classes, X·Y] of the group's classes.
            codes: [X·Y, 10] of the group, x, y from the cells' lower corners.
        """
        config, cells = self.config, probability.shape[1]
        place = strongest(probability.flatten()[None], config.candidates)[0]
        scores, cell = probability.flatten()[place], place % cells
        labels = config.class_groups[group][0] + place.div(cells, rounding_mode="trunc")
        corner = torch.stack([cell.div(self.grid.shape[1], rounding_mode="trunc"), cell % self.grid.shape[1]], dim=1)
        code = codes[cell]
        boxes = decode_boxes(torch.cat([code[:, :2] + corner, code[:, 2:]], dim=1), self.grid, config.height)
        # The scores of a diverged network are NaN, and no comparison with NaN is true: nothing is detected.
        good = (scores > config.least_score) & inside_published_range(boxes)
        boxes, scores, labels = boxes[good], scores[good], labels[good]
        kept = torch.from_numpy(self._suppressed(group, boxes, labels)).to(boxes.device)
        return boxes[kept], scores[kept], labels[kept]

    def _suppressed(self, group: int, boxes: Tensor, labels: Tensor) -> np.ndarray:
        """Positions of the boxes which stay, best first."""
        config, shapes = self.config, boxes.cpu().double().numpy()
        if config.suppression[group] == "circle":
            return circle_nms(shapes, config.circle_distances[group], config.most_kept)
        shapes[:, 3:5] *= np.array(config.size_factors)[labels.cpu().numpy(), None]
        return rotated_nms(shapes, config.overlap, config.most_kept)


def group_codes(outputs: Mapping[str, Tensor], sample: int) -> Tensor:
    """The codes of all cells of a sample by group, [T, X·Y, 10] float32; x, y from the cell's lower corner."""
    parts = [outputs[name][sample].float().unflatten(0, (-1, width)).flatten(2) for name, width in REGRESSIONS.items()]
    return torch.cat(parts, dim=1).transpose(1, 2)

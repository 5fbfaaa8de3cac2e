"""3D object detection: targets, losses and decoding of the TransFusion head (Bai et al., CVPR 2022).

Every loss is one value for each sample, divided by the number of objects of the sample. The published code divides the
loss of a whole GPU's batch by the objects of the batch. Here the mean over samples is the same for every split of the
samples over workers.

Notation: ``N`` samples, ``P`` proposals, ``K`` classes, ``X × Y`` BEV cells, ``M`` objects of a sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from altermoma_ray.data.batch import Batch, Detections
from altermoma_ray.models.configurations.transfusion import TransFusionHeadConfig
from altermoma_ray.tasks.detection.bev_detection import BevDetection, inside_published_range
from altermoma_ray.tasks.detection.boxes import BevGrid, decode_boxes, encode_boxes, output_codes
from altermoma_ray.tasks.detection.heatmap import heatmap_target
from altermoma_ray.tasks.detection.losses import focal_loss, gaussian_focal_loss
from altermoma_ray.tasks.detection.matching import match


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The answers which the losses want from the head."""

    heatmap: Tensor
    """[N, K, X, Y] float32, 1 at the objects' cells."""
    classes: Tensor
    """[N, P, K] zeros and ones; all zero for a proposal without an object."""
    codes: Tensor
    """[N, P, 10], zero where not regressed."""
    regressed: Tensor
    """[N, P, 10] bool: the number is known and its proposal has an object."""
    matched: Tensor
    """[N] float32, number of proposals with an object."""


class DetectionTask(BevDetection):
    """The detection task of a model with a TransFusion head.

    >>> task = DetectionTask(model.config.head)  # doctest: +SKIP
    >>> task.loss(model(batch), batch)["total"].mean().backward()  # doctest: +SKIP
    >>> task.detections(model(batch), batch)[0].scores  # doctest: +SKIP
    """

    def __init__(self, config: TransFusionHeadConfig, *, max_detections: int | None = None) -> None:
        """Set the task up.

        Args:
            config: the head's configuration: map, matching and loss weights.
            max_detections: most detections of a sample in the results of :meth:`detections`; None for all proposals.
        """
        super().__init__(BevGrid(origin=config.origin, cell=config.cell_size, shape=config.bev_size))
        self.config = config
        self.max_detections = max_detections

    def loss(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Losses of each sample, [N] each: weighted ``heatmap``, ``classification``, ``box``, and ``total``, their sum.

        Args:
            outputs: the outputs of :class:`altermoma_ray.models.heads.transfusion.TransFusionHead`.
            batch: its ``boxes`` and ``labels`` are the objects. An object centred outside the map counts as absent, and
                an unknown (NaN) velocity is not learned from.
        """
        # Under mixed precision the outputs are half precision, too coarse for the logarithms and sums below.
        config = self.config
        targets = self.targets(outputs, batch)
        heatmap = gaussian_focal_loss(outputs["dense_heatmap"].float(), targets.heatmap)
        # Objects in one cell share their peak; at least 1, so that an empty scene has a loss of background alone.
        heatmap = heatmap / (targets.heatmap == 1).flatten(1).sum(1).clamp(min=1)
        matched = targets.matched.clamp(min=1)
        logits = outputs["heatmap"].float().transpose(1, 2)
        classification = (
            focal_loss(logits, targets.classes, gamma=config.focal_gamma, alpha=config.focal_alpha) / matched
        )
        codes = output_codes(outputs).float()
        weights = targets.regressed * codes.new_tensor(config.box_weights)
        box = ((codes - targets.codes).abs() * weights).flatten(1).sum(1) / matched
        losses = {
            "heatmap": config.loss_heatmap * heatmap,
            "classification": config.loss_class * classification,
            "box": config.loss_box * box,
        }
        return {**losses, "total": sum(losses.values())}

    @torch.no_grad()
    def targets(self, outputs: Mapping[str, Tensor], batch: Batch) -> Targets:
        """Match proposals with objects and draw the heat map.

        The matching is done on the CPU in double precision; the targets are returned on the outputs' device.
        """
        logits = outputs["heatmap"].detach().transpose(1, 2).cpu().double()
        proposed = decode_boxes(output_codes(outputs).detach().cpu().double(), self.grid, self.config.height)
        count, proposals, classes = logits.shape
        heatmap = torch.zeros(count, classes, *self.grid.shape)
        class_targets = torch.zeros(count, proposals, classes)
        codes = torch.zeros(count, proposals, 10)
        regressed = torch.zeros(count, proposals, 10, dtype=torch.bool)
        for sample in range(count):
            boxes, labels = self.objects(batch, sample)
            if len(boxes) == 0:
                continue
            code = encode_boxes(boxes, self.grid, self.config.height)
            heatmap[sample] = self._draw(code, labels)
            chosen, objects = match(
                logits[sample].numpy(),
                proposed[sample].numpy(),
                boxes.numpy(),
                labels.numpy(),
                extent=self.grid.extent,
                config=self.config,
            )
            class_targets[sample, chosen, labels[objects]] = 1
            # An unknown velocity is NaN: 0 in its place, and no weight, keep the NaN out of the loss.
            code = code[objects].float()
            known = ~code.isnan()
            codes[sample, chosen] = code.nan_to_num()
            regressed[sample, chosen] = known
        device = outputs["heatmap"].device
        return Targets(
            heatmap=heatmap.to(device),
            classes=class_targets.to(device),
            codes=codes.to(device),
            regressed=regressed.to(device),
            matched=class_targets.sum(dim=(1, 2)).to(device),
        )

    @torch.no_grad()
    def detections(self, outputs: Mapping[str, Tensor], batch: Batch) -> list[Detections]:
        """The detections of each sample, best first, in the frame of ``batch`` (the lidar frame if un-augmented).

        A proposal has the class of the heat map from which the proposal was taken. Its score is its probability of this
        class times the heat of its cell. There is no suppression of neighbours, and no threshold.
        """
        labels = outputs["query_labels"]
        probability = outputs["heatmap"].float().sigmoid() * outputs["query_heatmap_score"].float()
        scores = probability.gather(1, labels[:, None])[:, 0]
        boxes = decode_boxes(output_codes(outputs).float(), self.grid, self.config.height)
        inside = inside_published_range(boxes)
        detections = []
        for sample in range(len(batch)):
            kept = inside[sample].nonzero()[:, 0]
            # Stable, so that equal scores keep the proposals' order and a run can be repeated to the last digit.
            order = kept[scores[sample, kept].argsort(descending=True, stable=True)][: self.max_detections]
            detections.append(
                Detections(boxes=boxes[sample, order], scores=scores[sample, order], labels=labels[sample, order])
            )
        return detections

    def _draw(self, codes: Tensor, labels: Tensor) -> Tensor:
        sizes = codes[:, 3:5].exp().numpy() / np.array(self.grid.cell)
        target = heatmap_target(
            codes[:, :2].numpy(),
            sizes,
            labels.numpy(),
            classes=self.config.num_classes,
            shape=self.grid.shape,
            min_overlap=self.config.gaussian_overlap,
            min_radius=self.config.gaussian_min_radius,
        )
        return torch.from_numpy(target)

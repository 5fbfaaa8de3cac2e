"""3D object detection: targets, losses and decoding of the anchor head (Lang et al., *PointPillars*, CVPR 2019).

Every loss is one value for each sample, divided by the anchors of objects in the sample. The published code divides by
the anchors of objects in a GPU's whole batch. Here the mean over samples is the same for every split of the samples
over workers.

A box is coded by its change of an anchor (Yan et al., *SECOND*, 2018): ``x, y`` in lengths of the anchor's diagonal on
the ground, ``z`` of the centre in heights of the anchor, the logarithms of ``length, width, height`` over the anchor's,
the difference of the yaws (rad), and ``vx, vy`` (m/s). A yaw learned by its sine does not tell front from back. The
direction does: whether the yaw lies in the half turn from ``direction_offset`` on, or in the other one.

Notation: ``B`` anchors of a sample, ``M`` its objects, ``K`` classes. Boxes are rows of nine numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from altermoma_ray.data.batch import Batch, Detections
from altermoma_ray.models.configurations.anchors import AnchorHeadConfig
from altermoma_ray.models.heads.anchors import CODE, DIRECTIONS
from altermoma_ray.models.heads.transfusion import strongest
from altermoma_ray.tasks.detection.bev_detection import BevDetection, inside_published_range
from altermoma_ray.tasks.detection.boxes import LOG_SIZE_LIMIT, BevGrid
from altermoma_ray.tasks.detection.losses import focal_loss
from altermoma_ray.tasks.detection.nms import rotated_nms

BACKGROUND, IGNORED = -1, -2
"""In the place of an object's number: the anchor is of no object, or teaches nothing."""


@dataclass(frozen=True, kw_only=True)
class AnchorTargets:
    """The answers of one sample which the losses want from the head."""

    classes: Tensor
    """[B, K] zeros and ones; all zero for background."""
    counts: Tensor
    """[B] bool: the anchor's classes are learned from."""
    positive: Tensor
    """[Q] int64, the anchors of objects."""
    codes: Tensor
    """[Q, 9] of their objects; NaN if unknown."""
    directions: Tensor
    """[Q] int64, 0 or 1."""


class AnchorTask(BevDetection):
    """The detection task of a model with an anchor head.

    >>> task = AnchorTask(AnchorHeadConfig())
    >>> task.anchors().shape
    torch.Size([560000, 9])

    Args:
        config: the head's configuration: map, anchors, assignment, loss weights and suppression.
    """

    def __init__(self, config: AnchorHeadConfig) -> None:
        super().__init__(BevGrid(origin=config.origin, cell=config.cell_size, shape=config.bev_size))
        self.config = config

    def anchors(self, device: torch.device | str = "cpu") -> Tensor:
        """The anchors as boxes [B, 9] at rest: cell by cell, y running fastest, then by size, then by heading."""
        config = self.config
        x0, y0, x1, y1 = config.anchor_range
        x, y = (
            low + (high - low) / cells * (torch.arange(cells) + 0.5)
            for low, high, cells in ((x0, x1, config.bev_size[0]), (y0, y1, config.bev_size[1]))
        )
        shapes = torch.tensor(
            [
                (bottom + size[2] / 2, *size, heading, 0.0, 0.0)
                for size, bottom in zip(config.anchor_sizes, config.anchor_bottoms, strict=True)
                for heading in config.headings
            ]
        )
        centres = torch.cartesian_prod(x, y)
        counts = len(centres), len(shapes)
        whole = torch.cat([centres[:, None].expand(*counts, 2), shapes.expand(*counts, 7)], dim=2)
        return whole.flatten(0, 1).to(device)

    def loss(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Weighted losses of each sample, [N] each: ``classification``, ``box``, ``direction``, and ``total``, the sum.

        Args:
            outputs: the outputs of :class:`altermoma_ray.models.heads.anchors.AnchorHead`.
            batch: its ``boxes`` and ``labels`` are the objects. An object centred outside the map counts as absent, and
                an unknown (NaN) velocity is not learned from.
        """
        anchors = self.anchors(outputs["class"].device)
        samples = [self._sample_loss(outputs, batch, sample, anchors) for sample in range(len(batch))]
        losses = dict(zip(("classification", "box", "direction"), torch.stack(samples).unbind(1), strict=True))
        return {**losses, "total": sum(losses.values())}

    def targets(self, batch: Batch, sample: int, anchors: Tensor) -> AnchorTargets:
        """Assign anchors to the objects of a sample, on the anchors' device."""
        config = self.config
        boxes, labels = (part.to(anchors.device) for part in self.objects(batch, sample))
        boxes = boxes.to(anchors)
        owner = assigned(anchors, boxes, config)
        positive = (owner >= 0).nonzero()[:, 0]
        classes = anchors.new_zeros(len(anchors), config.num_classes)
        classes[positive, labels[owner[positive]]] = 1
        objects = boxes[owner[positive]]
        return AnchorTargets(
            classes=classes,
            counts=owner != IGNORED,
            positive=positive,
            codes=encode(objects, anchors[positive]),
            directions=direction(objects[:, 6], config.direction_offset),
        )

    @torch.no_grad()
    def detections(self, outputs: Mapping[str, Tensor], batch: Batch) -> list[Detections]:
        """The detections of each sample, best first, in the frame of ``batch`` (the lidar frame if un-augmented)."""
        anchors = self.anchors(outputs["class"].device)
        return [self._sample_detections(outputs, sample, anchors) for sample in range(len(batch))]

    def _sample_loss(self, outputs: Mapping[str, Tensor], batch: Batch, sample: int, anchors: Tensor) -> Tensor:
        """Classification, box and direction, [3]."""
        config = self.config
        with torch.no_grad():
            targets = self.targets(batch, sample, anchors)
        logits, codes, directions = self._by_anchor(outputs, sample)
        number = max(1, len(targets.positive))  # an empty scene has a loss of background alone
        classification = focal_loss(
            logits[targets.counts][None],
            targets.classes[targets.counts][None],
            gamma=config.focal_gamma,
            alpha=config.focal_alpha,
        )[0]
        found, wanted = codes[targets.positive], targets.codes
        # sin(a − b) = sin a cos b − cos a sin b: both sides are compared by these products, so that a box and the same
        # box turned by half a circle are alike.
        errors = torch.cat(
            [
                found[:, :6] - wanted[:, :6],
                (found[:, 6:7] - wanted[:, 6:7]).sin(),
                found[:, 7:] - wanted[:, 7:].nan_to_num(),
            ],
            dim=1,
        )
        weights = ~wanted.isnan() * codes.new_tensor(config.box_weights)
        box = (smooth_l1(errors, config.smooth_until) * weights).sum()
        entropy = functional.cross_entropy(directions[targets.positive], targets.directions, reduction="sum")
        weighted = (config.loss_class * classification, config.loss_box * box, config.loss_direction * entropy)
        return torch.stack(weighted) / number

    def _by_anchor(self, outputs: Mapping[str, Tensor], sample: int) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [B, K], codes [B, 9] and directions [B, 2] of a sample, in the anchors' order, in float32."""
        # Under mixed precision the outputs are half precision, too coarse for logarithms and sums.
        logits, codes, directions = (
            outputs[name][sample].float().permute(1, 2, 0).reshape(-1, width)
            for name, width in (("class", self.config.num_classes), ("box", CODE), ("direction", DIRECTIONS))
        )
        return logits, codes, directions

    def _sample_detections(self, outputs: Mapping[str, Tensor], sample: int, anchors: Tensor) -> Detections:
        config = self.config
        logits, codes, directions = self._by_anchor(outputs, sample)
        best = strongest(logits.amax(dim=1)[None], config.candidates)[0]
        probability, chosen = logits[best].sigmoid(), directions[best].argmax(dim=1)
        boxes = pointed(decode(codes[best], anchors[best]), chosen, config.direction_offset)
        # The scores and boxes of a diverged network are NaN, and no comparison with NaN is true: nothing is detected.
        inside = inside_published_range(boxes)
        found = []
        for label in range(config.num_classes):
            rows = (inside & (probability[:, label] > config.least_score)).nonzero()[:, 0]
            rows = rows[probability[rows, label].argsort(descending=True, stable=True)]
            kept = rotated_nms(boxes[rows].cpu().double().numpy(), config.overlap, config.most_kept)
            rows = rows[torch.from_numpy(kept).to(rows.device)]
            found.append((boxes[rows], probability[rows, label], torch.full_like(rows, label)))
        boxes, scores, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        # Stable, so that equal scores keep the classes' order and a run can be repeated to the last digit.
        order = scores.argsort(descending=True, stable=True)[: config.most_kept]
        return Detections(boxes=boxes[order], scores=scores[order], labels=labels[order])


def assigned(anchors: Tensor, boxes: Tensor, config: AnchorHeadConfig) -> Tensor:
    """The object of each anchor, [B] int64: its number, :data:`BACKGROUND` or :data:`IGNORED`.

    An anchor is of the object with the greatest overlap, if that reaches ``positive_overlap``. An object's best anchors
    are its own besides, from ``least_overlap`` on; where two objects share a best anchor, the later object takes it.

    Args:
        anchors: [B, 9].
        boxes: [M, 9] objects.
        config: the thresholds.
    """
    if len(boxes) == 0:
        return torch.full((len(anchors),), BACKGROUND, device=anchors.device)
    overlaps = nearest_iou(anchors, boxes)
    greatest, owner = overlaps.max(dim=1)
    owner = owner.masked_fill(greatest < config.positive_overlap, IGNORED)
    owner = owner.masked_fill(greatest < config.negative_overlap, BACKGROUND)
    for number, most in enumerate(overlaps.amax(dim=0)):
        if most >= config.least_overlap:
            owner = owner.masked_fill(overlaps[:, number] == most, number)
    return owner


def nearest_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU on the ground of boxes [B, 7+] and [M, 7+], each turned to the nearest axis, [B, M].

    Example: a box turned by 40° counts as not turned, and one turned by 50° as turned by a right angle::

        >>> box = torch.tensor([[0.0, 0, 0, 4, 2, 1, 0]])
        >>> turned = box.repeat(2, 1)
        >>> turned[:, 6] = torch.tensor([40.0, 50.0]).deg2rad()
        >>> nearest_iou(box, turned)
        tensor([[1.0000, 0.3333]])
    """
    low, high = zip(*(_edges(boxes) for boxes in (first, second)), strict=True)
    sides = torch.minimum(high[0][:, None], high[1]) - torch.maximum(low[0][:, None], low[1])
    shared = sides.clamp(min=0).prod(dim=2)
    areas = [(upper - lower).prod(dim=1) for lower, upper in zip(low, high, strict=True)]
    return shared / (areas[0][:, None] + areas[1] - shared)


def _edges(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper corners [B, 2] of boxes turned to the nearest axis."""
    # |sin| > |cos|: the yaw is closer to the y axis, along which the length then lies.
    is_across = boxes[:, 6].sin().abs() > boxes[:, 6].cos().abs()
    half = torch.where(is_across[:, None], boxes[:, [4, 3]], boxes[:, [3, 4]]) / 2
    return boxes[:, :2] - half, boxes[:, :2] + half


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Codes [..., 9] of boxes [..., 9], each with its anchor; unknown (NaN) velocities stay NaN.

    >>> box, anchor = torch.tensor([5.0, 0, 1, 4, 3, 2, 0, 0, 0]), torch.tensor([0.0, 0, 0, 4, 3, 2, 0, 0, 0])
    >>> encode(box, anchor)[:3]
    tensor([1.0000, 0.0000, 0.5000])
    """
    diagonal = anchors[..., 3:5].norm(dim=-1, keepdim=True)
    return torch.cat(
        [
            (boxes[..., :2] - anchors[..., :2]) / diagonal,
            (boxes[..., 2:3] - anchors[..., 2:3]) / anchors[..., 5:6],
            (boxes[..., 3:6] / anchors[..., 3:6]).log(),
            boxes[..., 6:] - anchors[..., 6:],
        ],
        dim=-1,
    )


def decode(codes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes [..., 9] of codes [..., 9]: the inverse of :func:`encode`."""
    diagonal = anchors[..., 3:5].norm(dim=-1, keepdim=True)
    return torch.cat(
        [
            codes[..., :2] * diagonal + anchors[..., :2],
            codes[..., 2:3] * anchors[..., 5:6] + anchors[..., 2:3],
            codes[..., 3:6].clamp(-LOG_SIZE_LIMIT, LOG_SIZE_LIMIT).exp() * anchors[..., 3:6],
            codes[..., 6:] + anchors[..., 6:],
        ],
        dim=-1,
    )


def direction(yaw: Tensor, offset: float) -> Tensor:
    """0 for a yaw in the half turn from ``offset`` (rad) on, 1 for the other half turn.

    >>> direction(torch.tensor([1.0, 3.0, 4.0, 0.0]), 0.7854)
    tensor([0, 0, 1, 1])
    """
    return ((yaw - offset) % (2 * math.pi) >= math.pi).long()


def pointed(boxes: Tensor, directions: Tensor, offset: float) -> Tensor:
    """The boxes [B, 9] with a yaw in (-π, π] of the told direction; a yaw says an axis alone.

    Args:
        boxes: [B, 9].
        directions: [B] 0 or 1.
        offset: yaw (rad) at which direction 0 begins.
    """
    yaw = (boxes[:, 6] - offset) % math.pi + offset + math.pi * directions
    yaw = torch.atan2(yaw.sin(), yaw.cos())
    return torch.cat([boxes[:, :6], yaw[:, None], boxes[:, 7:]], dim=1)


def smooth_l1(errors: Tensor, until: float) -> Tensor:
    """``e² / (2 · until)`` for errors below ``until``, else ``|e| - until / 2``.

    >>> smooth_l1(torch.tensor([0.5, -3.0]), until=1.0)
    tensor([0.1250, 2.5000])
    """
    return functional.smooth_l1_loss(errors, torch.zeros_like(errors), reduction="none", beta=until)

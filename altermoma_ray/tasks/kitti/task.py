"""3D object detection on KITTI with AVOD-FPN: losses, decoding and the official evaluation (Ku et al., IROS 2018).

Every loss is one value for each frame. The published code draws 512 anchors and 1,024 proposals of a frame at random;
the losses here are the expectation of the published ones over these draws (:func:`.matching.shares`).

Notation: ``N`` frames, ``A`` anchors of a frame, ``P`` proposals, ``K`` types, ``M`` objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from altermoma_ray.data.kitti.batch import KittiBatch
from altermoma_ray.data.kitti.labels import Labels, format_labels
from altermoma_ray.models.configurations.avod import AvodConfig
from altermoma_ray.models.layers import ground_anchors
from altermoma_ray.models.layers.ground_anchors import rectangles
from altermoma_ray.models.layers.suppression import best_apart
from altermoma_ray.objects import FoundObjects
from altermoma_ray.tasks.detection.boxes import BevGrid
from altermoma_ray.tasks.kitti import box_code
from altermoma_ray.tasks.kitti.detections import labels_of
from altermoma_ray.tasks.kitti.matching import owners, shares
from altermoma_ray.tasks.kitti.metrics import flat, metrics_of
from altermoma_ray.tasks.metrics.kitti import evaluate
from altermoma_ray.tasks.metrics.kitti.objects import found_objects

LOSSES = ("objectness", "anchors", "classification", "box", "angle")


class KittiTask:
    """The detection task of AVOD-FPN.

    >>> from altermoma_ray.models.configurations.avod_fpn import avod_configuration
    >>> KittiTask(avod_configuration("avod-fpn-cars")).metrics[0].title
    'AP-3D'

    Args:
        config: of the model: types, limits of overlap, weights of the losses.
    """

    def __init__(self, config: AvodConfig) -> None:
        self.config = config
        self.metrics = metrics_of(config.inputs.types)

    def loss(self, outputs: Mapping[str, list[Tensor]], batch: KittiBatch) -> dict[str, Tensor]:
        """Weighted losses of each frame, [N] each, with ``total``, their sum.

        ``objectness`` and ``anchors`` are the first stage's, ``classification``, ``box`` and ``angle`` the second's.

        Args:
            outputs: of :class:`altermoma_ray.models.avod.Avod`.
            batch: its ``boxes`` and ``labels`` are the objects.
        """
        frames = [
            torch.stack(self._first_stage(outputs, batch, number) + self._second_stage(outputs, batch, number))
            for number in range(len(batch))
        ]
        losses = dict(zip(LOSSES, torch.stack(frames).unbind(1), strict=True))
        return {**losses, "total": sum(losses.values())}  # type: ignore[dict-item]

    def _first_stage(self, outputs: Mapping[str, list[Tensor]], batch: KittiBatch, number: int) -> tuple[Tensor, ...]:
        """Objectness and changes of anchors."""
        settings, anchors = self.config.proposals, outputs["anchors"][number]
        objects = box_code.axis_aligned(batch.boxes[number])
        owner = owners(
            rectangles(anchors),
            rectangles(objects),
            batch.labels[number],
            positive=settings.positive,
            negative=settings.negative,
        )
        is_object = owner >= 0
        objectness = self._entropy(outputs["objectness"][number], is_object.long(), shares(owner, settings.mini_batch))
        wanted = ground_anchors.encode(objects[owner[is_object]], anchors[is_object])
        found = outputs["offsets"][number][is_object]
        return self.config.loss_class * objectness, self.config.loss_box * _distance(found, wanted)

    def _second_stage(self, outputs: Mapping[str, list[Tensor]], batch: KittiBatch, number: int) -> tuple[Tensor, ...]:
        """Class, box code and heading of proposals."""
        settings, proposals, boxes = self.config.boxes, outputs["proposals"][number], batch.boxes[number]
        owner = owners(
            rectangles(proposals),
            rectangles(box_code.axis_aligned(boxes)),
            batch.labels[number],
            positive=settings.positive,
            negative=settings.negative,
        )
        is_object = owner >= 0
        mine, objects = owner[is_object], boxes[owner[is_object]]
        classes = torch.zeros_like(owner).masked_scatter(is_object, 1 + batch.labels[number][mine])
        classification = self._entropy(outputs["classes"][number], classes, shares(owner, settings.mini_batch))
        plane = batch.planes[number]
        start = box_code.encode(box_code.boxes_of_proposals(proposals[is_object]), plane)
        wanted = box_code.encode(objects, plane) - start
        heading = torch.stack((objects[:, 6].cos(), objects[:, 6].sin()), dim=1)
        return (
            self.config.loss_class * classification,
            self.config.loss_box * _distance(outputs["corners"][number][is_object], wanted),
            self.config.loss_angle * _distance(outputs["angles"][number][is_object], heading),
        )

    def _entropy(self, logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
        """Weighted sum of cross entropies with smoothed labels.

        Args:
            logits: [R, C].
            classes: [R].
            weights: [R].
        """
        # Under mixed precision the outputs are half precision, too coarse for logarithms and sums.
        logarithms = logits.float().log_softmax(dim=1)
        rest = self.config.label_smoothing / (logits.shape[1] - 1)
        targets = torch.full_like(logarithms, rest).scatter(1, classes[:, None], 1 - self.config.label_smoothing)
        return -(weights * (targets * logarithms).sum(dim=1)).sum()

    @torch.no_grad()
    def decode(self, outputs: Mapping[str, list[Tensor]], batch: KittiBatch) -> dict[str, Labels]:
        """The detections by frame, on the CPU, best first."""
        return {frame: self._detections(outputs, batch, number) for number, frame in enumerate(batch.frames)}

    def _detections(self, outputs: Mapping[str, list[Tensor]], batch: KittiBatch, number: int) -> Labels:
        settings, plane = self.config.boxes, batch.planes[number]
        start = box_code.encode(box_code.boxes_of_proposals(outputs["proposals"][number]), plane)
        boxes = box_code.decode(start + outputs["corners"][number].float(), plane)
        logits = outputs["classes"][number].float()
        # As published: boxes suppress each other as if turned to the next right angle, and whatever their types; the
        # logits of the types rank them, not the probabilities.
        kept = best_apart(
            rectangles(box_code.axis_aligned(boxes)),
            logits[:, 1:].amax(dim=1),
            overlap=settings.overlap,
            most=settings.most_kept,
        )
        scores, types = logits[kept].softmax(dim=1)[:, 1:].max(dim=1)
        order = scores.argsort(descending=True, stable=True)
        kept, scores, types = kept[order], scores[order], types[order]
        cosine, sine = outputs["angles"][number][kept].float().unbind(1)
        return labels_of(
            box_code.turned(boxes[kept], torch.atan2(sine, cosine)),
            scores,
            [self.config.inputs.types[kind] for kind in types.tolist()],
            projection=batch.projection_original[number],
            size=batch.image_sizes[number],
            least_score=settings.least_score,
        )

    def evaluate(self, predictions: Mapping[str, Labels], data: Any, rows: Sequence[int]) -> dict[str, float]:
        """The metrics of :func:`.metrics.metrics_of`, by KITTI's official evaluation.

        Args:
            predictions: results of :meth:`decode` by frame, one for each of ``rows``.
            data: the data source (:class:`altermoma_ray.data.kitti.source.Kitti`).
            rows: the frames to evaluate on.
        """
        truth = data.ground_truth(rows)
        return flat(evaluate(truth, {frame: predictions[frame] for frame in truth}), self.config.inputs.types)

    def found_objects(self, predictions: Mapping[str, Labels], data: Any, rows: Sequence[int]) -> FoundObjects:
        """The labelled objects by class, range and visibility, as they are found; arguments of :meth:`evaluate`."""
        truth = data.ground_truth(rows)
        found = {frame: predictions[frame] for frame in truth}
        return found_objects(truth, found, dict(zip(truth, rows, strict=True)))

    def evaluate_scene(self, predictions: Mapping[str, Labels], data: Any, rows: Sequence[int]) -> dict[str, float]:
        """NaN for every metric, since the official curve of 40 recall points has no meaning for a frame's few objects.

        Args:
            predictions: see :meth:`evaluate`.
            data: see :meth:`evaluate`.
            rows: the frames.
        """
        return dict.fromkeys((metric.name for metric in self.metrics), float("nan"))

    @property
    def map_extent(self) -> tuple[float, float, float, float]:
        """Least and greatest x, then least and greatest z (m) of the model's maps (rectified camera frame)."""
        inputs = self.config.inputs
        return (*inputs.x_range, *inputs.z_range)

    def occupied(self, batch: KittiBatch) -> Tensor:
        """The cells of the model's maps covered by an object, bool [N, X, Z]; the redundancy report looks at them."""
        inputs, stride = self.config.inputs, self.config.proposals.stride
        grid = BevGrid(
            origin=(inputs.x_range[0], inputs.z_range[0]),
            cell=(stride, stride),
            shape=ground_anchors.map_shape(self.config.proposals, inputs),
        )
        # The grid's second axis is z here, and a positive rotation_y turns from x away from z.
        seen_from_above = [
            torch.cat((boxes[:, [0, 2, 1, 3, 4, 5]], -boxes[:, 6:], boxes.new_zeros(len(boxes), 2)), dim=1)
            for boxes in batch.boxes
        ]
        return torch.stack([grid.occupied(boxes) for boxes in seen_from_above])

    def result_files(self, predictions: Mapping[str, Labels], data: Any, rows: Sequence[int]) -> dict[str, str]:
        """A file ``FRAME.txt`` for each frame, in the layout that KITTI's official evaluation reads.

        Args:
            predictions: see :meth:`evaluate`.
            data: see :meth:`evaluate`.
            rows: the frames to report.
        """
        return {f"{frame}.txt": format_labels(predictions[frame]) for frame in data.ground_truth(rows)}


def _distance(found: Tensor, wanted: Tensor) -> Tensor:
    """Smooth L1 (Girshick, Fast R-CNN, ICCV 2015, Eq. 3) of rows [R, D], as the mean over rows; 0 without rows."""
    return functional.smooth_l1_loss(found.float(), wanted, reduction="sum") / max(1, len(found))

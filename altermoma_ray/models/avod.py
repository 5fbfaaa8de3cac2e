"""AVOD-FPN: a detector of two stages that fuses crops of a picture and of a bird's-eye view (BEV).

Ku et al., *Joint 3D Proposal Generation and Object Detection from View Aggregation*, IROS 2018.

    view → extractor → features ──────────────── crop at proposals ─┐
                          └→ 1 × 1 → summary ─ crop at anchors ─┐   └ mean of the views → second stage → boxes
                                                                └── mean of the views → first stage → proposals
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from altermoma_ray.data.kitti.batch import KittiBatch
from altermoma_ray.models.avod_channels import avod_couplings
from altermoma_ray.models.configurations.avod import AvodConfig
from altermoma_ray.models.encoders.vgg_pyramid import ViewEncoder
from altermoma_ray.models.grouping import group_by_encoder
from altermoma_ray.models.heads.proposals import OBJECT, ProposalHead, proposals_of
from altermoma_ray.models.heads.view_boxes import BoxHead
from altermoma_ray.models.layers.crops import crop_and_resize
from altermoma_ray.models.layers.ground_anchors import GroundAnchors, map_shape, places_in_bev, places_in_picture
from altermoma_ray.pruning.channels import Coupling

Propose = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Proposals [P, 6] from anchors [A, 6], objectness logits [A, 2] and changes [A, 6]."""
_PICTURE_CHANNELS = 3
FUSED = "fused"
"""Name of the mean of both views in :meth:`Avod.features`."""


class Avod(nn.Module):
    """AVOD-FPN, whose views can be masked one by one.

    Frames pass one after another, in training too: the published batch is one frame, whose own statistics its batch
    normalisation takes. A frame's outputs and losses then depend on no other frame, and not on the number of workers.

    ``forward`` gives a dict of lists with one entry for each frame: A anchors that are not empty, P proposals, K types.

    ==============  ============  ==============================================================================
    ``anchors``     [A, 6]        :mod:`altermoma_ray.models.layers.ground_anchors`
    ``objectness``  [A, 2]        logits of background and object
    ``offsets``     [A, 6]        changes of the anchors
    ``proposals``   [P, 6]        the best changed anchors, best first, without a gradient
    ``classes``     [P, 1 + K]    logits of background and of each type
    ``corners``     [P, 10]       differences to the proposals' codes
    ``angles``      [P, 2]        cosine and sine of the heading
    ``camera``      [C, H, W]     the picture's features, if it is not masked
    ``lidar``       [C, Z, X]     the bird's-eye view's features, if it is not masked
    ==============  ============  ==============================================================================

    Example: the outputs without the camera, for which the camera's extractor does no work::

        model = avod_configuration("avod-fpn-toy").build()
        outputs = model(batch, masked=frozenset({"camera"}))

    Points of the LiDAR also tell which anchors are empty. They do so too while the LiDAR's features are masked.
    """

    def __init__(self, config: AvodConfig) -> None:
        super().__init__()
        self.config = config
        self.modalities = config.modalities
        self.encoders = nn.ModuleDict(
            {
                "camera": ViewEncoder(config.camera, _PICTURE_CHANNELS),
                "lidar": ViewEncoder(config.lidar, config.inputs.bev_channels),
            }
        )
        self.anchors = GroundAnchors(config.proposals, config.inputs)
        self.proposals = ProposalHead(config.proposals)
        self.boxes = BoxHead(config.boxes, config.camera.channels[0], len(config.inputs.types))
        _initialise(self)

    def forward(self, batch: KittiBatch, masked: frozenset[str] = frozenset()) -> dict[str, list[Tensor]]:
        """The outputs listed in the class's text.

        Args:
            batch: samples on the model's device.
            masked: views whose extractor is not run. Crops of the others are averaged over the views that are left.

        Raises:
            ValueError: a masked view is unknown, or none is left.
        """
        settings = self.config.proposals
        most = settings.kept_in_training if self.training else settings.kept

        def propose(anchors: Tensor, objectness: Tensor, offsets: Tensor) -> Tensor:
            return proposals_of(anchors, objectness, offsets, overlap=settings.overlap, most=most)

        return self._outputs(batch, masked, propose)

    def features(self, batch: KittiBatch, masked: frozenset[str] = frozenset()) -> dict[str, Tensor]:
        """Maps [N, C, X, Z] of both views, by their names, and ``fused``, the mean that the second stage takes of them.

        The views have no common map. A cell here is a place of anchors, and its features are those of a crop, averaged
        over the crop: of a box on the ground that has the mean size of all anchors. A masked view is 0.

        Args:
            batch: samples on the model's device.
            masked: see :meth:`forward`.
        """
        self._check(masked)
        (columns, rows), size = map_shape(self.config.proposals, self.config.inputs), self.anchors.shapes.mean(dim=0)
        frames = []
        for number in range(len(batch)):
            maps, weights, places = self._views(batch, number, masked)
            anchors = self.anchors.on_ground(batch.planes[number]).unflatten(0, (-1, len(self.anchors.shapes)))[:, 0]
            boxes = torch.cat((anchors[:, :3], size.expand(len(anchors), 3)), dim=1)
            seen = {
                view: crop_and_resize(features[0], places[view](boxes), self.config.boxes.crop).mean(dim=(2, 3))
                for view, (features, _) in maps.items()
            }
            fused = torch.stack([weights[view] * seen[view] for view in seen]).sum(dim=0)
            frames.append({**{view: seen.get(view, torch.zeros_like(fused)) for view in self.modalities}, FUSED: fused})
        # Places run from far to near, and x faster than z.
        return {
            name: torch.stack([frame[name].reshape(rows, columns, -1).flip(0).permute(2, 1, 0) for frame in frames])
            for name in frames[0]
        }

    def flow(self, batch: KittiBatch) -> Callable[[nn.Module], Tensor]:
        """The sum of the outputs when both extractors see ones, for SynFlow (Tanaka et al., NeurIPS 2020).

        Anchors are the batch's first frame's. The second stage looks at some of them, evenly spread, instead of at
        proposals: changes made of magnitudes alone would move proposals off the map. An output counts by its mean over
        anchors or proposals, summed over its numbers.

        Args:
            batch: only the geometry of its first frame is read.

        Returns:
            A function with a scalar result, whose argument is the model or a copy of it.
        """
        sample, most = batch.samples(0, 1), self.config.proposals.kept
        names = ("objectness", "offsets", "classes", "corners", "angles")

        def spread(anchors: Tensor, objectness: Tensor, offsets: Tensor) -> Tensor:
            rows = torch.linspace(0, len(anchors) - 1, min(most, len(anchors))).round().long()
            return anchors[rows.to(anchors.device)]

        def flow(network: nn.Module) -> Tensor:
            assert isinstance(network, Avod)
            like = next(network.parameters())
            ones = replace(
                sample,
                images=torch.ones_like(sample.images).to(like),
                bev=torch.ones_like(sample.bev).to(like),
                planes=sample.planes.to(like),
                projection=sample.projection.to(like),
                points=[points.to(like) for points in sample.points],
            )
            outputs = network._outputs(ones, frozenset(), spread)
            return torch.stack([outputs[name][0].mean(dim=0).sum() for name in names]).sum()

        return flow

    def channel_couplings(self) -> list[Coupling]:
        """Which channels can be removed, with all that goes with each: :mod:`altermoma_ray.models.avod_channels`."""
        return avod_couplings(self)

    @contextmanager
    def distillable(self) -> Iterator[Callable[[Mapping[str, list[Tensor]]], dict[str, Tensor]]]:
        """While the context is open, a function from the last outputs to the tensors a pruned copy learns from.

        The tensors are both views' features, and the probability of an object at each anchor. Anchors follow from the
        frame alone; proposals do not, and those of two models cannot be compared one by one.

        Example::

            with model.distillable() as distillable:
                sorted(distillable(model(batch)))  # ["camera", "lidar", "objectness"]
        """

        def tensors(outputs: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
            maps = {view: torch.stack(outputs[view]) for view in self.modalities if view in outputs}
            # Frames differ in their number of anchors: absent ones are 0 in both models.
            likely = [logits.softmax(dim=1)[:, OBJECT] for logits in outputs["objectness"]]
            return {**maps, "objectness": pad_sequence(likely, batch_first=True)}

        yield tensors

    def _check(self, masked: frozenset[str]) -> None:
        """Refuse what cannot be masked.

        Raises:
            ValueError: a masked view is unknown, or none is left.
        """
        if unknown := masked - set(self.modalities):
            raise ValueError(
                f"`masked` may hold {', '.join(self.modalities)}, but got {', '.join(sorted(map(str, unknown)))}"
            )
        if len(masked) == len(self.modalities):
            raise ValueError(f"`masked` must leave one of {', '.join(self.modalities)}, but holds all of them")

    def _outputs(self, batch: KittiBatch, masked: frozenset[str], propose: Propose) -> dict[str, list[Tensor]]:
        self._check(masked)
        frames = [self._frame(batch, number, masked, propose) for number in range(len(batch))]
        return {name: [frame[name] for frame in frames] for name in frames[0]}

    def _frame(self, batch: KittiBatch, number: int, masked: frozenset[str], propose: Propose) -> dict[str, Tensor]:
        maps, weights, places = self._views(batch, number, masked)
        anchors, settings = self.anchors(batch.planes[number], batch.points[number]), self.config

        def fused(level: int, boxes: Tensor, size: int) -> Tensor:
            """The mean over the kept views of their crops at boxes.

            Args:
                level: 0 for the features, 1 for their summary.
                boxes: [B, 6].
                size: cells of a crop along each side.
            """
            crops = [weights[view] * crop_and_resize(maps[view][level][0], places[view](boxes), size) for view in maps]
            return torch.stack(crops).sum(dim=0)

        objectness, offsets = self.proposals(fused(1, anchors, settings.proposals.crop))
        proposals = propose(anchors, objectness, offsets)
        boxes = self.boxes(fused(0, proposals, settings.boxes.crop))
        stages = {"anchors": anchors, "objectness": objectness, "offsets": offsets, "proposals": proposals, **boxes}
        return {**stages, **{view: features[0] for view, (features, _) in maps.items()}}

    def _views(
        self, batch: KittiBatch, number: int, masked: frozenset[str]
    ) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, float], dict[str, Callable[[Tensor], Tensor]]]:
        """Of each kept view of a frame its features and their summary, its weight, and where boxes [B, 6] lie in it."""
        inputs, projection = self.config.inputs, batch.projection[number]
        views = {"camera": batch.images[number], "lidar": batch.bev[number]}
        maps = {view: self.encoders[view](one[None]) for view, one in views.items() if view not in masked}
        places: dict[str, Callable[[Tensor], Tensor]] = {
            "camera": lambda boxes: places_in_picture(boxes, projection, inputs.image_size),
            "lidar": lambda boxes: places_in_bev(boxes, inputs),
        }
        return maps, self._weights(maps), places

    def _weights(self, maps: Mapping[str, Any]) -> dict[str, float]:
        """The weight of each view in the mean; drawn in training with both views (path drop).

        A dropped view keeps its place in the graph, so that its parameters have gradients of 0 in every worker.
        """
        kept = dict.fromkeys(maps, True)
        if self.training and len(maps) > 1:
            camera, lidar, choice = torch.rand(3).tolist()
            kept = {"camera": camera < self.config.keep_camera, "lidar": lidar < self.config.keep_lidar}
            if not any(kept.values()):
                kept = {"camera": choice > 0.5, "lidar": choice <= 0.5}
        return {view: float(is_kept) / sum(kept.values()) for view, is_kept in kept.items()}

    @staticmethod
    def group_of(parameter_name: str) -> str:
        """The group a parameter belongs to: its view (extractor and 1 × 1 convolution), or ``fusion`` (both stages).

        >>> Avod.group_of("encoders.camera.bottleneck.0.weight"), Avod.group_of("boxes.classes.bias")
        ('camera', 'fusion')
        """
        return group_by_encoder(parameter_name)


def _initialise(model: nn.Module) -> None:
    """Glorot's initialisation of all layers with weights, as published; biases become zero."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

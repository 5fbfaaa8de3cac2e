"""The dense parts of a fusion model, between the splat and the sparse encoder, as modules of their own.

    camera.backbone     pictures and their LiDAR depths to depth probabilities and context    img, depth
    (splat)             not exported: its cells follow from the calibration
    camera.vtransform   the splatted map to the camera's BEV map                              feat_in
    (LiDAR encoder)     sparse: see :mod:`altermoma_ray.models.export.sparse_file`
    fuser               both BEV maps to the head's map                                       camera, lidar
    head.bbox           the map to scored boxes                                               middle

Names of files, inputs and outputs are CUDA-BEVFusion's (NVIDIA, Lidar_AI_Solution). Shapes are static and hold one
sample. In place of ``head.bbox``, a map segmentation model has ``head.map``, and a model with a CenterPoint or anchor
head ``head.cells``, whose outputs are the head's own.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from altermoma_ray.data.batch import Batch
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.configurations.transfusion import Height
from altermoma_ray.models.encoders.camera import CameraEncoder
from altermoma_ray.models.export.sensors import camera_and_lidar
from altermoma_ray.models.heads.segmentation import SegmentationHead
from altermoma_ray.models.heads.transfusion import TransFusionHead, local_maxima, one_hot
from altermoma_ray.models.layers.attention import Attention, attend_step_by_step

CAMERA, VIEW, FUSER, BOXES, MAP = "camera.backbone", "camera.vtransform", "fuser", "head.bbox", "head.map"
CELLS = "head.cells"
BOX_OUTPUTS = ("score", "rot", "dim", "reg", "height", "vel")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A dense part with an example of its inputs and the outputs that the model gives for them."""

    name: str
    """Name of its file, without the ending."""
    module: nn.Module
    """In evaluation mode; takes the inputs in their order, gives the outputs in theirs."""
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


class CameraPart(nn.Module):
    """Pictures and depth pictures to the context of every feature cell and the probabilities of its depths.

    Example: six pictures of the published model::

        feature, weights = CameraPart(model.encoders["camera"])(img, depth)
        feature.shape, weights.shape  # (6, 32, 88, 80), (6, 118, 32, 88)
    """

    def __init__(self, camera: CameraEncoder) -> None:
        super().__init__()
        self.backbone, self.neck, self.view_transform = camera.backbone, camera.neck, camera.view_transform

    def forward(self, img: Tensor, depth: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Context [C, h, w, F] and depth probabilities [C, D, h, w].

        Args:
            img: [1, C, 3, H, W], normalised.
            depth: [1, C, 1, H, W] metres; None for a model that reads no depth.
        """
        features = self.neck(self.backbone(img.flatten(0, 1)))
        weights, context = self.view_transform.lift(features, None if depth is None else depth.flatten(0, 1))
        return context.permute(0, 2, 3, 1), weights


class FuserPart(nn.Module):
    """The camera's and the LiDAR's BEV map to the head's map: fuser and decoder, and the LiDAR's own decoder."""

    def __init__(self, model: FusionModel) -> None:
        super().__init__()
        self.fuser, self.decoder = model.fuser, model.decoder
        lidar = model.encoders["lidar"]
        # The file of the sparse encoder holds no dense layers: a decoder of the branch goes with the fuser.
        self.lidar_decoder = lidar.decoder if hasattr(lidar, "decoder") else nn.Identity()

    def forward(self, camera: Tensor, lidar: Tensor) -> Tensor:
        """[1, A, x, y] and [1, B, x, y] to [1, C, x, y]."""
        return self.decoder(self.fuser([camera, self.lidar_decoder(lidar)]))


class BoxPart(nn.Module):
    """The map to scored boxes, [1, channels, queries] each, in the order of :data:`BOX_OUTPUTS`.

    ``score``   of each class; 0 but for the class of the query's heat map
    ``rot``     sine, cosine of the yaw
    ``dim``     log of length, width, height (log m)
    ``reg``     x, y of the centre, in cells of the map
    ``height``  z, of the point that :attr:`TransFusionHeadConfig.height` names (m)
    ``vel``     vx, vy (m/s)
    """

    def __init__(self, head: TransFusionHead) -> None:
        super().__init__()
        self.head = copy.deepcopy(head)
        # `topk` is exported as one operation of the wanted size; a whole sort is refused by TensorRT (at most 3840).
        self.head.strongest = lambda heat, count: heat.topk(count, dim=1).indices  # type: ignore[method-assign]
        for module in self.head.modules():
            if isinstance(module, Attention):
                # The fused operation has no form before opset 14, and CUDA-BEVFusion takes 13.
                module.attend = attend_step_by_step  # type: ignore[method-assign]

    def forward(self, middle: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        return self.described(self.head(middle))

    @torch.no_grad()
    def margin(self, middle: Tensor) -> float:
        """How much hotter the last proposal's cell is than the first cell left out, as a share of its heat.

        Where this share is no more than rounding, two programs may propose different cells, and both are right.
        """
        head, config = self.head, self.head.config
        probability = head.heatmap_head(head.shared_conv(middle)).sigmoid()
        heat = local_maxima(probability, config.heatmap_kernel, config.classes_with_1x1).flatten(1)
        last, left_out = heat.topk(config.proposals + 1, dim=1).values[0, -2:].tolist()
        return (last - left_out) / last if last else 0.0

    def described(self, outputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The head's own outputs as this part's."""
        probability = outputs["heatmap"].sigmoid() * outputs["query_heatmap_score"]
        own_class = one_hot(outputs["query_labels"], probability.shape[1], probability)
        boxes = (outputs[name] for name in ("rot", "dim", "center", "height", "vel"))
        return probability * own_class, *boxes


class RuntimeBoxPart(BoxPart):
    """:class:`BoxPart` with boxes as CUDA-BEVFusion decodes them, those of mmdetection3d before version 1.0.

    ``dim`` is (width, length, height), ``rot`` is sine and cosine of yaw' = −yaw − π/2, and ``height`` is the z of the
    top: the runtime lowers it by half a box and draws the box around that point. Our own release rules say why
    (:mod:`altermoma_ray.models.releases.bevfusion`).
    """

    def described(self, outputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The head's own outputs as the runtime's."""
        score, rot, dim, reg, height, vel = super().described(outputs)
        tall = dim[:, 2:].exp()
        top = height + _BELOW_TOP[self.head.config.height] * tall if self.head.config.height != "top" else height
        sine, cosine = rot[:, :1], rot[:, 1:]
        # sin(−yaw − π/2) = −cos yaw, cos(−yaw − π/2) = −sin yaw
        return score, torch.cat([-cosine, -sine], 1), torch.cat([dim[:, 1:2], dim[:, :1], dim[:, 2:]], 1), reg, top, vel


_BELOW_TOP: Mapping[Height, float] = {"bottom": 1.0, "centre": 0.5}
"""How far a head's point lies below the top, in heights of the box."""


class CellPart(nn.Module):
    """The map to the head's own outputs for every cell, [1, channels, x, y] each, in the head's order."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, middle: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        return tuple(self.head(middle).values())


@torch.no_grad()
def dense_parts(model: FusionModel, sample: Batch, *, runtime_boxes: bool = False) -> list[Part]:
    """The dense parts of a model, run one after the other on a sample.

    Args:
        model: in evaluation mode, on the CPU.
        sample: a batch of one sample; its outputs become the examples.
        runtime_boxes: write boxes as CUDA-BEVFusion decodes them; see :class:`RuntimeBoxPart`.

    Raises:
        UserError: the model has other sensors than a camera and a LiDAR.
    """
    camera_and_lidar(model.config)
    camera, lidar = model.encoders["camera"], model.encoders["lidar"]
    assert isinstance(camera, CameraEncoder)
    depths = camera.view_transform.painted(sample)
    inputs = {"img": sample.images, **({} if depths is None else {"depth": depths[None]})}
    parts = [_part(CAMERA, CameraPart(camera), inputs, ("camera_feature", "camera_depth_weights"))]
    splatted = splat_outputs(model, sample, parts[0].outputs)
    parts.append(_part(VIEW, camera.view_transform.downsample, {"feat_in": splatted}, ("feat_out",)))
    maps = {"camera": parts[1].outputs["feat_out"], "lidar": lidar.encoded(sample).contiguous()}
    parts.append(_part(FUSER, FuserPart(model), maps, ("middle",)))
    middle = {"middle": parts[2].outputs["middle"]}
    if isinstance(model.head, TransFusionHead):
        head = (RuntimeBoxPart if runtime_boxes else BoxPart)(model.head)
        return [*parts, _part(BOXES, head, middle, BOX_OUTPUTS)]
    name = MAP if isinstance(model.head, SegmentationHead) else CELLS
    return [*parts, _part(name, CellPart(model.head), middle, tuple(model.head(middle["middle"])))]


def splat_outputs(model: FusionModel, sample: Batch, outputs: Mapping[str, Tensor]) -> Tensor:
    """The splatted map [1, channels, x, y] of the first part's outputs: the step between the first two files."""
    view = model.encoders["camera"].view_transform  # type: ignore[union-attr]
    context = outputs["camera_feature"].permute(0, 3, 1, 2)
    return view.pool(outputs["camera_depth_weights"], context, view.cells(sample))


@torch.no_grad()
def whole_outputs(model: FusionModel, sample: Batch, last: Part) -> dict[str, Tensor]:
    """The whole model's outputs for a sample, described as the last part describes them."""
    outputs = model(sample)
    found = last.module.described(outputs) if isinstance(last.module, BoxPart) else tuple(outputs.values())
    return dict(zip(last.outputs, found, strict=True))


def _part(name: str, module: nn.Module, inputs: Mapping[str, Tensor], outputs: tuple[str, ...]) -> Part:
    found = module.eval()(*inputs.values())
    tensors = found if isinstance(found, tuple) else (found,)
    return Part(name=name, module=module, inputs=inputs, outputs=dict(zip(outputs, tensors, strict=True)))

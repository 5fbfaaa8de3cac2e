"""Which channels of a BEVFusion model can be removed, and everything that goes with each.

The model is traced in parts, because Torch-Pruning follows convolutions but not attention, sparse tensors, or the
product of depths and features in the view transform:

- Swin blocks: whole attention heads and hidden units of the perceptrons, by a rule; the widths of the stages stay;
- camera neck and lift: traced, up to the depth bins and context channels; a ResNet is traced with them, since the
  channels of its stages are the neck's inputs; projections between two Swin transformers have stage widths and stay;
- context channels and the convolutions after the splat: by a rule and traced; the depth bins are geometry and stay;
- the sparse LiDAR encoder: traced through its dense twin, together with the branch's own decoder where it has one;
- layers of pillars: by a rule, and the branch's own decoder traced; the radar's layers: traced;
- fuser, decoder and head: traced; a TransFusion head keeps the width of its queries and loses whole attention heads.

Where two parts meet, the channels of the first go together with input channels of the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformerBlock

from altermoma_ray.models.dense_twin import DenseTwin
from altermoma_ray.models.encoders.adaptive_fpn import AdaptiveFpn
from altermoma_ray.models.encoders.camera import CameraEncoder
from altermoma_ray.models.encoders.dual_swin import DualSwinBackbone
from altermoma_ray.models.encoders.lidar import LidarEncoder
from altermoma_ray.models.encoders.pillars import PillarEncoder
from altermoma_ray.models.encoders.radar import RadarEncoder
from altermoma_ray.models.encoders.resnet import ResNetBackbone
from altermoma_ray.models.encoders.swin import SwinBackbone, WindowAttention
from altermoma_ray.models.heads.segmentation import SegmentationHead
from altermoma_ray.models.heads.transfusion import TransFusionHead
from altermoma_ray.models.layers.attention import Attention
from altermoma_ray.pruning.channels import Bounds, Coupling, Slice, trace

if TYPE_CHECKING:
    from altermoma_ray.models.bevfusion import FusionModel

BRANCH = "encoders.lidar."
CAMERA, LIDAR, RADAR = "encoders.camera.", f"{BRANCH}backbone.", "encoders.radar.backbone."
FUSER_INPUT = "fuser.0.weight"
CUDA_BEVFUSION = Bounds(
    multiple=8, multiple_of={"encoders.camera.view_transform.lift_net.6": 10, "encoders.lidar.*": 16}
)
"""Widths for NVIDIA's CUDA-BEVFusion: its splat kernel takes context channels by tens, and libspconv is published with
multiples of 16; tensor cores multiply by eights."""
_READER = "reader.weight"
_ATTENTIONS = ("self_attn", "multihead_attn")
"""The attention layers of the TransFusion decoder."""
SIDE = 8
"""Cells along each side of the small maps that parts are run on."""


def channel_couplings(model: FusionModel) -> list[Coupling]:
    """The couplings of a model, in the order of its encoders, then fuser, decoder, head.

    >>> from altermoma_ray.models.configurations.named import configuration
    >>> model = configuration("bevfusion-mit-toy").build()
    >>> couplings = channel_couplings(model)
    >>> next(one.channels for one in couplings if one.name == "encoders.lidar.backbone.output_conv.0")
    64
    """
    found, first = [], 0
    for encoder in model.encoders.values():
        found += _BRANCHES[type(encoder)](encoder, first)
        # The fuser stacks the maps of the encoders.
        first += int(encoder.out_channels)
    return [*found, *_fused(model), *(_queries(model.head) if isinstance(model.head, TransFusionHead) else [])]


def _camera(camera: CameraEncoder, first: int) -> list[Coupling]:
    return [*_swin(camera), *_lift(camera), *_after_splat(camera, first)]


def _swin(camera: CameraEncoder) -> list[Coupling]:
    found = []
    for name, block in camera.named_modules(prefix=CAMERA.removesuffix(".")):
        if not isinstance(block, SwinTransformerBlock):
            continue
        attention = block.attn
        assert isinstance(attention, WindowAttention)
        found.append(_heads(f"{name}.attn", attention))
        found.append(_hidden(f"{name}.mlp.0", f"{name}.mlp.3", block.mlp[0].out_features))
    return found


def _heads(name: str, attention: WindowAttention) -> Coupling:
    """Whole heads: rows of queries, keys and values, columns of the projection and of the table of positions."""
    heads = attention.heads
    width = attention.proj.in_features // heads
    table = Slice(f"{name}.relative_position_bias_table", 1, torch.arange(heads)[:, None])
    slices = _head_slices(f"{name}.qkv.", f"{name}.proj", heads, width)
    return Coupling(f"{name}.qkv", (*slices, table), unit=width)


def _head_slices(stacked: str, projection: str, heads: int, width: int) -> tuple[Slice, ...]:
    """Entries of whole heads.

    Args:
        stacked: the beginning of the names of queries', keys' and values' common weight and bias.
        projection: name of the layer that reads the heads.
        heads: number of heads.
        width: of a head.
    """
    # One row for each head: the entries of a row go together, so that only whole heads can be removed.
    columns = torch.arange(heads * width).view(heads, width)
    # Queries, keys and values are stacked in one matrix, each a block of heads times width.
    rows = torch.cat([columns + part * heads * width for part in range(3)], dim=1)
    return (
        Slice(f"{stacked}weight", 0, rows),
        Slice(f"{stacked}bias", 0, rows),
        Slice(f"{projection}.weight", 1, columns),
    )


def _attention_heads(name: str, attention: Attention) -> Coupling:
    """Whole heads of the TransFusion decoder: rows of queries, keys and values, columns of the output projection."""
    return Coupling(
        name,
        _head_slices(f"{name}.in_proj_", f"{name}.out_proj", attention.heads, attention.width),
        unit=attention.width,
    )


def _hidden(first: str, second: str, width: int) -> Coupling:
    """The units between two linear layers, read by nothing else.

    Args:
        first: name of the layer before the units.
        second: name of the layer behind the units.
        width: number of units.
    """
    units = torch.arange(width)[:, None]
    return Coupling(
        first,
        (Slice(f"{first}.weight", 0, units), Slice(f"{first}.bias", 0, units), Slice(f"{second}.weight", 1, units)),
    )


class _Lift(nn.Module):
    """A depth picture, and pictures or a Swin transformer's maps, to depth logits and context."""

    def __init__(self, camera: CameraEncoder) -> None:
        super().__init__()
        if isinstance(camera.backbone, ResNetBackbone):
            self.backbone = camera.backbone
        self.neck = camera.neck
        # A bare module with the names of the original: the traced couplings then name the model's own parameters.
        self.view_transform = nn.Module()
        self.view_transform.lift_net = camera.view_transform.lift_net
        if hasattr(camera.view_transform, "depth_net"):
            self.view_transform.depth_net = camera.view_transform.depth_net

    def forward(self, depths: Tensor, seen: Tensor | list[Tensor]) -> Tensor:
        features = [self.neck(self.backbone(seen) if hasattr(self, "backbone") else seen)]
        if hasattr(self.view_transform, "depth_net"):
            features.insert(0, self.view_transform.depth_net(depths))
        return self.view_transform.lift_net(torch.cat(features, dim=1))


def lift_part(camera: CameraEncoder) -> tuple[nn.Module, tuple[Tensor, Tensor | list[Tensor]]]:
    """The traced part from pictures, or from a Swin transformer's maps, to depths and context; and small inputs."""
    # The smallest pictures that all backbones and the depth net shrink to whole cells. An adaptive neck pools by fixed
    # numbers of cells, so its pictures have their own size.
    side = 8 * SIDE
    height, width = camera.view_transform.image_size if isinstance(camera.neck, AdaptiveFpn) else (side, side)
    depths = torch.zeros(1, 1, height, width)
    if isinstance(camera.backbone, ResNetBackbone):
        return _Lift(camera), (depths, torch.zeros(1, 3, height, width))
    swin = camera.backbone.lead if isinstance(camera.backbone, DualSwinBackbone) else camera.backbone
    assert isinstance(swin, SwinBackbone)
    maps = [
        # Each level halves the map of the level before, as in the backbone.
        torch.zeros(1, norm.normalized_shape[0], math.ceil(height / stride), math.ceil(width / stride))
        for norm, stride in zip(swin.output_norms, swin.strides, strict=True)
    ]
    return _Lift(camera), (depths, maps)


def _lift(camera: CameraEncoder) -> list[Coupling]:
    part, seen = lift_part(camera)
    return trace(part, lambda lift: lift(*seen), prefix=CAMERA)


def _after_splat(camera: CameraEncoder, first: int) -> list[Coupling]:
    view = camera.view_transform
    name = f"{CAMERA}view_transform."
    last = f"{name}lift_net.{len(view.lift_net) - 1}"
    context = torch.arange(view.channels)[:, None]
    # Without a convolution behind the splat, the fuser reads the splatted map itself.
    is_read_by_fuser = len(view.downsample) == 0
    reader = Slice(FUSER_INPUT, 1, view.pooled_channels() + first)
    lifted = Coupling(
        last,
        (
            # The depth bins come first.
            Slice(f"{last}.weight", 0, context + view.bins),
            Slice(f"{last}.bias", 0, context + view.bins),
            # One context channel feeds a channel of every height of the pooled map: all heights go together.
            reader if is_read_by_fuser else Slice(f"{name}downsample.0.weight", 1, view.pooled_channels()),
        ),
    )
    if is_read_by_fuser:
        return [lifted]
    splatted = torch.zeros(1, view.downsample[0].in_channels, SIDE, SIDE)
    # The reader stands for the fuser: without a layer behind, tracing would take the last channels for a fixed output.
    part = nn.ModuleDict({"downsample": view.downsample, "reader": nn.Conv2d(view.out_channels, 1, 1)})
    traced = trace(part, lambda one: one["reader"](one["downsample"](splatted)), prefix=name)
    return [lifted, *(_joined(coupling, name + _READER, first) for coupling in traced)]


def _lidar(lidar: LidarEncoder, first: int) -> list[Coupling]:
    encoder = lidar.backbone
    part = nn.ModuleDict({"twin": DenseTwin(encoder), "reader": nn.Conv2d(lidar.out_channels, 1, 1)})
    # The decoder itself, not a copy: the traced couplings then name the model's own parameters.
    part["decoder"] = lidar.decoder if hasattr(lidar, "decoder") else nn.Identity()
    # The smallest grid that no layer shrinks to nothing: the encoder's own height, few cells along x and y.
    voxels = torch.zeros(1, encoder.input_conv[0].in_channels, 2 * SIDE, 2 * SIDE, encoder.spatial_shape[2])
    traced = trace(part, lambda one: one["reader"](one["decoder"](one["twin"](voxels))))
    return [_sparse(_joined(coupling, _READER, first)) for coupling in traced]


def _radar(radar: RadarEncoder, first: int) -> list[Coupling]:
    layers = radar.backbone.layers
    part = nn.ModuleDict({"layers": layers, "reader": nn.Linear(radar.out_channels, 1)})
    # Two returns: in evaluation mode any number would do.
    traced = trace(part, lambda one: one["reader"](one["layers"](torch.zeros(2, layers[0].in_features))), prefix=RADAR)
    return [_joined(coupling, RADAR + _READER, first) for coupling in traced]


def _pillars(lidar: PillarEncoder, first: int) -> list[Coupling]:
    found: list[Coupling] = []
    read_by, decoder = FUSER_INPUT, getattr(lidar, "decoder", None)
    if decoder is not None:
        seen = torch.zeros(1, lidar.backbone.out_channels, 2 * SIDE, 2 * SIDE)
        part = nn.ModuleDict({"decoder": decoder, "reader": nn.Conv2d(lidar.out_channels, 1, 1)})
        traced = trace(part, lambda one: one["reader"](one["decoder"](seen)), prefix=BRANCH)
        found += [_joined(coupling, BRANCH + _READER, first) for coupling in traced]
        # The decoder's first convolution reads the pillars' map alone, from its first channel on.
        read_by, first = f"{BRANCH}decoder.backbone.blocks.0.0.weight", 0
    layers = lidar.backbone.pts_voxel_encoder.pfn_layers
    for number, layer in enumerate(layers):
        name, units = f"{LIDAR}pts_voxel_encoder.pfn_layers.{number}", torch.arange(layer.linear.out_features)[:, None]
        own = [Slice(f"{name}.linear.weight", 0, units)]
        own += [Slice(f"{name}.norm.{part}", 0, units) for part in ("weight", "bias", "running_mean", "running_var")]
        if number + 1 < len(layers):
            # The next layer reads each unit twice: of the point itself and, behind all units, its maximum over the
            # pillar.
            following = f"{LIDAR}pts_voxel_encoder.pfn_layers.{number + 1}.linear.weight"
            reader = Slice(following, 1, torch.cat([units, units + len(units)], dim=1))
        else:
            reader = Slice(read_by, 1, units + first)
        found.append(Coupling(f"{name}.linear", (*own, reader)))
    return found


_BRANCHES: dict[type, Callable[[Any, int], list[Coupling]]] = {
    CameraEncoder: _camera,
    LidarEncoder: _lidar,
    PillarEncoder: _pillars,
    RadarEncoder: _radar,
}
"""By the kind of an encoder: its couplings, given the fuser's input channel at which its map begins."""


def _sparse(coupling: Coupling) -> Coupling:
    """A coupling of the twin as one of the sparse encoder, whose kernels are [out, x, y, z, in]."""
    slices = []
    for part in coupling.slices:
        if part.tensor.startswith("twin."):
            # Dimension 1 of a dense kernel is the input channel, which spconv keeps last.
            part = replace(part, dim=4 if part.dim == 1 else part.dim)
        slices.append(replace(part, tensor=_in_lidar(part.tensor)))
    return Coupling(_in_lidar(coupling.name), tuple(slices))


def _in_lidar(name: str) -> str:
    """The model's name of a parameter or layer of the traced LiDAR branch; other names stay."""
    if name.startswith("twin."):
        return LIDAR + name.removeprefix("twin.")
    return f"{BRANCH}{name}" if name.startswith("decoder.") else name


def _joined(coupling: Coupling, reader: str, first: int) -> Coupling:
    """A coupling whose reader is the fuser.

    Args:
        coupling: of a part traced with a stand-in for the fuser.
        reader: name of the stand-in's weight.
        first: the fuser's input channel at which the part's map begins.
    """
    slices = [
        Slice(FUSER_INPUT, 1, part.entries + first) if part.tensor == reader else part for part in coupling.slices
    ]
    return replace(coupling, slices=tuple(slices))


class _Fused(nn.Module):
    """The sensors' maps to the map of the head's convolutions."""

    def __init__(self, model: FusionModel) -> None:
        super().__init__()
        self.fuser, self.decoder, self.head = model.fuser, model.decoder, model.head

    def forward(self, *maps: Tensor) -> Tensor:
        bev = self.decoder(self.fuser(maps))
        if isinstance(self.head, TransFusionHead):
            # Up to the heat map alone: behind it proposals are chosen, which tracing cannot follow. `_queries` takes
            # the rest.
            return self.head.heatmap_head(self.head.shared_conv(bev))
        if isinstance(self.head, SegmentationHead):
            return self.head.classifier(bev)
        # Heads which are convolutions through and through.
        return torch.cat(list(self.head(bev).values()), dim=1)


def map_part(model: FusionModel) -> tuple[nn.Module, list[Tensor]]:
    """The traced part from all sensors' maps to the map of the head's convolutions; and small maps."""
    return _Fused(model), [torch.zeros(1, one.out_channels, SIDE, SIDE) for one in model.encoders.values()]


def _fused(model: FusionModel) -> list[Coupling]:
    part, maps = map_part(model)
    # The shared convolution's channels are the queries', keys' and values' too.
    return trace(part, lambda fused: fused(*maps), fixed=("head.shared_conv",))


def _queries(head: TransFusionHead) -> list[Coupling]:
    positions, queries = torch.zeros(1, 2, SIDE), torch.zeros(1, head.config.hidden, SIDE)
    found: list[Coupling] = []
    for layer in range(len(head.decoder)):
        name = f"head.decoder.{layer}"
        for position in ("self_posembed", "cross_posembed"):
            embedding = getattr(head.decoder[layer], position)
            found += trace(embedding, lambda one: one(positions), prefix=f"{name}.{position}.")
        found += [_attention_heads(f"{name}.{part}", getattr(head.decoder[layer], part)) for part in _ATTENTIONS]
        found.append(_hidden(f"{name}.linear1", f"{name}.linear2", head.decoder[layer].linear1.out_features))
        branches: Sequence[tuple[str, nn.Module]] = list(head.prediction_heads[layer].named_children())
        for branch, convolutions in branches:
            prefix = f"head.prediction_heads.{layer}.{branch}."
            found += trace(convolutions, lambda one: one(queries), prefix=prefix)
    return found

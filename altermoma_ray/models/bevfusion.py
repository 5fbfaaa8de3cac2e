"""A fusion model in bird's-eye view (BEV): an encoder for each sensor, fuser, decoder, head.

Liu et al., *BEVFusion: Multi-Task Multi-Sensor Fusion with Unified Bird's-Eye View Representation*, ICRA 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn import functional

from altermoma_ray.data.batch import Batch
from altermoma_ray.models.channels import channel_couplings
from altermoma_ray.models.configurations.anchors import AnchorHeadConfig
from altermoma_ray.models.configurations.centerpoint import CenterPointHeadConfig
from altermoma_ray.models.configurations.config import ModelConfig
from altermoma_ray.models.configurations.fusion import DecoderConfig, FuserConfig, GatedFuserConfig
from altermoma_ray.models.configurations.lidar import LidarConfig
from altermoma_ray.models.configurations.pillars import PillarConfig
from altermoma_ray.models.configurations.residual import ResidualDecoderConfig
from altermoma_ray.models.configurations.segmentation import SegmentationHeadConfig
from altermoma_ray.models.configurations.transfusion import TransFusionHeadConfig
from altermoma_ray.models.decoders.residual import ResidualDecoder
from altermoma_ray.models.decoders.second import BevDecoder
from altermoma_ray.models.depth_supervision import DepthSupervision
from altermoma_ray.models.distillation import MapListener
from altermoma_ray.models.encoders.camera import CameraEncoder
from altermoma_ray.models.encoders.lidar import LidarEncoder
from altermoma_ray.models.encoders.pillars import PillarEncoder
from altermoma_ray.models.encoders.radar import RadarEncoder
from altermoma_ray.models.fusers.convolutional import ConvFuser
from altermoma_ray.models.fusers.gated import GatedFuser
from altermoma_ray.models.grouping import group_by_encoder
from altermoma_ray.models.heads.anchors import AnchorHead
from altermoma_ray.models.heads.centerpoint import CenterPointHead
from altermoma_ray.models.heads.segmentation import SegmentationHead
from altermoma_ray.models.heads.transfusion import TransFusionHead
from altermoma_ray.models.synaptic_flow import flow_of
from altermoma_ray.pruning.channels import Coupling

_LIDARS: dict[type, type[nn.Module]] = {LidarConfig: LidarEncoder, PillarConfig: PillarEncoder}
_FUSERS: dict[type, type[nn.Module]] = {FuserConfig: ConvFuser, GatedFuserConfig: GatedFuser}
_DECODERS: dict[type, type[nn.Module]] = {DecoderConfig: BevDecoder, ResidualDecoderConfig: ResidualDecoder}
_HEADS: dict[type, type[nn.Module]] = {
    TransFusionHeadConfig: TransFusionHead,
    SegmentationHeadConfig: SegmentationHead,
    CenterPointHeadConfig: CenterPointHead,
    AnchorHeadConfig: AnchorHead,
}
"""By section: the kind of a section chooses the module."""


class FusionModel(nn.Module):
    """Detector, or map segmentation model, whose encoders can be masked one by one.

    Example: the outputs without the camera, for which the camera encoder does no work::

        model = FusionModel(configuration("bevfusion-mit-toy"))
        outputs = model(batch, masked=frozenset({"camera"}))
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.modalities = config.modalities
        """The sensors, in the order in which Algorithm 1 of AlterMOMA masks them."""
        # Keyed by sensor: `group_of` reads the group of a parameter off its name, and released weights are renamed to
        # match.
        self.encoders = nn.ModuleDict({sensor: _encoder(sensor, config) for sensor in config.sensors})
        # Widths are handed from part to part: a configuration states each width once.
        widths = [encoder.out_channels for encoder in self.encoders.values()]
        self.fuser = _FUSERS[type(config.fuser)](config.fuser, widths)
        width = self.fuser.out_channels
        if config.decoder is None:
            self.decoder = nn.Identity()
        else:
            self.decoder = _DECODERS[type(config.decoder)](config.decoder, width)
            width = self.decoder.out_channels
        self.head = _HEADS[type(config.head)](config.head, width)

    def forward(self, batch: Batch, masked: frozenset[str] = frozenset()) -> dict[str, Tensor]:
        """The head's outputs.

        Args:
            batch: samples on the model's device.
            masked: sensors whose encoder is not run. The fuser sees zeros instead, just as if all parameters of the
                encoder were zero.

        Raises:
            ValueError: a masked sensor is unknown.
        """
        return self.head(self.decoder(self.fuser(self._encode(batch, masked))))

    def features(self, batch: Batch, masked: frozenset[str] = frozenset()) -> dict[str, Tensor]:
        """BEV maps [N, channel, x, y]: the map of each sensor by its name, and the fuser's output by ``fused``.

        All have the cells of the head's map, which a task knows; finer maps, of pillars, are averaged over these cells.

        Example::

            camera, fused = (model.features(batch)[name] for name in ("camera", "fused"))
        """
        maps = self._encode(batch, masked)
        named = {**dict(zip(self.encoders, maps, strict=True)), "fused": self.fuser(maps)}
        size = self.config.head.bev_size
        return {
            name: bev if bev.shape[2:] == size else functional.adaptive_avg_pool2d(bev, size)
            for name, bev in named.items()
        }

    def channel_couplings(self) -> list[Coupling]:
        """Which channels can be removed, with all that goes with each: :mod:`altermoma_ray.models.channels`."""
        return channel_couplings(self)

    def flow(self, batch: Batch) -> Callable[[nn.Module], Tensor]:
        """The synaptic flow of this model: :func:`altermoma_ray.models.synaptic_flow.flow_of`."""
        return flow_of(self, batch)

    @contextmanager
    def auxiliary_loss(self) -> Iterator[Callable[[Batch], Tensor]]:
        """While the context is open, a function for the depth loss, [N], of the last forward pass.

        Models without a camera have none: their loss is 0.

        Example::

            with model.auxiliary_loss() as auxiliary:
                outputs = model(batch)
                loss = task.loss(outputs, batch)["total"] + auxiliary(batch)
        """
        if "camera" not in self.encoders:
            yield lambda batch: batch.images.new_zeros(len(batch))
            return
        # A context, since the loss listens by a hook: a hook left behind would keep every later graph alive.
        with DepthSupervision(self.encoders["camera"]) as supervision:
            yield supervision.loss

    @contextmanager
    def distillable(self) -> Iterator[Callable[[dict[str, Tensor]], dict[str, Tensor]]]:
        """While the context is open, a function from the last outputs to the tensors a pruned copy learns from.

        The tensors are the maps of :meth:`features` and the head's dense outputs.

        Example::

            with model.distillable() as distillable:
                sorted(distillable(model(batch)))  # ["camera", "dense_heatmap", "fused", "lidar"]
        """
        with MapListener({**self.encoders, "fused": self.fuser}) as maps:
            yield lambda outputs: {**maps.take(), **self.head.distillable(outputs)}

    def _encode(self, batch: Batch, masked: frozenset[str]) -> list[Tensor]:
        unknown = masked - set(self.encoders)
        if unknown:
            raise ValueError(f"`masked` may hold {', '.join(self.encoders)}, but got {', '.join(sorted(unknown))}")
        maps = []
        for sensor, encoder in self.encoders.items():
            # A masked encoder is not run, instead of multiplied by 0: no time is spent, and no gradient flows back.
            if sensor in masked:
                bev = batch.images.new_zeros(len(batch), encoder.out_channels, *self.config.map_size(sensor))
            else:
                # The same memory layout as the zeros', so that the fuser rounds alike with and without a mask.
                bev = encoder(batch).contiguous()
            maps.append(bev)
        return maps

    @staticmethod
    def group_of(parameter_name: str) -> str:
        """The group a parameter belongs to: its sensor, or ``fusion`` (fuser, decoder and head).

        >>> FusionModel.group_of("encoders.camera.neck.weight"), FusionModel.group_of("head.shared_conv.bias")
        ('camera', 'fusion')
        """
        return group_by_encoder(parameter_name)


def _encoder(sensor: str, config: ModelConfig) -> nn.Module:
    """The encoder of a sensor, whose ``out_channels`` are the channels of its BEV map."""
    if sensor == "camera":
        assert config.camera is not None
        return CameraEncoder(config.camera, config.inputs.image_size)
    if sensor == "radar":
        assert config.radar is not None
        return RadarEncoder(config.radar, config.inputs.point_range)
    assert config.lidar is not None
    return _LIDARS[type(config.lidar)](config.lidar, config.inputs.point_range[:3], config.voxel_grid)

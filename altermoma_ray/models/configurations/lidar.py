"""The section of a configuration that describes a LiDAR branch.

Published figures: Liu et al., *BEVFusion: Multi-Task Multi-Sensor Fusion with Unified Bird's-Eye View
Representation*, ICRA 2023.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from altermoma_ray.models.configurations.pillars import PillarConfig
from altermoma_ray.models.configurations.points import PointBranchConfig
from altermoma_ray.models.configurations.section import fields_of


class LidarConfig(PointBranchConfig):
    """Hard voxels and sparse 3D encoder."""

    voxel_size: tuple[float, float, float] = (0.075, 0.075, 0.2)
    """x, y, z (m)."""
    max_points: int = Field(10, ge=1)
    """Points of a voxel that count, first come."""
    max_voxels_train: int = Field(120_000, ge=1)
    """Voxels of a sample in training, first come."""
    max_voxels_test: int = Field(160_000, ge=1)
    """Voxels of a sample otherwise."""
    point_scale: tuple[float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0)
    """Factors on a voxel's mean x, y, z, intensity and time lag before the first layer."""
    input_channels: int = 16
    """Channels of the first convolution."""
    stages: tuple[tuple[int, ...], ...] = ((16, 16, 32), (32, 32, 64), (64, 64, 128), (128, 128))
    """Channels after each layer: residual blocks, then in all stages but the last a convolution of stride 2."""
    channels: int = 128
    """Channels of the output convolution, before the height is folded into them."""
    norm_momentum: float = Field(0.01, gt=0, le=1)
    """Share of a batch in the running statistics of normalisation."""

    @model_validator(mode="after")
    def _check(self) -> LidarConfig:
        before = self.input_channels
        for stage, channels in enumerate(self.stages):
            blocks = channels if stage == len(self.stages) - 1 else channels[:-1]
            if any(width != before for width in blocks):
                raise ValueError(
                    f"the residual blocks of stage {stage} must keep its {before} channels, but got {channels}"
                )
            before = channels[-1]
        return self

    @property
    def stride(self) -> int:
        """Voxels a BEV cell, along x and y."""
        return 2 ** (len(self.stages) - 1)

    @property
    def encoder_cell_size(self) -> tuple[float, float]:
        """Cell of the sparse encoder's BEV map (x, y), metres."""
        return self.voxel_size[0] * self.stride, self.voxel_size[1] * self.stride

    def output_height(self, height: int) -> int:
        """Heights that the encoder leaves of so many voxels along z; 0 or less when there are too few."""
        height += 1  # the published encoder has one empty layer on top
        for strided in range(len(self.stages) - 1):
            height = (height + 2 * self.height_padding(strided) - 3) // 2 + 1
        return (height - 3) // 2 + 1

    def height_padding(self, stage: int) -> int:
        """Padding along z of a stage's strided convolution; the last one has none."""
        return 0 if stage == len(self.stages) - 2 else 1


def _kind_of_lidar(lidar: Any) -> str:
    """The tag of a LiDAR branch's section: only pillars have layers of ``units``."""
    return "pillars" if "units" in fields_of(lidar) else "voxels"


AnyLidar = Annotated[
    Annotated[LidarConfig, Tag("voxels")] | Annotated[PillarConfig, Tag("pillars")], Discriminator(_kind_of_lidar)
]
"""The section of any LiDAR branch; ``voxel_size`` and ``cell_size`` are common to all."""

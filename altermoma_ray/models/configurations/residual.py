"""The section of a configuration that describes a residual decoder behind the fuser.

Published figures: the camera-radar variant of Liu et al., *BEVFusion*, ICRA 2023.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from altermoma_ray.models.configurations.section import Section

Positive = Annotated[int, Field(ge=1)]


class ResidualDecoderConfig(Section):
    """Stages of residual blocks, of which the last and the first are joined and brought to the fused map's size."""

    channels: tuple[Positive, ...] = Field((128, 256, 512), min_length=2)
    """Channels of each stage."""
    blocks: tuple[Positive, ...] = (2, 2, 2)
    """Residual blocks of each stage."""
    strides: tuple[Positive, ...] = (2, 2, 1)
    """Stride of each stage's first block."""
    neck: Positive = 256
    """Channels of the map for the head."""
    norm_momentum: float = Field(0.1, gt=0, le=1)
    """Share of a batch in the running statistics of normalisation."""

    @model_validator(mode="after")
    def _check(self) -> ResidualDecoderConfig:
        if len({len(self.channels), len(self.blocks), len(self.strides)}) != 1:
            raise ValueError("`channels`, `blocks` and `strides` need one entry for each stage")
        return self

"""The sections of a configuration that describe the fuser and the decoder behind it.

Published figures: Liu et al., *BEVFusion: Multi-Task Multi-Sensor Fusion with Unified Bird's-Eye View
Representation*, ICRA 2023; of the gated fuser Liang et al., *BEVFusion: A Simple and Robust LiDAR-Camera Fusion
Framework*, NeurIPS 2022.
"""

from __future__ import annotations

from itertools import accumulate
from operator import mul
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_serializer, model_validator
from pydantic.functional_serializers import SerializerFunctionWrapHandler

from altermoma_ray.models.configurations.residual import ResidualDecoderConfig
from altermoma_ray.models.configurations.section import Section, fields_of


class FuserConfig(Section):
    """Convolutional fuser."""

    channels: int = 256
    """Channels of the fused map."""


class GatedFuserConfig(Section):
    """Convolutional fuser whose channels are weighed by a gate."""

    channels: int = 512
    """Channels of the fused map."""
    gate: Literal["channel"] = "channel"
    """The parts of the fused map that the gate weighs."""
    norm_momentum: float = Field(0.01, gt=0, le=1)
    """Share of a batch in the running statistics of normalisation."""


def _kind_of_fuser(fuser: Any) -> str:
    """The tag of a fuser's section: only the gated fuser has a ``gate``."""
    return "gated" if "gate" in fields_of(fuser) else "convolutional"


AnyFuser = Annotated[
    Annotated[FuserConfig, Tag("convolutional")] | Annotated[GatedFuserConfig, Tag("gated")],
    Discriminator(_kind_of_fuser),
]
"""The section of any fuser; ``channels`` is common to all."""


class DecoderConfig(Section):
    """SECOND backbone and its FPN on the fused map."""

    channels: tuple[int, ...] = (128, 256)
    """Channels of each block."""
    layers: tuple[int, ...] = (5, 5)
    """Convolutions of each block after its first."""
    strides: tuple[int, ...] = (1, 2)
    """Stride of each block's first convolution."""
    neck: tuple[int, ...] = (256, 256)
    """Channels that each block's output contributes to the map for the head."""
    norm_momentum: float = Field(0.01, gt=0, le=1)
    """Share of a batch in the running statistics of normalisation."""
    output_stride: int = Field(1, ge=1)
    """Cells of the fused map, along x and y, for each cell of the head's map."""

    @model_validator(mode="after")
    def _check(self) -> DecoderConfig:
        if len({len(self.channels), len(self.layers), len(self.strides), len(self.neck)}) != 1:
            raise ValueError("`channels`, `layers`, `strides` and `neck` need one entry for each block")
        if self.output_stride == 1 and self.strides[0] != 1:
            raise ValueError(
                f"the first block keeps the map's size: `strides` must start with 1, but got {self.strides}; or state "
                "the `output_stride`"
            )
        for stride in self.block_strides:
            if stride % self.output_stride and self.output_stride % stride:
                raise ValueError(
                    "a block's map is resized by a whole factor: the strides of the blocks' maps, "
                    f"{self.block_strides}, must be multiples or divisors of `output_stride`, {self.output_stride}"
                )
        return self

    @model_serializer(mode="wrap")
    def _dump(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the usual ``output_stride`` out: checkpoints lack the field, and hashes are made of this text."""
        fields: dict[str, Any] = dump(self)
        if fields.get("output_stride") == 1:
            del fields["output_stride"]
        return fields

    @property
    def block_strides(self) -> tuple[int, ...]:
        """Cells of the fused map, along x and y, for each cell of each block's map.

        >>> DecoderConfig().block_strides
        (1, 2)
        """
        # Strides add up along the backbone: a block's map is coarser by the strides of all blocks up to it.
        return tuple(accumulate(self.strides, mul))


def _kind_of_decoder(decoder: Any) -> str:
    """The tag of a decoder's section: only the residual decoder has ``blocks``."""
    return "residual" if "blocks" in fields_of(decoder) else "second"


AnyDecoder = Annotated[
    Annotated[DecoderConfig, Tag("second")] | Annotated[ResidualDecoderConfig, Tag("residual")],
    Discriminator(_kind_of_decoder),
]
"""The section of any decoder; ``strides`` are common to all."""

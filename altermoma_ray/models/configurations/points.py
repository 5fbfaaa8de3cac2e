"""The section that all LiDAR branches build on: after its encoder, a branch may have a decoder of its own."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from pydantic import model_serializer
from pydantic.functional_serializers import SerializerFunctionWrapHandler

from altermoma_ray.models.configurations.fusion import DecoderConfig
from altermoma_ray.models.configurations.section import Section


class PointBranchConfig(Section):
    """A branch of LiDAR points."""

    decoder: DecoderConfig | None = None
    """The branch's own SECOND backbone and FPN before the fuser; None hands the encoder's map to the fuser."""

    @model_serializer(mode="wrap")
    def _dump(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave an absent ``decoder`` out: checkpoints without the field have none, and hashes are of this text."""
        fields: dict[str, Any] = dump(self)
        if fields.get("decoder") is None:
            fields.pop("decoder", None)
        return fields

    @property
    @abstractmethod
    def encoder_cell_size(self) -> tuple[float, float]:
        """Cell of the encoder's BEV map (x, y), metres."""

    @property
    def cell_size(self) -> tuple[float, float]:
        """Cell of the branch's BEV map (x, y), metres."""
        stride = self.decoder.output_stride if self.decoder is not None else 1
        x, y = self.encoder_cell_size
        return x * stride, y * stride

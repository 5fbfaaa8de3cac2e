"""The section of a configuration that describes a radar branch.

Published figures: the camera-radar variant of Liu et al., *BEVFusion*, ICRA 2023.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from altermoma_ray.models.configurations.section import Section


class RadarConfig(Section):
    """Pillars over the whole height of the range, and linear layers on their returns.

    >>> RadarConfig().cell_size
    (0.8, 0.8)
    """

    pillar_size: tuple[float, float] = (0.8, 0.8)
    """x, y (m); a pillar is a cell of the BEV map."""
    max_points: int = Field(20, ge=1)
    """Returns of a pillar that count, first come. The published most pillars are more than the map has cells."""
    channels: tuple[Annotated[int, Field(ge=1)], ...] = Field((128, 128, 128, 64), min_length=1)
    """Channels of each linear layer; the last layer's are the channels of the BEV map."""
    norm_momentum: float = Field(0.01, gt=0, le=1)
    """Share of a batch in the running statistics of normalisation."""

    @property
    def cell_size(self) -> tuple[float, float]:
        """Cell of the BEV map (x, y), metres."""
        return self.pillar_size

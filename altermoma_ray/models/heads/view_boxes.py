"""The second stage of AVOD-FPN: class, box and heading of each proposal (Ku et al., AVOD, IROS 2018).

Notation: ``P`` proposals, ``K`` types of objects.
"""

from __future__ import annotations

from torch import Tensor, nn

from altermoma_ray.models.configurations.avod import BoxConfig
from altermoma_ray.models.heads.proposals import hidden_layers

CORNERS, ANGLE = 10, 2
"""Numbers of a box's code (:mod:`altermoma_ray.tasks.kitti.box_code`), and of a heading: cosine and sine."""


class BoxHead(nn.Module):
    """Fully connected layers on the fused crop of a proposal.

    ``forward`` maps crops [P, C, crop, crop] to a dict:

    ===========  ===========  ==========================================================================
    ``classes``  [P, 1 + K]   logits of background and of each type
    ``corners``  [P, 10]      differences of a box's code to the proposal's
    ``angles``   [P, 2]       cosine and sine of the heading, not held to the unit circle
    ===========  ===========  ==========================================================================

    Args:
        config: crops, layers and dropout.
        in_channels: channels of a crop, C.
        types: number of types, K.
    """

    def __init__(self, config: BoxConfig, in_channels: int, types: int) -> None:
        super().__init__()
        widths = (in_channels * config.crop**2, *config.hidden)
        self.hidden = nn.Sequential(*hidden_layers(widths, config.dropout))
        self.classes = nn.Linear(widths[-1], 1 + types)
        self.corners = nn.Linear(widths[-1], CORNERS)
        self.angles = nn.Linear(widths[-1], ANGLE)

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        """Crops [P, C, crop, crop] to the outputs listed in the class's text."""
        features = self.hidden(crops.flatten(1))
        return {"classes": self.classes(features), "corners": self.corners(features), "angles": self.angles(features)}

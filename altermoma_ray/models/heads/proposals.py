"""The first stage of AVOD-FPN: from small crops of both views to proposals (Ku et al., AVOD, IROS 2018).

Notation: ``A`` anchors of a frame, ``P`` proposals.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from altermoma_ray.models.configurations.avod import ProposalConfig
from altermoma_ray.models.layers.ground_anchors import decode, rectangles
from altermoma_ray.models.layers.suppression import best_apart

OBJECT = 1
"""Position of an object's logit; 0 is background."""


class ProposalHead(nn.Module):
    """Two branches of fully connected layers on the fused crop of an anchor.

    The published code has a convolution of the crop's own size and two of 1 × 1, which are the same on one crop.

    ``forward`` maps crops [A, 1, crop, crop] to objectness logits [A, 2] and changes [A, 6] of the anchors.

    >>> config = ProposalConfig(sizes=(((4.0, 1.6, 1.5),),), positive=(0.5,), negative=(0.3,), hidden=8)
    >>> [tuple(output.shape) for output in ProposalHead(config)(torch.zeros(5, 1, 3, 3))]
    [(5, 2), (5, 6)]
    """

    def __init__(self, config: ProposalConfig) -> None:
        super().__init__()
        cells = config.crop**2
        self.objectness = fully_connected((cells, config.hidden, config.hidden), 2, config.dropout)
        self.offsets = fully_connected((cells, config.hidden, config.hidden), 6, config.dropout)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Crops [A, 1, crop, crop] to logits [A, 2] and changes [A, 6]."""
        cells = crops.flatten(1)
        return self.objectness(cells), self.offsets(cells)


@torch.no_grad()
def proposals_of(anchors: Tensor, objectness: Tensor, offsets: Tensor, *, overlap: float, most: int) -> Tensor:
    """The best changed anchors that lie apart on the ground, [P, 6], best first.

    No gradient leads through a proposal. In the published code one does, through the edges of the second stage's crops
    and through its targets, which move with the proposals.

    Args:
        anchors: [A, 6].
        objectness: [A, 2] logits.
        offsets: [A, 6] changes.
        overlap: IoU on the ground above which a proposal suppresses another.
        most: number of proposals at most.
    """
    boxes = decode(offsets.float(), anchors)
    score = objectness.float().softmax(dim=1)[:, OBJECT]
    return boxes[best_apart(rectangles(boxes), score, overlap=overlap, most=most)]


def fully_connected(widths: tuple[int, ...], outputs: int, dropout: float) -> nn.Sequential:
    """Linear layers with ReLU and dropout behind each, and a last one without.

    >>> fully_connected((9, 4), 2, dropout=0.5)
    Sequential(
      (0): Linear(in_features=9, out_features=4, bias=True)
      (1): ReLU(inplace=True)
      (2): Dropout(p=0.5, inplace=False)
      (3): Linear(in_features=4, out_features=2, bias=True)
    )

    Args:
        widths: inputs, then outputs of each hidden layer.
        outputs: of the last layer.
        dropout: share of the hidden outputs that is dropped in training.
    """
    return nn.Sequential(*hidden_layers(widths, dropout), nn.Linear(widths[-1], outputs))


def hidden_layers(widths: tuple[int, ...], dropout: float) -> list[nn.Module]:
    """The layers of :func:`fully_connected` but the last: a list to unpack into a Sequential."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True), nn.Dropout(dropout)]
    return layers

"""The TransFusion head: object queries from a heat map, refined by one transformer layer (Bai et al., CVPR 2022).

Figures, layers and parameter names are the published ones of BEVFusion (Liu et al., ICRA 2023); its released weights
therefore fit one to one.

Notation: ``N`` samples, ``X × Y`` BEV cells (first axis x, second y), ``C`` channels of the shared map, ``K`` classes,
``P`` proposals (object queries). Positions are in BEV cells, the centre of the first cell being (0.5, 0.5). A box is
coded as in :mod:`altermoma_ray.tasks.detection.boxes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from altermoma_ray.models.configurations.transfusion import TransFusionHeadConfig
from altermoma_ray.models.layers.attention import Attention
from altermoma_ray.models.layers.blocks import ConvBlock

REGRESSIONS = {"center": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}
"""Channels of each regressed quantity."""

HEATMAP_BIAS = -2.19
"""Initial class logit: a prior probability of 0.1."""


def strongest(heat: Tensor, count: int) -> Tensor:
    """The cells of the greatest heats, greatest first; of equal heats the first cell comes first.

        >>> strongest(torch.tensor([[0.1, 0.7, 0.7, 0.2]]), 2)
        tensor([[1, 2]])

    Args:
        heat: [N, cells].
        count: number of cells.

    Returns:
        [N, count] int64.
    """
    # A stable sort instead of `topk`: equal heats (a saturated sigmoid) give the same proposals on every device.
    return heat.argsort(dim=1, descending=True, stable=True)[:, :count]


class TransFusionHead(nn.Module):
    """Proposes, refines and describes objects on a BEV map.

    ``forward`` maps features [N, in_channels, X, Y] to a dict:

    ======================  ============  ==========================================================================
    ``dense_heatmap``       [N, K, X, Y]  class logits of every cell
    ``query_labels``        [N, P]        int64, class from whose heat the query was taken
    ``query_heatmap_score`` [N, K, P]     heat of the query's cell: probability where it is a local maximum, else 0
                                          (no gradient)
    ``center``              [N, 2, P]     x, y of the box centre, in BEV cells
    ``height``              [N, 1, P]     z of the box, in metres (lidar frame): of its centre, unless ``config.height``
                                          says otherwise
    ``dim``                 [N, 3, P]     log of length, width, height, in log metres
    ``rot``                 [N, 2, P]     sine, cosine of the yaw (unnormalised)
    ``vel``                 [N, 2, P]     vx, vy in m/s (lidar frame)
    ``heatmap``             [N, K, P]     class logits of the refined query
    ======================  ============  ==========================================================================

    With several decoder layers, each layer starts at the centres found by the layer before; the last layer gives the
    outputs.

    Example: the shapes for 4 samples on a map of 180 × 180 cells::

        head = TransFusionHead(config, in_channels=512)
        outputs = head(torch.zeros(4, 512, 180, 180))
        outputs["center"].shape  # (4, 2, config.proposals)
    """

    # A class attribute: models that were pickled before it existed have it too.
    strongest: Callable[[Tensor, int], Tensor] = staticmethod(strongest)
    """Picks the proposals' cells; an exporter takes another operation for the same cells."""

    def __init__(self, config: TransFusionHeadConfig, in_channels: int) -> None:
        super().__init__()
        channels, side = config.hidden, config.heatmap_kernel
        self.config = config
        self.shared_conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.heatmap_head = nn.Sequential(
            ConvBlock(nn.Conv2d(channels, channels, side, padding=side // 2, bias=False), nn.BatchNorm2d(channels)),
            nn.Conv2d(channels, config.num_classes, side, padding=side // 2),
        )
        self.class_encoding = nn.Conv1d(config.num_classes, channels, 1)
        self.decoder = nn.ModuleList(
            DecoderLayer(channels, config.heads, config.feed_forward, config.dropout) for _ in range(config.layers)
        )
        self.prediction_heads = nn.ModuleList(
            PredictionHead(channels, config.branch_hidden, config.num_classes) for _ in range(config.layers)
        )
        self._initialise()

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Features [N, in_channels, X, Y] to the outputs listed in the class's text."""
        shared = self.shared_conv(features)
        dense_heatmap = self.heatmap_head(shared)
        # Detached: the choice of proposals has no gradient; the map learns from its own loss alone.
        heat = local_maxima(
            dense_heatmap.detach().sigmoid(), self.config.heatmap_kernel, self.config.classes_with_1x1
        ).flatten(2)
        cells = heat.shape[2]
        best = self.strongest(heat.flatten(1), self.config.proposals)
        labels = best.div(cells, rounding_mode="trunc")
        cell = best % cells

        # A query starts as its cell's features plus an embedding of its class: two classes may share a cell.
        keys = shared.flatten(2)
        queries = keys.gather(2, _along(cell, keys)) + self.class_encoding(
            one_hot(labels, self.config.num_classes, keys)
        )
        key_positions = position_grid(shared.shape[2], shared.shape[3], shared)
        query_positions = key_positions.expand(len(cell), -1, -1).gather(2, _along(cell, key_positions))

        outputs: dict[str, Tensor] = {}
        for layer, predict in zip(self.decoder, self.prediction_heads, strict=True):
            queries = layer(queries, keys, query_positions, key_positions)
            outputs = predict(queries)
            # The branch predicts an offset. Detached, so that each layer learns from its own error only.
            outputs["center"] = outputs["center"] + query_positions
            query_positions = outputs["center"].detach()
        outputs["dense_heatmap"] = dense_heatmap
        outputs["query_labels"] = labels
        outputs["query_heatmap_score"] = heat.gather(2, _along(cell, heat))
        return outputs

    def distillable(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs a pruned copy can learn from: probabilities of each class and cell, by ``dense_heatmap``.

        The outputs of queries are left out. Each model takes its queries from the peaks of its own heat map, and sorts
        them by heat: query p of two models stands at different cells, for different objects. Comparing them needs a
        matching, as in Chang et al., *DETRDistill*, ICCV 2023. The heat map decides where queries start, and the maps
        before the head decide what they read.
        """
        # Not logits: nearly all cells are empty, and their logits far below 0 would outweigh the peaks.
        return {"dense_heatmap": outputs["dense_heatmap"].sigmoid()}

    def _initialise(self) -> None:
        for parameter in self.decoder.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for logits in (self.heatmap_head, *(branches["heatmap"] for branches in self.prediction_heads)):
            nn.init.constant_(logits[-1].bias, HEATMAP_BIAS)


class DecoderLayer(nn.Module):
    """Self-attention among the queries, cross-attention to the map, feed-forward; each added, then normalised.

    Keys, and also values, carry the position embedding.
    """

    def __init__(self, channels: int, heads: int, feedforward_channels: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(channels, heads, dropout)
        self.multihead_attn = Attention(channels, heads, dropout)
        self.linear1 = nn.Linear(channels, feedforward_channels)
        self.linear2 = nn.Linear(feedforward_channels, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.norm3 = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)
        self.self_posembed = PositionEmbedding(channels)
        self.cross_posembed = PositionEmbedding(channels)

    def forward(self, queries: Tensor, keys: Tensor, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """Refine the queries; returns [N, C, P].

        Args:
            queries: [N, C, P] features of the queries.
            keys: [N, C, X·Y] features of the cells.
            query_positions: [N, 2, P].
            key_positions: [1, 2, X·Y].
        """
        query_embedding = self.self_posembed(query_positions).transpose(1, 2)
        # The cells have the same positions in every sample; one embedding serves the whole batch.
        memory = (keys + self.cross_posembed(key_positions)).transpose(1, 2)
        state = queries.transpose(1, 2)

        placed = state + query_embedding
        state = self.norm1(state + self.dropout(self.self_attn(placed, placed)))
        attended = self.multihead_attn(state + query_embedding, memory)
        state = self.norm2(state + self.dropout(attended))
        widened = self.dropout(functional.relu(self.linear1(state)))
        state = self.norm3(state + self.dropout(self.linear2(widened)))
        return state.transpose(1, 2)


class PositionEmbedding(nn.Module):
    """Learned embedding of positions [N, 2, P] (BEV cells) as [N, C, P]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.position_embedding_head = nn.Sequential(
            nn.Conv1d(2, channels, 1), nn.BatchNorm1d(channels), nn.ReLU(), nn.Conv1d(channels, channels, 1)
        )

    def forward(self, positions: Tensor) -> Tensor:
        """Embed the positions."""
        return self.position_embedding_head(positions)


class PredictionHead(nn.ModuleDict):
    """Two 1×1 convolutions for each described quantity: queries [N, C, P] to a dict of [N, channels, P]."""

    def __init__(self, channels: int, hidden_channels: int, classes: int) -> None:
        super().__init__(
            {
                name: nn.Sequential(
                    ConvBlock(nn.Conv1d(channels, hidden_channels, 1, bias=False), nn.BatchNorm1d(hidden_channels)),
                    nn.Conv1d(hidden_channels, outputs, 1),
                )
                for name, outputs in {**REGRESSIONS, "heatmap": classes}.items()
            }
        )

    def forward(self, queries: Tensor) -> dict[str, Tensor]:
        """Describe the queries."""
        return {name: head(queries) for name, head in self.items()}


def one_hot(labels: Tensor, classes: int, like: Tensor) -> Tensor:
    """Labels [N, P] as [N, classes, P]: 1 at the label's class, else 0.

    Args:
        labels: int64.
        classes: number of classes.
        like: the result is on this tensor's device and of its type.
    """
    # Rows of a unit matrix: an exporter writes one `Gather`, which every runtime has.
    return torch.eye(classes, device=like.device, dtype=like.dtype)[labels].transpose(1, 2)


def local_maxima(heat: Tensor, side: int, every_cell: tuple[int, ...]) -> Tensor:
    """Probabilities [N, K, X, Y] with all but the maxima of their ``side × side`` neighbourhood set to zero.

    Cells at the border have no full neighbourhood and are never maxima.

    Args:
        heat: probabilities.
        side: cells of the neighbourhood, an odd number.
        every_cell: classes of small objects (pedestrians, cones), which stand close together; they keep every cell.
    """
    peaks = functional.pad(functional.max_pool2d(heat, side, stride=1), (side // 2,) * 4)
    peaks[:, every_cell] = heat[:, every_cell]
    # Exact equality is safe: pooling copies values and computes none.
    return heat * (heat == peaks)


def position_grid(x_cells: int, y_cells: int, like: Tensor) -> Tensor:
    """Centres of the BEV cells, [1, 2, X·Y], x-major (y runs fastest).

        >>> position_grid(1, 2, torch.zeros(()))
        tensor([[[0.5000, 0.5000],
                 [0.5000, 1.5000]]])

    Args:
        x_cells: X.
        y_cells: Y.
        like: the result is on this tensor's device and of its type.
    """
    x, y = torch.meshgrid(
        torch.arange(x_cells, device=like.device, dtype=like.dtype),
        torch.arange(y_cells, device=like.device, dtype=like.dtype),
        indexing="ij",
    )
    return torch.stack((x.flatten(), y.flatten()))[None] + 0.5


def _along(cell: Tensor, values: Tensor) -> Tensor:
    """The index [N, P] spread over the channels of ``values`` [*, C, X·Y]: [N, C, P]."""
    return cell[:, None].expand(-1, values.shape[1], -1)

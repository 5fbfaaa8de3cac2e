"""A Swin transformer as the camera's backbone.

Notation: M pictures, H × W their size; token maps are [M, height, width, channel] inside the transformer, all other
maps [M, channel, height, width]. Source: Liu et al., *Swin Transformer*, ICCV 2021. The blocks are torchvision's. As
in the published BEVFusion, two things differ from torchvision's classifier: blocks of odd index always shift their
windows, even where a window covers the whole map, and the outputs of all stages but the first leave the backbone
through a LayerNorm of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.swin_transformer import ShiftedWindowAttention, SwinTransformer, SwinTransformerBlock

from altermoma_ray.models.configurations.camera import SwinConfig


class WindowAttention(ShiftedWindowAttention):
    """Self-attention inside windows, shifted by ``shift_size`` on a map of any size.

    torchvision's own class does not shift where a window covers the whole map.
    """

    @property
    def heads(self) -> int:
        """Number of heads."""
        return int(self.relative_position_bias_table.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        """Token map to token map, [M, height, width, C]."""
        count, height, width, _ = x.shape
        # Of its own weights, not of the map: pruning may have removed heads.
        heads, channels = self.heads, self.proj.in_features
        side, shift = self.window_size[0], self.shift_size[0]
        x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = x.shape[1] // side, x.shape[2] // side
        if shift:
            x = x.roll((-shift, -shift), (1, 2))
        # The padding is attended to like any token, as in the published model; it is cut off at the end.
        # q, k, v: [M, windows, heads, tokens of a window, C / heads]
        qkv = self.qkv(x).view(count, rows, side, columns, side, 3, heads, channels // heads)
        query, key, value = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(5, 6).flatten(2, 3).unbind(0)
        logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1) + self.get_relative_position_bias()
        if shift:
            logits = logits + shift_mask(rows, columns, side, shift, x.device)
        x = (logits.softmax(-1) @ value).view(count, rows, columns, heads, side, side, -1)
        x = self.proj(x.permute(0, 1, 4, 2, 5, 3, 6).reshape(count, rows * side, columns * side, channels))
        if shift:
            x = x.roll((shift, shift), (1, 2))
        return x[:, :height, :width]


def shift_mask(rows: int, columns: int, side: int, shift: int, device: torch.device) -> Tensor:
    """The mask added to attention logits, which keeps tokens apart where only the cyclic shift brought them together.

    Args:
        rows: windows along the map's height.
        columns: windows along its width.
        side: tokens along the side of a window.
        shift: tokens by which the map was shifted.
        device: of the result.

    Returns:
        [rows · columns, 1, side², side²], 0 for pairs of tokens attending to each other and -100 for all other pairs.
    """

    def region(windows: int) -> Tensor:
        # 0 in all windows but the last, 1 in the last one, 2 in its part rolled in from the map's other side.
        position = torch.arange(windows * side, device=device)
        return (position >= (windows - 1) * side).long() + (position >= windows * side - shift).long()

    regions = 3 * region(rows)[:, None] + region(columns)
    regions = regions.view(rows, side, columns, side).transpose(1, 2).reshape(rows * columns, 1, side * side)
    return (regions[..., None] != regions[..., None, :]).float() * -100.0


class SwinBackbone(nn.Module):
    """Pictures [M, 3, H, W] to maps of the used stages, finest first.

    Stage s has the stride 4·2ˢ and embed·2ˢ channels: [M, 2·embed, H/8, W/8], ... where all but the first are used.
    """

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        classifier = SwinTransformer(
            patch_size=[4, 4],
            embed_dim=config.embed,
            depths=list(config.depths),
            num_heads=list(config.heads),
            window_size=[config.window, config.window],
            stochastic_depth_prob=config.stochastic_depth,
            num_classes=1,  # of the classifier's head, of which no layer is kept
            block=partial(SwinTransformerBlock, attn_layer=WindowAttention),
        )
        self.features = classifier.features
        """Patch embedding, stage 0, patch merging, stage 1, ..."""
        self.first_output = config.first_output
        """The first stage whose output is used."""
        self.output_norms = nn.ModuleList(nn.LayerNorm(channels) for channels in config.stage_channels)

    @property
    def strides(self) -> list[int]:
        """Pixels a cell of each map, finest first."""
        return [4 << stage for stage in range(self.first_output, len(self.features) // 2)]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Pictures [M, 3, H, W] to maps, finest first."""
        return self.stages(self.features[0](images))

    def stages(self, tokens: Tensor, added: Sequence[Tensor] = ()) -> list[Tensor]:
        """Embedded pictures [M, H/4, W/4, embed] to maps, finest first.

        Args:
            tokens: the output of the patch embedding.
            added: token maps that are added to the input of each stage; none, or one for each stage.
        """
        maps = []
        for stage in range(len(self.features) // 2):
            if stage:
                tokens = self.features[2 * stage](tokens)
            if added:
                tokens = tokens + added[stage]
            tokens = self.features[2 * stage + 1](tokens)
            if stage >= self.first_output:
                maps.append(self.output_norms[stage - self.first_output](tokens).permute(0, 3, 1, 2))
        return maps

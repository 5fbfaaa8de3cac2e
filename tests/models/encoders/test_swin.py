from __future__ import annotations

import math

import pytest
import torch
from torchvision.models.swin_transformer import ShiftedWindowAttention

from altermoma_ray.models.configurations.camera import SwinConfig
from altermoma_ray.models.encoders.swin import SwinBackbone, WindowAttention

SMALL = SwinConfig(embed=8, depths=(2, 2, 2), heads=(1, 2, 4), window=4, stochastic_depth=0.3)


def attention_by_hand(attention: WindowAttention, x: torch.Tensor) -> torch.Tensor:
    """One token at a time: it attends to the tokens of its shifted window that were no wrapped-around strangers."""
    (height, width, channels), side, shift = x.shape, attention.window_size[0], attention.shift_size[0]
    rows, columns = math.ceil(height / side) * side, math.ceil(width / side) * side
    padded = torch.zeros(rows, columns, channels, dtype=x.dtype)
    padded[:height, :width] = x
    query, key, value = attention.qkv(padded).view(rows, columns, 3, attention.num_heads, -1).unbind(2)
    table = attention.relative_position_bias_table.view(2 * side - 1, 2 * side - 1, -1)
    result = torch.zeros_like(padded)
    for row in range(rows):
        for column in range(columns):
            # Place after the shift, and the window and the side of the wrap that it lies in.
            here = ((row - shift) % rows, (column - shift) % columns)
            logits, values = [], []
            for other_row in range(rows):
                for other_column in range(columns):
                    there = ((other_row - shift) % rows, (other_column - shift) % columns)
                    if any(a // side != b // side for a, b in zip(here, there, strict=True)):
                        continue
                    wrapped = ((row < shift) != (other_row < shift)) or ((column < shift) != (other_column < shift))
                    offset = table[here[0] - there[0] + side - 1, here[1] - there[1] + side - 1]
                    dot = (query[row, column] * key[other_row, other_column]).sum(-1) / query.shape[-1] ** 0.5
                    logits.append(dot + offset - (100 if wrapped else 0))
                    values.append(value[other_row, other_column])
            weights = torch.stack(logits).softmax(0)
            result[row, column] = (weights[..., None] * torch.stack(values)).sum(0).flatten()
    return attention.proj(result)[:height, :width]


@pytest.mark.parametrize("size", [(4, 4), (3, 4), (2, 7), (8, 8), (5, 9)])
@pytest.mark.parametrize("shift", [0, 2])
def test_window_attention_equals_attention_written_token_by_token(size, shift):
    torch.manual_seed(0)
    attention = WindowAttention(8, [4, 4], [shift, shift], 2).double()
    torch.nn.init.normal_(attention.relative_position_bias_table)
    x = torch.randn(2, *size, 8, dtype=torch.float64)
    expected = torch.stack([attention_by_hand(attention, item) for item in x])
    torch.testing.assert_close(attention(x), expected)


@pytest.mark.parametrize("size", [(14, 21), (9, 17)])
def test_window_attention_is_torchvisions_where_the_map_is_larger_than_a_window(size):
    torch.manual_seed(0)
    ours = WindowAttention(12, [7, 7], [3, 3], 3)
    theirs = ShiftedWindowAttention(12, [7, 7], [3, 3], 3)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, *size, 12)
    torch.testing.assert_close(ours(x), theirs(x))


def test_backbone_gives_normalised_maps_of_all_stages_but_the_first():
    backbone = SwinBackbone(SMALL).eval()
    maps = backbone(torch.randn(3, 3, 40, 56))
    assert [tuple(features.shape) for features in maps] == [(3, 16, 5, 7), (3, 32, 3, 4)]
    for features in maps:  # the norms are at their initial weights
        torch.testing.assert_close(features.mean(1), torch.zeros_like(features[:, 0]), atol=1e-5, rtol=0)
        torch.testing.assert_close(features.std(1, unbiased=False), torch.ones_like(features[:, 0]), atol=1e-2, rtol=0)


def test_output_norms_do_not_touch_what_the_next_stage_sees():
    backbone = SwinBackbone(SMALL).eval()
    images = torch.randn(1, 3, 32, 32)
    before = backbone(images)[1]
    torch.nn.init.zeros_(backbone.output_norms[0].weight)
    torch.testing.assert_close(backbone(images)[1], before)


def test_blocks_of_odd_index_shift_and_stochastic_depth_rises_to_its_figure():
    blocks = [m for m in SwinBackbone(SMALL).modules() if hasattr(m, "stochastic_depth")]
    assert [block.attn.shift_size for block in blocks] == [[0, 0], [2, 2]] * 3
    assert [block.stochastic_depth.p for block in blocks] == pytest.approx([0, 0.06, 0.12, 0.18, 0.24, 0.3])

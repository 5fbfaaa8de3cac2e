from __future__ import annotations

import torch
import torch.nn.functional as F

from altermoma_ray.models.configurations.height_lift import HeightLiftConfig
from altermoma_ray.models.encoders.adaptive_fpn import AdaptiveFpn


def test_levels_are_added_top_down_resized_projected_and_stacked():
    torch.manual_seed(0)
    config = HeightLiftConfig(neck=4, levels=4, original_size=(40, 64))
    neck = AdaptiveFpn(config, (6, 8, 10), (40, 64))
    for parameter in neck.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    maps = [torch.randn(2, 6, 10, 16), torch.randn(2, 8, 5, 8), torch.randn(2, 10, 3, 4)]

    added = [inner[0](one) for inner, one in zip(neck.pyramid.inner_blocks, maps, strict=True)]
    for level in (1, 0):
        added[level] = added[level] + F.interpolate(added[level + 1], added[level].shape[-2:], mode="nearest")
    levels = [layer[0](one) for layer, one in zip(neck.pyramid.layer_blocks, added, strict=True)]
    levels.append(levels[-1][:, :, ::2, ::2])
    # The finest level, of twice the wanted size, by means of four cells; all others by interpolation.
    resized = [F.avg_pool2d(levels[0], 2)]
    resized += [F.interpolate(one, (5, 8), mode="bilinear", align_corners=True) for one in levels[1:]]
    stacked = torch.cat([adapter(one) for adapter, one in zip(neck.adapters, resized, strict=True)], dim=1)
    torch.testing.assert_close(neck(maps), neck.reduce(stacked))


def test_the_published_levels_have_the_feature_cells_of_the_frustum():
    with torch.device("meta"):
        neck = AdaptiveFpn(HeightLiftConfig(), (96, 192, 384, 768), (448, 800))
        strides = (4, 8, 16, 32)
        maps = [torch.zeros(6, 96 << level, 448 // stride, 800 // stride) for level, stride in enumerate(strides)]
        assert neck(maps).shape == (6, 256, 112, 200)
    assert len(neck.adapters) == 5

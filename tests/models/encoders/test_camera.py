from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from altermoma_ray.models.configurations.camera import SwinCameraConfig
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.models.encoders.camera import CameraEncoder, LssFpn


def test_neck_joins_each_map_with_the_upsampled_coarser_one():
    torch.manual_seed(0)
    config = SwinCameraConfig(embed=8, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1), neck=16)
    neck = LssFpn(config).eval()
    fine, middle, coarse = torch.randn(2, 16, 6, 10), torch.randn(2, 32, 3, 5), torch.randn(2, 64, 2, 3)

    def block(layers, features):
        return F.relu(layers[1](layers[0](features)))

    def up(features, size):
        return F.interpolate(features, size=size, mode="bilinear", align_corners=False)

    top = block(neck.output_convs[1], block(neck.lateral_convs[1], torch.cat([middle, up(coarse, (3, 5))], 1)))
    expected = block(neck.output_convs[0], block(neck.lateral_convs[0], torch.cat([fine, up(top, (6, 10))], 1)))
    torch.testing.assert_close(neck([fine, middle, coarse]), expected)


@pytest.mark.parametrize("name", ["bevfusion-mit-toy", "bevfusion-mit-r101-second-toy"])
def test_encoder_gives_a_map_on_the_fused_grid(name, batch):
    config = configuration(name)
    encoder = CameraEncoder(config.camera, config.inputs.image_size)
    assert encoder(batch).shape == (2, encoder.out_channels, *config.head.bev_size)

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from altermoma_ray.models.configurations.camera import CoarseResNetCameraConfig
from altermoma_ray.models.encoders.camera import CameraEncoder
from altermoma_ray.models.encoders.picture_fpn import PictureFpn


def test_full_size_has_the_published_shapes():
    config = CoarseResNetCameraConfig(blocks=(3, 4, 6, 3))
    assert config.stage_channels == (256, 512, 1024, 2048)
    with torch.device("meta"):
        encoder = CameraEncoder(config, (256, 704))
        maps = encoder.backbone(torch.zeros(1, 3, 256, 704))
        assert encoder.neck(maps).shape == (1, 512, 16, 44)
    view = encoder.view_transform
    assert (view.bins, view.channels, view.out_channels) == (59, 64, 64)
    assert view.frustum.shape == (59, 16, 44, 3)
    assert view.lift_net[0].in_channels == 512
    assert list(view.downsample) == []
    backbone = sum(parameter.numel() for parameter in encoder.backbone.parameters())
    assert backbone == 25_557_032 - 2_049_000  # torchvision's ResNet-50 without its classifier


def test_maps_of_all_stages_meet_at_one_stride():
    torch.manual_seed(0)
    neck = PictureFpn((2, 3, 4, 5), (1, 2, 3, 4), 16).eval()
    maps = [torch.randn(1, channels, 32 >> stage, 64 >> stage) for stage, channels in enumerate((2, 3, 4, 5))]
    with torch.no_grad():
        whole = neck(maps)
        assert whole.shape == (1, 10, 8, 16)
        # A cell depends on the pixels that it covers, and on no other.
        maps[0][..., :4, :4] += 1
        changed = (neck(maps) != whole).any(dim=1)[0]
    assert changed.nonzero().tolist() == [[0, 0]]


def test_each_map_needs_a_level():
    with pytest.raises(ValidationError, match="`levels` needs one entry for each of the 3 maps"):
        CoarseResNetCameraConfig(blocks=(1, 1, 1))

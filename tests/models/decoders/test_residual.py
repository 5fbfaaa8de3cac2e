from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from altermoma_ray.models.configurations.residual import ResidualDecoderConfig
from altermoma_ray.models.decoders.residual import ResidualDecoder


def test_full_size_keeps_the_map_and_has_the_published_channels():
    with torch.device("meta"):
        decoder = ResidualDecoder(ResidualDecoderConfig(), 64)
        assert decoder(torch.zeros(2, 64, 128, 128)).shape == (2, 256, 128, 128)
    assert decoder.out_channels == 256
    assert [stage[0].conv1.stride for stage in decoder.stages] == [(2, 2), (2, 2), (1, 1)]
    assert decoder.fuse[0].in_channels == 512 + 128


def test_the_head_s_map_joins_the_last_and_the_first_stage():
    torch.manual_seed(0)
    decoder = ResidualDecoder(ResidualDecoderConfig(channels=(4, 6), blocks=(1, 2), strides=(2, 2), neck=5), 3).eval()
    bev = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        first = decoder.stages[0](bev)
        last = decoder.stages[1](first)
        assert (first.shape, last.shape) == ((1, 4, 8, 8), (1, 6, 4, 4))
        wide = torch.nn.functional.interpolate(last, size=(8, 8), mode="bilinear", align_corners=True)
        fused = decoder.fuse(torch.cat([wide, first], 1))
        up = torch.nn.functional.interpolate(fused, size=(16, 16), mode="bilinear", align_corners=True)
        torch.testing.assert_close(decoder(bev), decoder.upsample(up))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"blocks": (2, 2)}, "`channels`, `blocks` and `strides` need one entry for each stage"),
        ({"channels": (128,), "blocks": (2,), "strides": (2,)}, "at least 2 items"),
        ({"strides": (0, 2, 1)}, "greater than or equal to 1"),
    ],
)
def test_figures_are_checked(fields, message):
    with pytest.raises(ValidationError, match=message):
        ResidualDecoderConfig(**fields)

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from altermoma_ray.models.configurations.fusion import DecoderConfig, FuserConfig
from altermoma_ray.models.decoders.second import BevDecoder
from altermoma_ray.models.fusers.convolutional import ConvFuser


def test_fuser_stacks_the_maps_in_order_and_convolves():
    torch.manual_seed(0)
    fuser = ConvFuser(FuserConfig(channels=6), [2, 3]).eval()
    camera, lidar = torch.randn(2, 2, 5, 4), torch.randn(2, 3, 5, 4)
    weight = fuser[0].weight
    expected = F.conv2d(camera, weight[:, :2], padding=1) + F.conv2d(lidar, weight[:, 2:], padding=1)
    torch.testing.assert_close(fuser([camera, lidar]), F.relu(expected / (1 + 1e-5) ** 0.5))


def test_decoder_stacks_all_blocks_at_the_size_of_the_first():
    torch.manual_seed(0)
    config = DecoderConfig(channels=(4, 6, 8), layers=(1, 2, 0), strides=(1, 2, 2), neck=(3, 5, 7))
    decoder = BevDecoder(config, 2).eval()
    bev = torch.randn(2, 2, 8, 12)
    first, second, third = decoder.backbone(bev)
    assert first.shape == (2, 4, 8, 12)
    assert second.shape == (2, 6, 4, 6)
    assert third.shape == (2, 8, 2, 3)
    assert decoder.out_channels == 15
    result = decoder(bev)
    scale = (1 + 1e-3) ** -0.5  # fresh normalisation
    torch.testing.assert_close(result[:, :3], F.relu(decoder.neck.deblocks[0][0](first) * scale))
    torch.testing.assert_close(result[:, 3:8], F.relu(decoder.neck.deblocks[1][0](second) * scale))
    torch.testing.assert_close(result[:, 8:], F.relu(decoder.neck.deblocks[2][0](third) * scale))


def test_coarser_maps_are_enlarged_to_the_finest():
    torch.manual_seed(0)
    fuser = ConvFuser(FuserConfig(channels=6), [2, 3]).eval()
    camera, lidar = torch.randn(1, 2, 2, 3), torch.randn(1, 3, 8, 12)
    large = F.interpolate(camera, scale_factor=4, mode="bilinear")
    torch.testing.assert_close(fuser([camera, lidar]), fuser([large, lidar]))
    # Cells of one area: the mean stays, and a map of one value is one of that value.
    assert F.interpolate(torch.ones(1, 1, 2, 3), size=(8, 12), mode="bilinear").eq(1).all()


def test_the_decoder_may_give_a_coarser_map_than_the_fused_one():
    config = DecoderConfig(channels=(4, 6, 8), layers=(0, 0, 0), strides=(2, 2, 2), neck=(3, 5, 7), output_stride=4)
    decoder = BevDecoder(config, 2).eval()
    assert [one.shape[2:] for one in decoder.backbone(torch.randn(1, 2, 16, 24))] == [(8, 12), (4, 6), (2, 3)]
    assert decoder(torch.randn(1, 2, 16, 24)).shape == (1, 15, 4, 6)
    kernels = [tuple(deblock[0].kernel_size) for deblock in decoder.neck.deblocks]
    assert kernels == [(2, 2), (1, 1), (2, 2)]
    assert isinstance(decoder.neck.deblocks[0][0], nn.Conv2d)
    assert isinstance(decoder.neck.deblocks[2][0], nn.ConvTranspose2d)


@pytest.mark.parametrize(("layers", "convolutions"), [((5, 5), 12), ((1, 0), 3)])
def test_each_block_has_one_convolution_more_than_layers(layers, convolutions):
    backbone = BevDecoder(DecoderConfig(channels=(4, 8), layers=layers, neck=(4, 4)), 2).backbone
    assert sum(isinstance(module, nn.Conv2d) for module in backbone.modules()) == convolutions
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}

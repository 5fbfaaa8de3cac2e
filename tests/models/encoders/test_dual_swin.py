from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from altermoma_ray.models.configurations.camera import HeightSwinCameraConfig
from altermoma_ray.models.encoders.dual_swin import DualSwinBackbone
from altermoma_ray.models.encoders.swin import SwinBackbone

SMALL = HeightSwinCameraConfig(embed=8, depths=(2, 2, 2), heads=(1, 2, 4), window=4, stochastic_depth=0.0, dual=True)


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return DualSwinBackbone(SMALL).eval()


def test_the_assisting_backbone_is_an_ordinary_one_with_the_maps_of_all_stages(backbone):
    alone = SwinBackbone(SMALL).eval()
    alone.load_state_dict(backbone.assisting.state_dict())
    images = torch.randn(2, 3, 32, 64)
    maps = alone(images)
    assert [tuple(features.shape) for features in maps] == [(2, 8, 8, 16), (2, 16, 4, 8), (2, 32, 2, 4)]
    seen = backbone.assisting.stages(backbone.assisting.features[0](images))
    assert all(torch.equal(found, expected) for found, expected in zip(seen, maps, strict=True))


def test_each_stage_of_the_lead_backbone_starts_from_the_maps_of_its_own_and_later_stages(backbone):
    for parameter in backbone.composition.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    images = torch.randn(1, 3, 30, 50)
    assist, lead = backbone.assisting, backbone.lead
    maps = assist(images)
    tokens = assist.features[0](images)
    for stage, found in enumerate(backbone(images)):
        if stage:
            tokens = lead.features[2 * stage](tokens)
        size = tokens.shape[1:3]
        for later, features in enumerate(maps[stage:], start=stage):
            if later > stage:
                project = backbone.composition[stage][later - stage]
                features = F.interpolate(F.conv2d(features, project.weight, project.bias), size, mode="nearest")
            tokens = tokens + features.permute(0, 2, 3, 1)
        tokens = lead.features[2 * stage + 1](tokens)
        torch.testing.assert_close(found, lead.output_norms[stage](tokens).permute(0, 3, 1, 2))


def test_only_the_assisting_backbone_embeds_pictures(backbone):
    names = [name for name, _ in backbone.named_parameters() if ".features.0." in name]
    assert names
    assert all(name.startswith("assisting.") for name in names)

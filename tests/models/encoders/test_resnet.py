from __future__ import annotations

import pytest
import torch
from torchvision.models import resnet

from altermoma_ray.models.configurations.camera import ResNetConfig
from altermoma_ray.models.counting import count
from altermoma_ray.models.encoders.resnet import ResNetBackbone


def test_weights_of_torchvision_fit_by_name_and_give_the_same_maps():
    torch.manual_seed(0)
    theirs = resnet.ResNet(resnet.Bottleneck, [1, 2, 1, 1]).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2)
    ours = ResNetBackbone(ResNetConfig(blocks=(1, 2, 1, 1))).eval()
    found = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert (found.missing_keys, found.unexpected_keys) == ([], ["fc.weight", "fc.bias"])
    images = torch.randn(2, 3, 40, 72)
    with torch.no_grad():
        features = theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images)))))
        for stage, ours_of_stage in zip((theirs.layer2, theirs.layer3, theirs.layer4), ours(images), strict=True):
            features = stage(features)
            assert torch.equal(ours_of_stage, features)


def test_a_narrow_backbone_has_the_widths_that_its_configuration_tells():
    config = ResNetConfig(blocks=(1, 2, 1), width=6)
    maps = ResNetBackbone(config)(torch.randn(1, 3, 48, 128))
    assert [tuple(features.shape[1:]) for features in maps] == [(48, 6, 16), (96, 3, 8)]
    assert config.stage_channels == (48, 96)


@pytest.mark.parametrize(
    ("blocks", "parameters", "macs"), [((3, 4, 6, 3), 25_557_032, 4.09e9), ((3, 4, 23, 3), 44_549_160, 7.80e9)]
)
def test_full_size_has_the_published_parameters_and_operations(blocks, parameters, macs):
    """Figures of torchvision's documentation for ResNet-50 and ResNet-101, its classifier's 2,049,000 included."""
    with torch.device("meta"):
        backbone = ResNetBackbone(ResNetConfig(blocks=blocks))
        found = count(backbone, lambda one: one(torch.zeros(1, 3, 224, 224)))
    classifier = 2048 * 1000
    assert found.parameters == parameters - classifier - 1000
    assert found.macs + classifier == pytest.approx(macs, abs=0.005e9)

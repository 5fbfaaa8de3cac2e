"""A ResNet as the camera's backbone.

Notation: M pictures, H × W their size; maps are [M, channel, height, width]. Source: He et al., *Deep Residual Learning
for Image Recognition*, CVPR 2016. The bottleneck blocks are torchvision's, with the stride on the 3×3 convolution, and
all tensors have torchvision's names. mmdetection's ResNet has the same names and, by default, the same stride.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from altermoma_ray.models.configurations.camera import ResNetConfig
from altermoma_ray.models.layers.blocks import initialise


class ResNetBackbone(nn.Module):
    """Pictures [M, 3, H, W] to maps of the used stages, finest first.

    Stage s has the stride 4·2ˢ and 4·width·2ˢ channels: [M, 8·width, H/8, W/8], ... where all but the first are used.

    >>> import torch
    >>> backbone = ResNetBackbone(ResNetConfig(blocks=(1, 1, 1), width=2))
    >>> [tuple(features.shape) for features in backbone(torch.zeros(1, 3, 64, 96))]
    [(1, 16, 8, 12), (1, 32, 4, 6)]
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, config.width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(config.width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = len(config.blocks)
        """Number of stages: the modules ``layer1``, ``layer2``, ..."""
        self.first_output = config.first_output
        """The first stage whose output is used, counted from 0."""
        channels = config.width
        for stage, blocks in enumerate(config.blocks):
            layers = _stage(channels, config.width << stage, blocks, stride=1 if stage == 0 else 2)
            # torchvision's names, not a ModuleList's: weights of a public ResNet then fit as they are.
            self.add_module(f"layer{stage + 1}", layers)
            channels = Bottleneck.expansion * config.width << stage
        initialise(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Pictures [M, 3, H, W] to maps, finest first."""
        features = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        maps = []
        for stage in range(self.stages):
            features = self.get_submodule(f"layer{stage + 1}")(features)
            if stage >= self.first_output:
                maps.append(features)
        return maps


def _stage(inputs: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    """Bottleneck blocks, of which the first one changes the map's size and channels.

    Args:
        inputs: channels of the stage's input.
        planes: channels inside each block.
        blocks: number of blocks.
        stride: of the first block.
    """
    outputs = Bottleneck.expansion * planes
    shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
    return nn.Sequential(
        Bottleneck(inputs, planes, stride, shortcut), *(Bottleneck(outputs, planes) for _ in range(blocks - 1))
    )

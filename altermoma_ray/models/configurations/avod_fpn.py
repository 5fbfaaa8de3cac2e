"""The named AVOD-FPN models: one for cars, one for people, as published, and a toy for all three types.

Sizes of anchors: the published code clusters the sizes of the user's training labels (k-means of length, width and
height; two clusters of cars, one of each other type) and comes without the result. The sizes here stand for those
means, and were not computed from KITTI's labels. An anchor's size is a start that the model learns to change.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from altermoma_ray.data.kitti.inputs import KittiInputs
from altermoma_ray.models.configurations.avod import AvodConfig, BoxConfig, ProposalConfig, PyramidConfig
from altermoma_ray.models.configurations.section import find_named

CARS = ((3.51, 1.58, 1.51), (4.23, 1.65, 1.55))
PEDESTRIANS = ((0.84, 0.66, 1.76),)
CYCLISTS = ((1.76, 0.60, 1.74),)

AVOD_FPN_CARS = AvodConfig(
    name="avod-fpn-cars",
    inputs=KittiInputs(types=("Car",), flip=True, colour_jitter=True),
    proposals=ProposalConfig(sizes=(CARS,), kept=300, positive=(0.5,), negative=(0.3,)),
    boxes=BoxConfig(positive=(0.65,), negative=(0.55,)),
)
AVOD_FPN_PEOPLE = AvodConfig(
    name="avod-fpn-people",
    inputs=KittiInputs(types=("Pedestrian", "Cyclist"), flip=False, colour_jitter=False),
    proposals=ProposalConfig(sizes=(PEDESTRIANS, CYCLISTS), positive=(0.45, 0.45), negative=(0.3, 0.3)),
    boxes=BoxConfig(positive=(0.55, 0.55), negative=(0.45, 0.45)),
)
_TOY_PYRAMID = PyramidConfig(
    channels=(8, 16, 32, 64),
    layers=(1, 1, 2, 2),
    norm_momentum=0.1,  # a fine-tuning of some dozen steps has to reach the running statistics
)
AVOD_FPN_TOY = AvodConfig(
    name="avod-fpn-toy",
    inputs=KittiInputs(
        image_size=(96, 312),
        x_range=(-20.0, 20.0),
        z_range=(0.0, 40.0),
        cell=0.25,
        types=("Car", "Pedestrian", "Cyclist"),
        flip=True,
        colour_jitter=False,
    ),
    camera=_TOY_PYRAMID,
    lidar=_TOY_PYRAMID,
    proposals=ProposalConfig(
        # Means over the synthetic training labels.
        sizes=(
            ((4.27, 1.85, 1.58), (4.63, 1.85, 1.58)),
            ((0.84, 0.66, 1.75),),
            ((1.90, 0.70, 1.66),),
        ),
        hidden=64,
        dropout=0.0,
        # Fewer, and the many anchors around cars leave no place for pedestrians, whose anchors are few.
        kept_in_training=512,
        kept=512,
        positive=(0.5, 0.4, 0.45),
        negative=(0.3, 0.25, 0.3),
    ),
    boxes=BoxConfig(
        hidden=(192, 192),
        dropout=0.0,
        positive=(0.65, 0.5, 0.5),
        negative=(0.55, 0.4, 0.4),
        mini_batch=64,  # of many more, an object's few proposals would hardly count in a training this short
    ),
)
"""Small enough for two CPU cores: fewer channels, pixels, cells and layers, and no dropout in layers this narrow."""

AVOD_CONFIGURATIONS: Mapping[str, AvodConfig] = MappingProxyType(
    {config.name: config for config in (AVOD_FPN_CARS, AVOD_FPN_PEOPLE, AVOD_FPN_TOY)}
)
"""By name."""


def avod_configuration(name: str) -> AvodConfig:
    """The named configuration.

    Raises:
        UserError: there is none of that name.
    """
    return find_named(name, AVOD_CONFIGURATIONS)

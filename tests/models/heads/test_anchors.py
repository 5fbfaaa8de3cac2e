from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from altermoma_ray.models.configurations.anchors import AnchorHeadConfig
from altermoma_ray.models.heads.anchors import AnchorHead


def test_published_figures_give_the_published_layers():
    with torch.device("meta"):
        head = AnchorHead(AnchorHeadConfig(), 384)
        outputs = head(torch.zeros(1, 384, 200, 200))
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {
        "class": (1, 140, 200, 200),
        "box": (1, 126, 200, 200),
        "direction": (1, 28, 200, 200),
    }
    assert sum(one.numel() for one in head.parameters()) == 385 * (140 + 126 + 28)
    assert head.conv_dir_cls.weight.shape == (28, 384, 1, 1)


def test_nearly_all_is_background_at_first():
    torch.manual_seed(0)
    outputs = AnchorHead(AnchorHeadConfig(), 8)(torch.randn(1, 8, 4, 4))
    assert outputs["class"].sigmoid().max() < 0.02


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"anchor_bottoms": (0.0,)}, r"`anchor_bottoms` needs one entry for each of 7 sizes, but got \(0.0,\)"),
        ({"negative_overlap": 0.7}, r"must hold, but got \(negative_overlap=0.7, positive_overlap=0.6\)"),
        ({"anchor_sizes": ((1.0, 0.0, 1.0),)}, "Input should be greater than 0"),
    ],
)
def test_figures_are_checked(fields, message):
    with pytest.raises(ValidationError, match=message):
        AnchorHeadConfig(**fields)

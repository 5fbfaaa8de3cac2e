from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from altermoma_ray.models.configurations.centerpoint import CenterPointHeadConfig
from altermoma_ray.models.heads.centerpoint import CenterPointHead
from altermoma_ray.models.releases.bevfusion import MIT


def test_published_figures_give_the_published_layers():
    with torch.device("meta"):
        head = CenterPointHead(CenterPointHeadConfig(), 512)
        outputs = head(torch.zeros(1, 512, 180, 180))
    assert {name: tuple(output.shape[:2]) for name, output in outputs.items()} == {
        "dense_heatmap": (1, 10),
        "reg": (1, 12),
        "height": (1, 6),
        "dim": (1, 18),
        "rot": (1, 12),
        "vel": (1, 12),
    }
    # A 3 × 3 convolution to 64 with its norm; six branches of the same in each group; 3 × 3 to each output.
    shared, branch = 512 * 64 * 9 + 128, 64 * 64 * 9 + 128
    assert sum(one.numel() for one in head.parameters()) == shared + 36 * branch + 70 * (64 * 9 + 1) == 1_667_142
    names = [name for name, _ in head.named_parameters()]
    assert {"shared_conv.conv.weight", "task_heads.3.reg.0.bn.bias", "task_heads.5.heatmap.1.weight"} <= set(names)


def test_groups_speak_of_their_own_classes():
    torch.manual_seed(0)
    head = CenterPointHead(CenterPointHeadConfig(hidden=8, branch_hidden=8), 4).eval()
    features = torch.randn(1, 4, 6, 5)
    before = head(features)
    assert before["dense_heatmap"].sigmoid().mean().item() == pytest.approx(0.1, abs=0.05)
    torch.nn.init.zeros_(head.task_heads[2]["heatmap"][-1].weight)
    torch.nn.init.zeros_(head.task_heads[2]["vel"][-1].weight)
    after = head(features)
    changed = (before["dense_heatmap"] != after["dense_heatmap"]).flatten(2).any(2)[0]
    assert changed.nonzero()[:, 0].tolist() == [3, 4]
    assert (before["vel"] != after["vel"]).flatten(2).any(2)[0].nonzero()[:, 0].tolist() == [4, 5]


def test_weights_of_the_published_code_are_read_with_its_boxes():
    name, last = "head.task_heads.2.dim.1.weight", torch.arange(3.0)[:, None]
    assert MIT.name(name) == "heads.object.task_heads.2.dim.1.weight"
    assert MIT.convert(name, torch.zeros(3, 1), last)[:, 0].tolist() == [1, 0, 2]  # width before length there
    turned = MIT.convert("head.task_heads.2.rot.1.weight", torch.zeros(2, 1), last[1:])
    assert turned[:, 0].tolist() == [-2, -1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"class_groups": ((0, 2), (1,))}, r"`class_groups` must hold 0, 1, ... in their order, but got \(\(0, 2\)"),
        ({"class_groups": ((0,), ())}, "`class_groups` must hold 0, 1"),
        ({"suppression": ("circle",)}, r"`suppression` needs one entry for each of 6 groups, but got \('circle',\)"),
        ({"circle_distances": (1.0,)}, "`circle_distances` needs one entry for each of 6 groups"),
        ({"size_factors": (1.0,)}, "`size_factors` needs one entry for each of 10 classes"),
        ({"suppression": ("square",) * 6}, "Input should be 'circle' or 'rotated'"),
    ],
)
def test_figures_are_checked(fields, message):
    with pytest.raises(ValidationError, match=message):
        CenterPointHeadConfig(**fields)

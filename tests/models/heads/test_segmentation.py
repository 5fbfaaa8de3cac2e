from __future__ import annotations

import torch

from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.models.configurations.segmentation import SegmentationHeadConfig
from altermoma_ray.models.heads.segmentation import SegmentationHead, sampling_grid
from altermoma_ray.tasks.segmentation.task import SegmentationTask


def test_published_head_has_the_published_shape():
    with torch.device("meta"):
        head = SegmentationHead(SegmentationHeadConfig(), 512)
        assert head(torch.zeros(1, 512, 128, 128))["logits"].shape == (1, 6, 200, 200)


def test_cells_are_sampled_where_they_lie():
    config = SegmentationHeadConfig()
    centres = -51.2 + 0.8 * (torch.arange(128) + 0.5)
    bev = torch.stack(torch.meshgrid(centres, centres, indexing="ij"))[None]
    sampled = torch.nn.functional.grid_sample(bev, sampling_grid(config), align_corners=False)[0]
    torch.testing.assert_close(sampled[0, :, 7], -49.75 + 0.5 * torch.arange(200.0))
    torch.testing.assert_close(sampled[1, 7], -49.75 + 0.5 * torch.arange(200.0))


def test_the_toy_learns_with_and_without_each_branch(batch):
    config = configuration("bevfusion-mit-seg-toy")
    torch.manual_seed(0)
    model, task = FusionModel(config), SegmentationTask(config.head)
    cells = config.head.cells
    batch.rasters = [torch.rand(6, cells, cells) > 0.5 for _ in range(2)]
    outputs = model(batch, masked=frozenset({"camera"}))
    assert outputs["logits"].shape == (2, 6, cells, cells)
    losses = task.loss(model(batch), batch)
    assert losses["total"].shape == (2,)
    losses["total"].mean().backward()
    assert {model.group_of(name) for name, one in model.named_parameters() if one.grad is not None} == {
        "camera",
        "lidar",
        "fusion",
    }
    decoded = task.decode(outputs, batch)
    assert list(decoded) == ["first", "second"]
    assert decoded["first"].shape == (3, 6, 7)

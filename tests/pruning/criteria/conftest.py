"""A small fusion network with its loss and data, as the problem that criteria solve."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from altermoma_ray.pruning import group_weights, prunable_weights, single_worker
from altermoma_ray.pruning.criteria import Problem

BATCH = 6


class TwoBranch(nn.Module):
    """A camera branch with batch norm and dropout, a lidar branch with layer norm, and a fusion with two layers."""

    def __init__(self):
        super().__init__()
        self.camera = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 6)
        )
        self.lidar = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 6))
        self.fusion = nn.Sequential(nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 2))

    def forward(self, image, points, masked=frozenset()):
        camera = image.new_zeros(len(image), 6) if "camera" in masked else self.camera(image)
        lidar = points.new_zeros(len(points), 6) if "lidar" in masked else self.lidar(points)
        return self.fusion(torch.cat([camera, lidar], dim=1))


def make_model(dtype):
    torch.manual_seed(3)
    model = TwoBranch()
    norm = model.camera[1]
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.uniform_(norm.bias, -0.5, 0.5)
    nn.init.uniform_(model.lidar[1].weight, -1.5, 1.5)
    norm.running_mean.uniform_(-0.3, 0.3)
    norm.running_var.uniform_(0.5, 2)
    return model.to(dtype)


def make_batches(count, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    sizes = ((3, 4, 4), (5,), (2,))
    return [
        tuple(torch.randn(BATCH, *size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes)
        for _ in range(count)
    ]


def flow(model):
    parameter = model.fusion[0].weight
    return model(parameter.new_ones(1, 3, 4, 4), parameter.new_ones(1, 5)).sum()


@pytest.fixture
def make_problem():
    """A function that makes the problem anew; ``parts`` are a worker's samples of every batch, computed in turn."""

    def make(dtype=torch.float64, parts=(slice(None),), reduce=single_worker, seed=0):
        model = make_model(dtype)

        def loss(batch, masked):
            for samples in parts:
                image, points, target = (value[samples] for value in batch)
                yield (model(image, points, masked) - target).square().mean(dim=1).sum() / BATCH

        return Problem(
            model=model,
            groups=group_weights(prunable_weights(model), lambda name: name.split(".")[0]),
            loss=loss,
            batches=make_batches(3, dtype, seed=0),
            training_batches=make_batches(4, dtype, seed=1),
            flow=flow,
            reduce=reduce,
            seed=seed,
        )

    return make

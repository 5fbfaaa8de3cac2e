"""A model in its reactivated state, and back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from altermoma_ray.errors import UserError
from altermoma_ray.pruning import Reactivation
from altermoma_ray.pruning.reactivation import reactivated

SETTING = Reactivation(steps=3, learning_rate=1e-2)


class TwoBranch(nn.Module):
    def __init__(self):
        super().__init__()
        self.camera = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
        self.lidar = nn.Linear(3, 6)
        self.fusion = nn.Linear(12, 2)

    def forward(self, image, points, masked=frozenset()):
        camera = image.new_zeros(len(image), 6) if "camera" in masked else self.camera(image)
        lidar = points.new_zeros(len(points), 6) if "lidar" in masked else self.lidar(points)
        return self.fusion(torch.cat([camera, lidar], dim=1))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return TwoBranch().double().train()


@pytest.fixture
def batches():
    torch.manual_seed(1)
    return [tuple(torch.randn(5, size, dtype=torch.float64) for size in (4, 3, 2)) for _ in range(4)]


def loss_of(model):
    def loss(batch, masked):
        image, points, target = batch
        return (model(image, points, masked) - target).square().mean()

    return loss


def test_it_is_plain_adam_with_the_modality_masked(model, batches):
    reference = copy.deepcopy(model).eval()
    optimizer = torch.optim.Adam([*reference.camera.parameters(), *reference.fusion.parameters()], lr=1e-2)
    for batch in batches[: SETTING.steps]:
        optimizer.zero_grad()
        loss_of(reference)(batch, frozenset({"lidar"})).backward()
        optimizer.step()
    with reactivated(model, loss_of(model), "lidar", batches, SETTING) as same:
        assert same is model
        assert not model.training
        for name, value in reference.state_dict().items():
            torch.testing.assert_close(model.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_as_before_afterwards(model, batches, fails):
    model.lidar.weight.requires_grad_(False)
    model.fusion.weight.grad = torch.ones_like(model.fusion.weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        with reactivated(model, loss_of(model), "lidar", batches, SETTING):
            assert not torch.equal(model.fusion.weight, before["fusion.weight"])
            if fails:
                raise RuntimeError("inside")
    except RuntimeError:
        assert fails
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not model.lidar.weight.requires_grad
    assert torch.equal(model.fusion.weight.grad, torch.ones_like(model.fusion.weight))


def test_too_few_batches_are_refused(model, batches):
    with (
        pytest.raises(UserError, match="reactivation of 3 steps needs as many batches, but got 2"),
        reactivated(model, loss_of(model), "lidar", batches[:2], SETTING),
    ):
        pass

"""A small detector without half of its channels, and the sample that exports are checked on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.configurations.config import ModelConfig
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.models.export.sample import drawn_sample
from altermoma_ray.pruning import Masks, prunable_weights
from altermoma_ray.pruning.channels import keep_masks
from altermoma_ray.pruning.granularity import GRANULARITIES


def small_config() -> ModelConfig:
    """The toy with as few blocks as every kind of layer needs: shifted windows and a padded map among them."""
    toy = configuration("bevfusion-mit-toy")
    camera = toy.camera.model_copy(update={"depths": (1, 2, 1), "embed": 16, "heads": (1, 2, 4)})
    lidar = toy.lidar.model_copy(update={"stages": ((8, 16), (16, 16, 32), (32,))})
    return toy.model_copy(update={"camera": camera, "lidar": lidar})


def unsettle(model: FusionModel) -> FusionModel:
    """Move the norms away from their initial values, so that a forgotten mean or bias shows."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    return model


def halved(model: FusionModel) -> FusionModel:
    """The model without every second channel or head of every layer that can do without."""
    channels = GRANULARITIES["channel"].bound_to(model, lambda _: pytest.fail("the model tells its own channels"))
    kept = {coupling.name: torch.arange(coupling.channels) % 2 == 0 for coupling in channels.couplings}
    shapes = {name: weight.shape for name, weight in prunable_weights(model).items()}
    return channels.finalise(model, Masks(keep_masks(shapes, channels.couplings, kept)))


@pytest.fixture(scope="module")
def whole() -> FusionModel:
    torch.manual_seed(0)
    return unsettle(FusionModel(small_config()).eval())


@pytest.fixture(scope="module")
def model(whole):
    return halved(whole)


@pytest.fixture(scope="module")
def sample(model):
    return drawn_sample(model.config)

"""The BEVFusion of Liang et al. as a whole."""

from __future__ import annotations

import copy

import pytest
import torch

from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.models.synaptic_flow import flow_of
from altermoma_ray.pruning import prunable_weights
from altermoma_ray.pruning.criteria.linear_flow import LinearFlow, linear_copy
from tests.models.test_bevfusion import PUBLISHED as MIT

SWIN = MIT["encoders.camera.backbone"]
PARAMETERS = {
    # One more output, with a normalisation of 96 channels.
    "encoders.camera.backbone": SWIN + 2 * 96,
    # Lateral, output, adaptive and last convolutions, all with biases.
    "encoders.camera.neck": 256 * (96 + 192 + 384 + 768) + 4 * 256
    + 4 * (9 * 256 * 256 + 256)
    + 5 * (256 * 256 + 256)
    + 9 * 1280 * 256 + 256,
    "encoders.camera.view_transform": (256 + 1) * (41 + 64)
    + 9 * (832 * 832 + 832 * 512 + 512 * 512 + 512 * 256)
    + 2 * (832 + 512 + 512 + 256),
    "encoders.lidar.backbone": MIT["encoders.lidar"],
    "encoders.lidar.decoder": MIT["decoder"],
    "fuser": 9 * (256 + 512) * 512 + 2 * 512 + 512 * 512 + 512,
    "head": MIT["head"],
}  # fmt: skip


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def model() -> FusionModel:
    torch.manual_seed(0)
    return FusionModel(configuration("bevfusion-pku-toy"))


def test_the_full_size_has_the_parameters_of_the_published_figures():
    with torch.device("meta"):
        model = FusionModel(configuration("bevfusion-pku"))
        dual = FusionModel(configuration("bevfusion-pku-dual"))
    assert {part: parameters(model.get_submodule(part)) for part in PARAMETERS} == PARAMETERS
    assert parameters(model) == 59_271_697
    # The lead backbone has no patch embedding. Six projections bring later maps to the widths of earlier stages.
    embedding = 96 * 48 + 96 + 2 * 96
    projections = sum(96 * 96 * 2 ** (own + later) + 96 * 2**own for own in range(4) for later in range(own + 1, 4))
    assert parameters(dual) - parameters(model) == PARAMETERS["encoders.camera.backbone"] - embedding + projections
    assert model.decoder(torch.zeros(1)) == 0  # the branches' maps are fused straight before the head


def test_pillars_and_a_resnet_have_the_published_figures_too():
    with torch.device("meta"):
        model = FusionModel(configuration("bevfusion-pku-r101-pointpillars"))
    # ResNet-101 without its classifier; two layers of pillars; laterals from wider maps, and voxels of sixteen heights.
    neck = PARAMETERS["encoders.camera.neck"] + 256 * (256 + 512 + 1024 + 2048 - 96 - 192 - 384 - 768)
    lift = PARAMETERS["encoders.camera.view_transform"] + 9 * (1024 * 1024 - 832 * 832 + (1024 - 832) * 512)
    # The pillars' decoder is that of `bevfusion-mit-pointpillars`, but enlarges its maps to twice the size.
    expected = {
        "encoders.camera.backbone": 44_549_160 - 2_049_000,
        "encoders.camera.neck": neck,
        "encoders.camera.view_transform": lift + 2 * (1024 - 832),
        "encoders.lidar.backbone": 10 * 64 + 128 * 64 + 2 * (64 + 64),
        "fuser": 9 * (256 + 384) * 384 + 2 * 384 + 384 * 384 + 384,
        # Seven sizes in two headings: ten classes, nine numbers, two directions.
        "head": (384 + 1) * 14 * (10 + 9 + 2),
    }
    assert {part: parameters(model.get_submodule(part)) for part in expected} == expected


def test_the_toy_is_about_as_large_as_the_other_one(model):
    assert 1_000_000 < parameters(model) < 1_200_000
    assert sum(tensor.nbytes for tensor in model.state_dict().values()) < 4.8e6


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("sensor", ["camera", "lidar"])
def test_masking_a_sensor_equals_zeroing_its_branch(model, batch, sensor, training):
    zeroed = copy.deepcopy(model).train(training)
    for parameter in zeroed.encoders[sensor].parameters():
        torch.nn.init.zeros_(parameter)
    masked, expected = model.train(training)(batch, masked=frozenset({sensor})), zeroed(batch)
    for name, tensor in masked.items():
        assert torch.equal(tensor, expected[name]), name


def test_the_lidar_s_own_decoder_belongs_to_the_lidar(model):
    groups = {model.group_of(name) for name, _ in model.named_parameters() if ".decoder.backbone." in name}
    assert groups == {"lidar"}


def test_depths_of_the_camera_learn_from_the_points(model, batch):
    copied = copy.deepcopy(model).train()
    with copied.auxiliary_loss() as auxiliary:
        copied(batch)
        loss = auxiliary(batch)
    assert loss.shape == (2,)
    assert bool((loss > 0).all())
    loss.mean().backward()
    view = copied.encoders["camera"].view_transform
    gradient = view.lift_net[0].weight.grad.flatten(1).abs().sum(1)
    assert gradient[: view.bins].sum() > 0
    assert gradient[view.bins :].sum() == 0


def test_every_layer_and_both_sensors_carry_flow(model, batch):
    flow, linear = flow_of(model, batch), linear_copy(model)
    weights = {name: weight.requires_grad_(True) for name, weight in prunable_weights(linear).items()}
    with LinearFlow(balanced=True):
        total = flow(linear)
        gradients = torch.autograd.grad(total, list(weights.values()))
    assert 0 < float(total.detach()) < 1e12
    scores = {name: weights[name].detach() * one for name, one in zip(weights, gradients, strict=True)}
    for name, score in scores.items():
        assert bool((score >= 0).all()), name
        assert float(score.sum()) > 0, name
    fused = float(scores["fuser.0.weight"].sum())
    camera = float(scores["encoders.camera.view_transform.downsample.9.weight"].sum())
    lidar = sum(float(scores[f"encoders.lidar.decoder.neck.deblocks.{block}.0.weight"].sum()) for block in (0, 1))
    assert camera + lidar == pytest.approx(fused)
    assert min(camera, lidar) > 0.05 * fused

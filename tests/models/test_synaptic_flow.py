from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.models.synaptic_flow import flow_of
from altermoma_ray.pruning import Problem, Target, group_weights, prunable_weights
from altermoma_ray.pruning.criteria import SynFlow
from altermoma_ray.pruning.criteria.linear_flow import LinearFlow, linear_copy


def built(name):
    torch.manual_seed(0)
    return FusionModel(configuration(name))


@pytest.fixture(scope="module")
def model():
    return built("bevfusion-mit-toy")


@pytest.fixture(scope="module")
def groups(model):
    return group_weights(prunable_weights(model), FusionModel.group_of)


def flow_and_scores(model, flow):
    copy = linear_copy(model)
    weights = {name: weight.requires_grad_(True) for name, weight in prunable_weights(copy).items()}
    with LinearFlow(balanced=True):
        total = flow(copy)
        gradients = torch.autograd.grad(total, list(weights.values()))
    return total.detach(), {n: weights[n].detach() * g for n, g in zip(weights, gradients, strict=True)}


def test_only_geometry_and_occupancy_of_the_first_sample_count(model, batch):
    model.eval()
    other = replace(
        batch,
        images=torch.zeros_like(batch.images),
        points=[torch.cat([points[:, :3], 0 * points[:, 3:]], dim=1) for points in batch.points[:1]]
        + [torch.zeros(0, 5)],
        boxes=[boxes[:0] for boxes in batch.boxes],
    )
    with torch.no_grad():
        first, second = flow_of(model, batch)(model), flow_of(model, other)(model)
        assert torch.equal(first, second)
        assert first.shape == ()
        assert not torch.equal(first, flow_of(model, batch.samples(1, 2))(model))


def test_ones_leave_the_model_when_the_flow_is_taken(model, batch):
    model.eval()
    with torch.no_grad():
        before = model(batch)["dense_heatmap"]
        flow_of(model, batch)(model)
        assert torch.equal(model(batch)["dense_heatmap"], before)


def test_every_layer_of_a_radar_carries_flow(batch):
    model = built("bevfusion-trio-toy")
    total, scores = flow_and_scores(model, flow_of(model, batch))
    assert 0 < float(total) < 1e12
    for name, score in scores.items():
        assert bool((score >= 0).all()), name
        assert float(score.sum()) > 0, name


@pytest.mark.parametrize(
    "name",
    [
        "bevfusion-mit-toy",
        "bevfusion-mit-r101-second-toy",
        "bevfusion-mit-centerpoint-toy",
        "bevfusion-mit-pointpillars-toy",
    ],
)
def test_every_layer_and_both_sensors_carry_flow(name, batch):
    model = built(name)
    total, scores = flow_and_scores(model, flow_of(model, batch))
    assert total.dtype == torch.float64
    assert 0 < float(total) < 1e12
    for name, score in scores.items():
        assert bool((score >= 0).all()), name
        assert float(score.sum()) > 0, name
    # Scores of the encoders' last layers, in the order of the layers.
    camera, lidar = (
        float([score for name, score in scores.items() if name.startswith(f"encoders.{sensor}.")][-1].sum())
        for sensor in ("camera", "lidar")
    )
    fused = float(scores["fuser.0.weight"].sum())
    assert camera + lidar == pytest.approx(fused)
    assert min(camera, lidar) > 0.05 * fused


def test_synflow_keeps_the_lidar_branch_which_flow_without_balance_empties(model, groups, batch):
    problem = Problem(
        model=model,
        groups=groups,
        loss=lambda batch, masked: None,
        batches=[],
        modalities=(),
        flow=flow_of(model, batch),
    )
    target = Target(groups=groups, sparsity=0.8)
    strict, masks = (SynFlow(rounds=5, balanced=on).masks(problem, target) for on in (False, True))
    assert set(groups["lidar"]) <= set(strict.floored)
    assert not set(groups["lidar"]) & set(masks.floored)
    assert masks.sparsity() == pytest.approx(0.8, abs=1e-6)

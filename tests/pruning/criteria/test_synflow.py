"""SynFlow against products of magnitudes written out (Tanaka et al. 2020, Eq. 3 and Algorithm 1)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

from altermoma_ray.pruning import Target, group_weights, prunable_weights
from altermoma_ray.pruning.criteria import Magnitude, Problem, SynFlow


def problem_of(model, size):
    names = list(prunable_weights(model))
    return Problem(
        model=model,
        groups=group_weights(names, lambda name: name.partition(".")[0]),
        loss=lambda batch, masked: model(batch).square().mean(),
        batches=[torch.randn(32, size, generator=torch.Generator().manual_seed(0))],
        modalities=(),
        flow=lambda network: network(next(network.parameters()).new_ones(1, size)).sum(),
    )


def overall(problem, sparsity):
    return Target(groups=problem.groups, sparsity=sparsity)


def prune(keep, scores, ratio):
    """Set the gates of the lowest scores to zero, pruned ones first; returns nothing."""
    ranked = sorted(
        (float(scores[name].flatten()[index]) if keep[name].flatten()[index] else -1.0, name, index)
        for name in keep
        for index in range(keep[name].numel())
    )
    for _, name, index in ranked[: round(ratio * len(ranked))]:
        keep[name].view(-1)[index] = 0


def reference_masks(model, score, sparsity, rounds):
    keep = {name: torch.ones_like(weight.detach()) for name, weight in prunable_weights(model).items()}
    weights = {name: weight.detach().double().abs() for name, weight in prunable_weights(model).items()}
    for number in range(1, rounds + 1):
        scores = score({name: weights[name] * keep[name] for name in keep})
        prune(keep, scores, 1 - (1 - sparsity) ** (number / rounds))
    return keep


def assert_same(masks, keep):
    for name, expected in keep.items():
        assert torch.equal(masks[name], expected.bool()), name


def chain(*sizes):
    torch.manual_seed(0)
    layers = [layer for inputs, outputs in pairwise(sizes) for layer in (nn.Linear(inputs, outputs), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def path_products(weights):
    """Of a chain, without differentiation: what comes in · |w| · what it brings out."""
    names = list(weights)
    matrices = [weights[name] for name in names]
    arriving = [torch.ones(matrices[0].shape[1]).double()]
    for matrix in matrices[:-1]:
        arriving.append(matrix @ arriving[-1])
    leaving = [torch.ones(matrices[-1].shape[0]).double()]
    for matrix in reversed(matrices[1:]):
        leaving.append(matrix.T @ leaving[-1])
    return {
        name: out[:, None] * matrix * into[None, :]
        for name, matrix, into, out in zip(names, matrices, arriving, reversed(leaving), strict=True)
    }


@pytest.mark.parametrize("balanced", [True, False])
def test_a_chain_is_pruned_by_its_path_products(balanced):
    model = chain(6, 9, 8, 4)
    problem = problem_of(model, 6)
    masks = SynFlow(rounds=7, balanced=balanced).masks(problem, overall(problem, 0.8))
    assert_same(masks, reference_masks(model, path_products, 0.8, 7))


def flow_by_hand(model, weights, balanced):
    """The two branches and the fusion of the shared network, of magnitudes without shifts."""

    def brought_to_one(value):
        return value / value.detach().mean() if balanced else value

    batch_norm, layer_norm = model.camera[1], model.lidar[1]
    camera = functional.conv2d(torch.ones(1, 3, 4, 4).double(), weights["camera.0.weight"], padding=1)
    camera = brought_to_one(camera / (batch_norm.running_var + batch_norm.eps).sqrt()[:, None, None])
    camera = camera * batch_norm.weight.detach().abs()[:, None, None]
    camera = weights["camera.5.weight"] @ camera.flatten()
    lidar = brought_to_one(weights["lidar.0.weight"] @ torch.ones(5).double())
    lidar = weights["lidar.3.weight"] @ (lidar * layer_norm.weight.detach().abs())
    return (weights["fusion.2.weight"] @ weights["fusion.0.weight"] @ torch.cat([camera, lidar])).sum()


@pytest.mark.parametrize("balanced", [True, False])
def test_norms_are_linear_gains(balanced, make_problem):
    problem = make_problem()

    def score(weights):
        gated = {name: weight.requires_grad_() for name, weight in weights.items()}
        gradients = torch.autograd.grad(flow_by_hand(problem.model, gated, balanced), list(gated.values()))
        return {name: gated[name].detach() * value for name, value in zip(gated, gradients, strict=True)}

    sparsity = 0.8 if balanced else 0.5  # above, a branch is emptied and the floor acts
    masks = SynFlow(rounds=10, balanced=balanced).masks(problem, overall(problem, sparsity))
    assert_same(masks, reference_masks(problem.model, score, sparsity, 10))


def test_no_layer_of_a_chain_collapses():
    """At 97 % magnitude empties a layer of small weights; 100 rounds of flow keep paths through it."""
    model = chain(8, 16, 64, 64, 4)
    with torch.no_grad():
        model[2].weight.mul_(0.02)
    problem = problem_of(model, 8)
    target = overall(problem, 0.97)
    assert Magnitude().masks(problem, target).floored == ("2.weight",)
    masks = SynFlow().masks(problem, target)
    assert masks.floored == ()
    weights = {name: model.get_parameter(name).detach().double().abs() * mask for name, mask in masks.items()}
    scores = path_products(weights)
    assert all(float(score.sum()) == pytest.approx(float(scores["0.weight"].sum())) for score in scores.values())
    assert float(scores["0.weight"].sum()) > 0


class DeepAndShallow(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.deep = nn.Sequential(
            *[layer for _ in range(12) for layer in (nn.Linear(24, 24), nn.BatchNorm1d(24), nn.ReLU())]
        )
        self.shallow = nn.Sequential(nn.Linear(24, 24), nn.BatchNorm1d(24), nn.ReLU())
        self.joint = nn.Linear(48, 2)

    def forward(self, x):
        return self.joint(torch.cat([self.deep(x), self.shallow(x)], dim=1))


def test_balance_keeps_a_deep_branch_from_taking_all_the_flow():
    problem = problem_of(DeepAndShallow(), 24)
    strict, balanced = (SynFlow(balanced=on).masks(problem, overall(problem, 0.9)) for on in (False, True))
    assert strict.sparsity(problem.groups["shallow"]) > 0.99
    assert balanced.sparsity(problem.groups["shallow"]) < 0.9
    assert balanced.floored == ()


def test_flow_that_overflows_is_placed():
    model = chain(8, 8, 8, 8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e38)
    model.double()
    with torch.no_grad():
        model[0].weight.mul_(1e200)
    problem = problem_of(model, 8)
    with pytest.raises(
        FloatingPointError, match="flow is inf in round 1 of 100: let the problem's flow take inputs of"
    ):
        SynFlow().masks(problem, overall(problem, 0.5))


def test_a_network_that_lets_nothing_through_is_refused():
    model = chain(8, 8, 2)
    nn.init.zeros_(model[2].weight)
    problem = problem_of(model, 8)
    with pytest.raises(FloatingPointError, match=r"flow is 0\.0 in round 1"):
        SynFlow().masks(problem, overall(problem, 0.5))


def test_a_problem_without_flow_is_refused(make_problem):
    problem = replace(make_problem(), flow=None)
    with pytest.raises(ValueError, match="SynFlow needs the problem's flow"):
        SynFlow().masks(problem, overall(problem, 0.5))
    with pytest.raises(ValueError, match="SynFlow needs rounds >= 1, but got rounds=0"):
        SynFlow(rounds=0)

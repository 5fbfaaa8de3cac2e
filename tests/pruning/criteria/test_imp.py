"""IMP against rounds written out, with explicit masks in the forward pass."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.func import functional_call

from altermoma_ray.pruning import Target, solve_ratios
from altermoma_ray.pruning.criteria import IMP

IMP_SHORT = IMP(rounds=3, steps=6, learning_rate=1e-2)


def reference_trained(problem, keep):
    """Train m ⊙ θ from θ_init."""
    model = copy.deepcopy(problem.model).eval()
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-2, foreach=False)
    for step in range(6):
        image, points, target = problem.training_batches[step % 4]
        optimizer.zero_grad()
        masked = {name: value * keep.get(name, 1) for name, value in model.named_parameters()}
        output = functional_call(model, masked, (image, points))
        (output - target).square().mean().backward()
        optimizer.step()
    return {name: model.get_parameter(name).detach() * keep[name] for name in keep}


def reference_masks(problem, parts, ratios):
    """Sort |θ| of each part anew in every round, pruned weights first."""
    keep = {name: torch.ones_like(problem.model.get_parameter(name)) for name in problem.names}
    for number in (1, 2, 3):
        trained = reference_trained(problem, keep)
        for names, ratio in zip(parts, ratios, strict=True):
            ranked = sorted(
                (float(trained[name].flatten()[index].abs()), name, index)
                for name in names
                for index in range(trained[name].numel())
            )
            for _, name, index in ranked[: round((1 - (1 - ratio) ** (number / 3)) * len(ranked))]:
                keep[name].view(-1)[index] = 0
    return keep


def assert_same(masks, keep):
    for name, expected in keep.items():
        assert torch.equal(masks[name], expected.bool()), name


def test_imp_trains_removes_and_rewinds(make_problem):
    problem = make_problem()
    problem.model.camera[0].bias.requires_grad_(False)
    masks = IMP_SHORT.masks(problem, Target(groups=problem.groups, sparsity=0.8))
    assert_same(masks, reference_masks(problem, [problem.names], [0.8]))


def test_imp_removes_inside_groups_where_there_are_ratios(make_problem):
    problem = make_problem()
    sizes = {
        group: sum(problem.model.get_parameter(n).numel() for n in names) for group, names in problem.groups.items()
    }
    ratios = solve_ratios(sizes, 0.7, {"camera": 0.0, "lidar": 0.5, "fusion": 1.0})
    masks = IMP_SHORT.masks(problem, Target(groups=problem.groups, sparsity=0.7, ratios=ratios))
    assert_same(masks, reference_masks(problem, list(problem.groups.values()), list(ratios.values())))


def test_training_that_diverges_is_placed(make_problem):
    problem = make_problem()
    problem.training_batches[2][2][0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"loss of the intact model is nan at IMP round 1 step 3 \(learning"):
        IMP_SHORT.masks(problem, Target(groups=problem.groups, sparsity=0.8))


def test_one_round_prunes_after_one_training(make_problem):
    problem = replace(make_problem(), training_batches=make_problem().training_batches[:1])
    masks = IMP(rounds=1, steps=1).masks(problem, Target(groups=problem.groups, sparsity=0.5))
    assert masks.sparsity() == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("change", [{"rounds": 0}, {"steps": 0}, {"learning_rate": 0.0}])
def test_bad_parameters_are_explained(change):
    with pytest.raises(
        ValueError, match="IMP needs rounds >= 1, steps >= 1 and a learning rate above 0, but got rounds="
    ):
        IMP(**change)

"""What every criterion must do, whatever it computes."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from altermoma_ray.pruning import Target, solve_ratios
from altermoma_ray.pruning.criteria import CRITERIA, IMP, ScoreCriterion, SynFlow

SHORTER = {"imp": IMP(rounds=2, steps=6), "synflow": SynFlow(rounds=20)}
TESTED = {**CRITERIA, **SHORTER}
ONE_SHOT = {name: criterion for name, criterion in TESTED.items() if isinstance(criterion, ScoreCriterion)}
EVERY = pytest.mark.parametrize("criterion", TESTED.values(), ids=TESTED)


def sizes_of(problem):
    return {
        group: sum(problem.model.get_parameter(name).numel() for name in names)
        for group, names in problem.groups.items()
    }


def overall(problem, sparsity=0.8):
    return Target(groups=problem.groups, sparsity=sparsity)


def by_group(problem, sparsity=0.8):
    ratios = solve_ratios(sizes_of(problem), sparsity, {"camera": 0.0, "lidar": 0.7, "fusion": 1.2})
    return Target(groups=problem.groups, sparsity=sparsity, ratios=ratios)


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, mask in expected.items():
        assert torch.equal(found[name], mask), name


def assert_complete(problem, masks):
    """Binary masks of all prunable weights, none of which are empty."""
    assert set(masks) == set(problem.names)
    for name, mask in masks.items():
        assert mask.dtype == torch.bool
        assert mask.shape == problem.model.get_parameter(name).shape
        assert masks.kept([name]) >= 1, name


@EVERY
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.83, 0.95])
def test_a_total_sparsity_is_met_exactly(criterion, sparsity, make_problem):
    problem = make_problem(torch.float32)
    masks = criterion.masks(problem, overall(problem, sparsity))
    total = sum(sizes_of(problem).values())
    assert masks.kept() == total - round(sparsity * total)
    assert_complete(problem, masks)


@EVERY
def test_ratios_are_met_exactly_in_every_group(criterion, make_problem):
    problem = make_problem(torch.float32)
    target = by_group(problem)
    masks = criterion.masks(problem, target)
    for group, size in sizes_of(problem).items():
        assert masks.kept(problem.groups[group]) == size - round(target.ratios[group] * size)
    assert_complete(problem, masks)


@pytest.mark.parametrize("criterion", ONE_SHOT.values(), ids=ONE_SHOT)
def test_one_shot_masks_are_nested(criterion, make_problem):
    problem = make_problem()
    scores = criterion.scores(problem)
    assert set(scores) == set(problem.names)
    masks = [overall(problem, sparsity).masks(scores) for sparsity in (0.3, 0.6, 0.9)]
    for less, more in pairwise(masks):
        assert all(bool((less[name] | ~more[name]).all()) for name in problem.names)
    assert_same(criterion.masks(problem, overall(problem, 0.6)), masks[1])


@EVERY
def test_the_same_again_gives_the_same(criterion, make_problem):
    first, second = make_problem(torch.float32), make_problem(torch.float32)
    expected = criterion.masks(first, overall(first))
    assert_same(criterion.masks(first, overall(first)), expected)
    assert_same(criterion.masks(second, overall(second)), expected)


@EVERY
def test_the_seed_matters_where_something_is_drawn_and_nowhere_else(criterion, make_problem):
    masks = [criterion.masks(problem, overall(problem)) for problem in (make_problem(seed=0), make_problem(seed=1))]
    same = all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])
    assert same == (criterion != CRITERIA["random"])


def disturb(model):
    """A state that no criterion would make by itself."""
    model.train()
    model.lidar.eval()
    model.camera[0].bias.requires_grad_(False)
    model.fusion[0].weight.requires_grad_(False)
    model.fusion[2].weight.grad = torch.full_like(model.fusion[2].weight, 0.1)


def state_of(model):
    return (
        {key: value.clone() for key, value in model.state_dict().items()},
        {name: parameter.data_ptr() for name, parameter in model.named_parameters()},
        [parameter.requires_grad for parameter in model.parameters()],
        [module.training for module in model.modules()],
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        [len(parameter._backward_hooks or {}) for parameter in model.parameters()],
    )


def assert_untouched(model, state):
    tensors, *others = state_of(model)
    assert others == list(state[1:])
    for key, value in state[0].items():
        assert torch.equal(tensors[key], value), key
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert list(gradients) == ["fusion.2.weight"]
    assert bool((gradients["fusion.2.weight"] == 0.1).all())


@EVERY
def test_the_model_is_left_as_it_was_found(criterion, make_problem):
    problem = make_problem()
    disturb(problem.model)
    state = state_of(problem.model)
    masks = criterion.masks(problem, overall(problem))
    assert_untouched(problem.model, state)
    assert_complete(problem, masks)


@EVERY
def test_the_model_is_left_as_it_was_found_after_an_error(criterion, make_problem):
    problem = make_problem()
    problem.training_batches[2][2][0] = torch.nan
    problem.batches[2][2][0] = torch.nan
    broken = replace(problem, flow=lambda model: problem.flow(model) * torch.nan)
    disturb(problem.model)
    state = state_of(problem.model)
    if criterion in (CRITERIA["magnitude"], CRITERIA["random"]):  # these read no data
        criterion.masks(broken, overall(problem))
    else:
        with pytest.raises(FloatingPointError, match=r"is nan (at|in)"):
            criterion.masks(broken, overall(problem))
    assert_untouched(problem.model, state)


@EVERY
@pytest.mark.parametrize("target_of", [overall, by_group])
def test_two_workers_agree_with_one(criterion, target_of, make_problem):
    alone = make_problem(parts=PARTS)
    expected = criterion.masks(alone, target_of(alone))
    for masks in on_two_workers(criterion, target_of, make_problem):
        assert_same(masks, expected)


PARTS = (slice(0, 2), slice(2, 4), slice(4, 6))
"""Micro-batches: the same samples, whoever computes them."""


def on_two_workers(criterion, target_of, make_problem):
    """Each worker in a thread: its own model, its parts of every batch, and a sum that waits for both."""
    barrier = threading.Barrier(2, timeout=60)
    posted, results = [None, None], [None, None]

    def work(rank):
        def reduce(tensors):
            posted[rank] = [tensor.clone() for tensor in tensors]
            barrier.wait()
            for index, tensor in enumerate(tensors):
                tensor.copy_(posted[0][index] + posted[1][index])
            barrier.wait()

        problem = problems[rank]
        results[rank] = criterion.masks(replace(problem, reduce=reduce), target_of(problem))

    problems = [make_problem(parts=parts) for parts in (PARTS[:1], PARTS[1:])]
    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return results


@EVERY
def test_floored_layers_are_named(criterion, make_problem):
    problem = make_problem()
    with torch.no_grad():
        problem.model.fusion[2].weight.mul_(1e-9)  # the layer that magnitude would empty
    masks = criterion.masks(problem, overall(problem, 0.97))
    assert_complete(problem, masks)
    for name in masks.floored:
        assert masks.kept([name]) == 1
    if criterion == CRITERIA["magnitude"]:
        assert "fusion.2.weight" in masks.floored

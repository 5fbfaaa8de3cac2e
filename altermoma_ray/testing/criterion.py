"""What every criterion must do, whatever it computes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from altermoma_ray.pruning import Criterion, Masks, Problem, ScoreCriterion, Target, solve_ratios
from altermoma_ray.testing.problem import TwoBranch, sizes_of, small_problem

PARTS = (slice(0, 2), slice(2, 4), slice(4, 6))
"""Micro-batches of two workers: the same samples, no matter which worker computes them."""


class CriterionContract:
    """Tests of a :class:`altermoma_ray.pruning.Criterion`, on a small problem with two branches.

    Subclass it in a test module, with the criterion as an attribute:

    >>> from altermoma_ray.pruning.criteria import Magnitude
    >>> class TestMyCriterion(CriterionContract):
    ...     criterion = Magnitude()
    >>> TestMyCriterion().test_the_same_again_gives_the_same()

    A criterion that scores once (a :class:`altermoma_ray.pruning.ScoreCriterion`) is also asked for nested masks.

    Attributes:
        criterion: to be tested. One with few rounds and steps keeps the tests short.
        is_random: whether the criterion draws at random, so that another seed of the problem gives other masks.
    """

    criterion: Criterion
    is_random: ClassVar[bool] = False

    @pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.83, 0.95])
    def test_a_total_sparsity_is_met_exactly(self, sparsity: float) -> None:
        problem = small_problem(torch.float32)
        masks = self.criterion.masks(problem, overall(problem, sparsity))
        total = sum(sizes_of(problem).values())
        assert masks.kept() == total - round(sparsity * total)
        assert_complete(problem, masks)

    def test_ratios_are_met_exactly_in_every_group(self) -> None:
        problem = small_problem(torch.float32)
        target = by_group(problem)
        assert target.ratios is not None
        masks = self.criterion.masks(problem, target)
        for group, size in sizes_of(problem).items():
            assert masks.kept(problem.groups[group]) == size - round(target.ratios[group] * size)
        assert_complete(problem, masks)

    def test_one_shot_masks_are_nested(self) -> None:
        if not isinstance(self.criterion, ScoreCriterion):
            pytest.skip("a criterion that prunes in rounds promises no nested masks")
        problem = small_problem()
        scores = self.criterion.scores(problem)
        assert set(scores) == set(problem.names)
        masks = [overall(problem, sparsity).masks(scores) for sparsity in (0.3, 0.6, 0.9)]
        for less, more in pairwise(masks):
            assert all(bool((less[name] | ~more[name]).all()) for name in problem.names)
        assert_same(self.criterion.masks(problem, overall(problem, 0.6)), masks[1])

    def test_the_same_again_gives_the_same(self) -> None:
        first, second = small_problem(torch.float32), small_problem(torch.float32)
        expected = self.criterion.masks(first, overall(first))
        assert_same(self.criterion.masks(first, overall(first)), expected)
        assert_same(self.criterion.masks(second, overall(second)), expected)

    def test_the_seed_matters_where_something_is_drawn_and_nowhere_else(self) -> None:
        problems = (small_problem(seed=0), small_problem(seed=1))
        first, second = (self.criterion.masks(problem, overall(problem)) for problem in problems)
        same = all(torch.equal(first[name], second[name]) for name in first)
        assert same == (not self.is_random)

    def test_the_model_is_left_as_it_was_found(self) -> None:
        problem = small_problem()
        model = disturbed(problem)
        state = state_of(model)
        masks = self.criterion.masks(problem, overall(problem))
        assert_untouched(model, state)
        assert_complete(problem, masks)

    def test_the_model_is_left_as_it_was_found_after_an_error(self) -> None:
        """One sample and the flow are not finite; only a criterion that reads neither may go through with it."""
        problem = small_problem()
        problem.training_batches[2][2][0] = torch.nan
        problem.batches[2][2][0] = torch.nan
        intact_flow = problem.flow
        assert intact_flow is not None
        broken = replace(problem, flow=lambda model: intact_flow(model) * torch.nan)
        model = disturbed(problem)
        state = state_of(model)
        if reads_data(self.criterion):
            with pytest.raises(FloatingPointError, match=r"is nan (at|in)"):
                self.criterion.masks(broken, overall(problem))
        else:
            self.criterion.masks(broken, overall(problem))
        assert_untouched(model, state)

    @pytest.mark.parametrize("kind", ["overall", "by group"])
    def test_two_workers_agree_with_one(self, kind: str) -> None:
        target_of = overall if kind == "overall" else by_group
        alone = small_problem(parts=PARTS)
        expected = self.criterion.masks(alone, target_of(alone))
        for masks in on_two_workers(self.criterion, target_of):
            assert_same(masks, expected)

    def test_floored_layers_are_named(self) -> None:
        problem = small_problem()
        masks = self.criterion.masks(with_a_faint_layer(problem), overall(problem, 0.97))
        assert_complete(problem, masks)
        for name in masks.floored:
            assert masks.kept([name]) == 1


def overall(problem: Problem, sparsity: float = 0.8) -> Target:
    """One threshold for all weights."""
    return Target(groups=problem.groups, sparsity=sparsity)


def by_group(problem: Problem, sparsity: float = 0.8) -> Target:
    """A ratio for each group."""
    ratios = solve_ratios(sizes_of(problem), sparsity, {"camera": 0.0, "lidar": 0.7, "fusion": 1.2})
    return Target(groups=problem.groups, sparsity=sparsity, ratios=ratios)


def assert_same(found: Masks, expected: Masks) -> None:
    """Check that two sets of masks are equal, also in their order."""
    assert list(found) == list(expected)
    for name, mask in expected.items():
        assert torch.equal(found[name], mask), name


def assert_complete(problem: Problem, masks: Masks) -> None:
    """Check that there is a boolean mask for every prunable weight, and that none is empty."""
    assert set(masks) == set(problem.names)
    for name, mask in masks.items():
        assert mask.dtype == torch.bool
        assert mask.shape == problem.model.get_parameter(name).shape
        assert masks.kept([name]) >= 1, name


def with_a_faint_layer(problem: Problem) -> Problem:
    """Make the weights of one layer, ``fusion.2.weight``, so small that magnitude would empty the layer."""
    with torch.no_grad():
        problem.model.get_parameter("fusion.2.weight").mul_(1e-9)
    return problem


def disturbed(problem: Problem) -> TwoBranch:
    """Bring the problem's model into a state that no criterion would make by itself."""
    model = problem.model
    assert isinstance(model, TwoBranch)
    model.train()
    model.lidar.eval()
    model.camera[0].bias.requires_grad_(False)
    model.fusion[0].weight.requires_grad_(False)
    model.fusion[2].weight.grad = torch.full_like(model.fusion[2].weight, 0.1)
    return model


def state_of(model: nn.Module) -> tuple[Any, ...]:
    """All of a model that a criterion might leave changed, its tensors copied."""
    return (
        {key: value.clone() for key, value in model.state_dict().items()},
        {name: parameter.data_ptr() for name, parameter in model.named_parameters()},
        [parameter.requires_grad for parameter in model.parameters()],
        [module.training for module in model.modules()],
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        [len(parameter._backward_hooks or {}) for parameter in model.parameters()],
    )


def assert_untouched(model: nn.Module, state: tuple[Any, ...]) -> None:
    """Check that a :func:`disturbed` model is as :func:`state_of` found it."""
    tensors, *others = state_of(model)
    assert others == list(state[1:])
    for key, value in state[0].items():
        assert torch.equal(tensors[key], value), key
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert list(gradients) == ["fusion.2.weight"]
    assert bool((gradients["fusion.2.weight"] == 0.1).all())


def reads_data(criterion: Criterion) -> bool:
    """Whether a criterion calls the problem's loss or its flow; found out by watching."""
    problem, calls = small_problem(), []

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.append(function)
            return function(*arguments)

        return call

    assert problem.flow is not None
    criterion.masks(replace(problem, loss=watched(problem.loss), flow=watched(problem.flow)), overall(problem))
    return bool(calls)


def on_two_workers(criterion: Criterion, target_of: Callable[[Problem], Target]) -> list[Masks]:
    """Each worker in a thread: its own model, its parts of every batch, and a sum that waits for both."""
    barrier = threading.Barrier(2, timeout=60)
    posted: list[list[Tensor]] = [[], []]
    results: list[Masks | None] = [None, None]

    def work(rank: int) -> None:
        def reduce(tensors: list[Tensor]) -> None:
            posted[rank] = [tensor.clone() for tensor in tensors]
            barrier.wait()
            for index, tensor in enumerate(tensors):
                tensor.copy_(posted[0][index] + posted[1][index])
            barrier.wait()

        problem = problems[rank]
        results[rank] = criterion.masks(replace(problem, reduce=reduce), target_of(problem))

    problems = [small_problem(parts=parts) for parts in (PARTS[:1], PARTS[1:])]
    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    masks = [result for result in results if result is not None]
    assert len(masks) == 2, "a worker failed, or waited for the other one in vain"
    return masks

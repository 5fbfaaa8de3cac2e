"""The contract suite of criteria: exact sparsities, untouched models, equal masks on one worker and on two."""

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
from altermoma_ray.pruning.channels import Bounds
from altermoma_ray.pruning.granularity import Channel
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

    The masks of a criterion which scores once (a :class:`altermoma_ray.pruning.ScoreCriterion`) must also be nested:
    a higher sparsity prunes a superset.

    Attributes:
        criterion: the tested criterion. Few rounds and steps keep the tests short.
        is_random: whether the criterion draws at random; another seed of the problem must then give other masks.
    """

    criterion: Criterion
    is_random: ClassVar[bool] = False

    @pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.83, 0.95])
    def test_a_total_sparsity_is_met_exactly(self, sparsity: float) -> None:
        # Single precision, as on a real machine: the count must be exact however the scores are rounded.
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
            # Nested: no weight is kept at the higher sparsity and pruned at the lower one.
            assert all(bool((less[name] | ~more[name]).all()) for name in problem.names)
        assert_same(self.criterion.masks(problem, overall(problem, 0.6)), masks[1])

    def test_channels_go_as_a_whole_where_the_problem_says_so(self) -> None:
        problem = with_channels(small_problem())
        masks = [self.criterion.masks(problem, overall(problem, sparsity)) for sparsity in (0.0, 0.5)]
        for mask in masks:
            problem.granularity.checked(mask)
        assert masks[0].sparsity() == 0
        # Whole channels overshoot by less than the largest of them, with 123 of the 695 weights.
        assert 0.5 <= masks[1].sparsity() < 0.5 + 123 / 695

    def test_the_same_again_gives_the_same(self) -> None:
        first, second = small_problem(torch.float32), small_problem(torch.float32)
        expected = self.criterion.masks(first, overall(first))
        # The same problem again finds state left in the problem; a second problem finds state left in the criterion.
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
        """One sample and the flow are not finite; only a criterion reading neither of them may finish."""
        # The sample is in the third batch: the error comes when a criterion is already at work on the model.
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
        # A floored layer keeps one weight only because a layer without any would cut the network.
        for name in masks.floored:
            assert masks.kept([name]) == 1


def overall(problem: Problem, sparsity: float = 0.8) -> Target:
    """The target of one total sparsity, with one threshold for all weights."""
    return Target(groups=problem.groups, sparsity=sparsity)


def by_group(problem: Problem, sparsity: float = 0.8) -> Target:
    """The target of one total sparsity, with a ratio for each group from unequal preferences."""
    ratios = solve_ratios(sizes_of(problem), sparsity, {"camera": 0.0, "lidar": 0.7, "fusion": 1.2})
    return Target(groups=problem.groups, sparsity=sparsity, ratios=ratios)


def with_channels(problem: Problem) -> Problem:
    """The problem whose units are channels, which may go down to one in a layer.

    Example:
        >>> sorted(coupling.name for coupling in with_channels(small_problem()).granularity.couplings)
        ['camera.0', 'camera.5', 'fusion.0', 'lidar.3']
    """
    image, points, _ = problem.batches[0]
    channels = Channel(Bounds(least=0.01)).bound_to(problem.model, lambda model: model(image, points))
    return replace(problem, granularity=channels)


def assert_same(found: Masks, expected: Masks) -> None:
    """Check that two sets of masks are equal, also in their order."""
    assert list(found) == list(expected)
    for name, mask in expected.items():
        assert torch.equal(found[name], mask), name


def assert_complete(problem: Problem, masks: Masks) -> None:
    """Check the masks of a problem: one boolean mask for each prunable weight, and none empty."""
    assert set(masks) == set(problem.names)
    for name, mask in masks.items():
        assert mask.dtype == torch.bool
        assert mask.shape == problem.model.get_parameter(name).shape
        assert masks.kept([name]) >= 1, name


def with_a_faint_layer(problem: Problem) -> Problem:
    """Shrink the weights of the layer ``fusion.2.weight``, until magnitude alone would empty the layer."""
    with torch.no_grad():
        problem.model.get_parameter("fusion.2.weight").mul_(1e-9)
    return problem


def disturbed(problem: Problem) -> TwoBranch:
    """Bring the problem's model into a state which no criterion makes by itself."""
    model = problem.model
    assert isinstance(model, TwoBranch)
    # Each line below disagrees with a blanket restore: "all in training mode", "all need gradients", "no gradients".
    model.train()
    model.lidar.eval()
    model.camera[0].bias.requires_grad_(False)
    model.fusion[0].weight.requires_grad_(False)
    model.fusion[2].weight.grad = torch.full_like(model.fusion[2].weight, 0.1)
    return model


def state_of(model: nn.Module) -> tuple[Any, ...]:
    """Everything about a model which a criterion might change by accident; the tensors are copies.

    Example:
        >>> tensors, *others = state_of(nn.Linear(2, 1))
        >>> sorted(tensors)
        ['bias', 'weight']
        >>> len(others)
        5
    """
    return (
        {key: value.clone() for key, value in model.state_dict().items()},
        # The addresses: an optimizer made before the criterion ran still holds the old tensors.
        {name: parameter.data_ptr() for name, parameter in model.named_parameters()},
        [parameter.requires_grad for parameter in model.parameters()],
        [module.training for module in model.modules()],
        # PyTorch has no public way to count the hooks of a module or a parameter.
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        [len(parameter._backward_hooks or {}) for parameter in model.parameters()],
    )


def assert_untouched(model: nn.Module, state: tuple[Any, ...]) -> None:
    """Check a :func:`disturbed` model against the ``state`` which :func:`state_of` read before."""
    tensors, *others = state_of(model)
    assert others == list(state[1:])
    for key, value in state[0].items():
        assert torch.equal(tensors[key], value), key
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert list(gradients) == ["fusion.2.weight"]
    assert bool((gradients["fusion.2.weight"] == 0.1).all())


def reads_data(criterion: Criterion) -> bool:
    """Whether a criterion calls the problem's loss or its flow, as watched on a small problem.

    Example:
        >>> from altermoma_ray.pruning.criteria import Magnitude, Snip
        >>> reads_data(Magnitude()), reads_data(Snip())
        (False, True)
    """
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
    """The masks found by two workers, each in a thread with its own model and its own parts of every batch.

    Args:
        criterion: the criterion to run.
        target_of: makes the target from a worker's problem.

    Returns:
        The masks of both workers.

    Raises:
        AssertionError: a worker failed, or waited in vain for the other one.
    """
    # The time limit turns an unequal number of sums, a deadlock on real workers, into an error.
    barrier = threading.Barrier(2, timeout=60)
    posted: list[list[Tensor]] = [[], []]
    results: list[Masks | None] = [None, None]

    def work(rank: int) -> None:
        def reduce(tensors: list[Tensor]) -> None:
            posted[rank] = [tensor.clone() for tensor in tensors]
            barrier.wait()
            # Both workers add in the order of the ranks: floating-point sums depend on the order.
            for index, tensor in enumerate(tensors):
                tensor.copy_(posted[0][index] + posted[1][index])
            # Without a second barrier, a fast worker would post its next tensors while the other one still reads.
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

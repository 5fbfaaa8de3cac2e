"""ProsPr against automatic differentiation through the unrolled steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.func import functional_call

from altermoma_ray.pruning.criteria import ProsPr, Snip


def reference_scores(problem, steps, learning_rate, trained=lambda name: True):
    """|dL(θ_T)/dm| with a graph of all steps."""
    model = problem.model.eval()

    def loss(parameters, batch):
        image, points, target = batch
        return (functional_call(model, parameters, (image, points)) - target).square().mean()

    gates = {name: torch.ones_like(model.get_parameter(name)).requires_grad_() for name in problem.names}
    state = {
        name: value.detach().clone().requires_grad_() * gates.get(name, 1) for name, value in model.named_parameters()
    }
    for step in range(steps):
        moving = [name for name in state if trained(name)]
        value = loss(state, problem.training_batches[step % 4])
        gradients = torch.autograd.grad(value, [state[name] for name in moving], create_graph=True)
        moved = {name: state[name] - learning_rate * gradient for name, gradient in zip(moving, gradients, strict=True)}
        state = {**state, **moved}
    total = sum(loss(state, batch) for batch in problem.batches) / len(problem.batches)
    return {
        name: gradient.abs()
        for name, gradient in zip(gates, torch.autograd.grad(total, list(gates.values())), strict=True)
    }


def assert_close(found, expected, tolerance):
    assert set(found) == set(expected)
    for name, value in expected.items():
        atol = tolerance * float(value.max())
        torch.testing.assert_close(found[name].double(), value.double(), rtol=0, atol=atol, msg=name)


@pytest.fixture
def smooth(make_problem):
    """A problem without kinks, where the reference is exact to rounding."""

    def make(dtype=torch.float64):
        problem = make_problem(dtype)
        problem.model.camera[2] = torch.nn.Tanh()
        return problem

    return make


@pytest.mark.parametrize(("steps", "learning_rate"), [(1, 0.3), (3, 0.1), (6, 0.2)])
def test_meta_gradient_is_that_of_the_unrolled_steps(steps, learning_rate, smooth):
    problem = smooth()
    expected = reference_scores(problem, steps, learning_rate)
    snip = Snip().scores(problem)
    assert any(float((expected[name] - snip[name]).abs().max() / snip[name].max()) > 0.05 for name in snip)
    assert_close(ProsPr(steps=steps, learning_rate=learning_rate).scores(problem), expected, 1e-8)


def test_single_precision_is_good_to_a_per_mille(smooth):
    expected = reference_scores(smooth(), 3, 0.1)
    assert_close(ProsPr(steps=3, learning_rate=0.1).scores(smooth(torch.float32)), expected, 1e-3)


def test_frozen_parameters_are_scored_but_do_not_move(smooth):
    problem = smooth()
    for parameter in problem.model.camera.parameters():
        parameter.requires_grad_(False)
    expected = reference_scores(smooth(), 3, 0.2, trained=lambda name: not name.startswith("camera"))
    assert_close(ProsPr(steps=3, learning_rate=0.2).scores(problem), expected, 1e-8)


def test_without_steps_it_is_snip(make_problem):
    problem = replace(make_problem(), training_batches=[])
    found, expected = ProsPr(steps=0).scores(problem), Snip().scores(problem)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_minimum_has_no_meta_gradient(make_problem):
    problem = make_problem()
    flat = replace(problem, loss=lambda batch, masked: [0 * part for part in problem.loss(batch, masked)])
    assert all(bool((score == 0).all()) for score in ProsPr().scores(flat).values())


@pytest.mark.parametrize("change", [{"steps": -1}, {"learning_rate": float("inf")}])
def test_bad_parameters_are_explained(change):
    with pytest.raises(ValueError, match="ProsPr needs steps >= 0 and a learning rate above 0, but got steps="):
        ProsPr(**change)

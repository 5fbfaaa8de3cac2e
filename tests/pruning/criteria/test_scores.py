"""One-shot scores against their papers' formulas, written out in float64 by other means."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.func import functional_call

from altermoma_ray.pruning import Reactivation
from altermoma_ray.pruning.criteria import CRITERIA, AlterMOMA, Magnitude, Random, Snip

SETTING = Reactivation(steps=6, learning_rate=1e-2)  # two more than there are training batches


def reference_loss(model, parameters, batch):
    image, points, target = (part.double() for part in batch)
    output = functional_call(model, parameters, (image, points))
    return sum(((output[i] - target[i]) ** 2).mean() for i in range(len(target))) / len(target)


def gate_gradients(model, batches, masked=None):
    """∂L(c ⊙ θ)/∂c at c = 1, mean over batches; a masked branch's parameters are zero."""
    gates = {name: torch.ones_like(value).requires_grad_() for name, value in model.named_parameters()}
    off = {name: 0.0 if masked and name.startswith(masked) else 1.0 for name in gates}
    weights = {name: value.detach() for name, value in model.named_parameters()}
    total = 0
    for batch in batches:
        gated = {name: gates[name] * weights[name] * off[name] for name in gates}
        total = total + reference_loss(model, gated, batch) / len(batches)
    gradients = torch.autograd.grad(total, list(gates.values()))
    return dict(zip(gates, gradients, strict=True))


def reactivated(model, batches, masked):
    """A copy trained with the masked branch at zero."""
    trained = copy.deepcopy(model)
    free = {name: value for name, value in trained.named_parameters() if not name.startswith(masked)}
    zeros = {name: torch.zeros_like(value) for name, value in trained.named_parameters() if name.startswith(masked)}
    optimizer = torch.optim.Adam(free.values(), lr=SETTING.learning_rate, foreach=False)
    for batch in batches:
        optimizer.zero_grad()
        reference_loss(trained, {**free, **zeros}, batch).backward()
        optimizer.step()
    return trained


def reference_redundancy(problem, masked):
    model = problem.model
    trained = reactivated(model, [problem.training_batches[step % 4] for step in range(SETTING.steps)], masked)
    before, after = (gate_gradients(state, problem.batches, masked) for state in (model, trained))
    found = {}
    for name, value in model.named_parameters():
        initial, moved = value.detach(), trained.get_parameter(name).detach()
        # The gate's gradient is θ ∂L/∂θ; after reactivation θ is another, but Eq. 10 wants θ_init in both terms.
        found[name] = (before[name] - initial * (after[name] / moved)).abs()
    return found


def over_sum(weights, names):
    return {name: weights[name] / sum(weights[other].sum() for other in names) for name in names}


def reference_altermoma(problem, alpha, beta, normalisation):
    """Eqs. 11 to 13 and 36."""
    deci = {name: value.abs() for name, value in gate_gradients(problem.model, problem.batches).items()}
    lidar_off, camera_off = (reference_redundancy(problem, masked) for masked in ("lidar", "camera"))
    scores = {}
    for group, names in problem.groups.items():
        for part in [names] if normalisation == "group" else [[name] for name in names]:
            share, first, second = (over_sum(values, part) for values in (deci, lidar_off, camera_off))
            for name in part:
                redundancy = {"camera": first[name], "lidar": second[name]}.get(group)
                if redundancy is None:
                    redundancy = (first[name] + second[name]) / 2
                scores[name] = alpha * share[name] - beta * redundancy
    return scores


def assert_close(found, expected, tolerance=1e-9):
    assert set(found) == set(expected)
    for name, value in expected.items():
        atol = tolerance * float(value.abs().max())
        torch.testing.assert_close(found[name].double(), value, rtol=0, atol=atol, msg=name)


def prunable(problem, values):
    return {name: values[name] for name in problem.names}


def eval_problem(make_problem, dtype=torch.float64):
    problem = make_problem(dtype)
    problem.model.eval()
    return problem


def test_magnitude_is_the_magnitude(make_problem):
    problem = make_problem()
    expected = {name: value.detach() ** 2 for name, value in problem.model.named_parameters()}
    found = {name: score**2 for name, score in Magnitude().scores(problem).items()}
    assert_close(found, prunable(problem, expected), 1e-15)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_snip_is_the_gradient_of_a_gate(dtype, tolerance, make_problem):
    problem = eval_problem(make_problem, dtype)
    reference = copy.deepcopy(problem.model).double()
    expected = {name: value.abs() for name, value in gate_gradients(reference, problem.batches).items()}
    assert_close(Snip().scores(problem), prunable(problem, expected), tolerance)


@pytest.mark.parametrize("normalisation", ["group", "layer"])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 2.0), (0.0, 1.0)])
def test_altermoma_is_algorithm_1(alpha, beta, normalisation, make_problem):
    problem = eval_problem(make_problem)
    criterion = AlterMOMA(alpha=alpha, beta=beta, reactivation=SETTING, normalisation=normalisation)
    assert_close(criterion.scores(problem), reference_altermoma(problem, alpha, beta, normalisation))


def test_deci_is_snip_compared_within_groups(make_problem):
    problem = make_problem()
    deci, snip = CRITERIA["deci"].scores(problem), Snip().scores(problem)
    for names in problem.groups.values():
        assert_close({name: deci[name] for name in names}, over_sum(snip, names), 1e-12)


def test_deci_masks_nothing_and_needs_no_training_batches(make_problem):
    problem = make_problem()
    seen = []

    def loss(batch, masked):
        seen.append(masked)
        return problem.loss(batch, masked)

    CRITERIA["deci"].scores(replace(problem, loss=loss, training_batches=[]))
    assert seen == [frozenset()] * 3


def test_random_scores_are_drawn_by_the_seed(make_problem):
    first, again, other = (Random().scores(make_problem(seed=seed)) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    values, others = (torch.cat([score.flatten() for score in scores.values()]) for scores in (first, other))
    assert len(values.unique()) == len(values)
    assert abs(float(torch.corrcoef(torch.stack([values, others]))[0, 1])) < 0.2


def test_norms_may_use_the_statistics_of_the_batch(make_problem):
    problem = replace(make_problem(), norms="batch")
    found = Snip().scores(problem)
    problem.model.eval()
    problem.model.camera[1].train()
    expected = {name: value.abs() for name, value in gate_gradients(problem.model, problem.batches).items()}
    assert_close(found, prunable(problem, expected), 1e-11)


@pytest.mark.parametrize("name", ["deci", "altermoma", "prospr"])
def test_the_choice_of_norms_reaches_every_gradient(name, make_problem):
    problem = make_problem()
    before = {key: value.clone() for key, value in problem.model.named_buffers()}
    running, batch = (CRITERIA[name].scores(replace(problem, norms=norms)) for norms in ("running", "batch"))
    assert not any(torch.allclose(running[key], batch[key]) for key in problem.groups["camera"])
    assert all(torch.equal(value, before[key]) for key, value in problem.model.named_buffers())


def test_unknown_norms_are_named(make_problem):
    with pytest.raises(ValueError, match="norms is one of running, batch, but got norms='group'"):
        Snip().scores(replace(make_problem(), norms="group"))


def test_a_modality_must_be_a_group(make_problem):
    with pytest.raises(ValueError, match="modality 'radar' must be a parameter group to be masked, but the groups are"):
        AlterMOMA().scores(replace(make_problem(), modalities=["radar"]))


def test_training_needs_batches(make_problem):
    with pytest.raises(ValueError, match="8 training steps need training batches, but the problem has none"):
        AlterMOMA().scores(replace(make_problem(), training_batches=[]))

"""Criteria of our own beside the published ones, against their formulas written out by other means."""

from __future__ import annotations

import numpy as np
import torch

from altermoma_ray.pruning import Indicators
from altermoma_ray.pruning.criteria import AlterMOMA, ResidualAlterMOMA, Taylor

GROUPS = {"camera": ["c1", "c2"], "fusion": ["f"]}


def indicators(seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*names):
        shapes = {"c1": (4, 3), "c2": (5,), "f": (6, 2)}
        return {name: torch.rand(shapes[name], generator=generator, dtype=torch.float64).exp() for name in names}

    redundancy = {"lidar": draw("c1", "c2", "f"), "camera": draw("f")}
    return Indicators(contribution=draw("c1", "c2", "f"), redundancy=redundancy)


def test_taylor_adds_up_magnitudes_part_by_part(make_problem):
    problem = make_problem()
    model = problem.model.eval()
    weights = {name: value.detach() for name, value in model.named_parameters()}
    total = dict.fromkeys(problem.names, 0)
    for batch in problem.batches:
        for part in problem.loss(batch, frozenset()):
            gradients = torch.autograd.grad(part, [model.get_parameter(name) for name in problem.names])
            for name, gradient in zip(problem.names, gradients, strict=True):
                total[name] = total[name] + (weights[name] * gradient).abs() / len(problem.batches)
    scores = Taylor().scores(problem)
    assert scores.keys() == total.keys()
    for name, value in total.items():
        torch.testing.assert_close(scores[name], value)


def test_the_residual_is_what_a_line_leaves_of_log_redundancy():
    found = indicators()
    beta = 0.7
    scores = ResidualAlterMOMA(beta=beta).combine(found, GROUPS)
    for names in GROUPS.values():
        passes = [weights for weights in found.redundancy.values() if names[0] in weights]
        shares = [np.concatenate([weights[n].numpy().ravel() for n in names]) for weights in passes]
        redundancy = np.log(np.mean([share / share.sum() for share in shares], axis=0))
        deci = np.concatenate([found.contribution[n].numpy().ravel() for n in names])
        contribution = np.log(deci / deci.sum())
        slope, level = np.polyfit(contribution, redundancy, 1)
        expected = contribution - beta * (redundancy - level - slope * contribution)
        np.testing.assert_allclose(np.concatenate([scores[n].numpy().ravel() for n in names]), expected, rtol=1e-9)


def test_without_beta_the_residual_criterion_ranks_as_deci_does():
    found = indicators()
    residual = ResidualAlterMOMA(beta=0.0).combine(found, GROUPS)
    deci = AlterMOMA(beta=0.0).combine(found, GROUPS)
    for weights in (residual, deci):
        assert {name: value.shape for name, value in weights.items()} == {"c1": (4, 3), "c2": (5,), "f": (6, 2)}
    for name in deci:
        assert torch.equal(residual[name].flatten().argsort(), deci[name].flatten().argsort())


def test_a_weight_without_contribution_goes_first_whatever_its_redundancy():
    found = indicators()
    found.contribution["c1"][0, 0] = 0
    found.redundancy["lidar"]["c2"][1] = 0
    scores = ResidualAlterMOMA(beta=1.0).combine(found, GROUPS)
    everything = torch.cat([scores[name].flatten() for name in GROUPS["camera"]])
    assert torch.isfinite(everything).all()
    assert int(everything.argmin()) == 0

"""AlterMOMA on a model of three branches: a pass for each, and β shared over the passes that mask another group."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from altermoma_ray.pruning import Problem, Reactivation, group_weights, prunable_weights, solve_ratios
from altermoma_ray.pruning.criteria import AlterMOMA
from altermoma_ray.pruning.targets import Target

SENSORS = ("radar", "lidar", "camera")


class Trio(nn.Module):
    """Three branches on parts of one input, and a fusion."""

    def __init__(self):
        super().__init__()
        for sensor in SENSORS:
            setattr(self, sensor, nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
        self.fusion = nn.Linear(9, 2)

    def forward(self, seen, masked=frozenset()):
        maps = [
            seen.new_zeros(len(seen), 3) if sensor in masked else getattr(self, sensor)(seen[:, place])
            for place, sensor in enumerate(SENSORS)
        ]
        return self.fusion(torch.cat(maps, dim=1))


@pytest.fixture
def problem():
    torch.manual_seed(0)
    model = Trio()
    batches = [(torch.randn(6, 3, 4), torch.randn(6, 2)) for _ in range(3)]

    def loss(batch, masked):
        seen, target = batch
        return (model(seen, masked) - target).square().mean()

    return Problem(
        model=model,
        groups=group_weights(prunable_weights(model), lambda name: name.partition(".")[0]),
        loss=loss,
        batches=batches,
        training_batches=batches,
        modalities=list(SENSORS),
    )


CRITERION = AlterMOMA(reactivation=Reactivation(steps=4, learning_rate=1e-2))


def scores(problem, *modalities):
    return CRITERION.scores(replace(problem, modalities=list(modalities)))


def test_beta_is_shared_over_the_passes_that_mask_another_group(problem):
    """Two passes score a branch, as if its own sensor could not be masked; three score the fusion, with β/3 each."""
    everything = scores(problem, *SENSORS)
    pairs = {away: scores(problem, *(one for one in SENSORS if one != away)) for away in SENSORS}
    for sensor in SENSORS:
        for name in problem.groups[sensor]:
            torch.testing.assert_close(everything[name], pairs[sensor][name])
            others = [pairs[away][name] for away in SENSORS if away != sensor]
            assert not torch.allclose(everything[name], others[0])
    for name in problem.groups["fusion"]:
        torch.testing.assert_close(everything[name], sum(pair[name] for pair in pairs.values()) / 3)


def test_the_order_of_the_masks_does_not_matter(problem):
    first, second = scores(problem, *SENSORS), scores(problem, *reversed(SENSORS))
    for name, score in first.items():
        torch.testing.assert_close(score, second[name])


def test_every_modality_has_a_ratio_of_its_own(problem):
    weights = prunable_weights(problem.model)
    sizes = {group: sum(weights[name].numel() for name in names) for group, names in problem.groups.items()}
    ratios = solve_ratios(sizes, 0.5, {"lidar": 0.0, "camera": 0.0, "fusion": 0.0}, {"radar": 0.8})
    masks = CRITERION.masks(problem, Target(groups=problem.groups, sparsity=0.5, ratios=ratios))
    assert masks.sparsity() == pytest.approx(0.5, abs=0.03)
    for group, found in masks.sparsity_by_group(problem.groups).items():
        assert found == pytest.approx(ratios[group], abs=0.06), group

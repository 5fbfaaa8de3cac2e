from __future__ import annotations

import pytest
import torch

from altermoma_ray.pruning import Schedule, global_masks, group_masks
from altermoma_ray.pruning.targets import Target

GROUPS = {"camera": ["camera.a", "camera.b"], "fusion": ["fusion.a"]}
RATIOS = {"camera": 0.9, "fusion": 0.5}


def make_scores():
    generator = torch.Generator().manual_seed(0)
    sizes = {"camera.a": (40, 10), "camera.b": (100,), "fusion.a": (20, 10)}
    return {name: torch.rand(size, generator=generator) for name, size in sizes.items()}


def assert_same(found, expected):
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], mask) for name, mask in expected.items())


def test_without_ratios_one_threshold_decides():
    scores = make_scores()
    assert_same(Target(groups=GROUPS, sparsity=0.8).masks(scores), global_masks(scores, 0.8))


def test_with_ratios_each_group_is_pruned_by_its_own():
    scores = make_scores()
    masks = Target(groups=GROUPS, sparsity=11 / 14, ratios=RATIOS).masks(scores)
    assert_same(masks, group_masks(scores, GROUPS, RATIOS))
    assert masks.sparsity() == pytest.approx(11 / 14)


@pytest.mark.parametrize("ratios", [None, RATIOS])
def test_targets_rise_to_this_one(ratios):
    target = Target(groups=GROUPS, sparsity=11 / 14, ratios=ratios)
    schedule = Schedule(kind="exponential", rounds=5)
    rounds = target.rounds(schedule)
    assert rounds[-1] is target
    assert [goal.sparsity for goal in rounds] == schedule.sparsities(11 / 14)
    for group, ratio in (ratios or {}).items():
        assert [goal.ratios[group] for goal in rounds] == schedule.sparsities(ratio)
    kept = [goal.masks(make_scores()).kept() for goal in rounds]
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sparsity": 1.0}, r"in \[0, 1\), but got sparsity=1.0"),
        ({"ratios": {"camera": 0.9}}, r"ratios are needed for the groups \['camera', 'fusion'\], but got them for"),
        ({"ratios": {"camera": 0.9, "fusion": -0.1}}, r"in \[0, 1\), but got fusion=-0.1"),
    ],
)
def test_bad_targets_are_explained(change, message):
    with pytest.raises(ValueError, match=message):
        Target(**{"groups": GROUPS, "sparsity": 0.8, **change})

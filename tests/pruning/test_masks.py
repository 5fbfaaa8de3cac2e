from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import nn

from altermoma_ray.pruning import Masks, count_sparsity, global_masks, group_masks

# Few distinct values, so that ties are everywhere.
scores_strategy = st.dictionaries(
    st.text("abc.", min_size=1, max_size=3),
    st.lists(st.integers(-2, 2), min_size=1, max_size=12).map(lambda values: torch.tensor(values, dtype=torch.float32)),
    min_size=1,
    max_size=5,
)
sparsity_strategy = st.floats(0, 1, exclude_max=True)


def naive_masks(scores, sparsity, floor):
    """Walk through all weights in order of score, layer name and index; skip those of layers at their floor."""
    order = sorted(
        (float(value), name, index) for name, score in scores.items() for index, value in enumerate(score.flatten())
    )
    keep = {name: torch.ones(score.numel(), dtype=torch.bool) for name, score in scores.items()}
    budget = round(sparsity * len(order))
    for _, name, index in order:
        if budget > 0 and int(keep[name].sum()) > floor:
            keep[name][index] = False
            budget -= 1
    return {name: mask.view(scores[name].shape) for name, mask in keep.items()}


@settings(max_examples=200, deadline=None)
@given(scores_strategy, sparsity_strategy, st.integers(0, 3))
def test_masks_are_those_of_a_walk_in_order(scores, sparsity, floor):
    masks = global_masks(scores, sparsity, floor=floor)
    expected = naive_masks(scores, sparsity, floor)
    assert list(masks) == list(scores)
    for name, mask in expected.items():
        assert torch.equal(masks[name], mask)
    total = sum(score.numel() for score in scores.values())
    possible = total - sum(min(floor, score.numel()) for score in scores.values())
    assert total - masks.kept() == min(round(sparsity * total), possible)
    without = global_masks(scores, sparsity, floor=0)
    assert masks.floored == tuple(sorted(n for n in scores if without.kept([n]) < min(floor, scores[n].numel())))


@settings(max_examples=100, deadline=None)
@given(scores_strategy, sparsity_strategy, sparsity_strategy, st.integers(0, 2))
def test_masks_are_nested(scores, one, other, floor):
    low, high = sorted((one, other))
    fewer, more = global_masks(scores, high, floor=floor), global_masks(scores, low, floor=floor)
    assert all(bool((fewer[name] <= more[name]).all()) for name in scores)


@settings(max_examples=50, deadline=None)
@given(scores_strategy, sparsity_strategy)
def test_order_of_layers_does_not_matter(scores, sparsity):
    turned = dict(reversed(scores.items()))
    one, other = global_masks(scores, sparsity), global_masks(turned, sparsity)
    assert all(torch.equal(one[name], other[name]) for name in scores)


def make_scores():
    generator = torch.Generator().manual_seed(1)
    shapes = {"camera.0": (6, 5), "camera.1": (4, 4, 3), "lidar.0": (11,), "fusion.0": (7, 3)}
    scale = {"camera.0": 1.0, "camera.1": 1e-3, "lidar.0": 1.0, "fusion.0": 10.0}
    return {name: scale[name] * torch.randn(shape, generator=generator).abs() for name, shape in shapes.items()}


GROUPS = {"camera": ["camera.0", "camera.1"], "lidar": ["lidar.0"], "fusion": ["fusion.0"]}


def test_ratios_hold_in_each_group_with_one_threshold_inside():
    scores = make_scores()
    masks = group_masks(scores, GROUPS, {"camera": 0.5, "lidar": 0.0, "fusion": 0.8})
    assert list(masks) == list(scores)
    assert masks.sparsity_by_group(GROUPS) == pytest.approx({"camera": 39 / 78, "lidar": 0, "fusion": 17 / 21})
    kept = torch.cat([scores[name][masks[name]] for name in GROUPS["camera"]])
    gone = torch.cat([scores[name][~masks[name]] for name in GROUPS["camera"]])
    assert kept.min() > gone.max()


def test_floor_is_reported_and_its_budget_taken_elsewhere():
    scores = make_scores()
    masks = global_masks(scores, 0.7, floor=2)
    assert masks.kept() == 110 - 77
    assert masks.kept(["camera.1"]) == 2
    assert masks.floored == ("camera.1",)
    best = scores["camera.1"].flatten().topk(2).indices
    assert masks["camera.1"].flatten()[best].all()
    assert global_masks(scores, 0.7, floor=0).kept(["camera.1"]) == 0
    assert global_masks(scores, 0.1, floor=2).floored == ()


def test_fractions_by_layer():
    masks = Masks({"a": torch.tensor([True, False]), "b": torch.tensor([[True, True], [False, True]])})
    assert masks.sparsity_by_layer() == {"a": 0.5, "b": 0.25}
    assert (masks.kept(), masks.sparsity()) == (4, pytest.approx(1 / 3))


def test_masks_survive_safetensors():
    masks = global_masks(make_scores(), 0.95)
    again = Masks.from_tensors(load(save(masks.to_tensors())))
    assert again.floored == masks.floored != ()
    assert set(again) == set(masks)
    for name, mask in masks.items():
        assert again[name].dtype == torch.bool
        assert torch.equal(again[name], mask)


def test_sparsity_is_counted_from_the_weights():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight[:3] = 0
    assert count_sparsity(model, ["0.weight", "1.weight"]) == 12 / 24


@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5, float("nan")])
def test_ratio_outside_the_range_is_explained(value):
    rule = r"a pruning ratio must be in \[0, 1\), but got "
    with pytest.raises(ValueError, match=rule + f"sparsity={value}"):
        global_masks(make_scores(), value)
    with pytest.raises(ValueError, match=rule + f"lidar={value}"):
        group_masks(make_scores(), GROUPS, {"camera": 0.5, "lidar": value, "fusion": 0.5})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_name_their_layer(value):
    scores = make_scores()
    scores["camera.1"][0, 0, 0] = value
    with pytest.raises(ValueError, match=r"scores of layer 'camera\.1' are not finite"):
        global_masks(scores, 0.5)


def test_groups_and_ratios_that_do_not_fit_are_named():
    with pytest.raises(
        ValueError, match=r"needed for the groups \['camera', 'fusion', 'lidar'\], but got them for \['c"
    ):
        group_masks(make_scores(), GROUPS, {"camera": 0.5})
    with pytest.raises(ValueError, match="floor >= 0 and at least one layer, but got floor=1, 0 layers"):
        global_masks({}, 0.5)
    with pytest.raises(ValueError, match="but got floor=-1, 4 layers"):
        global_masks(make_scores(), 0.5, floor=-1)

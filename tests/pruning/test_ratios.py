from __future__ import annotations

from itertools import pairwise
from math import exp

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from altermoma_ray.errors import UserError
from altermoma_ray.pruning import solve_ratios

groups_strategy = st.dictionaries(
    st.sampled_from(["camera", "lidar", "fusion", "radar"]),
    st.tuples(st.integers(1, 100_000), st.floats(-800, 800) | st.floats(-3, 3)),
    min_size=1,
)


@settings(max_examples=300, deadline=None)
@given(groups_strategy, st.floats(0, 1, exclude_max=True))
def test_total_is_met_exactly_and_shares_follow_preferences(groups, target):
    sizes = {group: size for group, (size, _) in groups.items()}
    preference = {group: value for group, (_, value) in groups.items()}
    total = sum(sizes.values())
    assume(total - round(target * total) >= len(sizes))
    ratios = solve_ratios(sizes, target, preference)
    assert all(0 <= ratio < 1 for ratio in ratios.values())
    pruned = {group: round(ratios[group] * size) for group, size in sizes.items()}
    assert all(pruned[group] / size == ratios[group] for group, size in sizes.items())
    assert sum(pruned.values()) == round(target * total)
    ordered = sorted(sizes, key=preference.__getitem__)
    for low, high in pairwise(ordered):  # whole numbers cost up to one weight a group
        slack = len(sizes) * (1 / sizes[low] + 1 / sizes[high])
        assert 1 - ratios[low] <= 1 - ratios[high] + slack


@pytest.mark.parametrize("target", [0.3, 0.8, 0.95])
def test_kept_shares_are_proportional_until_they_are_whole(target):
    sizes = {"camera": 810_000, "lidar": 120_000, "fusion": 170_000}
    preference = {"camera": 0.0, "lidar": 1.5, "fusion": 0.7}
    kept = {group: 1 - ratio for group, ratio in solve_ratios(sizes, target, preference).items()}
    scale = kept["camera"]  # never whole at these targets
    for group, share in kept.items():
        assert share == pytest.approx(min(1, scale * exp(preference[group])), abs=1e-4)


def test_equal_preferences_give_the_target_everywhere():
    ratios = solve_ratios({"camera": 1000, "lidar": 500}, 0.9, {"camera": 2.0, "lidar": 2.0})
    assert ratios == {"camera": 0.9, "lidar": 0.9}


@pytest.mark.parametrize(
    ("sizes", "target", "preference", "message"),
    [
        (
            {"a": 10, "b": 10},
            0.99,
            {"a": 0, "b": 0},
            "a total sparsity of 0.99 cannot be met: it keeps 0 of 20 weights",
        ),
        ({"a": 10}, 1.0, {"a": 0}, r"must be in \[0, 1\), but got target=1.0"),
        ({"a": 10}, 0.5, {"b": 0}, "preferences for the same groups are needed"),
        ({"a": 0}, 0.5, {"a": 0}, "sizes above 0"),
        ({}, 0.5, {}, "sizes above 0"),
        ({"a": 10}, 0.5, {"a": float("nan")}, "preferences must be finite"),
    ],
)
def test_what_cannot_be_is_explained(sizes, target, preference, message):
    with pytest.raises(ValueError, match=message):
        solve_ratios(sizes, target, preference)


@settings(max_examples=200, deadline=None)
@given(groups_strategy, st.floats(0, 1, exclude_max=True), st.data())
def test_fixed_ratios_stay_and_the_other_groups_meet_the_total(groups, target, data):
    sizes = {group: size for group, (size, _) in groups.items()}
    chosen = data.draw(st.lists(st.sampled_from(sorted(sizes)), unique=True, max_size=len(sizes) - 1))
    fixed = {group: data.draw(st.floats(0, 1, exclude_max=True)) for group in chosen}
    preference = {group: value for group, (_, value) in groups.items() if group not in fixed}
    wanted = round(target * sum(sizes.values()))
    left = wanted - sum(round(ratio * sizes[group]) for group, ratio in fixed.items())
    most = sum(sizes[group] - 1 for group in preference)
    emptied = any(round(ratio * sizes[group]) == sizes[group] for group, ratio in fixed.items())
    if emptied or not 0 <= left <= most:
        with pytest.raises(UserError, match=r"leaves none of its" if emptied else r"cannot be met"):
            solve_ratios(sizes, target, preference, fixed)
        return
    ratios = solve_ratios(sizes, target, preference, fixed)
    assert list(ratios) == list(sizes)
    assert {group: ratios[group] for group in fixed} == fixed
    assert sum(round(ratios[group] * size) for group, size in sizes.items()) == wanted


def test_preferences_are_of_the_groups_that_are_free():
    sizes = {"camera": 100, "lidar": 50, "fusion": 50}
    with pytest.raises(UserError, match=r"finite preferences are needed for lidar, fusion, but got \{'lidar'"):
        solve_ratios(sizes, 0.5, {"lidar": 0.0}, {"camera": 0.5})

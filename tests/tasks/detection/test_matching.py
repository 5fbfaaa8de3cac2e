from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.tasks.detection.iou import iou_3d
from altermoma_ray.tasks.detection.matching import focal_cost, match, position_cost

HEAD = configuration("bevfusion-mit").head


def scene(proposals, objects, seed):
    random = np.random.default_rng(seed)

    def boxes(count):
        return np.concatenate(
            (random.uniform(-4, 4, (count, 3)), random.uniform(0.5, 5, (count, 3)), random.uniform(-3, 3, (count, 3))),
            axis=1,
        )

    return random.normal(size=(proposals, 10)), boxes(proposals), boxes(objects), random.integers(0, 10, objects)


def test_focal_cost_against_the_formula():
    logits, _, _, labels = scene(4, 3, 0)
    for p, m in itertools.product(range(4), range(3)):
        probability = 1 / (1 + math.exp(-logits[p, labels[m]]))
        as_object = -0.25 * (1 - probability) ** 2 * math.log(probability)
        as_nothing = -0.75 * probability**2 * math.log(1 - probability)
        cost = focal_cost(logits, labels, gamma=2.0, alpha=0.25)[p, m]
        assert cost == pytest.approx(as_object - as_nothing)


def test_position_cost_is_in_shares_of_the_map():
    cost = position_cost(np.zeros((1, 9)), np.array([[10.8, -5.4, 9.0, 1, 1, 1, 0, 0, 0]]), (108.0, 54.0))
    assert cost[0, 0] == pytest.approx(0.2)


@pytest.mark.parametrize("seed", range(6))
def test_match_has_the_least_cost_of_all_assignments(seed):
    logits, boxes, objects, labels = scene(5, 3, seed)
    extent = (108.0, 108.0)
    proposals, chosen = match(logits, boxes, objects, labels, extent=extent, config=HEAD)
    cost = (
        0.15 * focal_cost(logits, labels, gamma=2.0, alpha=0.25)
        + 0.25 * position_cost(boxes, objects, extent)
        - 0.25 * iou_3d(boxes, objects)
    )
    best = min(sum(cost[p, m] for m, p in enumerate(order)) for order in itertools.permutations(range(5), 3))
    assert sorted(chosen) == [0, 1, 2]
    assert cost[proposals, chosen].sum() == pytest.approx(best)


def test_more_objects_than_proposals():
    proposals, chosen = match(*scene(2, 5, 0), extent=(108.0, 108.0), config=HEAD)
    assert sorted(proposals) == [0, 1]
    assert len(set(chosen)) == 2


def test_a_diverged_network_is_matched_too():
    logits, boxes, objects, labels = scene(4, 2, 0)
    logits[0], boxes[1, 3:6] = np.nan, np.inf
    proposals, _ = match(logits, boxes, objects, labels, extent=(108.0, 108.0), config=HEAD)
    assert len(proposals) == 2


def tied_scene(seed, objects=6):
    """Objects of one class, all beyond all proposals along x and y, which overlap none: |Δx| + |Δy| cannot choose."""
    logits, boxes, object_boxes, labels = scene(objects, objects, seed)
    boxes[:, :2] -= 20
    object_boxes[:, :2] += 20
    return logits, boxes, object_boxes, np.full_like(labels, 3)


def moved(arrays, seed, size):
    random = np.random.default_rng(seed)
    return [array + size * random.normal(size=array.shape) for array in arrays]


def matches_of_moved(tied, size):
    logits, boxes, objects, labels = tied
    found = set()
    for seed in range(20):
        near = moved((logits, boxes), seed, size)
        _, chosen = match(*near, objects, labels, extent=(108.0, 108.0), config=HEAD)
        found.add(tuple(chosen))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_ties_are_broken_alike_whatever_the_rounding(seed, monkeypatch):
    tied = tied_scene(seed)
    assert len(matches_of_moved(tied, 2e-13)) == len(matches_of_moved(tied, 1e-9)) == 1
    monkeypatch.setattr("altermoma_ray.tasks.detection.matching.TIE_BREAK", 0.0)
    assert len(matches_of_moved(tied, 2e-13)) > 1


@pytest.mark.parametrize(
    ("proposals", "objects"),
    [
        ([(-1, 0), (1, 0)], [(0, 5), (0, 6)]),  # a mirror image of itself
        ([(0, 0), (1, 0)], [(5, 5), (5, 6)]),  # side by side along an axis
        ([(0, 0), (1, 1)], [(8, 8), (9, 9)]),  # and along a diagonal
    ],
)
def test_symmetric_ties_are_broken_too(proposals, objects):
    def at(places):
        return np.array([[x, y, 0, 0.5, 0.5, 0.5, 0, 0, 0] for x, y in places], dtype=float)

    tied = np.zeros((2, 10)), at(proposals), at(objects), np.zeros(2, dtype=np.int64)
    assert len(matches_of_moved(tied, 2e-13)) == 1


def test_identical_objects_are_taught_to_the_same_proposals():
    logits, boxes, objects, labels = scene(6, 2, 1)
    objects[1], labels[1] = objects[0], labels[0]
    near = [moved((logits, boxes), seed, 2e-13) for seed in range(20)]
    taken = {tuple(match(*one, objects, labels, extent=(108.0, 108.0), config=HEAD)[0]) for one in near}
    assert len(taken) == 1

"""Scores against AlterMOMA Eqs. 11-13 and 36 written out."""

from __future__ import annotations

import pytest
import torch

from altermoma_ray.pruning import Indicators, altereva

SHAPES = {"camera.a": (3, 2), "camera.b": (4,), "lidar.a": (5, 2), "fusion.a": (2, 3), "fusion.b": (7,)}
GROUPS = {group: [name for name in SHAPES if name.startswith(group)] for group in ("camera", "lidar", "fusion")}


def make_indicators(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)

    def draw(*groups):
        return {
            name: torch.rand(SHAPES[name], generator=generator, dtype=dtype)
            for group in groups
            for name in GROUPS[group]
        }

    return Indicators(
        contribution=draw("camera", "lidar", "fusion"),
        redundancy={"lidar": draw("camera", "fusion"), "camera": draw("lidar", "fusion")},
    )


def over_sum(weights, group):
    total = sum(value.item() for name in GROUPS[group] for value in weights[name].double().flatten())
    return {name: weights[name].double() / total for name in GROUPS[group]}


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 2.0), (1.0, 0.0), (0.0, 1.0), (1.0, -1.0)])
def test_scores_are_eqs_11_to_13(alpha, beta):
    indicators = make_indicators()
    scores = altereva(indicators, GROUPS, alpha=alpha, beta=beta)
    deci, lidar_off, camera_off = indicators.contribution, *indicators.redundancy.values()
    expected = {}
    for name in GROUPS["camera"]:  # Eq. 11
        expected[name] = alpha * over_sum(deci, "camera")[name] - beta * over_sum(lidar_off, "camera")[name]
    for name in GROUPS["lidar"]:  # Eq. 12
        expected[name] = alpha * over_sum(deci, "lidar")[name] - beta * over_sum(camera_off, "lidar")[name]
    for name in GROUPS["fusion"]:  # Eqs. 13, 36
        expected[name] = (
            alpha * over_sum(deci, "fusion")[name]
            - beta / 2 * over_sum(lidar_off, "fusion")[name]
            - beta / 2 * over_sum(camera_off, "fusion")[name]
        )
    assert list(scores) == list(expected) == list(deci)
    for name, value in expected.items():
        assert scores[name].dtype == torch.float32
        torch.testing.assert_close(scores[name].double(), value, rtol=1e-6, atol=1e-9)


def test_layer_normalisation_is_the_same_within_each_layer():
    indicators = make_indicators()
    scores = altereva(indicators, GROUPS, alpha=0.5, beta=2.0, normalisation="layer")
    for group, names in GROUPS.items():
        for name in names:
            deci = indicators.contribution[name].double()
            passes = [weights[name].double() for masked, weights in indicators.redundancy.items() if masked != group]
            shares = sum(weights / weights.sum() for weights in passes) / len(passes)
            torch.testing.assert_close(scores[name].double(), 0.5 * deci / deci.sum() - 2 * shares, rtol=0, atol=1e-6)


def test_unknown_normalisation_is_named():
    with pytest.raises(ValueError, match="normalisation is one of group, layer, but got 'channel'"):
        altereva(make_indicators(), GROUPS, normalisation="channel")


def test_beta_zero_needs_no_redundancy_and_ranks_by_contribution():
    found = make_indicators()
    scores = altereva(Indicators(contribution=found.contribution, redundancy={}), GROUPS, beta=0)
    for name, score in scores.items():
        assert torch.equal(score.flatten().argsort(), found.contribution[name].flatten().argsort())


def test_with_three_modalities_each_pass_has_its_share_of_beta():
    """Eq. 11 with two other modalities: β/2 each for a branch, and β/3 for the fusion, which all passes score."""
    shapes = {**SHAPES, "radar.a": (4, 3)}
    groups = {**GROUPS, "radar": ["radar.a"]}
    generator = torch.Generator().manual_seed(1)

    def draw(without=None):
        return {
            name: torch.rand(shapes[name], generator=generator, dtype=torch.float64)
            for group, names in groups.items()
            if group != without
            for name in names
        }

    found = Indicators(contribution=draw(), redundancy={group: draw(group) for group in ("radar", "lidar", "camera")})
    scores = altereva(found, groups, alpha=0.5, beta=3.0)
    for group, names in groups.items():
        others = [masked for masked in found.redundancy if masked != group]
        assert len(others) == (3 if group == "fusion" else 2)
        for name in names:
            expected = 0.5 * found.contribution[name] / sum(found.contribution[one].sum() for one in names)
            for masked in others:
                total = sum(found.redundancy[masked][one].sum() for one in names)
                expected = expected - 3.0 / len(others) * found.redundancy[masked][name] / total
            torch.testing.assert_close(scores[name], expected)


def test_a_masked_group_is_not_scored_by_its_own_pass():
    found = make_indicators()
    zeros = {name: torch.zeros(SHAPES[name]) for name in GROUPS["lidar"]}
    padded = {"lidar": {**found.redundancy["lidar"], **zeros}, "camera": found.redundancy["camera"]}
    again = altereva(Indicators(contribution=found.contribution, redundancy=padded), GROUPS)
    for name, score in altereva(found, GROUPS).items():
        assert torch.equal(score, again[name])


def test_an_indicator_that_is_zero_in_a_group_adds_nothing():
    found = make_indicators()
    for name in GROUPS["camera"]:
        found.redundancy["lidar"][name].zero_()
    scores = altereva(found, GROUPS)
    for name in GROUPS["camera"]:
        torch.testing.assert_close(scores[name].double(), over_sum(found.contribution, "camera")[name])


def test_small_values_do_not_vanish_in_a_large_group():
    """In float32 a sum of 20 million ones started at 16 million stops; in float64 the shares sum to 1."""
    values = torch.ones(20_000_000)
    values[0] = 1e8
    score = altereva(Indicators(contribution={"w": values}, redundancy={}), {"all": ["w"]}, beta=0)["w"]
    assert float(score.sum(dtype=torch.float64)) == pytest.approx(1, rel=1e-7)


@pytest.mark.parametrize(
    ("groups", "beta", "message"),
    [
        ({**GROUPS, "radar": []}, 1.0, "group 'radar' has no prunable weight"),
        ({**GROUPS, "radar": ["lidar.a"]}, 1.0, "weight 'lidar.a' is in the groups 'lidar' and 'radar'"),
        ({**GROUPS, "radar": ["radar.a"]}, 1.0, "weight 'radar.a' of group 'radar' has no score"),
        ({"camera": GROUPS["camera"]}, 1.0, "weight 'fusion.a' is in no parameter group"),
        (GROUPS, float("nan"), "alpha and beta must be finite, but got alpha=1.0, beta=nan"),
    ],
)
def test_what_does_not_fit_is_named(groups, beta, message):
    with pytest.raises(ValueError, match=message):
        altereva(make_indicators(), groups, beta=beta)


def test_missing_redundancy_is_named():
    found = make_indicators()
    del found.redundancy["camera"]
    with pytest.raises(ValueError, match="group 'lidar' has no redundancy: score it with another modality masked"):
        altereva(found, GROUPS)
    del found.redundancy["lidar"]["fusion.b"]
    with pytest.raises(ValueError, match=r"redundancy with lidar masked lacks 'fusion\.b' of group 'fusion'"):
        altereva(found, {"camera": GROUPS["camera"], "fusion": GROUPS["fusion"], "lidar": GROUPS["lidar"]})

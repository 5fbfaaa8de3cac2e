"""Statistics of a comparison, against hand-computed values and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from altermoma_ray.metrics import Metric
from altermoma_ray.tracking.comparison.statistics import (
    Difference,
    by_value,
    estimate,
    find_best,
    grouped,
    only_varying,
    ordered,
    paired_difference,
    summarise,
)
from altermoma_ray.tracking.result import TrialResult

REFERENCE = {"map": 0.9, "nds": 0.7}
METRICS = MAP, NDS = Metric("map", "mAP"), Metric("nds", "NDS")


def trial(number, criterion, seed, score=None, *, status="finished", seconds=None, **params):
    failed = status == "failed"
    return TrialResult(
        number=number,
        status=status,
        reason="out of memory" if failed else None,
        params={"criterion": criterion, "seed": seed, "sparsity": 0.85, "fine_tune_epochs": 0.2, **params},
        metrics={} if score is None else {"map": score, "nds": score / 2},
        sparsity={} if failed else {"total": 0.85, "camera": 0.9 + 0.01 * seed, "lidar": 0.8},
        seconds={} if seconds is None else {"criterion": seconds},
        started=0,
        ended=9,
    )


def seeds(criterion, scores, first=0, **params):
    return [trial(first + seed, criterion, seed, score, **params) for seed, score in enumerate(scores)]


def test_an_interval_is_students():
    found = estimate([0.80, 0.84, 0.82])
    assert (found.mean, found.deviation, found.n) == (pytest.approx(0.82), pytest.approx(0.02), 3)
    assert found.half_width == pytest.approx(4.302653 * 0.02 / math.sqrt(3), rel=1e-6)  # t(0.975, 2) from a table
    values = np.random.default_rng(0).normal(size=7)
    low, high = stats.t.interval(0.95, 6, loc=values.mean(), scale=stats.sem(values))
    found = estimate(values.tolist())
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high))


def test_few_seeds_have_no_interval():
    assert (estimate([0.5]).mean, estimate([0.5]).n) == (0.5, 1)
    assert math.isnan(estimate([0.5]).half_width)
    assert math.isnan(estimate([0.5]).deviation)
    assert math.isnan(estimate([]).mean)


def test_differences_are_paired_by_seed():
    ours = seeds("snip", [0.90, 0.70, 0.80, 0.10])
    theirs = seeds("deci", [0.89, 0.68, 0.77])[::-1]  # in another order, and one seed short
    found = paired_difference(ours, theirs, MAP)
    low, high = stats.ttest_rel([0.90, 0.70, 0.80], [0.89, 0.68, 0.77]).confidence_interval(0.95)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high))
    assert (found.mean, found.n) == (pytest.approx(0.02), 3)


def test_nothing_is_known_without_pairs():
    found = paired_difference(seeds("snip", [0.9]), [trial(1, "deci", 5, 0.8)], MAP)
    assert (found.n, math.isnan(found.mean), found.holds_zero) == (0, True, True)
    assert Difference(mean=0.5, half_width=math.nan, n=1).holds_zero
    assert Difference(mean=-0.5, half_width=0.5, n=3).holds_zero
    assert not Difference(mean=-0.5, half_width=0.4, n=3).holds_zero


def test_a_seed_that_occurs_twice_is_refused():
    mixed = [*seeds("altermoma", [0.5], beta=0.0), *seeds("altermoma", [0.6], first=1, beta=1.0)]
    with pytest.raises(ValueError, match="must have different seeds, but got seed 0 again in trial 1; group by"):
        summarise(mixed, REFERENCE, METRICS)
    assert [summary.first.mean for summary in summarise(mixed, REFERENCE, METRICS, by=("beta",))] == [0.5, 0.6]


def test_a_summary_counts_what_has_no_result():
    results = [
        *seeds("unpruned", [0.90, 0.92], sparsity=0.0),
        *seeds("unpruned", [0.99, 0.99], first=2, sparsity=0.0, fine_tune_epochs=1.0),
        trial(4, "snip", 0, 0.80, seconds=2.0),
        trial(5, "snip", 1, 0.84, seconds=4.0),
        trial(6, "snip", 2, status="failed"),
        trial(7, "snip", 3, 0.10, status="stopped"),
        trial(8, "snip", 4, math.nan),
    ]
    unpruned, longer, snip = summarise(results, REFERENCE, METRICS)
    assert (unpruned.key["label"], longer.key["fine_tune_epochs"]) == ("unpruned", 1.0)
    assert (snip.trials, snip.missing, snip.first.n) == (5, 3, 2)
    assert (snip.first.mean, snip.figures["nds"].mean) == pytest.approx((0.82, 0.41))
    assert snip.sparsity == pytest.approx({"total": 0.85, "camera": 0.905, "lidar": 0.8})
    assert (snip.seconds, math.isnan(unpruned.seconds)) == (3.0, True)
    assert snip.to_unpruned.mean == pytest.approx(0.82 - 0.9)
    assert snip.to_unpruned.half_width == snip.first.half_width
    assert (snip.to_fine_tuned.mean, snip.to_fine_tuned.n) == (pytest.approx(-0.09), 2)  # not to the longer ones
    assert snip.to_fine_tuned.half_width == pytest.approx(12.7062 * 0.0141421 / math.sqrt(2), rel=1e-4)


def test_a_setting_whose_trials_all_failed_is_still_there():
    (summary,) = summarise([trial(0, "imp", 0, status="failed")], REFERENCE, METRICS)
    assert (summary.trials, summary.missing, summary.first.n, summary.to_fine_tuned.n) == (1, 1, 0, 0)
    assert math.isnan(summary.first.mean)


def test_a_label_stands_for_the_criterion():
    results = [*seeds("altermoma", [0.5]), *seeds("altermoma", [0.8], first=1, label="search nusc-1")]
    assert [summary.key["label"] for summary in summarise(results, {}, METRICS)] == ["altermoma", "search nusc-1"]


def test_the_best_and_those_as_good():
    settings = {
        "close": seeds("close", [0.80, 0.83, 0.80]),
        "best": seeds("best", [0.80, 0.82, 0.84]),
        "worse": seeds("worse", [0.70, 0.721, 0.74]),  # its own interval is as wide, but paired it is always .1 less
        "failed": [trial(0, "failed", 0, status="failed")],
    }
    best, rivals = find_best(settings, MAP)
    assert (best, [name for name, _ in rivals]) == ("best", ["close"])
    assert find_best({"failed": settings["failed"]}, MAP) == (None, [])


def test_only_one_part_varies():
    base = {"beta": 1.0, "reactivation_steps": 16, "norms": "running"}
    steps = trial(0, "altermoma", 0, 0.5, **{**base, "reactivation_steps": 1})
    norms = trial(1, "altermoma", 0, 0.5, **{**base, "norms": "batch"})
    published = trial(2, "altermoma", 0, 0.5, **base)
    unpruned = trial(3, "unpruned", 0, 0.9)
    results = [steps, norms, published, unpruned]
    assert only_varying(results, ["reactivation_steps"], base) == [steps, published, unpruned]
    assert only_varying(results, ["norms"], base) == [norms, published, unpruned]


def test_values_are_put_in_order():
    assert ordered(["layer", 10, "group", None, 0.5, 10, "layer"]) == [None, 0.5, 10, "layer", "group"]
    groups = grouped([trial(1, "snip", 0, sparsity=0.9), trial(0, "deci", 0, sparsity=0.95)], ("sparsity",))
    assert [key for key, _ in by_value(groups)] == [(0.9,), (0.95,)]


def test_of_a_minimised_metric_the_lowest_mean_is_best():
    loss = Metric("map", "loss", "minimize")
    settings = {"snip": seeds("snip", [0.5, 0.6]), "imp": seeds("imp", [0.1, 0.19])}
    best, rivals = find_best(settings, loss)
    assert (best, rivals) == ("imp", [])
    assert find_best(settings, MAP)[0] == "snip"

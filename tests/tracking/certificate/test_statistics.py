"""Statistics of a certificate against values computed by hand, and their rates of false claims."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from altermoma_ray.tracking.certificate.records import Interval
from altermoma_ray.tracking.certificate.statistics import (
    LEAST_SCENES,
    holm,
    is_no_worse,
    loss_by_chance,
    mean_interval,
    recall_intervals,
    threshold_of_alarms,
    threshold_of_best_f1,
)


def test_limits_of_few_scenes_are_at_least_those_of_student_s_t():
    # Mean .02, standard deviation .02, standard error .02/√3; t of 2 degrees of freedom: 2.920 and 4.303.
    found = mean_interval([0.0, 0.02, 0.04])
    assert found.mean == pytest.approx(0.02)
    assert found.bound <= 0.02 - 2.920 * 0.02 / math.sqrt(3) + 1e-5
    assert found.low <= 0.02 - 4.303 * 0.02 / math.sqrt(3) + 1e-5
    assert found.high >= 0.02 + 4.303 * 0.02 / math.sqrt(3) - 1e-5


def test_a_symmetric_sample_has_nearly_student_s_limits():
    values = np.linspace(-1, 1, 100)
    error = values.std(ddof=1) / 10
    found = mean_interval(values)
    assert found.bound == pytest.approx(-stats.t.ppf(0.95, 99) * error, rel=0.1)
    assert found.low == pytest.approx(-found.high, rel=0.1)
    assert found == mean_interval(values)


def test_a_long_tail_of_losses_lowers_the_limit_below_student_s():
    values = np.array([0.0] * 36 + [-0.1, -0.1, -0.2, -0.6])
    student = values.mean() - stats.t.ppf(0.95, 39) * values.std(ddof=1) / math.sqrt(40)
    assert mean_interval(values).bound < 1.1 * student


def test_one_scene_has_no_interval_and_equal_ones_have_no_width():
    assert mean_interval([0.1]) is None
    assert mean_interval([-0.1] * 7) == Interval(mean=-0.1, low=-0.1, high=-0.1, bound=-0.1)


@pytest.mark.parametrize(
    ("bound", "scenes", "expected"), [(-0.019, 40, True), (-0.02, 40, False), (0.0, LEAST_SCENES - 1, False)]
)
def test_no_worse_needs_a_limit_above_the_margin_and_enough_scenes(bound, scenes, expected):
    assert is_no_worse(Interval(mean=0, low=-0.03, high=0.03, bound=bound), scenes, margin=0.02) is expected
    assert is_no_worse(None, scenes, margin=0.02) is False


def test_the_best_threshold_weighs_objects_against_false_alarms():
    # At .9: 2/(1 + 4) = .40; at .5: 4/(2 + 1 + 4) = .57; at .2: 6/(3 + 4 + 4) = .55.
    found, alarms = [0.9, 0.5, 0.2, 0.0], [0.6, 0.4, 0.3, 0.25]
    assert threshold_of_best_f1(found, alarms) == 0.5
    assert threshold_of_best_f1([0.0, 0.0], [0.9]) == math.inf
    assert threshold_of_best_f1([0.7], []) == 0.7


@pytest.mark.parametrize("number", range(6))
def test_no_more_false_alarms_than_asked_for_and_no_lower_threshold_with_as_few(number):
    alarms = [0.9, 0.6, 0.6, 0.3]
    least = threshold_of_alarms(alarms, number)
    assert sum(one >= least for one in alarms) <= number
    below = np.nextafter(least, 0) if least > 0 else 0.0
    assert least == 0 or sum(one >= below for one in alarms) > number


def test_chances_are_those_of_all_exchanges():
    found = np.array([[-1.0, 0.0], [-2.0, 1.0], [0.0, -1.0], [-1.0, 0.0], [1.0, 0.0]])
    exact = [
        np.mean([np.dot(signs, found[:, one]) <= found[:, one].sum() for signs in itertools.product((-1, 1), repeat=5)])
        for one in (0, 1)
    ]
    # The signs of (1, 2, 1, 1) sum up to -3 or less in 4 of 16 ways, those of (1, 1) to 0 or less in 3 of 4.
    assert exact == pytest.approx([1 / 4, 3 / 4])
    assert loss_by_chance(found) == pytest.approx(exact, abs=0.015)


def test_holm_multiplies_the_smallest_most():
    assert holm([0.04, 0.01, 0.03, 0.005]).tolist() == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]


def test_a_recall_s_limits_come_from_whole_scenes():
    # Ten objects each in 20 scenes, all lost in half of them: resampled objects would be ±.07, scenes are ±.22.
    found = np.array([[-10.0, 0.0]] * 10 + [[0.0, 0.0]] * 10)
    low, high = recall_intervals(found, np.full((20, 2), 10.0))
    spread = 1.96 * 0.5 / math.sqrt(20)
    assert [low[0], high[0]] == pytest.approx([-0.5 - spread, -0.5 + spread], abs=0.04)
    assert [low[1], high[1]] == [0.0, 0.0]

from __future__ import annotations

import pytest

from altermoma_ray.pruning import Schedule

KINDS = ["linear", "cubic", "exponential"]


def test_one_shot_prunes_at_once():
    schedule = Schedule()
    assert schedule.sparsities(0.9) == [0.9]
    assert schedule.fractions() == [0.0]
    assert schedule.steps(0) == [0]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("linear", [0.2, 0.4, 0.6, 0.8]),
        ("cubic", [0.8 * (1 - 27 / 64), 0.8 * (1 - 8 / 64), 0.8 * (1 - 1 / 64), 0.8]),
        ("exponential", [1 - 0.2 ** (1 / 4), 1 - 0.2 ** (2 / 4), 1 - 0.2 ** (3 / 4), 0.8]),
    ],
)
def test_sparsities_are_the_formulas(kind, expected):
    assert Schedule(kind=kind, rounds=4).sparsities(0.8) == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("rounds", [1, 2, 7])
def test_sparsity_rises_to_exactly_the_target(kind, target, rounds):
    values = Schedule(kind=kind, rounds=rounds).sparsities(target)
    assert len(values) == rounds
    assert values == sorted(values)
    assert values[-1] == target
    assert values[0] >= 0


def test_rounds_start_equal_parts_of_the_phase():
    schedule = Schedule(kind="linear", rounds=4)
    assert schedule.fractions() == [0, 0.25, 0.5, 0.75]
    assert schedule.steps(10) == [0, 2, 5, 7]
    assert schedule.steps(4) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "sudden"}, "one of one-shot, linear, cubic, exponential, but got kind='sudden'"),
        ({"kind": "linear", "rounds": 0}, "rounds >= 1, and one-shot has 1, but got kind='linear', rounds=0"),
        ({"rounds": 3}, "one-shot has 1, but got kind='one-shot', rounds=3"),
    ],
)
def test_bad_schedule_is_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**arguments)


def test_bad_use_is_explained():
    with pytest.raises(ValueError, match="4 pruning rounds need as many steps, but got 3: take fewer rounds"):
        Schedule(kind="cubic", rounds=4).steps(3)
    with pytest.raises(ValueError, match=r"must be in \[0, 1\), but got target=1.0"):
        Schedule().sparsities(1.0)

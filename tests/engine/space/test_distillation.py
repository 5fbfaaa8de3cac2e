"""Distillation as a searched choice: silent where a space does not offer the choice, a draw where it does."""

from __future__ import annotations

import optuna
import pytest

from altermoma_ray.engine.space import Choice, Fixed, Float, PruningSetting, SearchSpace
from altermoma_ray.engine.space.distinct import key, number_of_settings

SIZES = {"camera": 8000, "lidar": 1200, "fusion": 1700}
SETTING = {"scope": "global", "sparsity": 0.9, "criterion": "snip", "learning_rate": 1e-3}


def drawn(space, count=8):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [study.ask() for _ in range(count)]
    return [(space.suggest(trial, SIZES, 0.9), trial.params) for trial in trials]


def test_a_setting_without_distillation_keeps_the_text_of_earlier_releases():
    plain = PruningSetting(**SETTING)
    assert PruningSetting(**SETTING, distillation=0) == plain
    assert "distillation" not in plain.model_dump_json()
    assert "distillation" not in plain.flat()


def test_a_weight_is_kept_told_and_makes_another_setting():
    setting = PruningSetting(**SETTING, distillation=0.3)
    assert PruningSetting.model_validate_json(setting.model_dump_json()) == setting
    assert setting.flat()["distillation"] == 0.3
    assert key(setting) != key(PruningSetting(**SETTING))
    # Scores do not depend on it: a search scores once for all weights.
    assert setting.wanted() == PruningSetting(**SETTING).wanted()


@pytest.mark.parametrize(
    ("offered", "expected"),
    [(Choice((0, 1.0)), {0.0, 1.0}), (Fixed(2), {2.0})],
)
def test_a_space_draws_what_it_offers(offered, expected):
    found = drawn(SearchSpace(distillation=offered))
    assert {setting.distillation for setting, _ in found} == expected
    assert all(("distillation" in params) == (len(expected) > 1) for _, params in found)


def test_a_pair_is_a_range():
    weights = [setting.distillation for setting, _ in drawn(SearchSpace(distillation=(0.5, 2.0)))]
    assert len(set(weights)) == len(weights)
    assert all(0.5 <= weight <= 2 for weight in weights)


@pytest.mark.parametrize(
    ("offered", "held"), [(Choice((0.0, 1.0)), True), (Float(0.0, 2.0), True), ((0.5, 2.0), False), (Fixed(1.0), False)]
)
def test_the_paper_s_trial_never_distils_and_is_learned_from_where_0_is_offered(offered, held):
    space = SearchSpace(distillation=offered, beta=(0.0, 1.0), reactivation_gradient="last-batch")
    published = space.published(0.9)
    assert space.setting(published, SIZES, 0.9).distillation == 0
    assert space.holds(published) == held
    if held:
        study = optuna.create_study()
        study.enqueue_trial(published)
        assert space.suggest(study.ask(), SIZES, 0.9).distillation == 0


def test_weights_count_as_settings_of_a_finite_space():
    one = {"criteria": ("snip",), "scopes": ("global",), "schedules": ("one-shot",), "learning_rate": Fixed(1e-3)}
    space = SearchSpace(**one, distillation=Choice((0.0, 0.5, 1.0)), published_first=False)
    assert number_of_settings(space, SIZES, 0.5, most=10) == 3


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_weights_below_0_and_without_end_are_refused(weight):
    with pytest.raises(ValueError, match="distillation"):
        PruningSetting(**SETTING, distillation=weight)


def test_a_range_below_0_is_refused():
    with pytest.raises(ValueError, match=r"`distillation >= 0` must hold, but got \(-1.0, 1.0\); raise the lower end"):
        SearchSpace(distillation=(-1, 1))
    with pytest.raises(ValueError, match=r"distillation must be of numbers, but got .*; write numbers"):
        SearchSpace(distillation=Choice(("much",)))

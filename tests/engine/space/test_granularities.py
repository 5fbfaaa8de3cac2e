"""What is pruned as a whole: drawn where a space offers several, and silent where it is single weights as ever."""

from __future__ import annotations

from dataclasses import dataclass

import optuna
import pytest

from altermoma_ray.engine.space import PruningSetting, SearchSpace
from altermoma_ray.engine.space.distinct import key
from altermoma_ray.pruning.channels import Bounds
from altermoma_ray.pruning.granularity import GRANULARITIES, Channel, Weight

SIZES = {"camera": 8000, "lidar": 1200, "fusion": 1700}
SETTING = {"scope": "global", "sparsity": 0.9, "criterion": "snip", "learning_rate": 1e-3}


@dataclass(frozen=True)
class Other(Weight):
    """Another granularity, as far as a search space can tell."""


@pytest.fixture
def other(monkeypatch):
    monkeypatch.setitem(GRANULARITIES, "other", Other())
    return "other"


def drawn(space, count=12):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [study.ask() for _ in range(count)]
    return [(space.suggest(trial, SIZES, 0.9), trial.params) for trial in trials]


def test_the_text_of_a_setting_of_single_weights_is_that_of_earlier_releases():
    setting = PruningSetting(**SETTING)
    assert setting.model_dump_json() == (
        '{"scope":"global","sparsity":0.9,"ratios":null,"criterion":"snip","alpha":1.0,"beta":0.0,'
        '"reactivation_steps":null,"reactivation_learning_rate":null,"reactivation_gradient":"scoring-batches",'
        '"normalisation":"group","scoring_batches":null,"norms":"running","schedule":"one-shot","learning_rate":0.001}'
    )
    assert "granularity" not in setting.model_dump()
    assert PruningSetting.model_validate_json(setting.model_dump_json()) == setting
    assert setting.units == Weight()


def test_another_granularity_is_kept_and_makes_another_setting(other):
    setting = PruningSetting(**SETTING, granularity=other)
    assert PruningSetting.model_validate_json(setting.model_dump_json()) == setting
    assert key(setting) != key(PruningSetting(**SETTING))
    assert setting.units == Other()


def test_a_space_of_single_weights_draws_as_ever():
    assert all("granularity" not in params for _, params in drawn(SearchSpace()))
    assert "granularity" not in SearchSpace().published(0.9)


def test_a_space_of_several_draws_each_and_learns_from_the_paper_s_trial(other):
    space = SearchSpace(granularities=(other, "weight"), beta=(0.0, 1.0), reactivation_gradient="last-batch")
    assert all(setting.granularity == params["granularity"] for setting, params in drawn(space))
    assert {setting.granularity for setting, _ in drawn(space)} == {"weight", other}
    published = space.published(0.9)
    assert published["granularity"] == "weight"  # the paper's
    assert space.holds(published)
    study = optuna.create_study()
    study.enqueue_trial(published)
    assert space.suggest(study.ask(), SIZES, 0.9) == space.setting(published, SIZES, 0.9)


def test_one_other_granularity_holds_for_every_trial(other):
    space = SearchSpace(granularities=(other,), criteria=("altermoma", "snip"))
    assert {setting.granularity for setting, _ in drawn(space)} == {other}
    assert space.setting(space.published(0.9), SIZES, 0.9).granularity == other


@pytest.mark.parametrize("kind", [SearchSpace, PruningSetting])
def test_unknown_granularities_are_refused(kind, other):
    def make(name):
        return (
            SearchSpace(granularities=(name,)) if kind is SearchSpace else PruningSetting(**SETTING, granularity=name)
        )

    with pytest.raises(ValueError, match="must be one of weight, channel, n_of_m, other, but got 'filter'"):
        make("filter")
    assert make(other)


def test_bounds_are_part_of_a_setting_of_channels_and_of_no_other():
    bounds = Bounds(least=0.2, multiple=8, multiple_of={"head.*": 4})
    space = SearchSpace(granularities=("channel", "weight"), criteria=("snip", "imp"), bounds=bounds)
    for setting, params in drawn(space):
        assert setting.bounds == (bounds if params["granularity"] == "channel" else Bounds())
        assert PruningSetting.model_validate_json(setting.model_dump_json()) == setting
        if setting.granularity == "channel":
            assert setting.units == Channel(bounds)
            assert setting.flat()["bounds.multiple_of"] == '{"head.*": 4}'
    assert SearchSpace.model_validate_json(space.model_dump_json()) == space
    plain, bounded = (PruningSetting(**SETTING, granularity="channel", bounds=one) for one in (Bounds(), bounds))
    assert key(plain) != key(bounded)
    assert "bounds" not in plain.model_dump()
    with pytest.raises(ValueError, match="`bounds` go with granularity 'channel' only, but got 'weight'"):
        PruningSetting(**SETTING, bounds=bounds)
    with pytest.raises(ValueError, match="channel bounds have least, multiple, least_of, multiple_of, but got leest"):
        PruningSetting(**SETTING, granularity="channel", bounds={"leest": 0.2})
    with pytest.raises(ValueError, match=r"the least share of channels must be above 0 and at most 1, but got 1\.5"):
        PruningSetting(**SETTING, granularity="channel", bounds={"least_of": {"head.*": 1.5}})


def test_masks_are_asked_for_by_granularity_and_bounds():
    given = {**SETTING, "criterion": "imp"}
    settings = [
        PruningSetting(**given),
        PruningSetting(**given, granularity="channel"),
        PruningSetting(**given, granularity="channel", bounds=Bounds(multiple=8)),
    ]
    requests = [setting.wanted().masks[0] for setting in settings]
    assert len({request.file for request in requests}) == 3
    assert [request.units for request in requests] == [setting.units for setting in settings]

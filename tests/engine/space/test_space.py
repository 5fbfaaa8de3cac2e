from __future__ import annotations

import importlib
import json

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from altermoma_ray.engine.scoring.indicators import MaskRequest, scores_file
from altermoma_ray.engine.search.plan import SearchPlan
from altermoma_ray.engine.search.resuming import resume_search
from altermoma_ray.engine.space import PruningSetting, SearchSpace
from altermoma_ray.engine.space.files import load_space, reference_to
from altermoma_ray.errors import UserError
from altermoma_ray.pruning import Reactivation
from altermoma_ray.pruning.criteria import CRITERIA, AlterMOMA, ProsPr, Snip
from altermoma_ray.storage import Location
from tests.plans import toy_workload

SIZES = {"camera": 8000, "lidar": 1200, "fusion": 1700}


def test_nusc_space_is_known_and_scores_each_setting_once():
    space = load_space("nusc")
    settings_ = space.reactivations()
    drawn = len(space.reactivation_steps) * len(space.reactivation_learning_rates)
    assert len(settings_) == len(set(settings_)) == drawn + 1  # and the paper's own, with another second gradient
    assert Reactivation(steps=8, learning_rate=1e-4) in settings_
    assert Reactivation(steps=8, learning_rate=1e-4, gradient="last-batch") in settings_


@given(seed=st.integers(0, 10_000), sparsity=st.floats(0.5, 0.97))
@settings(max_examples=40, deadline=None)
def test_every_draw_meets_the_total_sparsity(seed, sparsity):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    setting = SearchSpace(scopes=("group",)).suggest(study.ask(), SIZES, sparsity)
    removed = sum(round(setting.ratios[group] * size) for group, size in SIZES.items())
    assert abs(removed - sparsity * sum(SIZES.values())) <= 1


def test_every_criterion_is_reachable_and_reads_only_what_it_needs():
    space = SearchSpace()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [space.suggest(study.ask(), SIZES, 0.9) for _ in range(60)]
    assert {setting.criterion for setting in drawn} == set(space.criteria)
    for setting in drawn:
        assert (setting.reactivation in space.reactivations()) == (setting.criterion == "altermoma")
        assert setting.beta == 0 or setting.criterion == "altermoma"


def test_published_setting_is_the_paper_s():
    space = SearchSpace()
    setting = space.setting(space.published(0.9), SIZES, 0.9)
    assert (setting.criterion, setting.scope, setting.schedule) == ("altermoma", "global", "one-shot")
    assert (setting.alpha, setting.beta) == (1.0, 1.0)
    assert setting.reactivation_learning_rate == 1e-4
    assert setting.ratios is None
    assert setting.reactivation.gradient == "last-batch"
    assert setting.reactivation in space.reactivations()


def test_the_paper_s_trial_can_take_its_second_gradient_on_the_scoring_batches():
    space = SearchSpace(published_gradient="scoring-batches")
    assert space.setting(space.published(0.9), SIZES, 0.9).reactivation.gradient == "scoring-batches"
    assert len(space.reactivations()) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beta": (1.0, 0.5)}, r"`low <= high` must hold for beta"),
        ({"sparsity": (0.5, 1.0)}, r"`0 <= sparsity < 1` must hold"),
        ({"beta": (-1.0, 0.5)}, r"`beta >= 0` must hold"),
        ({"criteria": ("snap",)}, r"`criteria` must be out of altermoma, .* but got 'snap'"),
        ({"rungs": (0.5, 0.4)}, r"`rungs` must rise inside"),
        ({"rungs": (0.0, 0.5), "rung_statistics": 0}, r"`rungs` must rise .*; leave 0 out, or set `rung_s"),
        ({"rung_samples": 1.5}, r"rung_samples"),
        ({"rung_samples": 0.0}, r"rung_samples"),
        ({"rungs": (0.1,), "rung_statistics": 0}, r"`pruning_phase <= rungs\[0\]` must hold"),
    ],
)
def test_a_space_is_checked_when_it_is_made(fields, message):
    with pytest.raises(ValueError, match=message):
        SearchSpace(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scope": "group", "ratios": {"camera": 1.0}}, r"`0 <= ratio < 1` must hold, but camera got 1.0"),
        ({"scope": "group"}, r"`ratios` go with scope 'group' only"),
        ({"criterion": "snap"}, r"`criterion` must be one of altermoma, .*, but got 'snap'"),
        ({"criterion": "unpruned"}, r"the unpruned model has sparsity 0, but got 0.9"),
        ({"beta": 0.5}, r"beta=0.5 needs `reactivation_steps` and `reactivation_learning_rate`"),
        ({"criterion": "synflow", "schedule": "cubic"}, r"synflow brings its own schedule, but got 'cubic'"),
    ],
)
def test_a_setting_is_checked_when_it_is_made(fields, message):
    with pytest.raises(ValueError, match=message):
        PruningSetting(**{"scope": "global", "sparsity": 0.9, "learning_rate": 1e-3, **fields})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "defines neither SPACE"),
        ("SPACE = 3", "defines neither SPACE"),
        ("def broken(", "does not run: SyntaxError"),
        (
            "from altermoma_ray.engine.space import SearchSpace\nSPACE = SearchSpace(betas=(0, 1))",
            "betas: Extra inputs",
        ),
    ],
)
def test_a_user_s_space_file_is_checked(tmp_path, text, message):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        load_space("nusc", file)


def test_unknown_spaces_are_named(tmp_path):
    with pytest.raises(UserError, match=r"unknown search space 'waymo'; choose kitti, nusc"):
        load_space("waymo")
    with pytest.raises(UserError, match="no search space file"):
        load_space("nusc", tmp_path / "missing.py")


@pytest.fixture
def registered(monkeypatch):
    own = AlterMOMA(beta=0.3, normalisation="layer", reactivation=Reactivation(steps=5, learning_rate=3e-4))
    monkeypatch.setitem(CRITERIA, "mine", own)
    return own


def test_a_registered_criterion_runs_with_its_own_parameters(registered):
    space = SearchSpace(criteria=("mine",))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    setting = space.suggest(study.ask(), SIZES, 0.9)
    assert (setting.build().alpha, setting.build().beta) == (1.0, 0.3)
    assert setting.build().normalisation == "layer"
    assert setting.reactivation == registered.reactivation
    assert registered.reactivation in space.reactivations()
    assert PruningSetting.model_validate_json(setting.model_dump_json()) == setting


def test_stored_scores_are_named_by_a_criterion_s_parameters_and_source(monkeypatch, tmp_path):
    names = set()
    for criterion in (ProsPr(steps=3), ProsPr(steps=9), ProsPr(steps=3, learning_rate=0.1), Snip()):
        monkeypatch.setitem(CRITERIA, "mine", criterion)
        names.add(scores_file("mine"))
        names.add(MaskRequest(criterion="mine", sparsity=0.5).file)
    assert len(names) == 8
    assert ProsPr(steps=3).key() == ProsPr(steps=3).key()

    keys = set()
    for number, factor in enumerate((1, 2)):
        text = (
            "from dataclasses import dataclass\nfrom altermoma_ray.pruning.criteria import Magnitude\n"
            "@dataclass(frozen=True, kw_only=True)\nclass Own(Magnitude):\n"
            f"    def scores(self, problem):\n        return {factor} * super().scores(problem)\n"
        )
        (tmp_path / f"own_{number}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        keys.add(importlib.import_module(f"own_{number}").Own().key())
    assert len(keys) == 2


OWN = """
from altermoma_ray.engine.space import SearchSpace

class Narrow(SearchSpace):
    floor: float = 0.25

    def suggest(self, trial, sizes, sparsity):
        return super().suggest(trial, sizes, sparsity).model_copy(update={"learning_rate": self.floor})

SPACE = Narrow(beta=(0.0, 0.1), floor=0.5)
"""


def saved_plan(tmp_path, space, file):
    plan = SearchPlan(
        name="first", workload=toy_workload(tmp_path), checkpoint=str(tmp_path / "model.safetensors"),
        checkpoint_hash="0", sizes=SIZES, space=space, space_reference=reference_to(space, file),
        objective="map", sparsity=0.9, trials=4, seed=0, workers=1, gpus_per_worker=0,
    )  # fmt: skip
    plan.save()
    return plan


def test_a_space_of_a_class_of_its_own_is_the_same_after_resuming(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    plan = saved_plan(tmp_path, load_space(None, file), file)
    again = SearchPlan.load(Location.parse(tmp_path), "first")
    assert again.space == plan.space == load_space(None, file)
    assert type(again.space).__name__ == "Narrow"
    studies = [optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)) for _ in range(2)]
    drawn = [
        [one.space.suggest(study.ask(), SIZES, 0.9) for _ in range(3)]
        for one, study in zip((plan, again), studies, strict=True)
    ]
    assert drawn[0] == drawn[1]
    assert {setting.learning_rate for setting in drawn[1]} == {0.5}


def test_a_search_of_an_earlier_release_stops_trials_by_its_defaults(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    plan = saved_plan(tmp_path, load_space(None, file), file)
    saved = plan.folder.join("search.json")
    fields = json.loads(saved.read_text())
    fields["space"] |= {"rungs": [0.25], "rung_samples": 40}
    del fields["space"]["rung_statistics"], fields["space"]["patience"]
    saved.write_text(json.dumps(fields))
    space = SearchPlan.load(Location.parse(tmp_path), "first").space
    assert (space.rungs, space.rung_samples, space.rung_statistics, space.patience) == ((0.25,), 40, 0, 0.0)
    assert (space.beta, space.floor) == ((0.0, 0.1), 0.5)


def test_a_space_whose_file_was_changed_or_is_gone_is_refused(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    saved_plan(tmp_path, load_space(None, file), file)
    file.write_text(OWN.replace("0.5", "0.75"))
    with pytest.raises(UserError, match=r"^search 'first' takes its space from .*own.py, which was changed since; put"):
        SearchPlan.load(Location.parse(tmp_path), "first")
    file.unlink()
    with pytest.raises(UserError, match=r"^search 'first' takes its space from .*own.py, which is not there; put"):
        SearchPlan.load(Location.parse(tmp_path), "first")


def test_a_plain_space_needs_no_file_to_resume(tmp_path):
    plan = saved_plan(tmp_path, SearchSpace(beta=(0.0, 0.1)), None)
    assert SearchPlan.load(Location.parse(tmp_path), "first") == plan


def test_a_search_whose_space_is_gone_stands_in_no_other_s_way(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    first = saved_plan(tmp_path, load_space(None, file), file)
    later = {"name": "second", "space": SearchSpace(), "space_reference": None, "created": first.created + 1}
    first.model_copy(update=later).save()
    file.unlink()
    assert resume_search(Location.parse(tmp_path), None).name == "second"
    with pytest.raises(UserError, match=r"^search 'first' takes its space from .*own.py, which is not there"):
        resume_search(Location.parse(tmp_path), "first")

"""Spaces that are a user's function."""

from __future__ import annotations

import re

import pytest

from altermoma_ray.engine.space import PruningSetting, SearchSpace, SuggestedSpace
from altermoma_ray.engine.space.distinct import number_of_settings
from altermoma_ray.engine.space.files import SpaceReference, load_space, reference_to
from altermoma_ray.errors import UserError
from altermoma_ray.pruning import Reactivation

SIZES = {"camera": 8000, "lidar": 1200, "fusion": 1700}
OWN = """
from altermoma_ray.engine.space import PruningSetting, SearchSpace

SPACE = SearchSpace(rungs=(0.5,), fine_tune_epochs=0.1, reactivation_steps=(4,))

def suggest(trial, workload):
    assert set(workload.sizes) == {"camera", "lidar", "fusion"}
    camera = trial.suggest_float("camera", 0.9, 0.95)
    criterion = trial.suggest_categorical("criterion", ("imp", "snip", "altermoma"))
    fields = {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-3, log=True), "criterion": criterion}
    if criterion == "imp":
        fields["parameters"] = {"rounds": trial.suggest_int("rounds", 1, 3)}
    if criterion == "altermoma":
        fields |= {"beta": 0.5, "reactivation_steps": 4, "reactivation_learning_rate": 1e-4}
        return PruningSetting(scope="global", sparsity=workload.sparsity, **fields)
    fields["ratios"] = workload.ratios({"lidar": 0.0, "fusion": 0.5}, fixed={"camera": camera})
    return fields
"""


@pytest.fixture
def load(tmp_path):
    """The space of a file with this text, and the file."""

    def run(text):
        file = tmp_path / "mine.py"
        file.write_text(text)
        return load_space(None, file), file

    return run


def test_a_function_s_settings_are_run_as_it_returns_them(load, propose):
    space, _ = load(OWN)
    space.check(SIZES, 0.9)
    assert (space.rungs, space.fine_tune_epochs) == ((0.5,), 0.1)
    tasks = propose(space)
    assert tasks[0].setting == SearchSpace(reactivation_steps=(4,)).setting(space.published(0.9), SIZES, 0.9)
    drawn = [task.setting for task in tasks[1:]]
    assert {setting.criterion for setting in drawn} == {"imp", "snip", "altermoma"}
    for setting in drawn:
        assert (setting.scope == "global") == (setting.criterion == "altermoma")
        assert set(setting.parameters) == ({"rounds"} if setting.criterion == "imp" else set())
        if setting.ratios:
            removed = sum(round(setting.ratios[group] * size) for group, size in SIZES.items())
            assert removed == round(0.9 * sum(SIZES.values()))


@pytest.mark.parametrize("stopped", [1, 6, 12])
def test_a_function_s_search_is_resumed_with_the_same_trials(stopped, load, propose):
    space, file = load(OWN)
    reference = SpaceReference.model_validate_json(reference_to(space, file).model_dump_json())
    again = reference.load("first")
    assert again == space
    assert propose(again, stopped=stopped) == propose(space)
    file.write_text(OWN.replace("0.95)", "0.96)"))
    assert load_space(None, file) != space
    with pytest.raises(
        UserError, match=r"^search 'first' takes its space from .*mine.py, which was changed since; put"
    ):
        reference.load("first")


def test_what_space_names_is_scored_beforehand_and_the_rest_by_the_trials(load):
    space, _ = load(OWN)
    drawn, published = (
        Reactivation(steps=4, learning_rate=1e-4, gradient=g) for g in ("scoring-batches", "last-batch")
    )
    assert (space.wanted().settings, len(space.wanted())) == ((drawn, published), 2)
    named, _ = load(OWN.replace("reactivation_steps=(4,)", "criteria=('snip', 'imp')"))
    assert [request.criterion for request in named.wanted().criteria] == ["snip"]
    alone, _ = load(OWN.replace("SPACE =", "space ="))
    assert [one.gradient for one in alone.wanted().settings] == ["last-batch"]  # of the paper's own trial
    without, _ = load(OWN.replace("reactivation_steps=(4,)", "published_first=False"))
    assert len(without.wanted()) == 0


def test_a_file_may_begin_with_its_own_trial(load, propose):
    space, _ = load(OWN.replace("reactivation_steps=(4,)", "published_first=False"))
    assert propose(space)[0].setting.learning_rate != propose(load(OWN)[0])[0].setting.learning_rate
    assert propose(space)[0].until == 0


def test_a_finite_function_is_counted_and_none_of_its_settings_comes_twice(load, propose):
    space, _ = load(
        "def suggest(trial, workload):\n"
        "    return {'criterion': trial.suggest_categorical('c', ('snip', 'imp')), 'learning_rate': 1e-3}\n"
    )
    assert number_of_settings(space, SIZES, 0.9, 100) == 3
    tasks = propose(space)
    assert sorted({task.setting.criterion for task in tasks}) == ["altermoma", "imp", "snip"]


def test_a_trial_may_choose_its_total_sparsity(draw):
    def suggest(trial, workload):
        assert workload.sparsity is None
        total = trial.suggest_float("sparsity", 0.5, 0.9)
        ratios = workload.ratios(dict.fromkeys(workload.sizes, 0.0), sparsity=total)
        return {"sparsity": total, "ratios": ratios, "criterion": "snip", "learning_rate": 1e-3}

    found = [setting for setting, _ in draw(SuggestedSpace.of(suggest), sparsity=None)]
    assert len({setting.sparsity for setting in found}) == len(found)


GOOD = '{"criterion": "snip", "learning_rate": 1e-3, '


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    return 1 / 0", r"line 2: suggest raised ZeroDivisionError: division by zero; mend the file"),
        ("    x = workload.sizes\n    return x['radar']", r"line 3: suggest raised KeyError: 'radar'; mend the file"),
        (
            "    return workload.ratios({}, fixed={'radar': 0.5})",
            r"line 2: suggest: a ratio is fixed for 'radar', but the groups are camera",
        ),
        (
            "    import altermoma_ray.engine.space as s\n    return s.PruningSetting(scope='global')",
            r"line 3: suggest raised ValidationError: sparsity: Field required; mend the file",
        ),
        (
            "    return None",
            r"line 1: what suggest returns is no setting: it is None; return a PruningSetting or a dict",
        ),
        ("    return {'criterion': 'snip'}", r"line 1: what suggest .* no setting: learning_rate: Field required"),
        (f"    return {GOOD}'beat': 1}}", r"is no setting: beat: Extra inputs are not permitted"),
        (
            f"    return {GOOD}'sparsity': 0.5}}",
            r"its sparsity is 0.5, but the search asks for 0.9; take workload.spar",
        ),
        (
            f"    return {GOOD}'ratios': {{'camera': 0.9}}}}",
            r"its ratios are of camera, but the groups are camera, lidar, fusion",
        ),
        (
            f"    return {GOOD}'ratios': dict.fromkeys(workload.sizes, 0.8)}}",
            r"its ratios remove 0.8 of all weights, but its sparsity is 0.9; workload.ratios\(...\) finds",
        ),
        (f"    return {GOOD}'parameters': {{'rounds': 2}}}}", r"criterion snip has no parameters, but got 'rounds'"),
    ],
)
def test_a_mistake_in_a_function_is_told_before_anything_is_scored(body, message, load):
    space, file = load(f"def suggest(trial, workload):\n{body}\n")
    with pytest.raises(UserError, match=rf"^search space {re.escape(str(file))}, .*{message}") as told:
        space.check(SIZES, 0.9)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "def suggest(trial):\n    pass\n",
            r"suggest must take \(trial, workload\), but too many positional arguments",
        ),
        ("SPACE = 3\ndef suggest(trial, workload):\n    pass\n", r"defines neither SPACE = SearchSpace"),
        (
            "from altermoma_ray.engine.space import SearchSpace\nclass Own(SearchSpace):\n"
            "    def suggest(self, *given):\n        pass\n"
            "SPACE = Own()\ndef suggest(trial, workload):\n    pass\n",
            r"both SPACE and the file have a suggest; leave one out",
        ),
    ],
)
def test_a_file_that_cannot_suggest_is_refused_when_it_is_read(text, message, load):
    with pytest.raises(UserError, match=rf"^search space .*mine.py:? {message}"):
        load(text)


def test_a_function_s_setting_is_not_changed():
    setting = PruningSetting(scope="global", sparsity=0.9, criterion="snip", norms="batch", learning_rate=1e-3)
    space = SuggestedSpace.of(lambda trial, workload: setting)
    assert space.suggest(None, SIZES, 0.9) is setting

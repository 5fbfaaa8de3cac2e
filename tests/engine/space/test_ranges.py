"""Ranges of a space: what Optuna is asked, what is refused, and that all comes back from JSON."""

from __future__ import annotations

import pytest

from altermoma_ray.engine.scoring.requests import MaskRequest, ScoreRequest, Wanted
from altermoma_ray.engine.space import Choice, Fixed, Float, PruningSetting, SearchSpace
from altermoma_ray.engine.space.distinct import number_of_settings
from altermoma_ray.engine.trials.job import TrialTask
from altermoma_ray.errors import UserError
from altermoma_ray.pruning import Reactivation
from altermoma_ray.pruning.criteria import CRITERIA, IMP, ProsPr

SIZES = {"camera": 8000, "lidar": 1200, "fusion": 1700}
VARIED = {
    "criteria": ("altermoma", "imp", "prospr"),
    "beta": Choice((0.0, 0.25)),
    "learning_rate": Fixed(1e-3),
    "schedules": Fixed("cubic"),
    "parameters": {
        "altermoma": {"normalisation": Choice(("group", "layer"))},
        "imp": {"rounds": Choice((2, 4)), "learning_rate": Float(1e-4, 1e-2, log=True)},
        "prospr": {"steps": Choice((1, 3)), "learning_rate": Fixed(1)},
    },
}


def test_a_space_of_ranges_comes_back_from_json():
    space = SearchSpace(**VARIED, ratios={"camera": Fixed(0.9), "lidar": Float(0.2, 0.5)})
    again = SearchSpace.model_validate_json(space.model_dump_json())
    assert again == space
    assert again.parameters["imp"]["learning_rate"] == Float(1e-4, 1e-2, log=True)
    assert again.parameters["imp"]["rounds"].values == (2, 4)
    assert all(type(value) is int for value in again.parameters["imp"]["rounds"].values)


def test_a_pair_and_a_range_ask_the_same(propose):
    pairs = SearchSpace(beta=(0.0, 0.3), learning_rate=(1e-4, 1e-3), preference=(-1, 1))
    ranges = SearchSpace(beta=Float(0, 0.3), learning_rate=Float(1e-4, 1e-3, log=True), preference=Float(-1, 1))
    assert propose(pairs) == propose(ranges)


def test_a_criterion_s_own_parameters_are_drawn_for_it_alone(draw):
    found = draw(SearchSpace(**VARIED), times=60)
    assert {setting.criterion for setting, _ in found} == set(VARIED["criteria"])
    for setting, names in found:
        own = {name for name in names if "." in name}
        assert "learning_rate" not in names  # it is fixed: Optuna does not hear of it
        match setting.criterion:
            case "imp":
                assert own == {"imp.rounds", "imp.learning_rate"}
                assert setting.build() == IMP(**setting.parameters)
            case "prospr":
                assert own == {"prospr.steps"}
                assert setting.build() == ProsPr(steps=setting.parameters["steps"], learning_rate=1.0)
            case "altermoma":
                assert own == {"altermoma.normalisation"}
                assert setting.parameters == {}  # a setting has a field for these
                assert setting.build().normalisation == setting.normalisation
                assert setting.build().beta == setting.beta
    layers = {setting.normalisation for setting, _ in found if setting.criterion == "altermoma"}
    rounds = {setting.parameters["rounds"] for setting, _ in found if setting.criterion == "imp"}
    assert (layers, rounds) == ({"group", "layer"}, {2, 4})


def test_a_range_of_beta_for_one_criterion_comes_before_that_of_all(draw):
    space = SearchSpace(
        criteria=("altermoma", "altermoma-residual"), parameters={"altermoma": {"beta": Float(0.6, 0.8)}}
    )
    for setting, names in draw(space):
        own = setting.criterion == "altermoma"
        assert (0.6 <= setting.beta <= 0.8) == own
        assert ({"altermoma.beta", "beta"} & names) == ({"altermoma.beta"} if own else {"beta"})
    assert space.setting(space.published(0.9), SIZES, 0.9).beta == 1.0
    assert not space.holds(space.published(0.9))


def test_the_paper_s_trial_is_learnt_from_where_the_ranges_hold_it(propose):
    varied = {"altermoma": {"alpha": Choice((0.5, 1.0)), "beta": Float(0, 2)}}
    space = SearchSpace(criteria=("altermoma",), parameters=varied, published_gradient="scoring-batches")
    assert space.holds(space.published(0.9))
    setting = propose(space)[0].setting
    assert (setting.alpha, setting.beta, setting.scope) == (1.0, 1.0, "global")


def test_a_space_may_begin_without_the_paper_s_trial(propose):
    given = {"criteria": ("snip",), "scopes": ("group",)}
    tasks = propose(SearchSpace(**given, published_first=False))
    assert {task.setting.criterion for task in tasks} == {"snip"}
    assert tasks[0].until == 0  # as any other: it stops at the rung
    assert propose(SearchSpace(**given))[0].setting.criterion == "altermoma"
    few = {"scopes": ("global",), "criteria": ("snip",), "schedules": ("one-shot",), "learning_rate": Fixed(1e-3)}
    assert number_of_settings(SearchSpace(**few), SIZES, 0.9, 100) == 2
    assert number_of_settings(SearchSpace(**few, published_first=False), SIZES, 0.9, 100) == 1


@pytest.mark.parametrize("stopped", [1, 6, 13])
def test_a_search_of_own_parameters_is_resumed_with_the_same_trials(stopped, propose, tmp_path):
    space = SearchSpace(**VARIED)
    again = SearchSpace.model_validate_json(space.model_dump_json())
    tasks = propose(space)
    assert propose(again, stopped=stopped) == tasks
    assert any(task.setting.parameters for task in tasks)
    for task in tasks:
        assert TrialTask.model_validate_json(task.model_dump_json()) == task


def test_a_finite_space_of_parameters_is_counted(propose):
    space = SearchSpace(
        criteria=("imp",), scopes=("global",), learning_rate=Fixed(1e-3),
        parameters={"imp": {"rounds": Choice((1, 2, 3)), "steps": Choice((10, 20))}},
    )  # fmt: skip
    assert number_of_settings(space, SIZES, 0.9, 100) == 7  # six, and the paper's
    assert len({task.setting.model_dump_json() for task in propose(space)}) == 7


def test_what_is_known_beforehand_is_scored_once_and_the_rest_by_the_trials(draw):
    space = SearchSpace(**VARIED)
    wanted = space.wanted()
    assert [request.parameters for request in wanted.criteria] == [
        {"steps": steps, "learning_rate": rate} for steps in (1, 3) for rate in (1,)
    ]
    files = {request.file for request in wanted.criteria}
    for setting, _ in draw(space):
        asked = setting.wanted()
        assert {request.file for request in asked.criteria} <= files
        assert [request.build() for request in asked.masks] == ([setting.build()] if setting.criterion == "imp" else [])
        assert set(asked.settings) <= set(wanted.settings)
    endless = SearchSpace(criteria=("prospr",), parameters={"prospr": {"learning_rate": Float(1e-3, 1e-2)}})
    assert endless.wanted().criteria == ()
    assert all(len(setting.wanted().criteria) == 1 for setting, _ in draw(endless))


def test_two_values_of_a_parameter_never_share_a_file():
    scores = [ScoreRequest(criterion="prospr", parameters=p).file for p in ({}, {"steps": 1}, {"steps": 2})]
    masks = [MaskRequest(criterion="imp", sparsity=0.9, parameters=p).file for p in ({}, {"rounds": 1}, {"rounds": 2})]
    assert len({*scores, *masks}) == 6
    assert ScoreRequest(criterion="prospr", parameters={"steps": 3}).file == scores[0]  # 3 is how it is registered
    assert Wanted(criteria=("snip",)).model_dump(mode="json")["criteria"] == ["snip"]  # as earlier releases wrote it
    with pytest.raises(ValueError, match="of deci indicators are kept, not scores"):
        ScoreRequest(criterion="deci")


def test_beta_of_deci_may_be_varied_and_is_then_read_with_the_first_reactivation(draw):
    space = SearchSpace(
        criteria=("deci",), reactivation_steps=(4, 8), parameters={"deci": {"beta": Choice((0.0, 0.2))}}
    )
    first = Reactivation(steps=4, learning_rate=1e-4)
    assert {(setting.beta, setting.reactivation) for setting, _ in draw(space)} == {(0.0, None), (0.2, first)}
    assert first in space.wanted().settings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parameters": {"snap": {}}}, r"`parameters` must be of altermoma, .*, but got 'snap'; leave it out"),
        ({"parameters": {"imp": {"rounds": Fixed(2)}}}, r"`parameters` vary imp, which is not among `criteria`; add"),
        ({"parameters": {"snip": {"rounds": Fixed(2)}}}, r"snip has no parameters, but got 'rounds'; leave it out"),
        (
            {"criteria": ("imp",), "parameters": {"imp": {"round": Fixed(2)}}},
            r"imp has no parameter 'round'; choose out of rounds, steps, learning_rate",
        ),
        (
            {"criteria": ("imp",), "parameters": {"imp": {"rounds": Choice((2, 0))}}},
            r"criterion imp refuses rounds=0: IMP needs rounds >= 1",
        ),
        (
            {"criteria": ("imp",), "parameters": {"imp": {"rounds": Float(2, 4)}}},
            r"criterion imp refuses rounds=2.0: it should be a valid integer; choose another value",
        ),
        (
            {"parameters": {"altermoma": {"normalisation": Choice(("group", "row"))}}},
            r"normalisation: Input should be 'group' or 'layer'",
        ),
        ({"parameters": {"altermoma": {"alpha": Fixed(-1.0)}}}, r"alpha: Input should be greater than or equal to 0"),
        (
            {"parameters": {"altermoma": {"beta": (0.0, 1.0)}}},
            r"parameters of altermoma must be drawn from Float\(low, high\), .* but beta got \(0.0, 1.0\)",
        ),
        ({"beta": Float(0.5, 0.7), "learning_rate": Float(0, 1)}, r"`learning_rate > 0` must hold, but got \(0"),
        ({"learning_rate": (0.0, 1.0)}, r"`learning_rate > 0` must hold, but got \(0"),
        ({"sparsity": Choice((0.5, 1.0))}, r"`0 <= sparsity < 1` must hold, but got \(0.5, 1.0\)"),
        ({"beta": Fixed("much")}, r"beta must be of numbers, but got Fixed.*; write numbers"),
        ({"ratios": {"camera": Fixed(1.0)}}, r"`0 <= ratio < 1` must hold, but camera got Fixed"),
        ({"ratios": {"camera": 0.5}}, r"ratios must be drawn from Float\(low, high\), .* but camera got 0.5"),
        (
            {"ratios": {"camera": Fixed(0.5)}, "scopes": ("group", "global")},
            r"`ratios` go with scope 'group' only, but got scopes \('group', 'global'\); leave `scopes` out",
        ),
    ],
)
def test_a_range_that_cannot_be_is_refused_when_the_space_is_made(fields, message):
    with pytest.raises(ValueError, match=message):
        SearchSpace(**fields)


def test_ends_of_a_range_are_checked():
    with pytest.raises(ValueError, match=r"`low <= high` must hold, but got Float\(2.0, 1.0\); swap them"):
        Float(2, 1)
    with pytest.raises(ValueError, match=r"a logarithmic axis needs `low > 0`, but got Float\(0.0, 1.0\); raise low"):
        Float(0, 1, log=True)
    with pytest.raises(ValueError, match="a value must be finite, but got nan"):
        Choice((1.0, float("nan")))


@pytest.mark.parametrize("drawn", [Fixed(0.95), Float(0.9, 0.95)])
def test_the_other_groups_make_up_what_a_ratio_of_one_leaves(drawn, draw):
    space = SearchSpace(ratios={"camera": drawn}, sparsity=(0.8, 0.9))
    for sparsity in (0.85, None):
        space.check(SIZES, sparsity)
        for setting, names in draw(space, sparsity=sparsity):
            assert setting.scope == "group"
            assert drawn.holds(setting.ratios["camera"])
            removed = sum(round(setting.ratios[group] * size) for group, size in SIZES.items())
            assert removed == round(setting.sparsity * sum(SIZES.values()))
            assert {"preference_lidar", "preference_fusion"} <= names
            assert ("ratio_camera" in names) == isinstance(drawn, Float)
            assert "preference_camera" not in names


def test_two_fixed_ratios_leave_no_choice_to_the_third_group(draw):
    space = SearchSpace(ratios={"camera": Fixed(0.9), "lidar": Fixed(0.5)})
    ratios = {tuple(setting.ratios.items()) for setting, names in draw(space, sparsity=0.85)}
    assert len(ratios) == 1
    assert dict(next(iter(ratios)))["fusion"] == pytest.approx((0.85 * 10900 - 7200 - 600) / 1700, abs=1e-3)
    assert not any(name.startswith("preference") for _, names in draw(space, sparsity=0.85) for name in names)


@pytest.mark.parametrize("stopped", [1, 5, 12])
def test_a_search_with_a_fixed_ratio_is_resumed_with_the_same_trials(stopped, propose):
    space = SearchSpace(ratios={"camera": Fixed(0.95), "lidar": Float(0.5, 0.9)})
    again = SearchSpace.model_validate_json(space.model_dump_json())
    tasks = propose(space)
    assert propose(again, stopped=stopped) == tasks
    assert tasks[0].setting.scope == "global"  # the paper's own
    assert {task.setting.ratios["camera"] for task in tasks[1:]} == {0.95}


@pytest.mark.parametrize(
    ("ratios", "sparsity", "message"),
    [
        ({"radar": Fixed(0.5)}, 0.9, r"a ratio is fixed for 'radar', but the groups are camera, lidar, fusion; choose"),
        ({"camera": Float(0.5, 0.99)}, 0.7, r"sparsity of 0.7 cannot be met with camera=0.99: .* remove more; lower"),
        (
            {"camera": Float(0.5, 0.95)},
            0.9,
            r"of 0.9 cannot be met with camera=0.5: lidar, fusion cannot make up the r",
        ),
        ({"camera": Float(0.5, 0.95)}, None, r"cannot be met with camera=0.95: these alone remove more; lower them"),
        ({group: Fixed(0.9) for group in SIZES}, 0.9, r"ratios are fixed for all groups .*, so that none can make up"),
    ],
)
def test_ratios_that_cannot_be_met_are_refused_before_anything_is_scored(ratios, sparsity, message):
    with pytest.raises(UserError, match=rf"^search space: .*{message}"):
        SearchSpace(ratios=ratios).check(SIZES, sparsity)


def test_parameters_are_shown_with_a_trial_and_left_out_where_there_are_none():
    plain = PruningSetting(scope="global", sparsity=0.9, criterion="imp", learning_rate=1e-3)
    varied = plain.model_copy(update={"parameters": {"rounds": 2}})
    assert "parameters" not in plain.model_dump()
    assert "parameters" not in plain.flat()
    assert varied.flat() == plain.flat() | {"imp.rounds": 2}
    assert PruningSetting.model_validate_json(varied.model_dump_json()) == varied


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parameters": {"rounds": 0}}, r"criterion imp refuses rounds=0: IMP needs rounds >= 1"),
        ({"parameters": {"round": 2}}, r"criterion imp has no parameter 'round'; choose out of rounds"),
        ({"criterion": "unpruned", "sparsity": 0.0, "parameters": {"rounds": 2}}, r"the unpruned model has no param"),
        (
            {"criterion": "deci", "parameters": {"beta": 0.5}, "beta": 0.25},
            r"`parameters` say beta=0.5, but the setting beta=0.25; leave one out",
        ),
    ],
)
def test_parameters_of_a_setting_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        PruningSetting(**{"scope": "global", "sparsity": 0.9, "criterion": "imp", "learning_rate": 1e-3, **fields})


def test_every_registered_criterion_can_be_drawn_and_says_what_it_needs(draw):
    """A new criterion is a file and a line in ``CRITERIA``: nothing in the engine knows its name."""
    for name, criterion in CRITERIA.items():
        for setting, _ in draw(SearchSpace(criteria=(name,)), times=3):
            wanted = setting.wanted()
            assert len(wanted) == 1
            assert bool(wanted.masks) == (criterion.needs == "masks")
            assert bool(wanted.criteria) == (criterion.needs == "scores")
            assert wanted.wants_contribution == (criterion.needs == "indicators")

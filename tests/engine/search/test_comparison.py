from __future__ import annotations

import math

import pytest

from altermoma_ray.cli import listed
from altermoma_ray.engine.search.comparison import (
    BETAS,
    DISTILLATIONS,
    ablation_settings,
    criteria_settings,
    grid,
    published_parts,
)
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.errors import UserError
from altermoma_ray.leaderboard import EARLIER as FIGURES
from altermoma_ray.pruning.channels import Bounds
from altermoma_ray.pruning.criteria import CRITERIA
from altermoma_ray.tracking.comparison.report import ablation_report, comparison_report
from altermoma_ray.tracking.result import TrialResult

SPACE = SearchSpace()


def test_a_comparison_differs_in_criterion_and_sparsity_alone():
    settings = criteria_settings(SPACE, list(CRITERIA), [0.85, 0.9])
    assert [s.criterion for s in settings] == ["unpruned", *CRITERIA, *CRITERIA]
    assert {(s.scope, s.schedule, s.learning_rate) for s in settings} == {
        ("global", "one-shot", settings[0].learning_rate)
    }
    published = next(s for s in settings if s.criterion == "altermoma")
    assert (published.alpha, published.beta, published.reactivation_learning_rate) == (1.0, 1.0, 1e-4)
    assert next(s for s in settings if s.criterion == "deci").reactivation is None
    reri = next(s for s in settings if s.criterion == "reri")
    assert (reri.alpha, reri.beta, reri.reactivation) == (0.0, 1.0, published.reactivation)


def test_unknown_criteria_are_named():
    with pytest.raises(UserError, match="unknown criterion 'snap'; choose out of altermoma"):
        criteria_settings(SPACE, ["snip", "snap"], [0.9])


def test_the_ablation_of_beta_is_figure_4():
    unpruned, *settings = ablation_settings(SPACE, "beta", [0.85])
    assert unpruned.criterion == "unpruned"
    assert [s.beta for s in settings] == list(BETAS) == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2]
    assert settings[0].reactivation is None


def test_the_ablation_of_the_reactivation_runs_no_setting_twice():
    _, *settings = ablation_settings(SPACE, "reactivation", [0.85])
    assert len({s.model_dump_json() for s in settings}) == len(settings)
    pairs = {(s.reactivation_steps, s.reactivation_learning_rate) for s in settings}
    assert {steps for steps, _ in pairs} == {1, 2, 4, 8, 16, 32, 64, 128}
    assert {rate for _, rate in pairs} == {1e-5, 1e-4, 1e-3, 1e-2}
    assert len(pairs) == 8 + 3 + 3  # the axes cross at the published setting, and the longest B meets every rate
    assert {s.scoring_batches for s in settings} == {1, 2, 4, 8, 16, 32, 64}
    assert {(s.norms, s.normalisation) for s in settings} == {
        ("running", "group"),
        ("batch", "group"),
        ("running", "layer"),
    }


def test_the_ablation_of_distillation_has_plain_fine_tuning_of_every_criterion():
    unpruned, *settings = ablation_settings(SPACE, "distillation", [0.85], ["altermoma", "snip"])
    assert [s.distillation for s in settings] == 2 * list(DISTILLATIONS)
    plain = [s.model_copy(update={"distillation": 0.0}) for s in settings]
    first, second = criteria_settings(SPACE, ["altermoma", "snip"], [0.85])[1:]
    assert plain == 4 * [first] + 4 * [second]  # nothing else differs
    results = [
        TrialResult(
            number=number,
            status="finished",
            metrics={"map": 0.5 + number / 100, "nds": 0.5},
            sparsity={"total": setting.sparsity},
            params={**setting.flat(), "seed": 0, "fine_tune_epochs": 1, "scoring_batches": SPACE.scoring_batches},
            started=0,
            ended=1,
        )
        for number, setting in enumerate([unpruned, *settings])
    ]
    report = ablation_report(results, {"map": 0.9, "nds": 0.5}, published_parts(SPACE, "distillation"), FIGURES)
    assert "| weight of distillation | AlterMOMA, 85 % | SNIP, 85 % | seeds |" in report.text
    assert "| 0 | .510 ± – | .550 ± – | 1 |" in report.text
    assert "| 3 | **.540 ± –** | **.580 ± –** | 1 |" in report.text
    assert {name for name in report.files if name.endswith(".png")} == {"distillation.png"}


def test_a_comparison_prunes_the_units_of_its_space():
    space = SearchSpace(granularities=("channel",), criteria=("snip",), bounds=Bounds(multiple=8))
    for settings in (criteria_settings(space, ["snip"], [0.5]), ablation_settings(space, "distillation", [0.5])):
        assert settings[0] == criteria_settings(SPACE, [], [])[0]  # the unpruned model is that of all comparisons
        assert {(s.granularity, s.bounds.multiple) for s in settings[1:]} == {("channel", 8)}


def test_trials_of_one_seed_are_pairs_and_follow_each_other():
    settings = criteria_settings(SPACE, ["snip"], [0.85])
    tasks = grid({"": settings, "search first": settings[1:]}, seeds=[3, 4], budgets=[0.1, 0.2])
    assert [task.number for task in tasks] == list(range(12))
    assert [task.seed for task in tasks] == [3] * 6 + [4] * 6
    assert [task.fine_tune_epochs for task in tasks[:6]] == [0.1] * 3 + [0.2] * 3
    assert [task.label for task in tasks[:3]] == [None, None, "search first"]


def test_values_that_are_named_twice_count_once():
    assert listed(str)("snip, deci,snip") == ["snip", "deci"]
    assert listed(float)("0.8,0.80,0.9") == [0.8, 0.9]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_trials_without_a_finite_figure_are_left_out_of_every_mean_and_named(value):
    figures = {("unpruned", 0): 0.8, ("unpruned", 1): 0.8, ("snip", 0): value, ("snip", 1): value, ("deci", 0): 0.4}
    figures[("deci", 1)] = value
    results = [
        TrialResult(
            number=number,
            status="finished",
            metrics={"map": score, "nds": score},
            sparsity={"total": 0.8},
            params={
                "criterion": name,
                "sparsity": 0.0 if name == "unpruned" else 0.8,
                "seed": seed,
                "fine_tune_epochs": 1,
            },
            started=0,
            ended=1,
        )
        for number, ((name, seed), score) in enumerate(figures.items())
    ]
    text = comparison_report(results, {"map": 0.9, "nds": 0.5}, FIGURES).text
    assert "| SNIP | – (0 of 2) | 0 |" in text
    assert "**.400 ± –** (1 of 2)" in text
    for number in (2, 3, 5):
        assert f"- trial {number} (" in text
        assert f"finished: its mAP is {value}" in text
    assert str(value) not in text.split("Trials without a result")[0]

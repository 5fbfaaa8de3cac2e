"""The draws of spaces, trials and names in storage of the release before ranges were typed: none of them may change."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest

from altermoma_ray.engine.search.comparison import ablation_settings, criteria_settings
from altermoma_ray.engine.search.plan import SearchPlan
from altermoma_ray.engine.search.proposals import Proposals
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.engine.space.distinct import key
from altermoma_ray.engine.trials.job import TrialTask
from altermoma_ray.leaderboard import EARLIER as FIGURES
from altermoma_ray.storage import Location
from altermoma_ray.tracking.objective import Objective
from altermoma_ray.tracking.result import Evaluation, TrialResult

PINNED = json.loads(Path(__file__).with_name("pinned.json").read_text())
SIZES = {"camera": 8000, "lidar": 1200, "fusion": 1700}
CRITERIA = ("altermoma", "altermoma-residual", "deci", "reri", "magnitude", "imp", "snip", "synflow", "prospr")
EARLY_STOPPING = {"rungs": (0.25,), "rung_samples": 40, "rung_statistics": 0, "reduction": 3.0, "patience": 0.0}
"""The defaults of that release, which its plans keep."""
CRITERIA_AND_REACTIVATIONS = {
    "criteria": CRITERIA,
    "reactivation_steps": (4, 16),
    "reactivation_learning_rates": (1e-4, 1e-3),
}
SPACES = {"default": EARLY_STOPPING, "every": EARLY_STOPPING | CRITERIA_AND_REACTIVATIONS}


def drawn(space: SearchSpace, seed: int, sparsity: float | None) -> list[object]:
    """What Optuna is asked, in which order and of which distribution, and the settings that come of it."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    found = []
    for _ in range(8):
        trial = study.ask()
        setting = space.suggest(trial, SIZES, sparsity)
        asked = {name: optuna.distributions.distribution_to_json(d) for name, d in trial.distributions.items()}
        found.append([list(trial.params.items()), asked, setting.model_dump_json(), key(setting)])
    return json.loads(json.dumps(found))


def proposed(space: SearchSpace, seed: int, objective: str) -> list[object]:
    """The segments of a search whose results are made up."""
    figures = {"sparsity": 0.85, "trials": 12, "lookahead": 3, "seed": seed, "repeat": False}
    source = Proposals(space, SIZES, Objective.parse(objective, FIGURES), **figures)
    tasks = []
    while (task := source.next()) is not None:
        tasks.append(task.model_dump_json())
        source.complete(result(task))
    return tasks


def result(task: TrialTask) -> TrialResult:
    value = 1 / (1 + task.setting.beta) + 100 * task.setting.learning_rate
    stops = range(2) if task.until is None else range(task.until + 1)
    history = [Evaluation(step=10 * (rung + 1), metrics={"map": value * (rung + 1) / 2}) for rung in stops]
    return TrialResult(
        number=task.number, status="finished" if task.until is None else "stopped", metrics=history[-1].metrics,
        history=history, sparsity={"total": task.setting.sparsity}, params_left=1000, started=0, ended=1,
    )  # fmt: skip


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("sparsity", [0.85, None])
def test_optuna_is_asked_as_before(name, sparsity):
    for seed in range(3):
        assert drawn(SearchSpace(**SPACES[name]), seed, sparsity) == PINNED["drawn"][f"{name} {sparsity} {seed}"]


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("objective", ["map", "map,sparsity"])
def test_a_search_proposes_as_before(name, objective):
    for seed in (0, 7):
        key_of_search = f"{name} {objective} {seed}"
        # Candidates of Optuna's model can be worth the same but for the last digit, which logarithms have otherwise on
        # processors without AVX-512. Each kind of processor has its own record, to be met exactly.
        records = [PINNED[record][key_of_search] for record in ("proposed", "proposed without AVX-512")]
        assert proposed(SearchSpace(**SPACES[name]), seed, objective) in records


def test_comparisons_are_made_of_the_same_trials():
    space = SearchSpace(**SPACES["every"])
    settings = criteria_settings(space, CRITERIA, [0.85])
    for ablation in ("beta", "residual", "reactivation"):
        settings += ablation_settings(space, ablation, [0.85])
    assert [setting.model_dump_json() for setting in settings] == PINNED["compared"]


@pytest.mark.parametrize("name", SPACES)
def test_a_plan_of_before_wants_the_same_to_be_scored(name, tmp_path):
    pinned = PINNED["plans"][name]
    folder = tmp_path / "searches" / "nusc-1"
    folder.mkdir(parents=True)
    (folder / "search.json").write_text(pinned["plan"].replace("STORAGE", str(tmp_path)))
    plan = SearchPlan.load(Location.parse(tmp_path), "nusc-1")
    assert plan.space == SearchSpace(**SPACES[name])
    assert wanted(plan) == pinned["wanted"]
    for number, stored in enumerate(pinned["trials"]):
        task = TrialTask.model_validate_json(stored["task"])
        assert task.model_dump_json() == stored["task"]
        assert plan.trial_job().params_of(task) == stored["params"], number


def wanted(plan: SearchPlan) -> dict[str, object]:
    """What is scored before the first trial; DeCI by its name, as the release before did."""
    job = plan.trial_job().scoring
    scores = [file.rsplit("-", 1)[0] for file in job.files if file.startswith("scores-")]
    return {
        "indicators": sorted(file for file in job.files if file.startswith(("deci", "reri"))),
        "scores": scores,
        "count": len(job),
    }

"""What a search tells while it runs and when it ends: the best so far, the champion, and that there is none."""

from __future__ import annotations

import math

import pytest
from mlflow import MlflowClient

from altermoma_ray.engine.search.comparison import champion_setting
from altermoma_ray.engine.search.logbook import Logbook, OnlyInStorage
from altermoma_ray.engine.search.planning import SearchRequest, plan_search
from altermoma_ray.engine.space import PruningSetting, SearchSpace
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.store import TrackingError
from altermoma_ray.tracking.mlflow.tracker import Tracker
from altermoma_ray.tracking.result import TrialResult


@pytest.fixture
def search(workload, checkpoint, capsys):
    """Leaves trials of given figures in storage, closes their search, and gives all that it printed."""

    def run(objective, trials, status="finished"):
        plan = plan_search(
            SearchRequest(
                workload=workload,
                name="first",
                checkpoint=str(checkpoint),
                space=SearchSpace(rungs=()),
                objective=objective,
                sparsity=0.85,
                trials=len(trials),
            )
        )
        tracker = Tracker.open(None, plan.storage)
        with Logbook(plan, tracker, resume=False) as logbook:
            logbook.start([])
            for number, figures in enumerate(trials):
                logbook.trial_ended(leave(plan, number, figures, status))
            logbook.close(plan.results(), {"map": 0.9})
        return plan, tracker, capsys.readouterr().err

    return run


def leave(plan, number, figures, status):
    failed = {"status": status, "reason": "no"} if status == "failed" else {"status": status}
    folder = plan.trial_job().trial_folder(number)
    metrics = {key: value for key, value in figures.items() if key != "sparsity"}
    setting = PruningSetting(scope="global", sparsity=0.5, criterion="snip", learning_rate=1e-3 * (number + 1))
    result = TrialResult(
        number=number,
        **failed,
        metrics={} if status == "failed" else metrics,
        sparsity={} if status == "failed" else {"total": figures.get("sparsity", 0.85)},
        configuration={"setting": setting.model_dump(mode="json")},
        started=0,
        ended=1,
    )
    folder.join("model.safetensors").write_bytes(Location.parse(plan.checkpoint).read_bytes())
    folder.join("masks.safetensors").write_bytes(b"masks")
    folder.join("result.json").write_text(result.to_json())
    return result


def test_the_best_so_far_goes_by_the_objective(search):
    plan, tracker, told = search("nds", [{"map": 0.9, "nds": 0.1}, {"map": math.nan, "nds": 0.6}])
    first, second = [line for line in told.splitlines() if line.startswith("  trial ")]
    assert "finished NDS 0.100 at sparsity 0.850 | best NDS 0.100 (trial 0)" in first
    assert second.endswith("finished NDS 0.600 at sparsity 0.850 | best NDS 0.600 (trial 1)")
    assert "champion trial 1 (NDS 0.600, the highest NDS), registered as version 1" in told
    assert tracker.champion("first").trial == 1
    assert champion_setting(plan).learning_rate == 2e-3


def test_the_champion_of_a_pareto_search_is_the_knee_and_says_so(search, printed):
    trials = [{"map": 0.92, "sparsity": 0.5}, {"map": 0.9, "sparsity": 0.85}, {"map": math.nan, "sparsity": 0.99}]
    plan, tracker, told = search("map,sparsity", [*trials, {"map": 0.1, "sparsity": 0.97}])
    assert "finished mAP nan at sparsity 0.990 | best mAP 0.9" in told
    assert "champion trial 1 (mAP 0.900, sparsity 0.850, the knee of the Pareto front of mAP and sparsity" in told
    champion = tracker.champion("first")
    assert (champion.trial, champion.version) == (1, "version 1")
    assert champion_setting(plan).learning_rate == 2e-3
    client = MlflowClient(tracker.store.uri)
    parent = client.get_run(tracker.find_search("first"))
    assert parent.data.tags["altermoma.champion_rule"] == champion.rule
    [version] = client.search_model_versions(f"run_id = '{champion.run_id}'")
    assert champion.rule in version.description

    shown = printed("leaderboard", "--storage", plan.workload.storage)
    cells = {line.split()[1]: line.split()[0] for line in shown.splitlines() if "finished" in line}
    assert cells == {"0": "1", "1*": "2", "3": "3", "2": "4"}
    assert f"* champion: trial 1, version 1, {champion.rule}" in shown
    assert "champion" not in printed("leaderboard", "--storage", plan.workload.storage, "--format", "csv")


@pytest.mark.parametrize(("objective", "value"), [("map", math.nan), ("map,sparsity", math.inf)])
def test_a_search_without_a_finite_objective_says_so_and_registers_nothing(objective, value, search):
    plan, tracker, told = search(objective, [{"map": value}, {"map": value}])
    wanted = "mAP" if objective == "map" else "mAP and sparsity"
    assert f"no champion: none of the 2 finished trials has a finite {wanted}, so no model is registered" in told
    assert "best" not in told
    assert tracker.champion("first") is None
    assert [(row.trial, row.metrics["map"]) for row in tracker.leaderboard("first")] == [(0, None), (1, None)]
    assert MlflowClient(tracker.store.uri).search_registered_models() == []
    with pytest.raises(UserError, match=r"no best trial to compare: none of its 2 finished trials has a finite map"):
        champion_setting(plan)


def test_a_search_whose_trials_all_failed_says_so(search):
    _, tracker, told = search("map", [{}, {}], "failed")
    assert "no champion: none of the 2 trials finished, so no model is registered" in told
    assert tracker.champion("first") is None


def test_a_search_for_sparsity_alone_tells_what_it_costs(search):
    _, tracker, told = search("sparsity", [{"map": 0.5, "sparsity": 0.8}, {"map": 0.1, "sparsity": 0.9}])
    assert "finished mAP 0.100 at sparsity 0.900 | best sparsity 0.900 (trial 1)" in told
    tracker.store.client.delete_run(tracker.champion("first").run_id)
    assert tracker.champion("first") is None


def test_only_the_end_of_a_search_is_missing(search):
    plan, tracker, _ = search("map", [{"map": 0.5}])
    error = str(OnlyInStorage(plan, tracker, 0, TrackingError("the server sleeps")))
    assert error.startswith("search 'first' is complete in storage and only its end is missing in MLflow (the server")
    assert "1 trial of search 'first' is only in storage (" in str(OnlyInStorage(plan, tracker, 1, TrackingError("no")))

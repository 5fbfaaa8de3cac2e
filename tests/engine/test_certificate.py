"""Certificates, measured in this process and logged to a real MLflow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from altermoma_ray.engine.certificate.job import CertificateJob, plan_certificate
from altermoma_ray.engine.certificate.measure import measure_worker, scenes_of
from altermoma_ray.engine.search.plan import SearchPlan
from altermoma_ray.engine.search.planning import SearchRequest, keep_model, plan_search
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.engine.training.evaluation import Evaluator
from altermoma_ray.models.checkpoint import save_checkpoint
from altermoma_ray.storage import Location
from altermoma_ray.tracking.certificate.conclusions import certify
from altermoma_ray.tracking.certificate.records import Certificate
from altermoma_ray.tracking.mlflow.tracker import Tracker
from altermoma_ray.tracking.result import TrialResult
from altermoma_ray.workloads.nusc import SHIPPED
from altermoma_ray.workloads.reference import find_workload
from tests.plans import toy_workload

TWO_BRANCH = f"{Path(__file__).parents[1] / 'workloads' / 'two_branch.py'}:WORKLOAD"


@pytest.fixture(scope="module")
def storage(tmp_path_factory, empty_store):
    """A storage with the search ``first``, which has a champion."""
    folder = Path(shutil.copytree(empty_store, tmp_path_factory.mktemp("certificate") / "storage"))
    tracker = Tracker.open(None, Location.parse(folder))
    workload = find_workload(TWO_BRANCH, str(folder))
    plan = plan_search(
        SearchRequest(
            workload=workload, space=SearchSpace(), name="first", sparsity=0.5, trials=1, validation_part="tuning"
        )
    )
    plan.save()
    parent = tracker.start_search(
        "first", dataset=plan.dataset, model=plan.model, figures=plan.figures, objective=plan.optimised, params={}
    )
    file = Location.parse(folder / "pruned" / "model.safetensors")
    save_checkpoint(file, half_a_radar(plan), {})
    metrics = {"error": 0.5, "r": 0.5}
    result = TrialResult(number=0, status="finished", metrics=metrics, sparsity={"total": 0.5}, started=0, ended=1)
    run_id = tracker.log_trial(parent, result, {"model.safetensors": file})
    tracker.register_champion(parent, run_id)
    return folder


@pytest.fixture
def plan(storage):
    return SearchPlan.load(Location.parse(storage), "first")


@pytest.fixture
def champion(storage):
    return Tracker.open(None, Location.parse(storage)).champion("first")


def half_a_radar(plan):
    """The network of a plan without half of its radar."""
    pruned = plan.workload.load().unpruned()
    with torch.no_grad():
        pruned.radar[0].weight[::2] = 0
    return pruned


def test_a_champion_is_certified_on_the_half_that_its_search_has_not_seen(plan, champion, storage, printed):
    job = plan_certificate(plan, champion)
    assert (job.validation_part, job.chosen_on_them) == ("reporting", False)
    assert job.read() is None
    measure_worker(job)

    workload = plan.workload.load()
    data, rows = workload.source(), workload.source().rows("validation", "reporting")
    for label, model in (("unpruned", workload.unpruned()), ("champion", half_a_radar(plan))):
        found = Evaluator(data, rows, batch_size=20).predictions(model, workload.task)
        errors = [(found[str(row)] - float(data.target[row])) ** 2 for row in rows]
        assert [getattr(one.metric, label) for one in job.read().scenes] == pytest.approx(errors)
        assert getattr(job.read().whole, label) == pytest.approx(float(np.mean(errors)))

    told = printed("leaderboard", "first", "--certify", "--margin", "10", "--storage", storage)
    assert "Shown: squared error is no worse by more than 10." in told
    assert "The search has not seen these samples." in " ".join(told.split())
    found = json.loads(printed("leaderboard", "--certify", "--format", "json", "--storage", storage))
    assert found == json.loads(certify(job.read(), margin=0.02).model_dump_json())
    assert found["scenes"] == 20

    client = Tracker.open(None, plan.storage).store.client
    logged = client.get_run(champion.run_id).data.metrics
    assert logged["certificate/margin"] == 0.02
    assert logged["certificate/difference/mean"] == found["difference"]["mean"]
    (folder,) = storage.glob(f"mlartifacts/*/{champion.run_id}/artifacts/certificate")
    assert {file.name for file in folder.iterdir()} == {"certificate.json", "certificate.html"}
    assert Certificate.model_validate_json((folder / "certificate.json").read_text()).margin == 0.02


def test_the_folder_of_a_certificate_depends_on_what_was_measured(plan, champion):
    job = plan_certificate(plan, champion)
    changes = [{}, {"metric": "r"}, {"validation_part": "all"}, {"champion": job.unpruned}]
    assert len({job.model_copy(update=change).folder.name for change in changes}) == 4


def test_a_margin_of_nothing_is_one_line(storage, answer):
    said = answer("leaderboard", "first", "--certify", "--margin", "0", "--storage", storage)
    assert "argument --margin: must be a number above 0, but got 0; see --help" in said


def test_lost_objects_are_told_and_drawn(tmp_path, synthetic_root):
    reference = toy_workload(tmp_path, synthetic_root)
    workload = reference.load()
    data = workload.source()
    data.prepare()
    whole, pruned = workload.unpruned(str(SHIPPED)), workload.unpruned(str(SHIPPED))
    with torch.no_grad():
        for name, weight in pruned.named_parameters():
            if pruned.group_of(name) == "camera":
                weight.mul_(0.5)
    files = {
        name: str(keep_model(model, reference.storage_location)[0]) for name, model in (("a", whole), ("b", pruned))
    }
    job = CertificateJob(
        workload=reference,
        validation_part="all",
        chosen_on_them=True,
        search="first",
        trial=0,
        unpruned=files["a"],
        champion=files["b"],
        metric="nds",
    )
    measure_worker(job)
    measured = job.read()
    assert [scene.samples for scene in measured.scenes] == [2]
    scene = measured.scenes[0]
    # The champion's threshold is such that it has no more false alarms than the unpruned model.
    assert scene.false_alarms.champion <= scene.false_alarms.unpruned
    assert measured.thresholds.champion > 0
    found = certify(measured, margin=0.02)
    assert found.lost_in_all > 0
    assert {"all", "class", "range", "visibility"} == {one.kind for one in found.slices}
    assert sum(one.objects for one in found.slices if one.kind == "class") == len(measured.objects)
    seen = data.object_picture(found.lost[0].row, found.lost[0].name)
    assert seen.size in ((560, 280), (280, 280))
    # The box's colour is on the view from above, which is the last one.
    colours = np.array(seen)[:, -280:].reshape(-1, 3)
    assert (colours == (255, 140, 26)).all(axis=1).any()
    assert (colours == 230).all(axis=1).any()


def test_samples_are_scenes_of_their_own_where_no_scene_is_told(tmp_path, synthetic_root):
    workload = find_workload(TWO_BRANCH, str(tmp_path)).load()
    assert scenes_of(workload.source(), [80, 82]) == {"80": [80], "82": [82]}
    data = toy_workload(tmp_path, synthetic_root).load().source()
    data.prepare()
    rows = data.rows("train")
    assert [len(one) for one in scenes_of(data, rows).values()] == [2] * (len(rows) // 2)

from __future__ import annotations

import os

import pytest
import torch

from altermoma_ray.data.nuscenes.reading import Reading
from altermoma_ray.errors import UserError
from altermoma_ray.models.checkpoint import save_checkpoint
from altermoma_ray.models.configurations.avod_fpn import AVOD_CONFIGURATIONS, avod_configuration
from altermoma_ray.storage import Location
from altermoma_ray.workloads import kitti
from altermoma_ray.workloads.kitti import SHIPPED
from altermoma_ray.workloads.reference import WorkloadReference, find_workload


@pytest.fixture
def storage(tmp_path):
    return Location.parse(tmp_path / "storage")


def test_the_toy_learns_the_synthetic_set_and_the_published_model_the_users(storage, tmp_path):
    toy, cars = kitti.find(storage), kitti.find(storage, dataroot=str(tmp_path))
    assert (toy.model, cars.model) == ("avod-fpn-toy", "avod-fpn-cars")
    assert kitti.workload(cars, storage).data.dataroot == str(tmp_path)
    workload = kitti.workload(toy, storage)
    assert workload.data.inputs == avod_configuration("avod-fpn-toy").inputs
    assert workload.modalities == ("camera", "lidar")
    assert [stage.name for stage in workload.recipe.stages] == ["camera", "lidar", "fusion"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"version": "v1.0-mini"}, "KITTI has no versions, but got --version v1.0-mini"),
        ({"reading": Reading(skip_invalid=True)}, "--skip-invalid is about nuScenes and does not go with kitti"),
        ({"model": "bevfusion-mit"}, "unknown model 'bevfusion-mit'; choose one of: avod-fpn-cars"),
    ],
)
def test_options_that_are_not_for_kitti_are_refused(asked, message, storage):
    with pytest.raises(UserError, match=message):
        kitti.find(storage, **asked)


def test_every_named_model_has_a_recipe():
    assert set(kitti.RECIPES) == set(AVOD_CONFIGURATIONS)
    steps = kitti.RECIPES["avod-fpn-cars"].stages[0].epochs * kitti.TRAINING_FRAMES
    assert steps == pytest.approx(120_000)


def test_the_reference_finds_the_workload_in_another_process(storage):
    reference = find_workload("kitti", str(storage), model="avod-fpn-people")
    again = WorkloadReference.model_validate_json(reference.model_dump_json())
    assert again.load().model == avod_configuration("avod-fpn-people")


def test_a_search_without_weights_is_refused(storage, tmp_path):
    workload = kitti.workload(kitti.find(storage, dataroot=str(tmp_path), model="avod-fpn-toy"), storage)
    with pytest.raises(UserError, match="no weights for avod-fpn-toy: give --checkpoint FILE, or train one"):
        workload.unpruned()
    with pytest.raises(UserError, match="no weights for avod-fpn-cars: give --checkpoint FILE, or train one"):
        kitti.workload(kitti.find(storage, model="avod-fpn-cars"), storage).unpruned()


def test_the_toy_s_weights_come_with_the_project(storage):
    model = kitti.workload(kitti.find(storage), storage).unpruned()
    assert model.config == avod_configuration("avod-fpn-toy")
    assert SHIPPED.stat().st_size < 5_000_000


def test_a_checkpoint_brings_its_own_configuration(storage):
    workload = kitti.workload(kitti.find(storage), storage)
    config = avod_configuration("avod-fpn-toy")
    config = config.model_copy(update={"name": "mine", "boxes": config.boxes.model_copy(update={"hidden": (24,)})})
    place = storage.join("mine.safetensors")
    save_checkpoint(place, config.build(), {})
    model = workload.unpruned(str(place))
    assert model.config == config
    assert workload.task_for(model).config == config


def test_real_frames_from_files_to_metrics(storage):
    folder = os.environ.get("ALTERMOMA_KITTI", "")
    if not folder:
        pytest.skip("ALTERMOMA_KITTI is not set: it names the folder of some real KITTI frames")
    workload = kitti.workload(kitti.find(storage, dataroot=folder, model="avod-fpn-toy"), storage)
    data, task = workload.source(), workload.task
    data.prepare()
    torch.manual_seed(0)
    model, rows = workload.build().eval(), data.rows("train") + data.rows("validation")
    dataset = data.dataset(rows, augment=False, seed=0)
    batch = data.collate([dataset[position] for position in range(len(rows))])
    with torch.no_grad():
        outputs = model(batch)
    assert all(0 < len(anchors) < 20_000 for anchors in outputs["anchors"])
    losses = task.loss(outputs, batch)
    assert all(loss.isfinite().all() for loss in losses.values())
    metrics = task.evaluate(task.decode(outputs, batch), data, rows)
    assert set(metrics) == {metric.name for metric in task.metrics}

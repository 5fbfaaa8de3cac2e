"""The detection task and the nuScenes data keep their contracts, on a small synthetic nuScenes."""

from __future__ import annotations

import pytest

from altermoma_ray.data.nuscenes.source import NuScenes
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.configurations.anchors import AnchorHeadConfig
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.tasks.detection.anchors import AnchorTask
from altermoma_ray.tasks.detection.centerpoint import CenterPointTask
from altermoma_ray.tasks.detection.task import DetectionTask
from altermoma_ray.testing import DataSourceContract, TaskContract

TOY, CENTERPOINT = configuration("bevfusion-mit-toy"), configuration("bevfusion-mit-centerpoint-toy")

ANCHORS = TOY.model_copy(
    update={
        "head": AnchorHeadConfig(
            anchor_range=(-25.6, -25.6, 25.6, 25.6),
            **{name: getattr(TOY.head, name) for name in ("bev_size", "cell_size", "origin")},
        )
    }
)


@pytest.fixture(scope="module")
def fields(synthetic_root, tmp_path_factory):
    storage = str(tmp_path_factory.mktemp("storage"))
    return {"dataroot": str(synthetic_root), "version": "v1.0-trainval", "storage": storage, "inputs": TOY.inputs}


class OnSynthetic:
    @pytest.fixture(autouse=True)
    def _take(self, fields):
        self._fields = fields

    def make_data(self):
        return NuScenes(**self._fields)


class TestNuScenes(OnSynthetic, DataSourceContract):
    pass


class TestDetection(OnSynthetic, TaskContract):
    def make_task(self):
        return DetectionTask(TOY.head)

    def make_model(self):
        return FusionModel(TOY)


class TestAnchors(OnSynthetic, TaskContract):
    def make_task(self):
        return AnchorTask(ANCHORS.head)

    def make_model(self):
        return FusionModel(ANCHORS)


class TestCenterPoint(OnSynthetic, TaskContract):
    def make_task(self):
        return CenterPointTask(CENTERPOINT.head)

    def make_model(self):
        return FusionModel(CENTERPOINT)

"""The camera-LiDAR model keeps the contract of fusion models."""

from __future__ import annotations

import pytest

from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.testing import ModelContract


class TestToy(ModelContract):
    @pytest.fixture(autouse=True)
    def _take(self, batch):
        self._batch = batch

    def make_model(self):
        return FusionModel(configuration("bevfusion-mit-toy"))

    def make_batch(self):
        return self._batch


class TestPkuToy(TestToy):
    def make_model(self):
        return FusionModel(configuration("bevfusion-pku-toy"))


class TestResNetToy(TestToy):
    def make_model(self):
        return FusionModel(configuration("bevfusion-mit-r101-second-toy"))


class TestRadarToy(TestToy):
    def make_model(self):
        return FusionModel(configuration("bevfusion-r-toy"))


class TestTrioToy(TestToy):
    """Three modalities: each is masked alone."""

    def make_model(self):
        return FusionModel(configuration("bevfusion-trio-toy"))


class TestCenterPointToy(TestToy):
    def make_model(self):
        return FusionModel(configuration("bevfusion-mit-centerpoint-toy"))


class TestPointPillarsToy(TestToy):
    def make_model(self):
        return FusionModel(configuration("bevfusion-mit-pointpillars-toy"))


class TestAnchorsToy(TestToy):
    """A decoder behind the pillars, and anchors."""

    def make_model(self):
        return FusionModel(configuration("bevfusion-pku-r101-pointpillars-toy"))

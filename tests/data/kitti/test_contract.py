from __future__ import annotations

import pytest

from altermoma_ray.data.kitti.inputs import KittiInputs
from altermoma_ray.data.kitti.source import Kitti
from altermoma_ray.testing.data_source import DataSourceContract

INPUTS = KittiInputs(image_size=(48, 160), types=("Car", "Pedestrian"), x_range=(-20, 20), z_range=(0, 40), cell=0.5)


class TestKitti(DataSourceContract):
    @pytest.fixture(autouse=True)
    def _roots(self, small_kitti, tmp_path_factory):
        self.dataroot, self.storage = small_kitti, tmp_path_factory.mktemp("storage")

    def make_data(self):
        return Kitti(dataroot=str(self.dataroot), storage=str(self.storage), inputs=INPUTS)

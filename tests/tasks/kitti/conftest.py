"""A small synthetic KITTI for the task's tests."""

from __future__ import annotations

import pytest

from altermoma_ray.data.kitti.source import Kitti
from altermoma_ray.data.synthetic.kitti import generate
from altermoma_ray.models.configurations.avod_fpn import avod_configuration


@pytest.fixture(scope="session")
def kitti(tmp_path_factory) -> Kitti:
    """Three frames to train on and three to validate, as the toy sees them."""
    folder = tmp_path_factory.mktemp("kitti")
    generate(folder / "data", train=3, val=3, width=624, azimuths=360, processes=1, progress=False)
    inputs = avod_configuration("avod-fpn-toy").inputs
    return Kitti(dataroot=str(folder / "data"), storage=str(folder / "storage"), inputs=inputs)

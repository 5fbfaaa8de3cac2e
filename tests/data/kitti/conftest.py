from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from altermoma_ray.data.kitti.index import Index, open_index
from altermoma_ray.data.synthetic.kitti import generate
from altermoma_ray.storage import Location


@pytest.fixture(scope="session")
def real_kitti() -> Path:
    """The folder of three real KITTI frames, without planes."""
    folder = os.environ.get("ALTERMOMA_KITTI", "")
    if not folder:
        pytest.skip("ALTERMOMA_KITTI is not set: it names the folder of three real KITTI frames")
    if not Path(folder).is_dir():
        pytest.skip(f"ALTERMOMA_KITTI names {folder}, which is no folder")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def real_index(real_kitti: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return open_index(Location.parse(real_kitti), Location.parse(tmp_path_factory.mktemp("storage")))


@pytest.fixture(scope="session")
def small_kitti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic KITTI: three frames to train on, two to validate."""
    folder = tmp_path_factory.mktemp("synthetic") / "kitti"
    generate(folder, train=3, val=2, seed=1, width=312, processes=1, progress=False)
    return folder


@pytest.fixture
def kitti(small_kitti: Path, tmp_path: Path) -> Path:
    """A data set of one test's own, to be spoilt."""
    return Path(shutil.copytree(small_kitti, tmp_path / "kitti"))

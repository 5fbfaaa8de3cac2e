"""Data sets that tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_nuscenes() -> Path:
    """The folder of one real nuScenes keyframe (version ``v1.0-mini``)."""
    folder = os.environ.get("ALTERMOMA_NUSCENES", "")
    if not folder:
        pytest.skip("ALTERMOMA_NUSCENES is not set: it names the folder of one real nuScenes keyframe")
    if not Path(folder).is_dir():
        pytest.skip(f"ALTERMOMA_NUSCENES names {folder}, which is no folder")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic nuScenes (version ``v1.0-trainval``): five training scenes, one for validation."""
    from altermoma_ray.data.synthetic import generate

    folder = tmp_path_factory.mktemp("synthetic") / "nuscenes"
    generate(folder, scenes=6, seed=0, processes=1, progress=False)
    return folder

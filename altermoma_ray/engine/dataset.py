"""Which data set a command works on: the user's, or a synthetic nuScenes that is made on first use."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from altermoma_ray.cli import console
from altermoma_ray.data.synthetic import generate, matches
from altermoma_ray.engine.source import DataSource
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

DATASETS = {"nusc": "nuscenes"}
"""Short names on the command line, and what they stand for."""
SYNTHETIC_SEED = 0


def data_source(dataset: str, dataroot: str | None, version: str | None, storage: str) -> DataSource:
    """The data set of a command, its index built.

    Args:
        dataset: short name, a key of ``DATASETS``.
        dataroot: path or URI of nuScenes; None for the synthetic toy set.
        version: of nuScenes; None for ``v1.0-trainval``.
        storage: folder or URI for everything derived.

    Raises:
        UserError: the data set is unknown, missing or broken, or storage cannot be written.
    """
    if dataset not in DATASETS:
        raise UserError(f"unknown data set {dataset!r}; choose {', '.join(DATASETS)}")
    location = Location.parse(storage)
    location.make_folder()
    if dataroot is None:
        dataroot, version = str(_synthetic(location)), "v1.0-trainval"
    source = DataSource(dataroot=dataroot, version=version or "v1.0-trainval", storage=str(location))
    console.print(f"[bold]data[/] {source.dataroot} ({source.version})")
    index = source.index()
    to_train, to_validate = len(source.training_rows()), len(source.validation_rows())
    console.print(f"  {len(index)} keyframes: {to_train} to train on, {to_validate} to validate")
    return source


def _synthetic(storage: Location) -> Path:
    """The synthetic toy set, in storage where that is a disk."""
    if storage.is_local:
        folder = Path(storage.path, "synthetic-nuscenes")
    else:
        name = hashlib.sha256(str(storage).encode()).hexdigest()[:8]
        folder = Path(tempfile.gettempdir(), f"altermoma_ray-synthetic-nuscenes-{name}")
    if not matches(folder, scenes=None, seed=SYNTHETIC_SEED):
        console.print("[bold]data[/] no --dataroot: making a synthetic nuScenes, once")
        generate(folder, seed=SYNTHETIC_SEED)
    return folder

"""Which data set a command works on: the user's, or a synthetic nuScenes that is made on first use."""

from __future__ import annotations

from altermoma_ray.console import console
from altermoma_ray.data.nuscenes.dataroot import check_dataroot, check_files
from altermoma_ray.data.nuscenes.leaving_out import left_out_text
from altermoma_ray.data.nuscenes.reading import AS_PUBLISHED, Reading
from altermoma_ray.data.nuscenes.rig import check_rig
from altermoma_ray.data.nuscenes.source import DataSource
from altermoma_ray.data.synthetic import matches, provide
from altermoma_ray.data.transforms import InputConfig
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

DATASETS = {"nusc": "nuscenes"}
"""Short names on the command line, and what they stand for."""
SYNTHETIC_SEED = 0
DEFAULT_VERSION = "v1.0-trainval"
"""Of nuScenes, and the only one of the synthetic set."""


def data_source(dataset: str, dataroot: str | None, version: str | None, storage: str) -> DataSource:
    """The data set of a command, ready to be read: :func:`find_data` and :func:`prepare_data`."""
    source = find_data(dataset, dataroot, version, storage)
    prepare_data(source)
    return source


def find_data(
    dataset: str, dataroot: str | None, version: str | None, storage: str, reading: Reading = AS_PUBLISHED
) -> DataSource:
    """The data set of a command; nothing is made or read yet.

    Args:
        dataset: short name, a key of ``DATASETS``.
        dataroot: path or URI of nuScenes; None for the synthetic toy set.
        version: of nuScenes; None for ``v1.0-trainval``.
        storage: folder or URI for everything derived.
        reading: how the dataroot is read where it differs from a published nuScenes.

    Raises:
        UserError: the data set is unknown or missing, or storage cannot be written.
    """
    if dataset not in DATASETS:
        raise UserError(f"unknown data set {dataset!r}; choose {', '.join(DATASETS)}")
    location = Location.parse(storage)
    location.check_writable()
    version = version or DEFAULT_VERSION
    if dataroot is None:
        if version != DEFAULT_VERSION:
            raise UserError(f"the synthetic nuScenes has no version {version!r}; give --dataroot or leave it out")
        return DataSource(
            dataroot=str(_synthetic_folder(location)), version=version, storage=str(location), reading=reading
        )
    root = Location.parse(dataroot)
    check_dataroot(root, version)
    return DataSource(dataroot=str(root), version=version, storage=str(location), reading=reading)


def prepare_data(source: DataSource, inputs: InputConfig | None = None) -> None:
    """Make the synthetic set if that is wanted and missing, build the index, and look at the files that it names.

    Args:
        source: the data set.
        inputs: what the model is fed, which the data set must have; None where no model is meant.

    Raises:
        UserError: the data set is missing or broken, or storage cannot be written.
    """
    synthetic = _synthetic_folder(source.storage_location)
    if source.dataroot == str(synthetic) and not matches(synthetic, scenes=None, seed=SYNTHETIC_SEED):
        console.print("[bold]data[/] no --dataroot: making a synthetic nuScenes, once")
        try:
            provide(synthetic, seed=SYNTHETIC_SEED)
        except UserError:
            if not matches(synthetic, scenes=None, seed=SYNTHETIC_SEED):  # another command was quicker
                raise
    console.print(f"[bold]data[/] {source.dataroot} ({source.version})")
    index = source.index(look=source.reading.partial)
    to_train, to_validate = len(source.training_rows()), len(source.validation_rows())
    console.print(f"  {len(index)} keyframes: {to_train} to train on, {to_validate} to validate")
    console.print(f"  {index.rig}")
    if index.left_out:
        console.print(f"  [yellow]left out[/]: {left_out_text(index.left_out)}")
    check_rig(index, inputs)
    check_files(index.dataroot, *index.sensor_files(), index.reading)


def _synthetic_folder(storage: Location) -> Location:
    """Where the synthetic toy set lies: in storage, so that every node reads it."""
    return storage.join("synthetic-nuscenes")

"""nuScenes as a data source: its index, its splits, its samples; the synthetic set is made on first use."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from pydantic import BaseModel, ConfigDict

from altermoma_ray.console import console
from altermoma_ray.data.batch import Batch
from altermoma_ray.data.nuscenes.dataroot import check_files
from altermoma_ray.data.nuscenes.dataset import NuScenesDataset, Sample, collate
from altermoma_ray.data.nuscenes.index import Index, open_index
from altermoma_ray.data.nuscenes.leaving_out import left_out_text
from altermoma_ray.data.nuscenes.maps import check_maps
from altermoma_ray.data.nuscenes.radars import check_radars
from altermoma_ray.data.nuscenes.reading import Reading
from altermoma_ray.data.nuscenes.rig import check_rig
from altermoma_ray.data.nuscenes.splits import split_names
from altermoma_ray.data.sampling import Split, ValidationPart, class_balanced_rows
from altermoma_ray.data.synthetic import generate_at, matches
from altermoma_ray.data.transforms import InputConfig
from altermoma_ray.errors import UserError
from altermoma_ray.places import Place
from altermoma_ray.storage import Location

SYNTHETIC_SEED = 0


class NuScenes(BaseModel):
    """A nuScenes dataroot, and the storage folder with its index.

    >>> source = NuScenes(dataroot="/data/nuscenes", version="v1.0-mini", storage="storage")
    >>> source.train_split, source.validation_split
    ('mini_train', 'mini_val')
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataroot: Place
    """Local path or ``pyarrow.fs`` URI of the dataroot."""
    version: str
    """``v1.0-trainval`` or ``v1.0-mini``."""
    storage: Place
    """Local path or URI of the folder for everything derived."""
    reading: Reading = Reading()
    """How the dataroot is read where it differs from a published nuScenes."""
    inputs: InputConfig | None = None
    """Figures of the model's inputs, which samples are made for; None where no sample is read."""

    @property
    def train_split(self) -> str:
        return split_names(self.version)[0]

    @property
    def validation_split(self) -> str:
        return split_names(self.version)[1]

    def index(self, *, look: bool = False) -> Index:
        """The memory-mapped index; opened once in a process.

        Args:
            look: see :func:`altermoma_ray.data.nuscenes.index.open_index`; opens the index again.
        """
        # Keyed without `inputs`: one index serves models of every input size.
        key = (self.dataroot, self.version, self.storage, self.reading)
        if look:
            # The file on disk may be replaced by the next line; a cached index would still map the old one.
            _open.cache_clear()
            _open_index(*key, look=True)
        return _open(*key)

    def fingerprint(self, split: Split) -> str:
        """Text which changes with the samples of a split."""
        return f"{self.index().fingerprint}/{self.train_split if split == 'train' else self.validation_split}"

    def prepare(self) -> None:
        """Make the synthetic set if wanted and missing, build the index, and look at the files named in the index.

        Raises:
            UserError: the data set is missing or broken, lacks an input of the model, or storage cannot be written.
        """
        # Before the index is asked for its rows: the synthetic dataroot may not exist yet.
        self._make_synthetic()
        console.print(f"[bold]data[/] {self.dataroot} ({self.version})")
        index = self.index(look=self.reading.partial)
        # Also a check: `rows` refuses a data set without training or validation scenes.
        to_train, to_validate = len(self.rows("train")), len(self.rows("validation"))
        console.print(f"  {len(index)} keyframes: {to_train} to train on, {to_validate} to validate")
        console.print(f"  {index.rig}")
        if index.left_out:
            console.print(f"  [yellow]left out[/]: {left_out_text(index.left_out)}")
        # From cheap to dear: the rig from the index alone, the maps file by file, the sensor files last.
        check_rig(index, self.inputs)
        if self.inputs is not None and self.inputs.raster is not None:
            check_maps(index.dataroot, index.locations())
        if self.inputs is not None and self.inputs.radar is not None:
            check_radars(index, self.inputs.radar)
        check_files(index.dataroot, *index.sensor_files(), index.reading)

    def _make_synthetic(self) -> None:
        """Make the synthetic set where the dataroot is its folder, and lacks it."""
        for reflective_ground in (False, True):
            folder = synthetic_folder(Location.parse(self.storage), reflective_ground=reflective_ground)
            wanted = {"seed": SYNTHETIC_SEED, "reflective_ground": reflective_ground}
            if self.dataroot != str(folder) or matches(folder, **wanted):
                continue
            console.print("[bold]data[/] no --dataroot: making a synthetic nuScenes, once")
            try:
                generate_at(folder, **wanted)
            except UserError:
                if not matches(folder, **wanted):  # another command was quicker
                    raise

    def left_out(self) -> dict[str, int]:
        """How many records of the tables are not in the index, by kind."""
        return self.index().left_out

    def rows(self, split: Split, part: ValidationPart = "all", limit: int | None = None) -> list[int]:
        """Rows of the index.

        Args:
            split: to learn from, or to evaluate on.
            part: of the validation scenes: every other one is for tuning, the rest for reporting.
            limit: at most so many rows, spread over all; every call gives the same ones.

        Raises:
            UserError: the split has no scenes, or too few to take a part of them.
        """
        rows = self.index().samples("train" if split == "train" else "val")
        if part != "all":
            scenes = self.index().scenes()
            # Whole scenes, every other one: neighbouring keyframes look alike, and would leak from one half into the
            # other.
            order = {scene: number for number, scene in enumerate(dict.fromkeys(scenes[row] for row in rows))}
            if len(order) < 2:
                raise UserError(f"{self.dataroot} has {len(order)} validation scene, but tuning and reporting need two")
            odd = int(part == "reporting")
            rows = [row for row in rows if order[scenes[row]] % 2 == odd]
        if limit is None or limit >= len(rows):
            return rows
        # Spread evenly, not drawn: the same subset at each call, from all scenes. `unique` in case rounding meets
        # twice.
        chosen = torch.linspace(0, len(rows) - 1, limit).round().long().unique().tolist()
        return [rows[position] for position in chosen]

    def balanced_rows(self, rows: Sequence[int], seed: int) -> list[int]:
        """An epoch's rows, each class drawn equally often; see :func:`class_balanced_rows`."""
        return class_balanced_rows(self.index(), rows, seed=seed)

    def dataset(self, rows: Sequence[int], *, augment: bool, seed: int) -> NuScenesDataset:
        """The samples of rows, as inputs of the model.

        Args:
            rows: rows of the index, in the order of the data set's positions.
            augment: whether to draw random transforms.
            seed: of the random transforms.
        """
        assert self.inputs is not None
        return NuScenesDataset(self.index(), rows, self.inputs, augment=augment, seed=seed)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Batch at least one sample."""
        return collate(samples)


def synthetic_folder(storage: Location, *, reflective_ground: bool = False) -> Location:
    """The folder of the synthetic toy set: in storage, where every node can read.

    Args:
        storage: folder or URI of everything derived.
        reflective_ground: see :func:`altermoma_ray.data.synthetic.generate`; a set of its own, for map segmentation.
    """
    return storage.join("synthetic-nuscenes-map" if reflective_ground else "synthetic-nuscenes")


def _open_index(dataroot: str, version: str, storage: str, reading: Reading, *, look: bool = False) -> Index:
    return open_index(Location.parse(dataroot), version, Location.parse(storage), reading, look=look)


# Module-level, so that all sources of a process share an index; a method's cache would keep each source alive.
_open = lru_cache(maxsize=4)(_open_index)

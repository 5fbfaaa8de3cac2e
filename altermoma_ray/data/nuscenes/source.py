"""nuScenes as a data source: its index, its splits, its samples; the synthetic set is made on first use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict

from altermoma_ray.console import console
from altermoma_ray.data.batch import Batch
from altermoma_ray.data.nuscenes.dataroot import check_files
from altermoma_ray.data.nuscenes.dataset import NuScenesDataset, Sample, collate
from altermoma_ray.data.nuscenes.disturbances import DISTURBANCES
from altermoma_ray.data.nuscenes.index import Index, open_index
from altermoma_ray.data.nuscenes.leaving_out import left_out_text
from altermoma_ray.data.nuscenes.maps import check_maps
from altermoma_ray.data.nuscenes.object_pictures import draw_object
from altermoma_ray.data.nuscenes.radars import check_radars
from altermoma_ray.data.nuscenes.reading import Reading
from altermoma_ray.data.nuscenes.rig import check_rig
from altermoma_ray.data.nuscenes.splits import split_names
from altermoma_ray.data.sampling import Split, ValidationPart, class_balanced_rows, spread
from altermoma_ray.data.synthetic import generate_at, matches
from altermoma_ray.data.transforms import InputConfig
from altermoma_ray.errors import UserError
from altermoma_ray.places import Place
from altermoma_ray.storage import Location

Kind = Literal["boxes", "map", "tracks"]
"""What a synthetic set is made to learn from."""
# The shipped checkpoint was trained on the scenes of seed 0, of which none must be a validation scene of tracks. 240
# training scenes of four keyframes have nearly as many keyframes as 600 scenes of two.
SYNTHETIC: Mapping[Kind, Mapping[str, Any]] = MappingProxyType(
    {
        "boxes": {"seed": 0},
        "map": {"seed": 0, "reflective_ground": True},
        "tracks": {"seed": 1, "scenes": 270, "keyframes": 4, "occlusion": True},
    }
)
"""Arguments of :func:`altermoma_ray.data.synthetic.generate` for each synthetic set."""
_FOLDERS: Mapping[Kind, str] = MappingProxyType(
    {"boxes": "synthetic-nuscenes", "map": "synthetic-nuscenes-map", "tracks": "synthetic-nuscenes-tracks"}
)


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
    whole_scenes: bool = False
    """Whether validation samples come as scenes, whose keyframes follow each other, as a tracker needs them."""
    reads_points: bool = True
    """Whether the model reads LiDAR points; a model without a LiDAR branch cannot suffer from their loss."""
    disturbance: str | None = None
    """Key of :data:`.disturbances.DISTURBANCES` that takes points away from every sample; None leaves all."""

    @property
    def sensors(self) -> tuple[str, ...]:
        """The kinds of sensors that the model reads, out of ``camera``, ``lidar`` and ``radar``."""
        has_radar = self.inputs is not None and self.inputs.radar is not None
        return ("camera", *(("lidar",) if self.reads_points else ()), *(("radar",) if has_radar else ()))

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
        used = self.train_split if split == "train" else self.validation_split
        parts = (self.index().fingerprint, used, self.disturbance)
        return "/".join(part for part in parts if part is not None)

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
        if self.whole_scenes:
            self._check_scenes()
        # From cheap to dear: the rig from the index alone, the maps file by file, the sensor files last.
        check_rig(index, self.inputs)
        if self.inputs is not None and self.inputs.raster is not None:
            check_maps(index.dataroot, index.locations())
        if self.inputs is not None and self.inputs.radar is not None:
            check_radars(index, self.inputs.radar)
        check_files(index.dataroot, *index.sensor_files(), index.reading)

    def _make_synthetic(self) -> None:
        """Make the synthetic set where the dataroot is its folder, and lacks it."""
        for kind, wanted in SYNTHETIC.items():
            folder = synthetic_folder(Location.parse(self.storage), kind)
            if self.dataroot != str(folder) or matches(folder, **wanted):
                continue
            console.print("[bold]data[/] no --dataroot: making a synthetic nuScenes, once")
            try:
                generate_at(folder, **wanted)
            except UserError:
                if not matches(folder, **wanted):  # another command was quicker
                    raise

    def _check_scenes(self) -> None:
        """Refuse scenes in which nothing moves from one keyframe to another.

        Raises:
            UserError: no validation scene has two keyframes.
        """
        scenes = self.index().scenes()
        if max(Counter(scenes[row] for row in self.rows("validation")).values()) < 2:
            raise UserError(
                f"{self.dataroot} ({self.version}) has one keyframe a scene, but tracking follows objects from "
                "keyframe to keyframe; give a data set whose validation scenes have two or more"
            )

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
        if not self.whole_scenes or split == "train":
            return spread(rows, limit)
        scenes = self.index().scenes()
        # As many scenes as fill the limit if all were equally long; the last rows of longer ones are cut off.
        of_scenes = Counter(scenes[row] for row in rows)
        chosen = {*spread(list(of_scenes), max(1, limit * len(of_scenes) // len(rows)))}
        return [row for row in rows if scenes[row] in chosen][:limit]

    def scenes_of(self, rows: Sequence[int]) -> list[str]:
        """The scene tokens of rows."""
        scenes = self.index().scenes()
        return [scenes[row] for row in rows]

    def object_picture(self, row: int, name: str) -> Image.Image:
        """An annotated object, by its token, in a camera's picture and among the LiDAR's points from above.

        Raises:
            UserError: a sensor's file is missing or broken.
        """
        return draw_object(self.index(), row, name)

    @property
    def disturbances(self) -> dict[str, str]:
        """The disturbances of the robustness report, by name, with their titles; none where no point is read."""
        return {name: one.title for name, one in DISTURBANCES.items() if self.reads_points}

    def disturbed(self, name: str) -> NuScenes:
        """The same data set under a disturbance.

        >>> NuScenes(dataroot="/data", version="v1.0-mini", storage="storage").disturbed("lidar-60").disturbance
        'lidar-60'
        """
        return self.model_copy(update={"disturbance": name})

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
        disturbance = None if self.disturbance is None else DISTURBANCES[self.disturbance]
        return NuScenesDataset(self.index(), rows, self.inputs, augment=augment, seed=seed, disturbance=disturbance)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Batch at least one sample."""
        return collate(samples)


def synthetic_folder(storage: Location, kind: Kind = "boxes") -> Location:
    """The folder of a synthetic toy set: in storage, where every node can read.

    Args:
        storage: folder or URI of everything derived.
        kind: of the set.
    """
    return storage.join(_FOLDERS[kind])


def _open_index(dataroot: str, version: str, storage: str, reading: Reading, *, look: bool = False) -> Index:
    return open_index(Location.parse(dataroot), version, Location.parse(storage), reading, look=look)


# Module-level, so that all sources of a process share an index; a method's cache would keep each source alive.
_open = lru_cache(maxsize=4)(_open_index)

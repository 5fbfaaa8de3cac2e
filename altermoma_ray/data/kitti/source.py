"""KITTI as a data source: its index, its splits, its samples; the synthetic set is made on first use."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from PIL import Image
from pydantic import BaseModel, ConfigDict

from altermoma_ray.console import console
from altermoma_ray.data.kitti.batch import KittiBatch
from altermoma_ray.data.kitti.calibration import NO_PLANES
from altermoma_ray.data.kitti.dataroot import check_some
from altermoma_ray.data.kitti.dataset import KittiDataset, KittiSample, collate
from altermoma_ray.data.kitti.index import Index, counts, open_index
from altermoma_ray.data.kitti.inputs import KittiInputs
from altermoma_ray.data.kitti.labels import Labels
from altermoma_ray.data.kitti.object_pictures import draw_object
from altermoma_ray.data.sampling import Split, ValidationPart, spread
from altermoma_ray.data.synthetic import kitti as synthetic
from altermoma_ray.errors import UserError
from altermoma_ray.places import Place
from altermoma_ray.storage import Location


class Kitti(BaseModel):
    """A KITTI dataroot, and the storage folder with its index.

    >>> Kitti(dataroot="/data/kitti", storage="storage").inputs is None
    True
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataroot: Place
    """Local path or ``pyarrow.fs`` URI of the folder that holds ``training``."""
    storage: Place
    """Local path or URI of the folder for everything derived."""
    inputs: KittiInputs | None = None
    """Figures of the model's inputs, which samples are made for; None where no sample is read."""

    def index(self) -> Index:
        """The memory-mapped index; opened once in a process."""
        # Keyed without `inputs`: one index serves models of every input size.
        return _open(self.dataroot, self.storage)

    def fingerprint(self, split: Split) -> str:
        """Text which changes with the samples of a split."""
        return f"{self.index().fingerprint}/{_name(split)}"

    def prepare(self) -> None:
        """Make the synthetic set if wanted and missing, build the index, and look into some of the frames.

        Raises:
            UserError: the data set is missing or broken, or storage cannot be written.
        """
        # Before the index is asked for its rows: the synthetic dataroot may not exist yet.
        self._make_synthetic()
        console.print(f"[bold]data[/] {self.dataroot} (KITTI)")
        index = self.index()
        numbers = counts(index)
        console.print(f"  {len(index)} frames: {numbers['train']} to train on, {numbers['val']} to validate")
        if not index.has_planes:
            console.print(f"  {NO_PLANES}")
        check_some(index.dataroot, index.sizes())

    def _make_synthetic(self) -> None:
        """Make the synthetic set where the dataroot is its folder, and lacks it."""
        folder = synthetic_kitti_folder(Location.parse(self.storage))
        if self.dataroot != str(folder) or synthetic.matches(folder):
            return
        console.print("[bold]data[/] no --dataroot: making a synthetic KITTI, once")
        try:
            synthetic.generate_at(folder)
        except UserError:
            if not synthetic.matches(folder):  # another command was quicker
                raise

    def rows(self, split: Split, part: ValidationPart = "all", limit: int | None = None) -> list[int]:
        """Rows of the index.

        Args:
            split: to learn from, or to evaluate on.
            part: of the validation frames: every other one is for tuning, the rest for reporting.
            limit: at most so many rows, spread over all; every call gives the same ones.

        Raises:
            UserError: the validation split has too few frames to take a part of them.
        """
        rows = self.index().samples(_name(split))
        if part != "all":
            if len(rows) < 2:
                raise UserError(f"{self.dataroot} has {len(rows)} validation frame, but tuning and reporting need two")
            rows = rows[int(part == "reporting") :: 2]
        return rows if limit is None or limit >= len(rows) else spread(rows, limit)

    def ground_truth(self, rows: Sequence[int]) -> dict[str, Labels]:
        """All labelled objects of rows, by the names of their frames."""
        index = self.index()
        names = index.names()
        return {names[row]: index.labels(row) for row in rows}

    def object_picture(self, row: int, name: str) -> Image.Image:
        """A labelled object, named by frame and line (``000042:3``), in the picture and among the points from above.

        Raises:
            UserError: a sensor's file is missing or broken.
        """
        return draw_object(self.index(), row, int(name.rpartition(":")[2]))

    def dataset(self, rows: Sequence[int], *, augment: bool, seed: int) -> KittiDataset:
        """The samples of rows, as inputs of the model.

        Args:
            rows: rows of the index, in the order of the data set's positions.
            augment: whether to draw random transforms.
            seed: of the random transforms.
        """
        assert self.inputs is not None
        return KittiDataset(self.index(), rows, self.inputs, augment=augment, seed=seed)

    def collate(self, samples: Sequence[KittiSample]) -> KittiBatch:
        """Batch at least one sample."""
        return collate(samples)


def synthetic_kitti_folder(storage: Location) -> Location:
    """The folder of the synthetic toy set: in storage, where every node can read.

    Args:
        storage: folder or URI of everything derived.
    """
    return storage.join("synthetic-kitti")


def _name(split: Split) -> str:
    return "train" if split == "train" else "val"


# Module-level, so that all sources of a process share an index; a method's cache would keep each source alive.
@lru_cache(maxsize=4)
def _open(dataroot: str, storage: str) -> Index:
    return open_index(Location.parse(dataroot), Location.parse(storage))

"""Where a job's data lies: the few strings that travel to a worker instead of a data set."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict

from altermoma_ray.data.nuscenes.index import Index, open_index
from altermoma_ray.data.nuscenes.reading import Reading
from altermoma_ray.data.nuscenes.splits import split_names
from altermoma_ray.errors import UserError
from altermoma_ray.places import Place
from altermoma_ray.storage import Location

Part = Literal["all", "tuning", "reporting"]
"""Which validation scenes are evaluated: all, or one half of them, so that figures come from scenes nobody tuned on."""


class DataSource(BaseModel):
    """A nuScenes dataroot, and the storage folder that keeps its index.

    >>> source = DataSource(dataroot="/data/nuscenes", version="v1.0-mini", storage="storage")
    >>> source.train_split, source.validation_split
    ('mini_train', 'mini_val')
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataroot: Place
    """Local path or ``pyarrow.fs`` URI of the dataroot."""
    version: str
    """``v1.0-trainval`` or ``v1.0-mini``."""
    storage: Place
    """Local path or URI of the folder that keeps everything derived: index, indicators, trials."""
    validation_part: Part = "all"
    """Every other validation scene is for tuning, the rest for reporting."""
    reading: Reading = Reading()
    """How the dataroot is read where it differs from a published nuScenes."""

    @property
    def train_split(self) -> str:
        return split_names(self.version)[0]

    @property
    def validation_split(self) -> str:
        return split_names(self.version)[1]

    @property
    def storage_location(self) -> Location:
        return Location.parse(self.storage)

    def index(self, *, look: bool = False) -> Index:
        """The memory-mapped index; opened once in a process.

        Args:
            look: see :func:`altermoma_ray.data.nuscenes.index.open_index`; opens it again.
        """
        if look:
            _open.cache_clear()
            open_index(Location.parse(self.dataroot), self.version, self.storage_location, self.reading, look=True)
        return _open(self)

    def training_rows(self) -> list[int]:
        """Rows of the index to learn from."""
        return self.index().samples("train")

    def validation_rows(self, limit: int | None = None) -> list[int]:
        """Rows of the index to evaluate on; with ``limit``, a subset spread over them that never changes.

        Raises:
            UserError: there are no validation scenes, or too few to take a part of them.
        """
        rows = self.index().samples("val")
        if self.validation_part != "all":
            scenes = self.index().scenes()
            order = {scene: number for number, scene in enumerate(dict.fromkeys(scenes[row] for row in rows))}
            if len(order) < 2:
                raise UserError(f"{self.dataroot} has {len(order)} validation scene, but tuning and reporting need two")
            odd = int(self.validation_part == "reporting")
            rows = [row for row in rows if order[scenes[row]] % 2 == odd]
        if limit is None or limit >= len(rows):
            return rows
        chosen = torch.linspace(0, len(rows) - 1, limit).round().long().unique().tolist()
        return [rows[position] for position in chosen]


@lru_cache(maxsize=4)
def _open(source: DataSource) -> Index:
    return open_index(Location.parse(source.dataroot), source.version, source.storage_location, source.reading)

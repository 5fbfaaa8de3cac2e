"""Batches that are decoded when they are asked for, and kept while memory allows."""

from __future__ import annotations

from collections.abc import Sequence

from altermoma_ray.data.batch import Batch
from altermoma_ray.data.nuscenes.dataset import NuScenesDataset, collate

KEEP_BYTES = 2 << 30
"""Decoded batches are kept up to this size, so that what is read again is decoded once."""


class LazyBatches(Sequence[Batch]):
    """A sequence of batches, each given by positions in a data set.

    Args:
        dataset: where samples are decoded; without augmentation, since batches may be kept.
        positions: one list for each batch.
        keep_bytes: upper bound of what is kept decoded.
    """

    def __init__(
        self, dataset: NuScenesDataset, positions: Sequence[Sequence[int]], *, keep_bytes: int = KEEP_BYTES
    ) -> None:
        self._dataset = dataset
        self._positions = [list(batch) for batch in positions]
        self._kept: dict[int, Batch] = {}
        self._free_bytes = keep_bytes

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, number: int) -> Batch:  # type: ignore[override]
        if number >= len(self):
            raise IndexError(number)
        if number in self._kept:
            return self._kept[number]
        batch = collate([self._dataset[position] for position in self._positions[number]])
        size = batch.images.nbytes + sum(points.nbytes for points in batch.points)
        if size <= self._free_bytes:
            self._kept[number] = batch
            self._free_bytes -= size
        return batch

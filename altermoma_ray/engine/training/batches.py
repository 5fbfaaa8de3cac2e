"""Batches decoded on their first use, and kept while memory allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from altermoma_ray.data.sampling import Collate

KEEP_BYTES = 2 << 30
"""Decoded batches are kept up to this size in bytes; a batch read again is not decoded again."""


class LazyBatches(Sequence[Any]):
    """A sequence of batches, each given by positions in a data set.

    >>> batches = LazyBatches(["a", "b", "c"], list, [[2, 0], [1]])
    >>> len(batches), batches[0]
    (2, ['c', 'a'])

    Args:
        dataset: decodes its samples on indexing; without augmentation, since batches may be kept.
        collate: makes a batch of samples.
        positions: one list for each batch.
        keep_bytes: upper bound of the size of all kept batches.
    """

    def __init__(
        self, dataset: Any, collate: Collate, positions: Sequence[Sequence[int]], *, keep_bytes: int = KEEP_BYTES
    ) -> None:
        self._dataset, self._collate = dataset, collate
        self._positions = [list(batch) for batch in positions]
        self._kept: dict[int, Any] = {}
        self._free_bytes = keep_bytes

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, number: int) -> Any:  # type: ignore[override]
        # `Sequence.__iter__` counts up until this error: a for loop ends here.
        if number >= len(self):
            raise IndexError(number)
        if number in self._kept:
            return self._kept[number]
        batch = self._collate([self._dataset[position] for position in self._positions[number]])
        # First come, first kept. Every pass reads the batches in the same order: a cache replacing the oldest would
        # throw out each batch just before its next use. A later, smaller batch may still fit.
        size = bytes_of(batch)
        if size <= self._free_bytes:
            self._kept[number] = batch
            self._free_bytes -= size
        return batch


def bytes_of(value: object) -> int:
    """Size of all tensors in a batch, in its lists, mappings and attributes.

    >>> import torch
    >>> bytes_of({"points": torch.zeros(4, 3), "names": ["a"]})
    48
    """
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(bytes_of, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(bytes_of, value))
    # A workload's batch is a class of its own, commonly a dataclass: its tensors are found without knowing the class.
    return sum(map(bytes_of, vars(value).values())) if hasattr(value, "__dict__") else 0

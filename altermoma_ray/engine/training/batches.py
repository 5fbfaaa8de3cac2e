"""Batches decoded on their first use, and kept while memory allows."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from altermoma_ray.data.sampling import Collate, load_batches

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
        processes: processes that load ahead during a loop over all batches; 0 decodes in the caller's own. A batch
            asked for by its number is always decoded by the caller.
    """

    def __init__(
        self,
        dataset: Any,
        collate: Collate,
        positions: Sequence[Sequence[int]],
        *,
        keep_bytes: int = KEEP_BYTES,
        processes: int = 0,
    ) -> None:
        self._dataset, self._collate, self._processes = dataset, collate, processes
        self._positions = [list(batch) for batch in positions]
        self._kept: dict[int, Any] = {}
        self._free_bytes = keep_bytes

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, number: int) -> Any:  # type: ignore[override]
        if number >= len(self):
            raise IndexError(number)
        if number in self._kept:
            return self._kept[number]
        batch = self._collate([self._dataset[position] for position in self._positions[number]])
        if self._keeps(batch):
            self._kept[number] = batch
        return batch

    def __iter__(self) -> Iterator[Any]:
        missing = [number for number in range(len(self)) if number not in self._kept]
        if not self._processes or not missing:
            for number in range(len(self)):
                yield self[number]
            return
        # A generator of its own: with torch's common one, a trial's random numbers would depend on the processes.
        loaded = load_batches(
            self._dataset,
            self._collate,
            [self._positions[number] for number in missing],
            processes=self._processes,
            generator=torch.Generator(),
        )
        for number in range(len(self)):
            if number in self._kept:
                yield self._kept[number]
                continue
            batch = next(loaded)
            if self._keeps(batch):
                # A loader's tensors are in shared memory, each with an open file: a kept batch is copied out of there.
                batch = self._kept[number] = copy.deepcopy(batch)
            yield batch
        # The loader ends its processes at its own end, which is behind the last batch.
        assert next(loaded, None) is None

    def _keeps(self, batch: Any) -> bool:
        """Whether a new batch is kept; its bytes are then no longer free."""
        # First come, first kept. Every pass reads the batches in the same order: a cache replacing the oldest would
        # throw out each batch just before its next use. A later, smaller batch may still fit.
        size = bytes_of(batch)
        if size > self._free_bytes:
            return False
        self._free_bytes -= size
        return True


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

"""Batches of a data source: loaded ahead by processes that stay, or decoded on their first use and kept."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from altermoma_ray.data.loader import Loader
from altermoma_ray.workloads.protocols import DataSource

KEEP_BYTES = 2 << 30
"""Decoded batches are kept up to this size in bytes; a batch read again is not decoded again."""


class RowLoader:
    """Loads batches of a data source's samples, named by their rows, without random variation.

    Its processes stay from one loop to the next, see :class:`altermoma_ray.data.loader.Loader`; all loops of a worker
    should share one, since each process holds the data source::

        loader = RowLoader(data, data.rows("train") + data.rows("validation"), processes=4)
        for batch in loader.load([[3, 1], [2, 0]]):
            ...

    Args:
        data: gives the samples.
        rows: all rows that may be asked for.
        processes: processes that load ahead; 0 loads in the worker itself.
    """

    def __init__(self, data: DataSource, rows: Sequence[int], *, processes: int = 0) -> None:
        self._places = {row: place for place, row in enumerate(dict.fromkeys(rows))}
        dataset = data.dataset(list(self._places), augment=False, seed=0)
        self._loader = Loader(dataset, data.collate, processes=processes)
        self.processes = processes

    def load(self, batches: Sequence[Sequence[int]]) -> Iterator[Any]:
        """Batches of rows in their order, loaded ahead; None for one without rows.

        Raises:
            UserError: a sample's file is missing or broken.
        """
        return self._loader.load([self._placed(rows) for rows in batches])

    def batch(self, rows: Sequence[int]) -> Any:
        """One batch of rows, loaded in the worker itself."""
        return self._loader.batch(self._placed(rows))

    def _placed(self, rows: Sequence[int]) -> list[int]:
        return [self._places[row] for row in rows]

    def close(self) -> None:
        """End the processes; a later loop starts others."""
        self._loader.close()


class LazyBatches(Sequence[Any]):
    """A sequence of batches, each given by rows of a data source.

    Example:
        Two batches, of which the second is decoded alone::

            batches = LazyBatches(RowLoader(data, data.rows("train")), [[2, 0], [1]])
            batches[1]

    Args:
        loader: loads them; its processes load ahead during a loop over all batches. A batch asked for by its number is
            always decoded by the worker itself.
        batches: rows, one list for each batch.
        keep_bytes: upper bound of the size of all kept batches.
    """

    def __init__(self, loader: RowLoader, batches: Sequence[Sequence[int]], *, keep_bytes: int = KEEP_BYTES) -> None:
        self._loader = loader
        self._rows = [list(batch) for batch in batches]
        self._kept: dict[int, Any] = {}
        self._free_bytes = keep_bytes

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Any:  # type: ignore[override]
        if number >= len(self):
            raise IndexError(number)
        if number in self._kept:
            return self._kept[number]
        batch = self._loader.batch(self._rows[number])
        if self._keeps(batch):
            self._kept[number] = batch
        return batch

    def __iter__(self) -> Iterator[Any]:
        # Decided at the start: a batch may become kept during the loop, and is then loaded once more.
        ahead = set(range(len(self))) - self._kept.keys() if self._loader.processes else set()
        loaded = self._loader.load([self._rows[number] for number in sorted(ahead)])
        for number in range(len(self)):
            if number not in ahead:
                yield self[number]
                continue
            batch = next(loaded)
            if number not in self._kept and self._keeps(batch):
                # A loader's tensors are in shared memory, each with an open file: a kept batch is copied out of there.
                batch = self._kept[number] = copy.deepcopy(batch)
            yield batch

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

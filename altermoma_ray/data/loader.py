"""Batches of a data set, loaded in the caller's own process, or ahead of their use in processes that stay."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from altermoma_ray.errors import UserError

Collate = Callable[[Sequence[Any]], Any]
"""Makes a batch of samples."""
AHEAD = 2
"""Batches that each process loads before they are asked for."""


class Loader:
    """Loads batches of a map-style data set.

    Processes start with the first loop, which takes them seconds, and stay for the next ones: until :meth:`close`,
    until this object is gone, or until the process that made it ends. A loop may begin while another one rests, as an
    evaluation does amid a fine-tuning.

    Example:
        Two processes load three batches ahead::

            loader = Loader(dataset, collate, processes=2)
            for batch in loader.load([[3, 1], [2, 0], [4]]):
                ...

    Args:
        dataset: gives ``dataset[position]``; one with a method ``set_epoch(epoch)`` is told the epoch. Picklable where
            there are processes.
        collate: makes a batch of samples.
        processes: number of processes; 0 loads in the caller's own.
    """

    def __init__(self, dataset: Any, collate: Collate, *, processes: int = 0) -> None:
        self._dataset, self._collate, self._processes = dataset, collate, processes
        self._pool: ProcessPoolExecutor | None = None

    def load(self, batches: Sequence[Sequence[int]], *, epoch: int = 0) -> Iterator[Any]:
        """Load batches in their order.

        Args:
            batches: positions in the data set, a list for each batch.
            epoch: of the data set's random variation.

        Yields:
            A batch for each list; None for an empty one.

        Raises:
            UserError: a sensor's file is missing or broken.
            RuntimeError: a process died; the next loop starts others.
        """
        if not self._processes:
            for positions in batches:
                yield self.batch(positions, epoch=epoch)
            return
        waiting: deque[Future[Any]] = deque()
        try:
            for positions in batches:
                waiting.append(self._submit(positions, epoch))
                if len(waiting) > AHEAD * self._processes:
                    yield self._result(waiting.popleft())
            while waiting:
                yield self._result(waiting.popleft())
        finally:
            for future in waiting:
                future.cancel()

    def batch(self, positions: Sequence[int], *, epoch: int = 0) -> Any:
        """One batch, loaded in the caller's own process; arguments and errors are as above."""
        return _loaded(self._dataset, self._collate, positions, epoch)

    def _submit(self, positions: Sequence[int], epoch: int) -> Future[Any]:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._processes,
                mp_context=multiprocessing.get_context("spawn"),  # a Ray worker has threads: forking may hang
                initializer=_begin,
                initargs=(self._dataset, self._collate),
            )
        try:
            return self._pool.submit(_load, list(positions), epoch)
        except BrokenProcessPool as error:
            raise self._died() from error

    def _result(self, future: Future[Any]) -> Any:
        try:
            found = future.result()
        except BrokenProcessPool as error:
            raise self._died() from error
        # Raised here, in the caller's process, where the error's text is its whole message.
        if isinstance(found, UserError):
            raise found
        return found

    def _died(self) -> RuntimeError:
        self._pool = None
        return RuntimeError(
            "a process that loads samples ended without a word; it may have been killed for want of memory, "
            "or its own output above tells why"
        )

    def close(self) -> None:
        """End the processes and wait for their end; a later loop starts others."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _loaded(dataset: Any, collate: Collate, positions: Sequence[int], epoch: int) -> Any:
    if hasattr(dataset, "set_epoch"):
        dataset.set_epoch(epoch)
    return collate([dataset[position] for position in positions]) if positions else None


def _begin(dataset: Any, collate: Collate) -> None:
    """The start of a loading process."""
    global _held
    _held = dataset, collate
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


_held: tuple[Any, Collate]
"""A loading process's data set, and the function which makes its batches."""


def _end_with_parent() -> None:
    # A parent that is killed closes no pool, and the processes would wait for work for ever.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _load(positions: Sequence[int], epoch: int) -> Any:
    # A user's mistake is handed over as a value: raised here, it would arrive with a page of text.
    try:
        return _loaded(*_held, positions, epoch)
    except UserError as error:
        return error

"""Batches of a data set, loaded in the caller's own process, or ahead of their use in processes that stay."""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
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
        self._held, self._processes = _Held(dataset, collate), processes
        self._pool: ProcessPoolExecutor | None = None

    def load(self, batches: Sequence[Sequence[int]], *, epoch: int | None = None) -> Iterator[Any]:
        """Load batches in their order.

        Args:
            batches: positions in the data set, a list for each batch. Processes have loaded two batches each before
                they are asked for, and a loop that is left leaves them to be finished before those of the next one.
            epoch: of the data set's random variation; None leaves the data set as it is.

        Yields:
            A batch for each list; None for an empty one.

        Raises:
            UserError: a sensor's file is missing or broken.
            RuntimeError: a process failed or died; the next loop starts others in the place of dead ones.
        """
        if not self._processes:
            for positions in batches:
                yield self._held.batch(positions, epoch)
            return
        waiting: deque[Future[Any]] = deque()
        for positions in batches:
            waiting.append(self._submit(positions, epoch, retry=not waiting))
            if len(waiting) > AHEAD * self._processes:
                yield self._result(waiting.popleft())
        while waiting:
            yield self._result(waiting.popleft())

    def batch(self, positions: Sequence[int], *, epoch: int | None = None) -> Any:
        """One batch, loaded in the caller's own process; arguments are as above, and errors are the data set's own."""
        return self._held.batch(positions, epoch)

    def _submit(self, positions: Sequence[int], epoch: int | None, *, retry: bool) -> Future[Any]:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._processes,
                mp_context=multiprocessing.get_context("spawn"),  # a Ray worker has threads: forking may hang
                initializer=_begin,
                initargs=(self._held,),
            )
        try:
            return self._pool.submit(_load, list(positions), epoch)
        except BrokenProcessPool as error:
            self._pool = None
            if not retry:
                raise _died(error) from error
        # A process died while it had nothing to do: no batch is lost.
        return self._submit(positions, epoch, retry=False)

    def _result(self, future: Future[Any]) -> Any:
        try:
            found = future.result()
        except BrokenProcessPool as error:
            self._pool = None
            raise _died(error) from error
        if isinstance(found, UserError):
            raise found
        if isinstance(found, _Failure):
            raise RuntimeError(found.text) from RuntimeError(found.traceback)
        return found

    def close(self) -> None:
        """End the processes and wait for their end; a later loop starts others. A resting loop cannot go on."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


class _Held:
    """A data set, the function which makes its batches, and the epoch last told."""

    def __init__(self, dataset: Any, collate: Collate) -> None:
        self._dataset, self._collate = dataset, collate
        self._epoch: int | None = None

    def batch(self, positions: Sequence[int], epoch: int | None) -> Any:
        """A batch of samples; None without positions."""
        if epoch not in (None, self._epoch) and hasattr(self._dataset, "set_epoch"):
            self._dataset.set_epoch(epoch)
            self._epoch = epoch
        return self._collate([self._dataset[position] for position in positions]) if positions else None


@dataclass(frozen=True)
class _Failure:
    """An error of a data set, as text: the error itself may not survive the way to another process."""

    text: str
    traceback: str


def _died(error: BrokenProcessPool) -> RuntimeError:
    cause = f" ({error.__cause__})" if error.__cause__ else ""
    return RuntimeError(
        "a process that loads samples ended without a word: it may have been killed for want of memory, the limit of "
        f"open files may be too low (`ulimit -n`), or its own output above tells why{cause}"
    )


_held: _Held
"""What a loading process loads from."""


def _begin(held: _Held) -> None:
    """The start of a loading process."""
    global _held
    _held = held
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A parent that is killed closes no pool, and the processes would wait for work for ever.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _load(positions: Sequence[int], epoch: int | None) -> Any:
    # Errors are handed over as values. One that cannot be unpickled would break the whole pool, and one like SystemExit
    # would end the caller.
    try:
        return _held.batch(positions, epoch)
    except UserError as error:
        return error
    except BaseException as error:
        text = f"a sample could not be loaded: {type(error).__name__}: {error}"
        return _Failure(text, traceback.format_exc())

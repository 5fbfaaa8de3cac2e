"""How workers share the passes of scoring: spans of micro-batches, and masking passes side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.distributed as distributed
from torch import Tensor

from altermoma_ray.engine.ray.workers import sum_over
from altermoma_ray.pruning import Reactivation


class Share:
    """One worker's part of the micro-batches, within a group of workers which sum their gradients.

    >>> share = Share(1, 2, None)  # the second of two workers
    >>> share.of_batch([10, 11, 12]), share.of_batches([[10, 11, 12], [13]])
    ([11, 12], [[12], [13]])

    Args:
        rank: this worker's number within the group.
        world: number of workers in the group.
        group: the workers; None means all.
    """

    def __init__(self, rank: int, world: int, group: distributed.ProcessGroup | None) -> None:
        self._rank, self._world = rank, world
        self.reduce: Callable[[list[Tensor]], None] = sum_over(group, world)

    def _span(self, count: int) -> tuple[int, int]:
        # Spans of two workers differ by one at most, and touch without a gap or an overlap for any count.
        return self._rank * count // self._world, (self._rank + 1) * count // self._world

    def of_batch(self, batch: Sequence[int]) -> list[int]:
        """This worker's micro-batches of one batch."""
        start, stop = self._span(len(batch))
        return list(batch[start:stop])

    def of_batches(self, batches: Sequence[Sequence[int]]) -> list[list[int]]:
        """This worker's micro-batches of all batches together.

        The result has as many entries as ``batches``, some empty: a mean divides by the same number on all workers.
        """
        # Split as a whole: batch by batch, three micro-batches on two workers would cost two passes for each batch.
        whole = [part for batch in batches for part in batch]
        start, stop = self._span(len(whole))
        own = whole[start:stop]
        return [own[number :: len(batches)] for number in range(len(batches))]


def passes_of(rank: int, world: int, parts: int, modalities: tuple[str, ...]) -> tuple[Share, tuple[str, ...]]:
    """This worker's share of the masking passes: all in turn, or one of two beside the other half of the workers."""
    # Halves pay off only where each has a worker for every micro-batch of a reactivation step.
    if world < 2 * parts or len(modalities) != 2:
        return Share(rank, world, None), modalities
    half = world // 2
    members = [list(range(half)), list(range(half, world))]
    # `new_group` is collective: a worker which skips the other half's group hangs all others.
    groups = [distributed.new_group(ranks) for ranks in members]
    side = int(rank >= half)
    return Share(rank - side * half, len(members[side]), groups[side]), (modalities[side],)


def exchange(found: dict[Reactivation, dict[str, Tensor]], failure: str | None, rank: int, world: int) -> str | None:
    """Bring the second half's pass to rank 0, and the failure of either half to all."""
    # Failures first: a failed half has nothing to gather, and all workers must leave by the same way.
    failures: list[str | None] = [None] * world
    distributed.all_gather_object(failures, failure)
    if any(failures):
        return next(text for text in failures if text)
    parts: list[Any] | None = [None] * world if rank == 0 else None
    # Within a half all workers hold the same sums: one sends them for all, the others send None.
    leader = rank == world // 2
    distributed.gather_object(found if leader else None, parts, dst=0)
    for part in parts or []:
        for setting, tensors in (part or {}).items():
            found[setting].update(tensors)
    return None

"""Samples of an epoch, their order, and each worker's part of them.

Only the last step depends on the number of workers: a global batch is fixed first and split afterwards. A sum over a
global batch's samples is therefore the same on any number of workers.

Example: the second of two workers, in the first epoch::

    order = epoch_order(len(dataset), seed=0, epoch=0)
    own = [shard(batch, rank=1, world=2) for batch in global_batches(order, 32)]
    for batch in Loader(dataset, collate).load(own):
        ...
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

if TYPE_CHECKING:
    from altermoma_ray.data.nuscenes.index import Index

Split = Literal["train", "validation"]
"""Samples to learn from, and samples to evaluate on."""
ValidationPart = Literal["all", "tuning", "reporting"]
"""Which validation samples are evaluated: all, or one of two halves.

A search tunes on one half and a comparison reports the other: reported figures then come from samples on which nobody
has tuned.
"""


def class_balanced_rows(index: Index, rows: Sequence[int], *, seed: int, length: int | None = None) -> list[int]:
    """Repeat keyframes until all classes occur equally often (Zhu et al. 2019, arXiv:1908.09492, section 3.1).

    A keyframe counts once for each class it shows. Every class present is then drawn equally often, with replacement,
    from its keyframes.

    Args:
        index: the data set with the keyframes' descriptions.
        rows: the keyframes to draw from; a keyframe without any class is never drawn.
        seed: of the draw.
        length: number of rows in the result; by default the sum, over the keyframes, of their numbers of classes.

    Returns:
        Rows, grouped by class; give them to a data set and shuffle by :func:`epoch_order`.

    Raises:
        ValueError: no keyframe shows a class.
    """
    members: dict[int, list[int]] = {}
    for row in rows:
        for label in np.unique(index.labels(row)):
            members.setdefault(int(label), []).append(row)
    if not members:
        raise ValueError("class-balanced sampling needs a box of some class, but none of the keyframes has one")
    total = sum(map(len, members.values())) if length is None else length
    # Shares differ by one row at most where the classes do not divide the length.
    shares = [part.size for part in np.array_split(np.arange(total), len(members))]
    rng = np.random.default_rng(seed)
    return [
        int(row)
        # Sorted classes: the order of the draws decides their results, and must not hang on the first rows' classes.
        for label, share in zip(sorted(members), shares, strict=True)
        for row in rng.choice(members[label], size=share, replace=True)
    ]


def spread(values: Sequence[Any], limit: int) -> list[Any]:
    """At most so many of the values, evenly spread, in their order.

    >>> spread("abcde", 3)
    ['a', 'c', 'e']
    """
    # Not drawn: the same subset at each call. `unique` in case rounding meets one twice.
    chosen = torch.linspace(0, len(values) - 1, limit).round().long().unique().tolist()
    return [values[position] for position in chosen]


def epoch_order(length: int, *, seed: int, epoch: int) -> list[int]:
    """The positions 0 to ``length`` - 1 in the random order of an epoch.

    Args:
        length: number of samples.
        seed: of all epochs.
        epoch: number of the epoch.
    """
    # Seeded by the epoch's number, not continued from the last epoch: a resumed run draws the same order.
    return [int(position) for position in np.random.default_rng((seed, epoch)).permutation(length)]


def global_batches(order: Sequence[int], size: int, *, drop_last: bool = False) -> list[list[int]]:
    """Cut an order into batches of ``size``; the last one may be smaller, or is dropped.

        >>> global_batches([4, 2, 0, 3, 1], 2)
        [[4, 2], [0, 3], [1]]

    Args:
        order: positions of samples.
        size: samples of a batch.
        drop_last: whether a smaller last batch is dropped.

    Raises:
        ValueError: ``size`` is below 1.
    """
    if size < 1:
        raise ValueError(f"a batch must have at least 1 sample, but got size={size}")
    stop = len(order) - len(order) % size if drop_last else len(order)
    return [list(order[start : start + size]) for start in range(0, stop, size)]


def shard(batch: Sequence[int], rank: int, world: int) -> list[int]:
    """A worker's part of a global batch: contiguous; sizes differ by at most one; empty for want of samples.

        >>> [shard([4, 2, 0, 3, 1], rank, 2) for rank in (0, 1)]
        [[4, 2], [0, 3, 1]]

    Args:
        batch: positions of samples.
        rank: the worker's number.
        world: number of workers.

    Raises:
        ValueError: there is no worker of this number.
    """
    if not 0 <= rank < world:
        raise ValueError(f"`0 <= rank < world` must hold, but got (rank={rank}, world={world})")
    # Whole-number bounds of neighbouring workers meet exactly: no sample is lost, and none is in two parts.
    return list(batch[rank * len(batch) // world : (rank + 1) * len(batch) // world])

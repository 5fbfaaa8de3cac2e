"""Loader processes of an evaluation."""

from __future__ import annotations

import multiprocessing

import torch

from altermoma_ray.engine.training.batches import KEEP_BYTES, LazyBatches, bytes_of
from tests.workloads.two_branch import WORKLOAD


def lazy(processes, keep_bytes=KEEP_BYTES):
    data = WORKLOAD.source()
    dataset = data.dataset(data.rows("validation"), augment=False, seed=0)
    return LazyBatches(dataset, data.collate, [[0, 1, 2], [3, 4, 5], [6]], keep_bytes=keep_bytes, processes=processes)


def test_processes_load_the_batches_that_are_not_kept_and_end_with_the_loop():
    alone = list(lazy(0))
    ahead = lazy(1, keep_bytes=bytes_of(alone[0]))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    loaded = list(ahead)
    assert multiprocessing.active_children() == []
    assert torch.equal(torch.get_rng_state(), state)  # a trial draws the same numbers with any number of processes
    for one, other in zip(loaded, alone, strict=True):
        assert one.names == other.names
        for name in ("radar", "audio", "target"):
            assert torch.equal(getattr(one, name), getattr(other, name))
    assert next(iter(ahead)) is loaded[0]
    assert [batch.radar.is_shared() for batch in loaded] == [False, True, True]


def test_no_process_starts_where_all_is_kept():
    batches = lazy(1)
    kept = [batches[number] for number in range(len(batches))]
    for one, other in zip(batches, kept, strict=True):
        assert multiprocessing.active_children() == []
        assert one is other

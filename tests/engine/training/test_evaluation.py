"""Loader processes of an evaluation, and of a fine-tuning in which the evaluation comes."""

from __future__ import annotations

import multiprocessing

import torch

from altermoma_ray.engine.training.batches import KEEP_BYTES, LazyBatches, RowLoader, bytes_of
from tests.workloads.two_branch import WORKLOAD


def lazy(processes, keep_bytes=KEEP_BYTES):
    data = WORKLOAD.source()
    rows = data.rows("validation")
    loader = RowLoader(data, rows, processes=processes)
    return loader, LazyBatches(loader, [rows[:3], rows[3:6], rows[6:7]], keep_bytes=keep_bytes)


def test_processes_load_the_batches_that_are_not_kept_and_stay_until_they_are_closed():
    _, here = lazy(0)
    alone = list(here)
    loader, ahead = lazy(1, keep_bytes=bytes_of(alone[0]))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    loaded = list(ahead)
    processes = multiprocessing.active_children()
    assert len(processes) == 1
    assert torch.equal(torch.get_rng_state(), state)  # a trial draws the same numbers with any number of processes
    for one, other in zip(loaded, alone, strict=True):
        assert one.names == other.names
        for name in ("radar", "audio", "target"):
            assert torch.equal(getattr(one, name), getattr(other, name))
    assert next(iter(ahead)) is loaded[0]
    assert [batch.radar.is_shared() for batch in loaded] == [False, True, True]
    assert len(list(ahead)) == 3
    assert multiprocessing.active_children() == processes
    loader.close()
    assert multiprocessing.active_children() == []


def test_no_process_starts_where_all_is_kept():
    _, batches = lazy(1)
    kept = [batches[number] for number in range(len(batches))]
    for one, other in zip(batches, kept, strict=True):
        assert multiprocessing.active_children() == []
        assert one is other

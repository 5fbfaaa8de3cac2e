from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from altermoma_ray.data.loader import Loader
from altermoma_ray.data.nuscenes.dataset import NuScenesDataset, collate
from altermoma_ray.data.nuscenes.index import Index, open_index
from altermoma_ray.data.sampling import class_balanced_rows, epoch_order, global_batches, shard
from altermoma_ray.data.transforms import InputConfig
from altermoma_ray.storage import Location

INPUTS = InputConfig(image_size=(48, 128), resize_test=0.32, resize_train=(0.3, 0.36), sweeps=1)


@pytest.fixture(scope="module")
def index(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    storage = Location.parse(tmp_path_factory.mktemp("storage"))
    return open_index(Location.parse(synthetic_root), "v1.0-trainval", storage, progress=False)


def test_every_class_is_drawn_equally_often(index):
    rows = index.samples("train")
    classes = {row: set(index.labels(row).tolist()) for row in rows}
    present = sorted(set().union(*classes.values()))
    total = sum(map(len, classes.values()))
    drawn = class_balanced_rows(index, rows, seed=0)
    assert len(drawn) == total
    groups = np.array_split(np.array(drawn), len(present))
    for label, group in zip(present, groups, strict=True):
        assert abs(len(group) - total / len(present)) < 1
        assert all(label in classes[int(row)] for row in group)
    assert set(drawn) <= set(rows)


def test_class_balanced_rows_follow_the_seed_and_length(index):
    rows = index.samples("train")
    assert class_balanced_rows(index, rows, seed=1) == class_balanced_rows(index, rows, seed=1)
    assert class_balanced_rows(index, rows, seed=1) != class_balanced_rows(index, rows, seed=2)
    assert len(class_balanced_rows(index, rows, seed=1, length=77)) == 77
    with pytest.raises(ValueError, match="needs a box of some class"):
        class_balanced_rows(index, [], seed=0)


def test_epoch_order_is_a_permutation_that_changes_with_the_epoch():
    first = epoch_order(50, seed=3, epoch=0)
    assert sorted(first) == list(range(50))
    assert first == epoch_order(50, seed=3, epoch=0)
    assert first != epoch_order(50, seed=3, epoch=1)
    assert first != epoch_order(50, seed=4, epoch=0)


@given(length=st.integers(0, 60), size=st.integers(1, 17), world=st.integers(1, 7), drop=st.booleans())
def test_shards_partition_every_global_batch(length, size, world, drop):
    order = epoch_order(length, seed=0, epoch=0)
    batches = global_batches(order, size, drop_last=drop)
    joined = [position for batch in batches for position in batch]
    assert joined == order[: length - length % size if drop else length]
    assert all(len(batch) == size for batch in batches[:-1])
    for batch in batches:
        parts = [shard(batch, rank, world) for rank in range(world)]
        assert [position for part in parts for position in part] == batch
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_wrong_shards_and_sizes_are_refused():
    with pytest.raises(ValueError, match=r"`0 <= rank < world` must hold, but got \(rank=2, world=2\)"):
        shard([1, 2], 2, 2)
    with pytest.raises(ValueError, match="at least 1 sample, but got size=0"):
        global_batches([1, 2], 0)


def test_workers_load_what_one_worker_loads(index):
    dataset = NuScenesDataset(index, index.samples("train"), INPUTS, augment=True, seed=0)
    batches = global_batches(epoch_order(3, seed=0, epoch=0), 2)
    loader = Loader(dataset, collate)
    alone = list(loader.load(batches))
    ranks = [list(loader.load([shard(batch, rank, 2) for batch in batches])) for rank in (0, 1)]
    assert [len(part) for part in ranks] == [2, 2]
    assert ranks[0][1] is None  # one sample for two workers: the first has no share
    for number, whole in enumerate(alone):
        parts = [part[number] for part in ranks if part[number] is not None]
        assert [token for part in parts for token in part.tokens] == whole.tokens
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images)


def test_loading_processes_give_the_same_batches(index):
    dataset = NuScenesDataset(index, index.samples("val"), INPUTS, augment=True, seed=0)
    batches = global_batches(range(len(dataset)), 2)
    ahead = Loader(dataset, collate, processes=1)
    for here, there in zip(Loader(dataset, collate).load(batches), ahead.load(batches), strict=True):
        assert here.tokens == there.tokens
        assert torch.equal(here.images, there.images)
        assert all(np.array_equal(a, b) for a, b in zip(here.points, there.points, strict=True))


def test_rare_classes_gain(index):
    rows = index.samples("train")
    before = Counter(int(label) for row in rows for label in set(index.labels(row).tolist()))
    rarest = min(before, key=before.get)
    drawn = class_balanced_rows(index, rows, seed=0, length=2000)
    share = sum(rarest in index.labels(row) for row in drawn) / 2000
    assert share >= 1 / len(before) - 1e-3

"""What every data source must do: the same rows and samples again, in whichever process they are read."""

from __future__ import annotations

import pickle
from typing import Any, get_args

import pytest

from altermoma_ray.errors import UserError
from altermoma_ray.testing.values import differences
from altermoma_ray.workloads.protocols import Batch, DataSource, Split

FEW = 3


class DataSourceContract:
    """Tests of a :class:`altermoma_ray.workloads.protocols.DataSource`.

    Subclass it in a test module, with a method that makes the data source::

        class TestMyData(DataSourceContract):
            def make_data(self):
                return MyData("tests/data")

    >>> hasattr(DataSourceContract, "make_data")
    True
    """

    def make_data(self) -> DataSource:
        """A data source of the same samples in every call; a few samples are enough."""
        raise NotImplementedError("give the data source: def make_data(self)")

    def test_it_can_be_prepared_again(self) -> None:
        data = self._data()
        for split in get_args(Split):
            fingerprint = data.fingerprint(split)
            data.prepare()
            assert isinstance(fingerprint, str)
            assert fingerprint
            assert data.fingerprint(split) == fingerprint == self._data().fingerprint(split)

    def test_it_travels_to_other_processes(self) -> None:
        data = self._data()
        there = pickle.loads(pickle.dumps(data))
        assert there.fingerprint("train") == data.fingerprint("train")
        assert there.rows("train") == data.rows("train")

    def test_rows_of_the_splits_are_apart(self) -> None:
        data = self._data()
        train, validation = (data.rows(split) for split in get_args(Split))
        for rows in (train, validation):
            assert rows
            assert all(isinstance(row, int) for row in rows)
            assert len(set(rows)) == len(rows), "a row comes twice"
        assert not set(train) & set(validation), "a row to learn from is also evaluated on"

    def test_tuning_and_reporting_share_no_rows_and_are_all(self) -> None:
        data = self._data()
        try:
            tuning, reporting = data.rows("validation", "tuning"), data.rows("validation", "reporting")
        except UserError as error:
            pytest.skip(f"the data source is too small to be halved: {error}")
        assert tuning
        assert reporting
        assert not set(tuning) & set(reporting), "a row to tune on is also reported"
        assert {*tuning, *reporting} == set(data.rows("validation"))

    @pytest.mark.parametrize("split", get_args(Split))
    def test_a_limit_takes_a_subset_that_never_changes(self, split: Split) -> None:
        data = self._data()
        rows = data.rows(split)
        few = data.rows(split, limit=FEW)
        assert 0 < len(few) <= FEW
        assert [row for row in rows if row in few] == few, "the rows of a subset must be in the order of all rows"
        again, elsewhere = data.rows(split, limit=FEW), self._data().rows(split, limit=FEW)
        assert again == few == elsewhere, f"the subset was {few}, then {again}, and {elsewhere} of another object"
        assert data.rows(split, limit=len(rows)) == data.rows(split, limit=len(rows) + 1) == rows

    def test_samples_follow_from_rows_and_seed(self) -> None:
        rows = self._data().rows("train", limit=FEW)
        for augment in (False, True):
            first, second = (self._samples(rows, augment=augment, seed=7) for _ in range(2))
            assert len(first) == len(rows)
            assert not differences(first, second)

    def test_evaluation_draws_nothing(self) -> None:
        rows = self._data().rows("train", limit=FEW)
        samples = [self._samples(rows, augment=False, seed=seed) for seed in (0, 1)]
        assert not differences(*samples), "samples depend on the seed although they are not augmented"

    def test_samples_can_be_read_alone_and_in_any_order(self) -> None:
        data = self._data()
        rows = data.rows("validation", limit=FEW)
        alone = [data.dataset([row], augment=False, seed=0)[0] for row in reversed(rows)]
        assert not differences(alone[::-1], self._samples(rows, augment=False, seed=0))

    def test_an_epoch_is_the_same_again(self) -> None:
        data = self._data()
        dataset = data.dataset(data.rows("train", limit=FEW), augment=True, seed=0)
        if not hasattr(dataset, "set_epoch"):
            pytest.skip("the data set takes no epochs")
        dataset.set_epoch(1)
        first = dataset[0]
        dataset.set_epoch(2)
        dataset.set_epoch(1)
        assert not differences(dataset[0], first)

    def test_a_batch_has_its_samples_and_moves_to_a_device(self) -> None:
        data = self._data()
        rows = data.rows("train", limit=FEW)
        samples = self._samples(rows, augment=True, seed=0)
        for count in range(1, len(samples) + 1):
            batch = data.collate(samples[:count])
            assert isinstance(batch, Batch)
            assert len(batch) == count
            assert not differences(batch.to("cpu"), batch)

    def _data(self) -> DataSource:
        data = self.make_data()
        data.prepare()
        return data

    def _samples(self, rows: list[int], *, augment: bool, seed: int) -> list[Any]:
        dataset = self._data().dataset(rows, augment=augment, seed=seed)
        return [dataset[position] for position in range(len(dataset))]

"""The contract suite of data sources: the same rows and samples again, in any process."""

from __future__ import annotations

import pickle
from typing import Any, get_args
from unittest import SkipTest

from altermoma_ray.errors import UserError
from altermoma_ray.testing.values import differences
from altermoma_ray.workloads.protocols import Batch, DataSource, Split

FEW = 3


class DataSourceContract:
    """Tests of a :class:`altermoma_ray.workloads.protocols.DataSource`.

    Subclass it in a test module, with a method making the data source::

        class TestMyData(DataSourceContract):
            def make_data(self):
                return MyData("tests/data")

    >>> hasattr(DataSourceContract, "make_data")
    True
    """

    def make_data(self) -> DataSource:
        """A data source of the same samples in every call; a few samples are enough.

        Raises:
            NotImplementedError: the subclass does not define the method.
        """
        raise NotImplementedError("give the data source: def make_data(self)")

    def test_it_can_be_prepared_again(self) -> None:
        data = self._data()
        for split in get_args(Split):
            fingerprint = data.fingerprint(split)
            # A resumed search prepares the data again; a second preparation must not change them.
            data.prepare()
            assert isinstance(fingerprint, str), f"the fingerprint of {split} must be text, but is {fingerprint!r}"
            assert fingerprint, f"the fingerprint of {split} is empty"
            again, elsewhere = data.fingerprint(split), self._data().fingerprint(split)
            assert again == fingerprint == elsewhere, f"the fingerprint of {split} was {fingerprint!r}, then {again!r}"

    def test_it_travels_to_other_processes(self) -> None:
        data = self._data()
        # Ray moves arguments to other processes by pickling.
        there = pickle.loads(pickle.dumps(data))
        assert there.fingerprint("train") == data.fingerprint("train"), "its copy has another fingerprint"
        assert there.rows("train") == data.rows("train"), "its copy has other rows"

    def test_rows_of_the_splits_are_apart(self) -> None:
        data = self._data()
        train, validation = (data.rows(split) for split in get_args(Split))
        for split, rows in zip(get_args(Split), (train, validation), strict=True):
            assert rows, f"{split} has no row"
            assert all(isinstance(row, int) for row in rows), f"a row of {split} is no int"
            assert len(set(rows)) == len(rows), f"a row of {split} comes twice"
        assert not set(train) & set(validation), "a row to learn from is also evaluated on"

    def test_tuning_and_reporting_share_no_rows_and_are_all(self) -> None:
        data = self._data()
        try:
            tuning, reporting = data.rows("validation", "tuning"), data.rows("validation", "reporting")
        except UserError as error:
            raise SkipTest(f"the data source is too small to be halved: {error}") from None
        assert tuning, "there is no row to tune on"
        assert reporting, "there is no row to report"
        assert not set(tuning) & set(reporting), "a row to tune on is also reported"
        assert {*tuning, *reporting} == set(data.rows("validation")), "tuning and reporting are not all of validation"

    def test_a_limit_takes_a_subset_that_never_changes(self) -> None:
        data = self._data()
        for split in get_args(Split):
            rows = data.rows(split)
            # Scores at a limit are compared over trials and days; the subset must never be drawn anew.
            few = data.rows(split, limit=FEW)
            assert 0 < len(few) <= FEW, f"a limit of {FEW} gives {len(few)} rows of {split}"
            assert [row for row in rows if row in few] == few, "the rows of a subset must be in the order of all rows"
            again, elsewhere = data.rows(split, limit=FEW), self._data().rows(split, limit=FEW)
            assert again == few == elsewhere, f"the subset was {few}, then {again}, and {elsewhere} of another object"
            all_of_them = data.rows(split, limit=len(rows)), data.rows(split, limit=len(rows) + 1)
            assert all_of_them == (rows, rows), f"a limit that {split} does not reach changes its rows"

    def test_samples_follow_from_rows_and_seed(self) -> None:
        rows = self._data().rows("train", limit=FEW)
        for augment in (False, True):
            first, second = (self._samples(rows, augment=augment, seed=7) for _ in range(2))
            assert len(first) == len(rows), f"{len(rows)} rows have {len(first)} samples"
            assert not differences(first, second), "a sample that is read again is another one"

    def test_evaluation_draws_nothing(self) -> None:
        # Rows of the training split: an augmentation left on shows in them.
        rows = self._data().rows("train", limit=FEW)
        samples = [self._samples(rows, augment=False, seed=seed) for seed in (0, 1)]
        assert not differences(*samples), "samples depend on the seed although they are not augmented"

    def test_samples_can_be_read_alone_and_in_any_order(self) -> None:
        data = self._data()
        rows = data.rows("validation", limit=FEW)
        # Workers split the rows among themselves; the sample of a row must not depend on its neighbours.
        alone = [data.dataset([row], augment=False, seed=0)[0] for row in reversed(rows)]
        same = not differences(alone[::-1], self._samples(rows, augment=False, seed=0))
        assert same, "a sample depends on the samples that are read with it"

    def test_an_epoch_is_the_same_again(self) -> None:
        data = self._data()
        dataset = data.dataset(data.rows("train", limit=FEW), augment=True, seed=0)
        if not hasattr(dataset, "set_epoch"):
            raise SkipTest("the data set takes no epochs")
        # A resumed training goes straight to its epoch, without the epochs before.
        dataset.set_epoch(1)
        first = dataset[0]
        dataset.set_epoch(2)
        dataset.set_epoch(1)
        assert not differences(dataset[0], first), "the samples of an epoch are others when it is set again"

    def test_a_disturbance_changes_the_samples_and_nothing_else(self) -> None:
        data = self._data()
        names = getattr(data, "disturbances", None)
        if not names:
            raise SkipTest("the data source names no disturbances")
        rows = data.rows("validation", limit=FEW)
        whole = [data.dataset(rows, augment=False, seed=0)[position] for position in range(len(rows))]
        for name in names:
            disturbed = data.disturbed(name)  # type: ignore[attr-defined]
            assert disturbed.rows("validation", limit=FEW) == rows, f"under {name} the rows are others"
            same = disturbed.fingerprint("validation") == data.fingerprint("validation")
            assert not same, f"under {name} the samples differ, but the fingerprint is the same"
            first, again = (
                [disturbed.dataset(rows, augment=False, seed=0)[position] for position in range(len(rows))]
                for _ in range(2)
            )
            assert not differences(first, again), f"under {name} a sample that is read again is another one"
            assert differences(first, whole), f"{name} changes no sample"

    def test_a_batch_has_its_samples_and_moves_to_a_device(self) -> None:
        data = self._data()
        rows = data.rows("train", limit=FEW)
        samples = self._samples(rows, augment=True, seed=0)
        for count in range(1, len(samples) + 1):
            batch = data.collate(samples[:count])
            assert isinstance(batch, Batch), f"a batch needs len and `to(device)`, but {type(batch).__name__} lacks one"
            assert len(batch) == count, f"a batch of {count} samples has length {len(batch)}"
            assert not differences(batch.to("cpu"), batch), "`to` changes the values of a batch"

    def _data(self) -> DataSource:
        data = self.make_data()
        data.prepare()
        return data

    def _samples(self, rows: list[int], *, augment: bool, seed: int) -> list[Any]:
        dataset = self._data().dataset(rows, augment=augment, seed=seed)
        return [dataset[position] for position in range(len(dataset))]

"""What every task must do: losses of single samples, predictions by sample, and the metrics that it lists."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from altermoma_ray.metrics import Metric
from altermoma_ray.testing.values import differences, tensors_of
from altermoma_ray.workloads.protocols import Batch, DataSource, FusionModel, Task

SAMPLES = 3


class TaskContract:
    """Tests of a :class:`altermoma_ray.workloads.protocols.Task`, with a model and a data source that go with it.

    Subclass it in a test module, with methods that make the three::

        class TestMyTask(TaskContract):
            def make_task(self):
                return MyTask()

            def make_model(self):
                return MyModel(width=8)

            def make_data(self):
                return MyData("tests/data")

    >>> all(hasattr(TaskContract, name) for name in ("make_task", "make_model", "make_data"))
    True

    Attributes:
        tolerance: relative and absolute difference up to which two losses are the same but for rounding.
    """

    tolerance: float = 1e-4

    def make_task(self) -> Task:
        """The task."""
        raise NotImplementedError("give the task: def make_task(self)")

    def make_model(self) -> FusionModel:
        """A new model on the CPU whose outputs the task reads."""
        raise NotImplementedError("give a model: def make_model(self)")

    def make_data(self) -> DataSource:
        """A data source whose batches the model and the task read; a few samples are enough."""
        raise NotImplementedError("give a data source: def make_data(self)")

    def test_metrics_are_named_once_each(self) -> None:
        metrics = self.make_task().metrics
        assert metrics, "a task needs a metric, since the first one is the default objective"
        assert all(isinstance(metric, Metric) for metric in metrics)
        assert len({metric.name for metric in metrics}) == len(metrics), "two metrics have the same name"

    def test_losses_are_one_finite_number_for_each_sample(self) -> None:
        model, data = self._model(), self._data()
        batch = data.collate(self._samples(data))
        losses = self.make_task().loss(model(batch), batch)
        assert "total" in losses
        for name, loss in losses.items():
            assert loss.shape == (len(batch),), f"{name} must be [{len(batch)}], but is {list(loss.shape)}"
            assert loss.is_floating_point(), name
            assert bool(loss.isfinite().all()), name

    def test_the_total_leads_to_the_model(self) -> None:
        model, data = self._model(), self._data()
        batch = data.collate(self._samples(data))
        self.make_task().loss(model(batch), batch)["total"].mean().backward()
        assert isinstance(model, nn.Module)
        groups = {
            model.group_of(name) for name, one in model.named_parameters() if one.grad is not None and one.grad.any()
        }
        assert groups == {*model.modalities, "fusion"}

    def test_losses_of_a_batch_are_those_of_its_samples_alone(self) -> None:
        """So that a search does not depend on how many workers share a batch."""
        model, data, task = self._model(), self._data(), self.make_task()
        samples = self._samples(data)
        with torch.no_grad():
            whole = self._losses(model, task, data.collate(samples))
            alone = [self._losses(model, task, data.collate([sample])) for sample in samples]
        for name, loss in whole.items():
            parts = torch.cat([one[name] for one in alone])
            assert not differences(parts, loss, tolerance=self.tolerance), f"{name}: {parts} alone, {loss} together"

    def test_predictions_are_by_sample_on_the_cpu_and_can_be_pickled(self) -> None:
        model, data, task = self._model(), self._data(), self.make_task()
        samples = self._samples(data)
        with torch.no_grad():
            together = self._predictions(model, task, data.collate(samples))
            alone = [self._predictions(model, task, data.collate([sample])) for sample in samples]
        assert len(together) == len(samples)
        assert all(isinstance(name, str) for name in together), f"samples need names as text, but got {list(together)}"
        assert [name for one in alone for name in one] == list(together)
        assert all(tensor.device.type == "cpu" for tensor in tensors_of(together).values())
        assert not any(tensor.requires_grad for tensor in tensors_of(together).values())
        assert not differences(pickle.loads(pickle.dumps(dict(together))), together)

    def test_exactly_the_listed_metrics_are_evaluated(self) -> None:
        """From the predictions for all rows, in any order; a metric without a value is NaN, but it is there."""
        model, data, task = self._model(), self._data(), self.make_task()
        rows = data.rows("validation", limit=SAMPLES)
        dataset = data.dataset(rows, augment=False, seed=0)
        predictions: dict[str, Any] = {}
        with torch.no_grad():
            for position in range(len(dataset)):
                predictions |= self._predictions(model, task, data.collate([dataset[position]]))
        metrics = task.evaluate(predictions, data, rows)
        assert set(metrics) == {metric.name for metric in task.metrics}
        assert all(isinstance(value, float) for value in metrics.values())
        assert math.isfinite(metrics[task.metrics[0].name]), "the default objective must be a number"
        again = task.evaluate(dict(reversed(predictions.items())), data, rows)
        assert again == pytest.approx(metrics, nan_ok=True)

    def _model(self) -> FusionModel:
        model = self.make_model()
        assert isinstance(model, nn.Module)
        model.eval()
        return model

    def _data(self) -> DataSource:
        data = self.make_data()
        data.prepare()
        return data

    def _samples(self, data: DataSource) -> list[Any]:
        rows = data.rows("train", limit=SAMPLES)
        assert len(rows) >= 2, "the contract needs two samples to learn from"
        dataset = data.dataset(rows, augment=False, seed=0)
        return [dataset[position] for position in range(len(rows))]

    @staticmethod
    def _losses(model: FusionModel, task: Task, batch: Batch) -> Mapping[str, Tensor]:
        return task.loss(model(batch), batch)

    @staticmethod
    def _predictions(model: FusionModel, task: Task, batch: Batch) -> Mapping[str, Any]:
        return task.decode(model(batch), batch)

"""The contract suite of tasks: losses of single samples, predictions by sample, and exactly the listed metrics."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from altermoma_ray.metrics import Metric
from altermoma_ray.testing.values import differences, tensors_of
from altermoma_ray.workloads.protocols import Batch, DataSource, FusionModel, Task
from altermoma_ray.workloads.workload import FUSION

SAMPLES = 3


class TaskContract:
    """Tests of a :class:`altermoma_ray.workloads.protocols.Task`, with a model and a data source of the same kind.

    Subclass it in a test module, with methods making the task, the model and the data source::

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
        tolerance: largest difference of two equal losses after rounding, relative and absolute.
    """

    tolerance: float = 1e-4

    def make_task(self) -> Task:
        """The task under test.

        Raises:
            NotImplementedError: the subclass does not define the method.
        """
        raise NotImplementedError("give the task: def make_task(self)")

    def make_model(self) -> FusionModel:
        """A new model on the CPU, whose outputs the task reads.

        Raises:
            NotImplementedError: the subclass does not define the method.
        """
        raise NotImplementedError("give a model: def make_model(self)")

    def make_data(self) -> DataSource:
        """A data source, whose batches the model and the task read; a few samples are enough.

        Raises:
            NotImplementedError: the subclass does not define the method.
        """
        raise NotImplementedError("give a data source: def make_data(self)")

    def test_metrics_are_named_once_each(self) -> None:
        metrics = self.make_task().metrics
        assert metrics, "a task needs a metric, since the first one is the default objective"
        assert all(isinstance(metric, Metric) for metric in metrics), "a metric is no altermoma_ray.metrics.Metric"
        assert len({metric.name for metric in metrics}) == len(metrics), "two metrics have the same name"

    def test_losses_are_one_finite_number_for_each_sample(self) -> None:
        model, data = self._model(), self._data()
        batch = data.collate(self._to_learn_from(data))
        losses = self.make_task().loss(model(batch), batch)
        kind = type(losses).__name__
        assert isinstance(losses, Mapping), f"`loss` must return a dictionary of tensors, but returned a {kind}"
        assert "total" in losses, f"`total` is missing in the losses, which are {', '.join(losses)}"
        for name, loss in losses.items():
            shape = f"loss {name} must be one number for each sample, [{len(batch)}], but is {list(loss.shape)}"
            assert loss.shape == (len(batch),), shape
            assert loss.is_floating_point(), f"loss {name} must be floating point, but is {loss.dtype}"
            assert bool(loss.isfinite().all()), f"loss {name} is {loss.tolist()}"

    def test_the_total_leads_to_the_model(self) -> None:
        model, data = self._model(), self._data()
        batch = data.collate(self._to_learn_from(data))
        total = self.make_task().loss(model(batch), batch)["total"]
        assert total.requires_grad, "no gradient leads from `total` to the model; it must not be detached"
        total.mean().backward()
        # A group without any gradient cannot be fine-tuned; gradient criteria score its weights 0.
        assert isinstance(model, nn.Module)
        groups = {
            model.group_of(name) for name, one in model.named_parameters() if one.grad is not None and one.grad.any()
        }
        for group in (*model.modalities, FUSION):
            assert group in groups, f"no gradient of the total loss leads to a parameter of group {group}"

    def test_losses_of_a_batch_are_those_of_its_samples_alone(self) -> None:
        """Results of a search do not depend on the number of workers sharing a batch."""
        model, data, task = self._model(), self._data(), self.make_task()
        samples = self._to_learn_from(data)
        with torch.no_grad():
            whole = self._losses(model, task, data.collate(samples))
            alone = [self._losses(model, task, data.collate([sample])) for sample in samples]
        for name, loss in whole.items():
            # A mean over the batch, or a division by its number of boxes, shows as another loss here.
            parts = torch.cat([one[name] for one in alone])
            told = f"loss {name} is {parts.tolist()} of samples alone, {loss.tolist()} of the same samples together"
            assert not differences(parts, loss, tolerance=self.tolerance), told

    def test_predictions_are_by_sample_on_the_cpu_and_can_be_pickled(self) -> None:
        model, data, task = self._model(), self._data(), self.make_task()
        samples = self._to_learn_from(data)
        with torch.no_grad():
            together = self._predictions(model, task, data.collate(samples))
            alone = [self._predictions(model, task, data.collate([sample])) for sample in samples]
        assert len(together) == len(samples), f"{len(samples)} samples have {len(together)} predictions"
        assert all(isinstance(name, str) for name in together), f"samples need names as text, but got {list(together)}"
        names = [name for one in alone for name in one]
        assert names == list(together), f"samples are named {names} alone and {list(together)} together"
        # Workers send their predictions to each other: a tensor on a GPU would fill the memory of the receiver's GPU.
        for tensor in tensors_of(together).values():
            assert tensor.device.type == "cpu", f"a prediction is on {tensor.device}, not on the CPU"
            assert not tensor.requires_grad, "a prediction still has its gradient's graph; detach it"
        try:
            copy = pickle.loads(pickle.dumps(dict(together)))
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise AssertionError(f"`decode` gives predictions that cannot be pickled: {error}") from error
        assert not differences(copy, together), "predictions change when they are pickled"

    def test_exactly_the_listed_metrics_are_evaluated(self) -> None:
        """Metrics come from the predictions of all rows, in any order; a metric without a value is NaN, not absent."""
        model, data, task = self._model(), self._data(), self.make_task()
        rows = data.rows("validation", limit=SAMPLES)
        dataset = data.dataset(rows, augment=False, seed=0)
        predictions: dict[str, Any] = {}
        with torch.no_grad():
            for position in range(len(dataset)):
                predictions |= self._predictions(model, task, data.collate([dataset[position]]))
        metrics = task.evaluate(predictions, data, rows)
        listed = [metric.name for metric in task.metrics]
        missing = [name for name in listed if name not in metrics]
        assert not missing, f"`evaluate` gives no {', '.join(missing)}, which `metrics` lists"
        surprising = [name for name in metrics if name not in listed]
        assert not surprising, f"`evaluate` gives {', '.join(surprising)}, which `metrics` does not list"
        for name, value in metrics.items():
            assert isinstance(value, float), f"metric {name} must be a float, but is a {type(value).__name__}"
        # Optuna takes a NaN for a failed trial; the default objective must therefore be finite.
        value = metrics[listed[0]]
        assert math.isfinite(value), f"metric {listed[0]}, the default objective, must be a number, but is {value}"
        again = task.evaluate(dict(reversed(predictions.items())), data, rows)
        for name in listed:
            # NaN is the only value unequal to itself: two NaN are the same metric without a value.
            same = math.isclose(again[name], metrics[name], rel_tol=1e-6) or again[name] != again[name]
            assert same, f"metric {name} depends on the order of the predictions"

    def _model(self) -> FusionModel:
        model = self.make_model()
        assert isinstance(model, nn.Module)
        model.eval()
        return model

    def _data(self) -> DataSource:
        data = self.make_data()
        data.prepare()
        return data

    def _to_learn_from(self, data: DataSource) -> list[Any]:
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

"""The seam between a pruning search and a model, its task and its data.

The search asks no more of a model, a task or a data set than these protocols say. A class fulfils a protocol by having
its attributes and methods; nothing needs to be inherited, and no class is registered anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from altermoma_ray.data.sampling import Split, ValidationPart
from altermoma_ray.metrics import Metric


# `isinstance` with a runtime-checkable protocol compares the names of members only, neither signatures nor values.
# The contract suites in `altermoma_ray.testing` call each method and find the remaining faults.
@runtime_checkable
class Batch(Protocol):
    """N samples, in any form known to the model and the task."""

    def __len__(self) -> int:
        """The number of samples, N."""

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on a device."""


# No base class of ours: a user's module keeps its own ancestors, and can be pruned without a change of its file.
@runtime_checkable
class FusionModel(Protocol):
    """A :class:`torch.nn.Module` with a branch for each modality, whose branches can be masked one by one.

    A model may offer more methods; a search uses them where the model has them:

    - ``flow(batch)`` for the criterion SynFlow, see :class:`altermoma_ray.pruning.criteria.Problem`;
    - ``features(batch, masked)`` for the redundancy report: maps [N, channel, x, y] of each modality by its name, and
      ``fused``, the map of all;
    - ``auxiliary_loss()`` for training from scratch: a context manager whose value is a function from the batch of the
      last forward pass to a loss [N];
    - ``distillable()`` for distillation while fine-tuning: a context manager whose value is a function from the outputs
      of the last forward pass to tensors [N, ...] by name, which the pruned and the unpruned model are compared by.
      Without the method, all outputs [N, ...] of real numbers are compared.
    """

    modalities: tuple[str, ...]
    """Names of the modalities, such as ``("lidar", "camera")``, in the order in which they are masked."""

    def group_of(self, parameter: str) -> str:
        """The group of a parameter, by its name: a modality, or ``fusion`` for a parameter of all modalities."""

    def __call__(self, batch: Any, masked: frozenset[str] = frozenset()) -> Any:
        """The model's outputs, as if the branches of ``masked`` modalities gave zeros."""


@runtime_checkable
class Task(Protocol):
    """A loss to score and to train with, and figures to compare models by.

    The redundancy report needs two things more, which a task may have: ``occupied(batch)``, the cells of the model's
    maps that an object covers, bool [N, x, y], since the report compares maps there and elsewhere; and ``map_extent``,
    the least and the greatest x, then y, of the maps.

    Where the data set has an official evaluation that reads files, a task may have ``result_files(predictions, data,
    rows)``: the texts of these files by their names, for ``--save-detections``. Its arguments are those of
    :meth:`evaluate`.

    The certificate of a champion tells more where a task has two further methods, with the same arguments:

    - ``found_objects(predictions, data, rows)``: each annotated object with its slices by name and the confidence at
      which it is found, and the predictions without an object, as :class:`altermoma_ray.objects.FoundObjects`;
    - ``evaluate_scene(predictions, data, rows)``: the metrics of one scene, NaN where the scene cannot tell. Needed
      where :meth:`evaluate` counts what no sample shows, such as an absent class, as 0.
    """

    metrics: tuple[Metric, ...]
    """All figures of :meth:`evaluate`; the first is the default objective."""

    def loss(self, outputs: Any, batch: Any) -> Mapping[str, Tensor]:
        """Losses of N samples, [N] each; training minimises ``total``.

        A loss of one value for each sample keeps results independent of the number of workers.
        """

    def decode(self, outputs: Any, batch: Any) -> Mapping[str, Any]:
        """The predictions by sample name, on the CPU and fit to be pickled: workers exchange them."""

    def evaluate(self, predictions: Mapping[str, Any], data: Any, rows: Sequence[int]) -> dict[str, float]:
        """The metrics of predictions, by name.

        Args:
            predictions: of all workers together, by sample name, as :meth:`decode` gave them.
            data: the data source, with the annotations to compare with.
            rows: the rows to evaluate, of which each has its prediction.
        """


@runtime_checkable
class DataSource(Protocol):
    """Samples to train on and to evaluate on, each by a number (its row).

    A data source may offer more:

    - ``balanced_rows(rows, seed)``: the rows of an epoch in which each class comes equally often;
    - ``left_out()``: how many records of the user's data are not used, by kind;
    - ``scenes_of(rows)``: the name of each row's scene. Samples of a scene look alike, and the certificate counts them
      together; without the method each sample is a scene of its own;
    - ``object_picture(row, name)``: a :class:`PIL.Image.Image` of an annotated object, for the certificate's page; the
      name is that of the task's ``found_objects``;
    - ``disturbances``, what may fail in its samples, titles by name, and ``disturbed(name)``, the same data source with
      this failure, for the robustness report.
    """

    def fingerprint(self, split: Split) -> str:
        """Text which changes whenever the samples of a split change: scores and metrics are stored under this text."""

    def prepare(self) -> None:
        """Make or check everything needed to read samples; called once, before any worker starts.

        Raises:
            UserError: the data are missing or broken.
        """

    def rows(self, split: Split, part: ValidationPart = "all", limit: int | None = None) -> list[int]:
        """The rows of a split.

        Args:
            split: ``train`` or ``validation``.
            part: ``tuning`` or ``reporting``, one half of the split's scenes each, or ``all``.
            limit: greatest number of rows; always the same subset, spread over all rows. None sets no limit.
        """

    def dataset(self, rows: Sequence[int], *, augment: bool, seed: int) -> Any:
        """A map-style data set of these rows: ``len`` and ``dataset[position]``.

        One with a method ``set_epoch(epoch)`` is told every epoch of training.

        Args:
            rows: of the data source, in the order of the data set's positions.
            augment: whether samples are varied at random.
            seed: of the random variation; the same seed, epoch and row give the same sample in every process.
        """

    def collate(self, samples: Sequence[Any]) -> Any:
        """A batch (:class:`Batch`) of samples of a data set."""

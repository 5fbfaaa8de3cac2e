"""Distillation: beside its task, a pruned model learns to give the unpruned model's maps and outputs.

Notation: the teacher is the unpruned model, the student the pruned one. ``t`` and ``s`` [N, ...] are one and the same
tensor of both, ``t_n`` and ``s_n`` its parts for sample n; σ² is the variance of t over training samples; λ is the
weight of distillation.

    loss of sample n = λ · mean over tensors ( mean over elements ( (s_n − t_n)² ) / σ² )

The division by σ² makes each term the share of the teacher's variance which the student leaves unexplained: 0 for an
equal tensor, about 1 for the teacher's mean everywhere. Tensors of any unit and width therefore weigh alike, and one λ
means the same for every model.

Sources: outputs as targets are from Hinton et al., *Distilling the Knowledge in a Neural Network*, 2015
(arXiv:1503.02531). Deviation: squared differences in place of cross-entropies, since outputs may be other than logits;
for logits they are the limit of a high temperature (section 2.1). Maps as targets are the hints of Romero et al.,
*FitNets*, ICLR 2015 (arXiv:1412.6550). Deviation: no layer translates between maps of two widths, since pruned channels
are held at zero while a model trains. The share of a pruned channel of a map in the loss is constant, without gradient.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from altermoma_ray.engine.training.loop import ExtraLoss
from altermoma_ray.errors import UserError
from altermoma_ray.workloads.protocols import DataSource

SCALE_SAMPLES = 8
"""Number of training samples over which σ² is taken."""
_REMEDY = "mend or add the model's `distillable` (altermoma_ray.workloads.protocols), or leave distillation out"


class Distillation:
    """The unpruned model as the teacher of one trial after another.

    The teacher is a frozen copy, made at the first need: a search without distillation pays nothing. All that a resumed
    trial needs follows from the checkpoint and the data, on every worker alike; no state has to be kept.

    Example: one step of a trial, between the zeroing of gradients and the optimiser's step::

        with distillation.loss(weight=1.0) as distilled:
            outputs = model(batch)
            (task.loss(outputs, batch)["total"] + distilled(outputs, batch)).mean().backward()

    Args:
        student: the model to train; its weights may change at any time.
        initial: the state of the unpruned model.
        data: gives the samples for σ².
    """

    def __init__(self, student: nn.Module, initial: Mapping[str, Tensor], data: DataSource) -> None:
        self._student, self._initial, self._data = student, initial, data
        self._teacher: nn.Module | None = None
        self._variances: dict[str, float] = {}

    @contextmanager
    def loss(self, weight: float) -> Iterator[ExtraLoss | None]:
        """While the context is open, the loss of distillation; None for a weight of 0.

        The teacher runs once for each batch; the student's tensors are those of its last forward pass.

        Args:
            weight: λ.

        Raises:
            UserError: the model has no tensors to compare, or none of a finite variance.
        """
        if weight == 0:
            yield None
            return
        teacher = self._made()
        with tensors_of(self._student) as of_student, tensors_of(teacher) as of_teacher:

            def loss(outputs: Any, batch: Any) -> Tensor:
                with torch.no_grad():
                    wanted = of_teacher(teacher(batch), len(batch))
                return weight * unexplained(of_student(outputs, len(batch)), wanted, self._variances)

            yield loss

    def _made(self) -> nn.Module:
        """The teacher, with σ² of its tensors."""
        if self._teacher is None:
            # In evaluation mode the teacher has no dropout: the student's random numbers are those of a trial without.
            teacher = copy.deepcopy(self._student).eval().requires_grad_(False)
            teacher.load_state_dict(self._initial)
            rows = self._data.rows("train", limit=SCALE_SAMPLES)
            # Every worker reads the same samples: with σ² of its own share, a worker would weigh its loss differently.
            dataset = self._data.dataset(rows, augment=False, seed=0)
            # Three batches of two lengths: a tensor of fixed length, a grid for instance, is no tensor [N, ...] in all.
            parts = (range(len(rows))[start:end] for start, end in ((0, 2), (2, 5), (5, SCALE_SAMPLES)))
            batches = (self._data.collate([dataset[position] for position in part]) for part in parts if part)
            self._variances = variances(teacher, batches)
            self._teacher = teacher
        return self._teacher


@contextmanager
def tensors_of(model: nn.Module) -> Iterator[Callable[[Any, int], dict[str, Tensor]]]:
    """While the context is open, a function for the tensors to compare of a model's last forward pass, by name.

    The model's own method ``distillable`` names them. Without the method, they are all tensors [N, ...] of real numbers
    among the outputs.

    >>> model = nn.Linear(2, 3)
    >>> with tensors_of(model) as tensors:
    ...     sorted(tensors({"score": model(torch.ones(4, 2)), "row": torch.arange(4)}, 4))
    ['outputs.score']

    Args:
        model: runs forward while the context is open. The function takes its outputs and N, their number of samples.
    """
    if not hasattr(model, "distillable"):
        yield lambda outputs, samples: dict(_dense(outputs, samples))
        return
    with model.distillable() as own:  # type: ignore[operator]
        yield lambda outputs, samples: own(outputs)


def _dense(outputs: Any, samples: int, name: str = "outputs") -> Iterator[tuple[str, Tensor]]:
    if isinstance(outputs, Tensor):
        # Whole numbers are classes or places, which have no distance; other lengths are no samples.
        if outputs.is_floating_point() and outputs.dim() > 0 and len(outputs) == samples:
            yield name, outputs
        return
    if isinstance(outputs, Mapping):
        parts: Iterable[tuple[Any, Any]] = outputs.items()
    elif isinstance(outputs, Sequence) and not isinstance(outputs, str | bytes):
        parts = enumerate(outputs)
    else:
        parts = getattr(outputs, "__dict__", {}).items()
    for part, value in parts:
        yield from _dense(value, samples, f"{name}.{part}")


@torch.no_grad()
def variances(teacher: nn.Module, batches: Iterable[Any]) -> dict[str, float]:
    """σ² of each tensor of the teacher, over all elements of all batches.

    Constant tensors are left out, and tensors missing in a batch.

    Args:
        teacher: in evaluation mode.
        batches: run forward one after another.

    Raises:
        UserError: nothing can be compared, or values of the teacher are not finite.
    """
    device = next(teacher.parameters()).device
    # The moments of each batch: all maps of all samples together would not fit beside two models.
    moments: dict[str, list[Tensor]] = {}
    count = 0
    with tensors_of(teacher) as of_teacher:
        for batch in batches:
            count += 1
            for name, tensor in of_teacher(teacher(batch.to(device)), len(batch)).items():
                # In double precision: the difference below cancels most digits of a tensor far from 0.
                values = tensor.double()
                sums = torch.stack([values.new_tensor(values.numel()), values.sum(), values.square().sum()])
                moments.setdefault(name, []).append(sums)
    found = {}
    for name, parts in moments.items():
        size, total, squares = torch.stack(parts).sum(dim=0).tolist()
        if len(parts) < count or size == 0:
            continue
        variance, mean = squares / size - (total / size) ** 2, total / size
        if not math.isfinite(variance):
            raise UserError(
                f"distillation needs finite values, but '{name}' of the unpruned model has others; {_REMEDY}"
            )
        # Up to rounding: a constant would be divided by next to nothing, and drown all other tensors.
        if variance > 1e-12 * mean**2:
            found[name] = variance
    if not found:
        raise UserError(
            f"distillation finds nothing to compare: {type(teacher).__name__} gives no tensor [N, ...] of real numbers "
            f"that vary; {_REMEDY}"
        )
    return found


def unexplained(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], variances: Mapping[str, float]) -> Tensor:
    """The share of the teacher's variance which the student leaves unexplained, a mean over tensors, for each sample.

    >>> teacher = {"map": torch.tensor([[1.0, 3.0], [1.0, 3.0]])}
    >>> unexplained({"map": torch.tensor([[1.0, 3.0], [2.0, 2.0]])}, teacher, {"map": 1.0})
    tensor([0., 1.])

    Args:
        student: tensors [N, ...] by name.
        teacher: the same of the teacher.
        variances: σ² of the tensors to compare.

    Returns:
        [N].

    Raises:
        UserError: a tensor of the teacher has no counterpart of the same shape.
    """
    terms = []
    for name, variance in variances.items():
        shapes = [tuple(tensors[name].shape) if name in tensors else "nothing" for tensors in (student, teacher)]
        if shapes[0] != shapes[1] or "nothing" in shapes:
            raise UserError(
                f"distillation compares tensors of one shape, but '{name}' is {shapes[0]} in the pruned model and "
                f"{shapes[1]} in the unpruned one; {_REMEDY}"
            )
        difference = (student[name] - teacher[name]).square()
        terms.append(difference.reshape(len(difference), -1).mean(dim=1) / variance)
    return torch.stack(terms).mean(dim=0)

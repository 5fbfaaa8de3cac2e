"""A model as AlterMOMA looks at it: one modality masked, the others reactivated (Algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from torch import nn

from altermoma_ray.errors import UserError
from altermoma_ray.pruning.gradients import (
    LossFunction,
    Reduce,
    adam_steps,
    evaluation,
    initial_parameters_kept,
    single_worker,
    trained_parameters,
)
from altermoma_ray.pruning.indicators import Reactivation


@contextmanager
def reactivated(
    model: nn.Module,
    loss: LossFunction,
    masked: str,
    batches: Sequence[Any],
    setting: Reactivation,
    *,
    reduce: Reduce = single_worker,
) -> Iterator[nn.Module]:
    """Train the model with a modality masked, for as long as the context lasts.

    Training is exactly ReRI's (:func:`altermoma_ray.pruning.redundancy`), to θ_B. On exit parameters, buffers,
    gradients, flags and modes are as before, also after an error.

    >>> with reactivated(model, loss, "lidar", batches, setting):    # doctest: +SKIP
    ...     maps = model.features(batch, masked=frozenset({"lidar"}))

    Args:
        model: at θ_init; in evaluation mode while the context lasts.
        loss: see :data:`altermoma_ray.pruning.LossFunction`.
        masked: the modality m with μ_m = 0.
        batches: D_1 ... D_B, at least as many as the setting has steps.
        setting: B and the learning rate.
        reduce: sums over the workers.

    Raises:
        UserError: there are too few batches.
        FloatingPointError: a loss or a gradient is not finite; raised on all workers.
    """
    if len(batches) < setting.steps:
        raise UserError(
            f"reactivation of {setting.steps} steps needs as many batches, but got {len(batches)}: "
            "give more data or fewer steps"
        )
    trained = trained_parameters(model)
    with evaluation(model), initial_parameters_kept(model):
        # A prefix of the scoring trajectory: the same batches in the same order lead to the same θ_B.
        steps = adam_steps(
            model,
            trained,
            loss,
            frozenset({masked}),
            islice(batches, setting.steps),
            setting.learning_rate,
            reduce,
        )
        # A generator: training happens only as steps are drawn from.
        for _ in steps:
            pass
        yield model

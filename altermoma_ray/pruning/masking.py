"""Whether a loss really masks a modality: found out on one batch, before any scoring."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from altermoma_ray.errors import UserError
from altermoma_ray.pruning.gradients import (
    Gradients,
    LossFunction,
    NormMode,
    Reduce,
    evaluation,
    mean_gradient,
    single_worker,
    trained_parameters,
)

_SAME = 1e-6
"""Gradients with a smaller difference, in units of their length, are the same but for rounding on a GPU."""


def check_masking(
    model: nn.Module,
    loss: LossFunction,
    groups: Mapping[str, Sequence[str]],
    modalities: Iterable[str],
    batches: Sequence[Any],
    *,
    reduce: Reduce = single_worker,
    norms: NormMode = "running",
) -> None:
    """Check each modality's mask: it must change the gradients of the other groups, and leave none in its own.

    One batch is passed with every mask and once without; more only while a mask changes nothing. The model, its
    buffers and the random state stay unchanged. All workers call this function together.

    Args:
        model: at θ_init.
        loss: see :data:`altermoma_ray.pruning.LossFunction`.
        groups: weight names by parameter group.
        modalities: the names of the groups AlterMOMA will mask.
        batches: of which the first will do, as a rule.
        reduce: sums over the workers.
        norms: as while scoring.

    Raises:
        UserError: a modality is no group, its mask changes nothing, or its own weights still get gradients.
    """
    trained = trained_parameters(model)
    scored = {name: trained[name] for members in groups.values() for name in members if name in trained}

    def gradient(batch: Any, mask: frozenset[str]) -> Gradients:
        devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
        with torch.random.fork_rng(devices=devices):  # the same draws with a mask as without
            return mean_gradient(model, scored, loss, mask, [batch], reduce)

    waiting = list(modalities)
    for modality in waiting:
        if modality not in groups:
            raise UserError(
                f"modality '{modality}' must be a parameter group to be masked, but the groups are "
                f"{', '.join(groups)}: name the problem's modalities"
            )
    with evaluation(model, norms):
        for batch in batches:
            try:
                intact = gradient(batch, frozenset())  # anew: the batch before may hold no object
                masked = {modality: gradient(batch, frozenset({modality})) for modality in waiting}
            except FloatingPointError:
                return  # scoring says at which batch, and which learning rate is at fault
            waiting = [
                modality
                for modality, found in masked.items()
                if not _changes_others_alone(intact, found, modality, set(groups[modality]))
            ]
            if not waiting:
                return
    raise UserError(
        f"masking '{waiting[0]}' changes neither the loss nor its gradients, so that redundancy cannot be measured: "
        "use `masked` in the loss, and give modalities and parameter groups the names that it knows"
    )


def _changes_others_alone(intact: Gradients, masked: Gradients, modality: str, own: set[str]) -> bool:
    """Whether a modality's mask changes the gradients of the other groups' weights.

    Raises:
        UserError: the mask changes these, yet its own weights still get a gradient.
    """
    changed = _differ(intact, masked, [name for name in masked if name not in own])
    # Exactly zero, without a tolerance: a masked branch takes no part in the computation.
    leaking = [name for name in masked if name in own and bool(masked[name].any())]
    if changed and leaking:
        raise UserError(
            f"with '{modality}' masked, its own weight '{leaking[0]}' still gets a gradient: "
            f"let the loss switch off all of group '{modality}', or mend group_of"
        )
    return changed


def _differ(intact: Gradients, masked: Gradients, names: Sequence[str]) -> bool:
    # Over all weights at once: single layers may have tiny gradients in both passes.
    difference = sum(float((intact[name] - masked[name]).double().square().sum()) for name in names)
    length = sum(float(intact[name].double().square().sum()) for name in names)
    return difference > _SAME**2 * length

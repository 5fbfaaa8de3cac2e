"""Running statistics of batch normalisation, taken anew after pruning.

The statistics describe the activations of unpruned layers; a pruned layer gives others. Fine-tuning moves them slowly,
by a running mean. A model without fine-tuning, or without some of its channels, therefore takes them again before each
evaluation: a few forward passes, which cost little beside fine-tuning.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

Statistics = list[Tensor]
"""Running statistics of all batch normalisations of a model, in the model's order."""
BATCHES = 16
"""Number of training batches for the statistics."""


@torch.no_grad()
def retake_statistics(model: nn.Module, batches: Iterable[Any]) -> None:
    """Replace the running statistics of a model's batch normalisations by their means over some batches.

    Args:
        model: only its statistics change; the model is left in evaluation mode.
        batches: training batches, run forward one after another.

    Example:
        A pruned model, before its evaluation::

            retake_statistics(model, itertools.islice(batches, BATCHES))
    """
    norms = _norms(model)
    momenta = [norm.momentum for norm in norms]
    device = next(model.parameters()).device
    # Only the norms are in training mode: dropout would change their inputs.
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # PyTorch's sign for a plain mean over all batches
        norm.train()
    # Without a restored momentum, a later training would go on with plain means in place of running ones.
    try:
        for batch in batches:
            model(batch.to(device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.eval()


@torch.no_grad()
def exchange_statistics(model: nn.Module, statistics: Statistics | None = None) -> Statistics:
    """Put statistics into a model, and give back the ones found there.

    >>> model = nn.BatchNorm1d(1)
    >>> before = exchange_statistics(model)
    >>> _ = model(torch.tensor([[1.0], [3.0]]))
    >>> after = exchange_statistics(model, before)
    >>> float(after[0]), float(model.running_mean)
    (0.20000000298023224, 0.0)

    Args:
        model: only its statistics change.
        statistics: a result of this function; None leaves the model unchanged.
    """
    buffers = [buffer for norm in _norms(model) for buffer in norm.buffers(recurse=False)]
    found = [buffer.clone() for buffer in buffers]
    for buffer, value in zip(buffers, statistics or (), strict=statistics is not None):
        buffer.copy_(value)
    return found


def _norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]

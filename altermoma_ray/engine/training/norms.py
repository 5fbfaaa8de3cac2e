"""Running statistics of batch normalisation, taken anew after pruning.

The statistics describe the activations of unpruned layers; a pruned layer gives others. A model without fine-tuning
therefore takes them again before its evaluation: a few forward passes, which cost little beside fine-tuning.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

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
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
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

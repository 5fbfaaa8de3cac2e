"""Running statistics of batch normalisation, taken anew after pruning.

A pruned layer gives other activations than the statistics were taken on. Before any figure of a model that is not
trained further, they are taken again: a few dozen forward passes, which cost little beside fine-tuning.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

BATCHES = 16
"""Training batches that the statistics are taken over."""


@torch.no_grad()
def retake_statistics(model: nn.Module, batches: Iterable[Any]) -> None:
    """Replace the running statistics of a model's batch normalisations by their means over some batches.

    Args:
        model: only its statistics change; it is left in evaluation mode.
        batches: are run forward, one after another.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    device = next(model.parameters()).device
    # Only the norms are in training mode: dropout would change what they see.
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # PyTorch's sign for a plain mean over all batches
        norm.train()
    try:
        for batch in batches:
            model(batch.to(device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.eval()

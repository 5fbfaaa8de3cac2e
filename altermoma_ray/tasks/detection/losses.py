"""Losses of the detection head, one value for each sample.

Notation: ``N`` samples, ``P`` proposals, ``K`` classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def focal_loss(logits: Tensor, targets: Tensor, *, gamma: float, alpha: float) -> Tensor:
    """Sigmoid focal loss (Lin et al., ICCV 2017, Eq. 5) summed over all but the first axis.

    Args:
        logits: [N, ...].
        targets: [N, ...] zeros and ones.
        gamma: focus.
        alpha: weight of the ones; the zeros weigh ``1 - alpha``.

    Returns:
        [N].
    """
    probability = logits.sigmoid()
    # 1 - p_t of the paper: the share of the probability given to the wrong side.
    missed = torch.where(targets > 0, 1 - probability, probability)
    weight = torch.where(targets > 0, alpha, 1 - alpha) * missed**gamma
    return (weight * functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")).flatten(1).sum(1)


def gaussian_focal_loss(
    logits: Tensor, targets: Tensor, *, alpha: float = 2.0, gamma: float = 4.0, epsilon: float = 1e-4
) -> Tensor:
    """Focal loss of a heat map (Law and Deng, ECCV 2018, Eq. 1) summed over all but the first axis.

    Cells near an object count less, by ``(1 - target)^gamma``.

    Example: a confident, right answer costs little::

        >>> logits, targets = torch.tensor([[9.0, -9.0]]), torch.tensor([[1.0, 0.0]])
        >>> bool(gaussian_focal_loss(logits, targets) < 1e-6)
        True

    Args:
        logits: [N, ...].
        targets: [N, ...] in 0..1, exactly 1 at the objects' cells.
        alpha: focus.
        gamma: how quickly cells near an object lose their weight.
        epsilon: least distance of a probability from 0 and 1.

    Returns:
        [N].
    """
    probability = logits.sigmoid().clamp(epsilon, 1 - epsilon)
    at_object = -probability.log() * (1 - probability) ** alpha
    elsewhere = -(1 - probability).log() * probability**alpha * (1 - targets) ** gamma
    return torch.where(targets == 1, at_object, elsewhere).flatten(1).sum(1)

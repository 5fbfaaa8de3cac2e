from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from altermoma_ray.tasks.detection.losses import focal_loss, gaussian_focal_loss


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def test_focal_loss_against_the_formula():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    targets = (torch.rand(2, 3, 4, generator=generator) < 0.3).double()
    expected = [0.0, 0.0]
    for n, p, k in np.ndindex(2, 3, 4):
        probability = sigmoid(logits[n, p, k])
        if targets[n, p, k] == 1:
            expected[n] += -0.25 * (1 - probability) ** 2 * math.log(probability)
        else:
            expected[n] += -0.75 * probability**2 * math.log(1 - probability)
    assert focal_loss(logits, targets, gamma=2.0, alpha=0.25).tolist() == pytest.approx(expected)


def test_gaussian_focal_loss_against_the_formula():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 4, 3, generator=generator, dtype=torch.float64) * 6
    targets = torch.rand(2, 1, 4, 3, generator=generator, dtype=torch.float64)
    targets[:, :, 1, 1] = 1
    expected = [0.0, 0.0]
    for n, k, x, y in np.ndindex(2, 1, 4, 3):
        probability = min(max(sigmoid(logits[n, k, x, y]), 1e-4), 1 - 1e-4)
        if targets[n, k, x, y] == 1:
            expected[n] += -((1 - probability) ** 2) * math.log(probability)
        else:
            expected[n] += -(probability**2) * (1 - targets[n, k, x, y].item()) ** 4 * math.log(1 - probability)
    assert gaussian_focal_loss(logits, targets).tolist() == pytest.approx(expected)


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[-200.0, 200.0]], requires_grad=True)
    total = focal_loss(logits, torch.tensor([[1.0, 0.0]]), gamma=2.0, alpha=0.25)
    total = total + gaussian_focal_loss(logits, torch.tensor([[1.0, 0.0]]))
    total.sum().backward()
    assert total.isfinite().all()
    assert logits.grad.isfinite().all()

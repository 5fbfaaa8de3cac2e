"""Small building blocks that several parts share."""

from __future__ import annotations

from typing import TypedDict

from torch import nn


class NormSettings(TypedDict, total=False):
    """Options of a batch normalisation; PyTorch's defaults for what is left out."""

    eps: float
    momentum: float


SECOND_EPS = 1e-3
"""Of the batch normalisation in the sparse encoder and in the SECOND decoder (Yan et al., *SECOND*, 2018)."""


def convolution(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    bias: bool = False,
    norm: NormSettings | None = None,
) -> list[nn.Module]:
    """Convolution that keeps the size up to its stride, batch normalisation, ReLU: to unpack into a Sequential."""
    return [
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=bias),
        nn.BatchNorm2d(outputs, **(norm or {})),
        nn.ReLU(inplace=True),
    ]


def initialise(module: nn.Module) -> None:
    """He initialisation of all (transposed) convolutions below a module; their biases become zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

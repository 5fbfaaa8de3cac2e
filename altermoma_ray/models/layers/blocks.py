"""Small building blocks shared by several parts of a model."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor, nn
from torch.nn import functional


class NormSettings(TypedDict, total=False):
    """Options of a batch normalisation; an option left out has PyTorch's default."""

    eps: float
    momentum: float


SECOND_EPS = 1e-3
"""The ε of the batch normalisation in the sparse encoder and in the SECOND decoder (Yan et al., *SECOND*, 2018)."""


def convolution(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    bias: bool = False,
    norm: NormSettings | None = None,
) -> list[nn.Module]:
    """Convolution, batch normalisation, ReLU: a list to unpack into a Sequential.

    Padding keeps the map's size, but for the stride.

        >>> block = nn.Sequential(*convolution(16, 32, stride=2))
        >>> block(torch.zeros(1, 16, 8, 8)).shape                                # doctest: +SKIP
        torch.Size([1, 32, 4, 4])

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        kernel: side of the kernel, an odd number.
        stride: cells of the input for each cell of the output, along either axis.
        bias: whether the convolution has a bias, which the normalisation makes redundant; some releases have one.
        norm: options of the normalisation.
    """
    return [
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=bias),
        nn.BatchNorm2d(outputs, **(norm or {})),
        nn.ReLU(inplace=True),
    ]


def resize(inputs: int, outputs: int, before: int, after: int) -> nn.Module:
    """A convolution from a map of stride ``before`` to one of stride ``after``, whose kernels meet without overlap.

    Larger maps come from a transposed convolution, as in SECOND's pyramid (Yan et al., 2018).

    >>> resize(4, 8, before=1, after=2)
    Conv2d(4, 8, kernel_size=(2, 2), stride=(2, 2), bias=False)

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        before: stride of the input, a multiple or a divisor of ``after``.
        after: stride of the output.
    """
    if before <= after:
        return nn.Conv2d(inputs, outputs, after // before, stride=after // before, bias=False)
    return nn.ConvTranspose2d(inputs, outputs, before // after, stride=before // after, bias=False)


class ConvBlock(nn.Module):
    """Convolution, batch normalisation, ReLU, under the released names ``conv`` and ``bn``."""

    def __init__(self, conv: nn.Module, bn: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.bn = bn

    def forward(self, features: Tensor) -> Tensor:
        """Apply the three."""
        return functional.relu(self.bn(self.conv(features)))


def initialise(module: nn.Module) -> None:
    """He initialisation of all (transposed) convolutions below a module; their biases become zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            # Fan-in, not fan-out: activations keep their variance on the way forward, from the sensors to the head.
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

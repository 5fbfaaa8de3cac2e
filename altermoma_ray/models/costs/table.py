"""The table of a model's costs: what each layer costs at any width, on one device and one sample.

Notation::

    a, b    the widths of a layer's weight along its two dimensions that pruning changes (1 where there is no second)
    A, B    the same of the unpruned layer
    t       milliseconds of the layer's segment = Σ c_i f_i(a, b), with all c_i ≥ 0

The terms f are 1, a/A, b/B, ab/(AB), and the last three once more with widths rounded up to multiples of 16, since
vector units work on 8 or 16 channels at once: a layer of 17 channels may cost as much as one of 32. No term falls when
a width grows and no coefficient is negative, so a narrower model is never predicted to be slower.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

LANES = 16
"""Channels that a vector unit works on at once."""
TERMS = 7
"""Number of terms f."""


class LayerCost(BaseModel):
    """The cost of one layer, and of everything up to the next layer.

    >>> layer = LayerCost(tensor="a.weight", shape=(32, 16), dims=(0, 1), terms=(0.5, 0, 0, 2.0, 0, 0, 0), macs=512)
    >>> layer.ms((32, 16)), layer.ms((16, 16)), layer.macs_of((16, 16))
    (2.5, 1.5, 256)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tensor: str
    """Name of the layer's largest weight."""
    shape: tuple[int, ...]
    """Of the unpruned weight."""
    dims: tuple[int, ...]
    """The dimensions that pruning changes, at most two."""
    terms: tuple[float, ...] = (0.0,) * TERMS
    """The coefficients c, in milliseconds, see the module's text."""
    macs: int = 0
    """Multiply-accumulate operations of the unpruned layer."""

    def ms(self, shape: Sequence[int]) -> float:
        """Milliseconds of the segment, for a shape of the layer's weight."""
        return sum(c * f for c, f in zip(self.terms, features(self.shape, self.dims, shape), strict=True))

    def macs_of(self, shape: Sequence[int]) -> int:
        """Multiply-accumulate operations, for a shape of the layer's weight."""
        # Every entry of a weight is used equally often; attention's products grow with the heads, as its table does.
        return self.macs * math.prod(shape) // math.prod(self.shape)


class CostTable(BaseModel):
    """What a model costs at any width, on one device and one sample.

    >>> layer = LayerCost(tensor="a.weight", shape=(32, 16), dims=(0, 1), terms=(0.5, 0, 0, 2.0, 0, 0, 0), macs=512)
    >>> table = CostTable(device="cpu", threads=1, rest_ms=1.0, rest_macs=8, measured_ms=3.6, layers={"a": layer})
    >>> table.latency_ms({"a.weight": (16, 16)}), table.macs({"a.weight": (16, 16)})
    (2.5, 264)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    """Name of the processor."""
    threads: int
    """Of PyTorch, on a CPU."""
    rest_ms: float = 0.0
    """Milliseconds that no pruned layer changes."""
    rest_macs: int
    """Multiply-accumulate operations outside of the layers."""
    measured_ms: float | None = None
    """Milliseconds of the unpruned model, as measured; None for a table of MACs alone."""
    fit_error: float = 0.0
    """Median of the relative differences between table and measurement over the measured widths."""
    layers: dict[str, LayerCost]
    """By module name."""

    def latency_ms(self, shapes: Mapping[str, Sequence[int]]) -> float:
        """Milliseconds from a sample to decoded outputs.

        Args:
            shapes: of all tensors of the pruned model, see :func:`altermoma_ray.pruning.channels.kept_shapes`.
        """
        return self.rest_ms + sum(layer.ms(shapes[layer.tensor]) for layer in self.layers.values())

    def macs(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """Multiply-accumulate operations of one sample.

        Args:
            shapes: of all tensors of the pruned model.
        """
        return self.rest_macs + sum(layer.macs_of(shapes[layer.tensor]) for layer in self.layers.values())

    @property
    def unpruned(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the unpruned layers' weights."""
        return {layer.tensor: layer.shape for layer in self.layers.values()}


def features(full: Sequence[int], dims: Sequence[int], shape: Sequence[int]) -> list[float]:
    """The terms f of a layer at some widths.

    >>> features((32, 16), (0, 1), (17, 16))
    [1.0, 0.53125, 1.0, 0.53125, 1.0, 1.0, 1.0]

    Args:
        full: shape of the unpruned weight.
        dims: dimensions that pruning changes.
        shape: of the pruned weight.
    """
    exact = [shape[dim] / full[dim] for dim in dims]
    rounded = [_rounded(shape[dim]) / _rounded(full[dim]) for dim in dims]
    found = [1.0]
    for shares in (exact, rounded):
        first, second = [*shares, 1.0, 1.0][:2]
        found += [first, second, first * second]
    return found


def _rounded(width: int) -> int:
    return LANES * math.ceil(width / LANES)

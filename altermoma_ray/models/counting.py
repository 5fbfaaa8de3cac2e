"""Parameters and multiply-accumulate operations (MACs) of a model on a real batch, by group and by layer.

PyTorch's own counter sees every convolution, matrix product and attention of a forward pass, whoever calls it. spconv's
kernels for GPUs run outside of PyTorch; theirs are counted from the pairs of occupied voxels that each layer really
multiplies, which depend on the sample.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from altermoma_ray.models.layers.sparse import SparseConvolution


@dataclass(frozen=True)
class Counts:
    """What a model costs.

    Attributes:
        parameters: numbers in all parameters.
        macs: multiply-accumulate operations of one forward pass; a sum, a norm or an activation counts as none.
        by_layer: MACs of each module that multiplies, without those of the modules inside it.
    """

    parameters: int
    macs: int
    by_layer: dict[str, int] = field(repr=False)

    def by_group(self, group_of: Callable[[str], str]) -> dict[str, int]:
        """MACs of each parameter group.

        Args:
            group_of: from a parameter's name to its group.
        """
        groups: dict[str, int] = {}
        for layer, macs in self.by_layer.items():
            group = group_of(f"{layer}.weight")
            groups[group] = groups.get(group, 0) + macs
        return groups


def count(model: nn.Module, run: Callable[[nn.Module], Any]) -> Counts:
    """Count a model's parameters and the MACs of one forward pass in evaluation mode.

    >>> count(nn.Linear(3, 4), lambda layer: layer(torch.zeros(5, 3)))
    Counts(parameters=16, macs=60)

    Args:
        model: is left as it was found.
        run: runs the model on a batch.
    """
    was_training = model.training
    model.eval()
    try:
        # With gradients and without fused attention, whose operations on a CPU the counter does not know.
        with (
            torch.enable_grad(),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
            _sparse_macs(model) as sparse,
        ):
            run(model)
    finally:
        model.train(was_training)
    totals = {
        name.partition(".")[2]: sum(flops.values()) // 2
        for name, flops in counter.get_flop_counts().items()
        if name != "Global"
    }
    own = {name: macs - _inside(name, totals) for name, macs in totals.items()}
    by_layer = {name: macs + sparse.pop(name, 0) for name, macs in own.items()} | sparse
    return Counts(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        macs=counter.get_total_flops() // 2 + sum(by_layer.values()) - sum(own.values()),
        by_layer={name: macs for name, macs in by_layer.items() if macs},
    )


def _inside(name: str, totals: dict[str, int]) -> int:
    """MACs of the modules directly inside one; those further in are among theirs."""
    prefix = f"{name}." if name else ""
    below = [other for other in totals if other != name and other.startswith(prefix)]
    return sum(
        totals[other]
        for other in below
        if not any(other.startswith(f"{higher}.") for higher in below if higher != other)
    )


@contextlib.contextmanager
def _sparse_macs(model: nn.Module) -> Iterator[dict[str, int]]:
    """While the context is open, MACs of the sparse convolutions that run, by name."""
    found: dict[str, int] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
            assert isinstance(layer, SparseConvolution)
            found[name] = found.get(name, 0) + _pairs(layer, output) * layer.in_channels * layer.out_channels

        return hook

    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, SparseConvolution)}
    handles = [layer.register_forward_hook(note(name)) for name, layer in layers.items()]
    # spconv forgets the pairs of a layer that has no key.
    without = {name: layer for name, layer in layers.items() if layer.indice_key is None}
    for name, layer in without.items():
        layer.indice_key = name
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
        for layer in without.values():
            layer.indice_key = None


def _pairs(layer: SparseConvolution, after: Any) -> int:
    """Pairs of an input voxel and an output voxel that a layer's kernel connects, if PyTorch's counter missed them."""
    data = after.find_indice_pair(layer.indice_key)
    # The native algorithm, which CPUs use, multiplies with PyTorch's own operations.
    return int((data.pair_fwd >= 0).sum()) if hasattr(data, "pair_fwd") else 0

"""Parameters and multiply-accumulate operations (MACs) of a model on a real batch, by group and by layer.

PyTorch's own counter sees every convolution, matrix product and attention of a forward pass, called from any module.
spconv's kernels for GPUs run outside of PyTorch; their MACs are counted from the pairs of occupied voxels really
multiplied by each layer, which depend on the sample.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from altermoma_ray.models.layers.sparse import SparseConvolution


@dataclass(frozen=True)
class Counts:
    """The cost of a model.

    Attributes:
        parameters: numbers in all parameters.
        macs: multiply-accumulate operations of one forward pass; a sum, a norm or an activation counts as none.
        by_layer: MACs of each multiplying module, without the MACs of modules inside.
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
            # Groups are told by parameters' names; every multiplying layer has a weight.
            group = group_of(f"{layer}.weight")
            groups[group] = groups.get(group, 0) + macs
        return groups


def count(model: nn.Module, run: Callable[[nn.Module], Any]) -> Counts:
    """Count a model's parameters and the MACs of one forward pass in evaluation mode.

    >>> count(nn.Linear(3, 4), lambda layer: layer(torch.zeros(5, 3)))
    Counts(parameters=16, macs=60)

    Args:
        model: left unchanged.
        run: runs the model on a batch.
    """
    # Only here: it imports triton, and each process of a search imports this module.
    from torch.utils.flop_counter import FlopCounterMode

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
        # The counter's names begin with the model's class; it counts a MAC as two operations.
        name.partition(".")[2]: sum(flops.values()) // 2
        for name, flops in counter.get_flop_counts().items()
        if name != "Global"
    }
    own = {name: macs - _inside(name, totals) for name, macs in totals.items()}
    by_layer = {name: macs + sparse.pop(name, 0) for name, macs in own.items()} | sparse
    return Counts(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        # The total, not the sum of layers: products outside of any module count too. Added are the sparse MACs alone.
        macs=counter.get_total_flops() // 2 + sum(by_layer.values()) - sum(own.values()),
        by_layer={name: macs for name, macs in by_layer.items() if macs},
    )


def occupied_voxels(model: nn.Module, run: Callable[[nn.Module], Any]) -> int | None:
    """Voxels that enter the first sparse convolution of a forward pass; None for a model without one.

    >>> occupied_voxels(nn.Linear(3, 4), lambda layer: layer(torch.zeros(5, 3))) is None
    True

    Args:
        model: left unchanged.
        run: runs the model on a batch.
    """
    found: list[int] = []

    def note(_: nn.Module, inputs: Any) -> None:
        found.append(len(inputs[0].features))

    layers = [layer for layer in model.modules() if isinstance(layer, SparseConvolution)]
    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        with torch.no_grad():
            run(model)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _inside(name: str, totals: dict[str, int]) -> int:
    """MACs of the modules directly inside one; their MACs include the modules further in.

    Example: of three nested modules only the middle one counts for the outer one::

        _inside("a", {"a": 9, "a.b": 5, "a.b.c": 3})  # 5
    """
    prefix = f"{name}." if name else ""
    below = [other for other in totals if other != name and other.startswith(prefix)]
    return sum(
        totals[other]
        for other in below
        if not any(other.startswith(f"{higher}.") for higher in below if higher != other)
    )


@contextlib.contextmanager
def _sparse_macs(model: nn.Module) -> Iterator[dict[str, int]]:
    """While the context is open, MACs of the running sparse convolutions, by name."""
    found: dict[str, int] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
            assert isinstance(layer, SparseConvolution)
            # Summed: a module may run more than once in a pass.
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
    """Pairs of an input and an output voxel connected by a layer's kernel, if unseen by PyTorch's counter."""
    data = after.find_indice_pair(layer.indice_key)
    # The native algorithm, which CPUs use, multiplies with PyTorch's own operations.
    return int((data.pair_fwd >= 0).sum()) if hasattr(data, "pair_fwd") else 0

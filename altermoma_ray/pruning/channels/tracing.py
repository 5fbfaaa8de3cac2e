"""Finding couplings with Torch-Pruning's dependency graph (Fang et al., *DepGraph*, CVPR 2023).

Torch-Pruning runs a module once and walks the autograd graph backwards. Layers it knows (convolutions, linear layers,
normalisations) become nodes; any other operation is taken to leave channels in their order. A model with operations of
another kind is traced in parts, each of which has none; see :mod:`altermoma_ray.models.channels`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from altermoma_ray.errors import UserError
from altermoma_ray.pruning.channels.couplings import Coupling, Slice

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYERS = (*_CONVOLUTIONS, *_TRANSPOSED, nn.Linear)
_NORMS = (nn.modules.batchnorm._BatchNorm,)

Run = Callable[[nn.Module], Any]
"""Runs a module on some input and gives its outputs."""


def trace(
    module: nn.Module,
    run: Run,
    *,
    fixed: Collection[str] = (),
    prefix: str = "",
) -> list[Coupling]:
    """The couplings of a module's layers.

    A coupling is left out, and all its channels stay, where it reaches a fixed layer, the module's output, or a
    layer other than a plain convolution, linear layer or batch normalisation. Among the others are grouped
    convolutions, attention, bare parameters, and layer normalisation, whose mean over fewer channels would be another.

    >>> layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> (coupling,) = trace(layers, lambda module: module(torch.zeros(1, 4)))
    >>> [(part.tensor, part.dim) for part in coupling.slices]
    [('0.weight', 0), ('0.bias', 0), ('2.weight', 1)]

    Args:
        module: is run once, in evaluation mode; all its parameters need gradients.
        run: runs a module on some input.
        fixed: layers whose output channels stay, beside the layers of the module's outputs.
        prefix: is put before all names, such as ``decoder.``, where the module is a part of a model.

    Returns:
        Couplings without a common entry.

    Raises:
        UserError: the module cannot be traced.
    """
    graph = torch_pruning.DependencyGraph()
    was_training = module.training
    module.eval()
    try:
        with torch.enable_grad():
            graph.build_dependency(module, (), forward_fn=lambda traced, _: run(traced), verbose=False)
        names = {layer: name for name, layer in module.named_modules()}
        found = [_coupling(group, names, fixed, prefix) for group in graph.get_all_groups(root_module_types=_LAYERS)]
    except Exception as error:  # any operation of the module, or any habit of the library, may fail
        raise UserError(
            f"the channels of {type(module).__name__} cannot be traced ({type(error).__name__}: {error}); "
            "give the model a method channel_couplings()"
        ) from error
    finally:
        module.train(was_training)
    return [coupling for coupling in found if coupling is not None]


def _coupling(group: Any, names: dict[nn.Module, str], fixed: Collection[str], prefix: str) -> Coupling | None:
    """The coupling of one group of the library; None where its channels have to stay."""
    root = names[group[0].dep.target.module]
    slices: dict[tuple[str, int], Slice] = {}
    read = False
    for item in group:
        layer = item.dep.target.module
        if not isinstance(layer, nn.Module) or layer not in names:
            if isinstance(layer, nn.Parameter):
                return None
            continue  # an operation without parameters
        name = names[layer]
        is_out = item.dep.handler.__name__ == "prune_out_channels"
        if (name in fixed and is_out) or not _is_plain(layer):
            return None
        read |= not is_out
        entries = _by_channel(item.idxs, item.root_idxs, len(group[0].idxs))
        if entries is None:
            return None
        for tensor, dim in _tensors(layer, is_out):
            full = f"{prefix}{name}.{tensor}"
            slices[full, dim] = Slice(full, dim, entries)
    # Channels without a reading layer are outputs of the module.
    return Coupling(prefix + root, tuple(slices.values())) if read else None


def _is_plain(layer: nn.Module) -> bool:
    return isinstance(layer, _NORMS) or (isinstance(layer, _LAYERS) and getattr(layer, "groups", 1) == 1)


def _tensors(layer: nn.Module, is_out: bool) -> Iterator[tuple[str, int]]:
    """The tensors of a layer with entries for output or input channels, and the dimension of these entries."""
    if isinstance(layer, _LAYERS):
        is_transposed = isinstance(layer, _TRANSPOSED)
        yield "weight", int(is_out == is_transposed)
        if is_out and layer.bias is not None:
            yield "bias", 0
        return
    held = [*dict(layer.named_parameters(recurse=False)), *dict(layer.named_buffers(recurse=False))]
    yield from ((name, 0) for name in held if name != "num_batches_tracked")


def _by_channel(positions: list[int], roots: list[int] | None, channels: int) -> Tensor | None:
    """[channels, k] the positions of each root channel, in their order; None where they do not share out evenly."""
    of: list[list[int]] = [[] for _ in range(channels)]
    for position, root in zip(positions, roots if roots is not None else positions, strict=True):
        of[root].append(position)
    return torch.tensor(of) if len({len(one) for one in of}) == 1 and of[0] else None

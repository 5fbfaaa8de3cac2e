"""Cutting channels out of a model: smaller tensors, and layers with new widths."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import nn

from altermoma_ray.errors import UserError

AnyModule = TypeVar("AnyModule", bound=nn.Module)
Entries = Mapping[str, Mapping[int, Sequence[int]]]
"""By tensor name and dimension, the positions kept."""


def cut(model: AnyModule, entries: Entries) -> AnyModule:
    """A smaller copy of a model.

    Args:
        model: stays unchanged.
        entries: see :data:`Entries`; tensors without an entry keep their size.

    Raises:
        UserError: the entries do not fit the model.
    """
    return cut_entries(copy.deepcopy(model), entries)


@torch.no_grad()
def cut_entries(model: AnyModule, entries: Entries) -> AnyModule:
    """Cut a model itself; see :func:`cut`."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    resized: dict[nn.Module, None] = {}
    for name, dims in entries.items():
        if name not in tensors:
            raise UserError(f"the channel plan names '{name}', which the model lacks: it was made for another model")
        tensor = tensors[name]
        for dim, positions in dims.items():
            dim = int(dim)  # JSON turns integer keys into text
            if dim >= tensor.ndim or not positions or not 0 <= min(positions) <= max(positions) < tensor.shape[dim]:
                raise UserError(
                    f"the channel plan keeps entries of '{name}' that its shape {list(tensor.shape)} lacks: "
                    "it was made for another model"
                )
            tensor = tensor.index_select(dim, torch.tensor(positions, device=tensor.device))
        owner, _, attribute = name.rpartition(".")
        module = model.get_submodule(owner)
        if attribute in module._parameters:
            tensor = nn.Parameter(tensor, requires_grad=tensors[name].requires_grad)
        setattr(module, attribute, tensor)
        resized[module] = None
    for module in resized:
        _tell_widths(module)
    return model


def _tell_widths(module: nn.Module) -> None:
    """Take a layer's widths from its weight, since PyTorch keeps them as plain numbers too."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.num_features = len(weight if weight is not None else module.running_mean)  # type: ignore[arg-type]
    elif isinstance(module, nn.LayerNorm) and weight is not None:
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif hasattr(module, "in_channels") and weight is not None:
        # PyTorch keeps [out, in, ...], transposed convolutions [in, out, ...], spconv [out, ..., in].
        is_torch = isinstance(module, nn.modules.conv._ConvNd)
        outputs, inputs = (weight.shape[0], weight.shape[1 if is_torch else -1])
        if is_torch and module.transposed:
            outputs, inputs = inputs, outputs
        module.out_channels, module.in_channels = outputs, inputs

"""The synaptic flow of a fusion model: inputs of ones, summed outputs (SynFlow; Tanaka et al., NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from altermoma_ray.data.batch import Batch

if TYPE_CHECKING:
    from altermoma_ray.models.bevfusion import FusionModel

_CHOICES = frozenset({"query_labels", "query_heatmap_score"})
"""Outputs about the choice of the proposals; no flow runs to them."""


def flow_of(model: FusionModel, batch: Batch) -> Callable[[nn.Module], Tensor]:
    """The sum of a fusion model's outputs when every branch sees ones.

    Pictures are ones, and so are the depth pictures painted from points by the view transform. The LiDAR branch sees
    ones on the occupied voxels of the batch's first sample: a dense grid of a published model has more voxels than fit
    memory, and a submanifold convolution is meant for few. An output counts by its mean over cells or proposals, summed
    over channels. With sums instead of means, the thousands of cells of the heat map would drown the proposals.

    Example: the synaptic saliency of a parameter, its value times the gradient of the flow::

        flow = flow_of(model, batch)
        (gradient,) = torch.autograd.grad(flow(model), [parameter])
        saliency = gradient * parameter

    Args:
        model: the model.
        batch: geometry and occupied voxels come from its first sample, nothing else is read.

    Returns:
        A function with a scalar result. Its argument is the model, or a copy of the model on any device and in any
        type.
    """
    # One sample is enough: only its geometry enters, and a whole batch would multiply the cost.
    sample = batch.samples(0, 1)

    def flow(network: nn.Module) -> Tensor:
        assert isinstance(network, type(model))
        # Hooks on the network at hand, not on `model`: SynFlow evaluates a linear copy of the model.
        with _ones_enter(network):
            outputs = network(_converted(sample, next(network.parameters())))
        return torch.stack(
            [value.flatten(2).mean(2).sum() for name, value in outputs.items() if name not in _CHOICES]
        ).sum()

    return flow


@contextmanager
def _ones_enter(model: FusionModel) -> Iterator[None]:
    """Ones in place of the inputs of the networks which see data."""
    # The geometry passes by these networks and stays real, or nothing would land on the BEV map.
    entrances = [encoder.backbone for encoder in model.encoders.values()]
    view = getattr(model.encoders["camera"], "view_transform", None) if "camera" in model.encoders else None
    if hasattr(view, "depth_net"):  # a plain view transform reads no LiDAR
        entrances.append(view.depth_net)
    handles = [entrance.register_forward_pre_hook(_first_of_ones) for entrance in entrances]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first_of_ones(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    # Only the first input is data; the others (sizes, voxel coordinates) must stay, or shapes would not fit.
    return (torch.ones_like(inputs[0]), *inputs[1:])


def _converted(batch: Batch, like: Tensor) -> Batch:
    """A batch with its floating-point numbers in another tensor's type, and all its tensors on that tensor's device."""

    def convert(value: Tensor) -> Tensor:
        return value.to(like) if value.is_floating_point() else value.to(like.device)

    changed = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            changed[field.name] = convert(value)
        elif field.name != "tokens":
            changed[field.name] = [convert(item) for item in value]
    return replace(batch, **changed)

"""Whether a model is fit to be scored and trained: one look at its parameters, and one line on the first unfit one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from altermoma_ray.errors import UserError

_TRAINABLE = (torch.float32, torch.float64, torch.bfloat16)


def check_values(model: nn.Module) -> None:
    """Check for parameters without a shape, and for a mixture of parameters on the meta device and elsewhere.

    Raises:
        UserError: a parameter is lazy, or has no values.
    """
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        # A lazy parameter has no shape: every later look at its size would fail with torch's own error.
        if is_lazy(parameter):
            raise UserError(f"parameter '{name}' has no shape yet: run the model once on a batch before pruning")
    without = [name for name, parameter in parameters.items() if parameter.is_meta]
    # All on the meta device is allowed: a model without values is only counted, never scored.
    if without and len(without) < len(parameters):
        raise UserError(_meta(without[0]))


def check_model(model: nn.Module) -> None:
    """Check a model before scoring.

    Raises:
        UserError: the model has no parameters, or one is lazy, on the meta device or not finite; its name is given.
    """
    check_values(model)
    parameters = dict(model.named_parameters())
    if not parameters:
        raise UserError(f"{type(model).__name__} has no parameters: give a model with layers to prune")
    for name, parameter in parameters.items():
        if parameter.is_meta:
            raise UserError(_meta(name))
        # Whole numbers are always finite. Complex parameters are judged, and left out, by coverage.
        if parameter.is_floating_point() and not bool(torch.isfinite(parameter.detach()).all()):
            broken = int((~torch.isfinite(parameter.detach())).sum())
            raise UserError(
                f"parameter '{name}' has {broken} of {parameter.numel()} values that are not finite: "
                "load a sound checkpoint before pruning"
            )


def check_trained(model: nn.Module, trained: Mapping[str, Tensor]) -> None:
    """Check whether Adam can train a model's parameters.

    Raises:
        UserError: there are none, or Adam would overflow in the type of one; the message names the parameter.
    """
    if not trained:
        raise UserError(
            f"no parameter of {type(model).__name__} requires a gradient, so that nothing can be trained: "
            "call requires_grad_(True) on the parts to prune"
        )
    for name, parameter in trained.items():
        # In float16 the square of a gradient below 2e-4 is zero, and one above 256 is infinite.
        if parameter.dtype not in _TRAINABLE and not parameter.is_complex():
            kind = str(parameter.dtype).removeprefix("torch.")
            raise UserError(
                f"parameter '{name}' is {kind}, in which Adam's squared gradients overflow or vanish: "
                "make the model float32 with model.float(), and use autocast inside the loss"
            )


def _meta(name: str) -> str:
    return f"parameter '{name}' is on the meta device and has no values: load weights with assign=True, or to_empty()"

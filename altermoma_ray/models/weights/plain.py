"""Weights of a user's own model, in any file of tensors: nothing is renamed, and every tensor must fit."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from altermoma_ray.errors import UserError
from altermoma_ray.models.checkpoint import fill, is_of_others
from altermoma_ray.models.weights.state_files import check_numbers, is_safetensors, read_state
from altermoma_ray.storage import Location


def is_ours(location: Location) -> bool:
    """Whether a file is a checkpoint of this project; False for a missing file."""
    data = location.read_bytes() if location.exists() else b""
    return is_safetensors(data) and not is_of_others(data)


def load_plain(model: nn.Module, location: Location) -> None:
    """Put the weights of a file into a model; the file's other tensors are left alone.

    Args:
        model: receives the weights, under the names of its own state.
        location: a file of ``torch.save`` or safetensors. The model's tensors may lie in a dictionary
            (``state_dict``) or below a prefix (``module.``).

    Raises:
        UserError: the file is missing, damaged or no weights; a tensor is missing, does not fit, or is not finite.
    """
    try:
        data = location.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"no checkpoint at {location}; give the path of a .safetensors or .pth file") from error
    tensors = below_common_prefix(read_state(data, location).tensors, model.state_dict())
    check_numbers(tensors, str(location))
    fill(model, tensors, str(location), remedy="give a checkpoint of this model")


def below_common_prefix(tensors: Mapping[str, Tensor], names: Mapping[str, object]) -> dict[str, Tensor]:
    """The tensors of the given names, without their common prefix; all tensors where no prefix fits all names.

    >>> list(below_common_prefix({"ema/module.a": 1, "ema/module.b": 2, "step": 3}, {"a": None, "b": None}))
    ['a', 'b']
    """
    first = next(iter(names), "")
    # Only text before the model's first name can be the common prefix; the other names confirm or refute the prefix.
    for found in tensors:
        prefix = found.removesuffix(first)
        if found.endswith(first) and all(f"{prefix}{name}" in tensors for name in names):
            return {name: tensors[f"{prefix}{name}"] for name in names}
    return dict(tensors)

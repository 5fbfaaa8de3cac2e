"""Checkpoints: one safetensors file that holds the weights and, in its header, the model's resolved configuration.

A model whose architecture was changed by pruning has a channel plan in the header too, with the version that wrote it.
Reading builds the model of the configuration, replays the plan, and only then reads the weights.

Nothing is ever unpickled. ``models/weights.py`` imports released weights of other projects.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import safetensors.torch
from pydantic import BaseModel
from safetensors import SafetensorError
from torch import Tensor, nn

from altermoma_ray import __version__
from altermoma_ray.errors import UserError
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.configurations.config import parse_configuration
from altermoma_ray.models.weights.state_files import shown
from altermoma_ray.pruning.granularity import Plan, replay
from altermoma_ray.storage import Location

FORMAT = "altermoma_ray/1"
"""Marks our files, in the header's ``format``."""


def save_checkpoint(
    location: Location, model: nn.Module, metadata: Mapping[str, Any], plan: Plan = MappingProxyType({})
) -> None:
    """Write a model's parameters and buffers, its ``config`` if it has one, and anything else that JSON can hold.

    Args:
        location: of the file.
        model: whose configuration is that of the unpruned architecture.
        metadata: what :func:`load_checkpoint` gives back beside the model.
        plan: how pruning has changed the architecture; empty where it has not.

    Raises:
        UserError: the place cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    header = {"format": FORMAT, "metadata": json.dumps(dict(metadata))}
    config = getattr(model, "config", None)
    if isinstance(config, BaseModel):
        header["config"] = config.model_dump_json()
    if plan:
        header |= {"channel_plan": json.dumps(dict(plan)), "version": __version__}
    location.write_bytes(safetensors.torch.save(tensors, metadata=header))


def load_checkpoint(
    location: Location, build: Callable[[str | None], nn.Module] | None = None
) -> tuple[Any, dict[str, Any]]:
    """Read what :func:`save_checkpoint` wrote: the model on the CPU in evaluation mode, and the metadata.

    Args:
        location: of the file.
        build: makes the model from the JSON of its configuration; None makes a
            :class:`altermoma_ray.models.bevfusion.FusionModel`.

    Raises:
        UserError: the file is missing, damaged, of another kind, pruned as this version cannot rebuild it, or its
            tensors do not fit its configuration.
    """
    try:
        data = location.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"no checkpoint at {location}; check the path") from error
    try:
        tensors = safetensors.torch.load(data)
    except SafetensorError as error:
        raise UserError(
            f"{location} is no safetensors file or is damaged ({error}); give a checkpoint that `train` wrote"
        ) from error
    header = read_header(data)
    written = header.get("format", "")
    if written != FORMAT and written.startswith(FORMAT.split("/")[0]):
        raise UserError(
            f"{location} was written by another version of altermoma_ray ({shown(written)}; this one reads {FORMAT}); "
            "use that version, or write the checkpoint anew"
        )
    if written != FORMAT or (build is None and "config" not in header):
        raise UserError(
            f"{location} was not written by altermoma_ray: its header holds no configuration; give a checkpoint that "
            "`train` wrote"
        )
    make = build or (lambda config: FusionModel(parse_configuration(str(config), str(location))))
    try:
        metadata = json.loads(header.get("metadata", "{}"))
        plan = dict(json.loads(header.get("channel_plan", "{}")))
        model = make(header.get("config"))
    except UserError:
        raise
    except Exception as error:  # numbers that no layer can have fail anywhere in PyTorch
        raise UserError(
            f"{location} has a header that no model can be built from ({shown(str(error))}); it was edited or damaged: "
            "copy it again, or give another checkpoint"
        ) from error
    try:
        model = replay(model, plan)
    except UserError as error:
        by = shown(header.get("version", "unknown"))
        raise UserError(
            f"{location} holds a pruned model of version {by} that this version, {__version__}, cannot rebuild "
            f"({shown(str(error))}); use altermoma_ray {by}, or give another checkpoint"
        ) from error
    fit(model, tensors, str(location))
    return model.eval(), metadata


def read_header(data: bytes) -> dict[str, str]:
    """The free-text metadata of a whole, valid safetensors file."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]).get("__metadata__") or {}


def fit(model: nn.Module, tensors: Mapping[str, Tensor], origin: str, remedy: str = "check `--model`") -> None:
    """Put tensors into a model whose state they must match one to one.

    Args:
        model: receives the values.
        tensors: parameters and buffers by the model's own names.
        origin: where they come from, for the message.
        remedy: what to do where they do not fit, for the message.

    Raises:
        UserError: a tensor is missing, left over or of another shape; the model is unchanged then.
    """
    expected = model.state_dict()
    problems = [f"no {name}" for name in expected if name not in tensors]
    problems += [f"unknown {name}" for name in tensors if name not in expected]
    problems += [
        f"{name} is {list(tensors[name].shape)} instead of {list(value.shape)}"
        for name, value in expected.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    problems += [
        f"{name} holds {tensors[name].dtype} instead of {value.dtype}"
        for name, value in expected.items()
        if name in tensors and value.is_floating_point() and not tensors[name].is_floating_point()
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"{origin} does not fit the model: {'; '.join(map(shown, problems[:3]))}{more}; {remedy}")
    model.load_state_dict(dict(tensors))

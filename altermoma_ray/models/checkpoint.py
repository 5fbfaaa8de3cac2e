"""Checkpoints: one safetensors file with the weights and, in its header, the model's resolved configuration.

Where pruning has changed the architecture, the header also holds a channel plan and the version of the package which
wrote the plan. Reading builds the model of the configuration, replays the plan, and only then reads the weights.

Example: write a model with its scores, and read both again::

    save_checkpoint(location, model, {"map": 0.61})
    model, metadata = load_checkpoint(location)

Nothing is ever unpickled. :mod:`altermoma_ray.models.weights.load` imports released weights of other projects.
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
from altermoma_ray.models.weights.state_files import shown
from altermoma_ray.pruning.granularity import Plan, replay
from altermoma_ray.storage import Location

FORMAT = "altermoma_ray/1"
"""Marks our files, in the header's ``format``."""


def save_checkpoint(
    location: Location, model: nn.Module, metadata: Mapping[str, Any], plan: Plan = MappingProxyType({})
) -> None:
    """Write a model's parameters and buffers, its ``config`` if it has one, and metadata.

    Args:
        location: the file to write.
        model: the model. Its ``config`` describes the unpruned architecture.
        metadata: values of JSON's types; :func:`load_checkpoint` gives them back beside the model.
        plan: the changes of the architecture by pruning; empty for an unpruned model.

    Raises:
        UserError: the place cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    # safetensors allows text only as values of the header, hence JSON inside of JSON.
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
    """Read a file of :func:`save_checkpoint`: the model on the CPU in evaluation mode, and the metadata.

    A model of a pruned architecture has its plan as ``channel_plan``.

    Args:
        location: the file to read.
        build: makes the model from the JSON of its configuration; None makes a
            :class:`altermoma_ray.models.bevfusion.FusionModel`.

    Raises:
        UserError: the file is missing, damaged or of another kind; this version of the package cannot rebuild its
            pruned architecture; or its tensors do not fit its configuration.
    """
    try:
        data = location.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"no checkpoint at {location}; check the path") from error
    try:
        # The whole file at once: `safe_open` needs a local path, and the checkpoint may lie in a bucket.
        tensors = safetensors.torch.load(data)
    except SafetensorError as error:
        raise UserError(
            f"{location} is no safetensors file or is damaged ({error}); give a checkpoint that `train` wrote"
        ) from error
    header = read_header(data)
    # A file of our own in another format gets a message of its own: its user has done nothing wrong.
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
    make = build or (lambda config: _bevfusion(str(config), str(location)))
    try:
        metadata = json.loads(header.get("metadata", "{}"))
        plan = dict(json.loads(header.get("channel_plan", "{}")))
        model = make(header.get("config"))
    except UserError:
        raise
    except Exception as error:  # impossible numbers of layers fail anywhere in PyTorch
        raise UserError(
            f"{location} has a header that no model can be built from ({shown(str(error))}); it was edited or damaged: "
            "copy it again, or give another checkpoint"
        ) from error
    model = _replayed(model, plan, header, location)
    fill(model, tensors, str(location))  # after the plan, which gives the tensors' shapes
    return model.eval(), metadata


def _bevfusion(config: str, origin: str) -> nn.Module:
    # Imported here: a search of a user's own model needs no BEVFusion, whose parts take seconds to import.
    from altermoma_ray.models.configurations.config import parse_configuration
    from altermoma_ray.models.configurations.families import CONFIGURATIONS, check_family

    check_family(config, CONFIGURATIONS, origin)
    return parse_configuration(config, origin).build()


def _replayed(model: nn.Module, plan: Plan, header: Mapping[str, str], location: Location) -> nn.Module:
    """The model of an unpruned architecture cut as a file's plan says."""
    if not plan:
        return model
    try:
        model = replay(model, plan)
    except UserError as error:
        by = shown(header.get("version", "unknown"))
        raise UserError(
            f"{location} holds a pruned model of version {by} that this version, {__version__}, cannot rebuild "
            f"({shown(str(error))}); use altermoma_ray {by}, or give another checkpoint"
        ) from error
    model.channel_plan = plan  # type: ignore[assignment]
    return model


def read_header(data: bytes) -> dict[str, str]:
    """The free-text metadata of a whole, valid safetensors file."""
    # The format: 8 bytes with the header's length, the header as JSON, then the tensors' bytes.
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]).get("__metadata__") or {}


def is_of_others(data: bytes) -> bool:
    """Whether another program wrote a file of safetensors; a damaged file may be ours."""
    try:
        return not read_header(data).get("format", "").startswith(FORMAT.split("/")[0])
    except (ValueError, AttributeError, RecursionError):  # no JSON, no dictionary, or a thousand brackets
        return False


def fill(model: nn.Module, tensors: Mapping[str, Tensor], origin: str, remedy: str = "check `--model`") -> None:
    """Put tensors into a model; they must match the model's state one to one.

    Args:
        model: receives the values.
        tensors: parameters and buffers by the model's own names.
        origin: the tensors' file, for the error's text.
        remedy: advice to the user, for the error's text.

    Raises:
        UserError: a tensor is missing, left over or of another shape; the model is unchanged then.
    """
    # All problems are gathered before anything is written: a refused file leaves the model as it was.
    expected = model.state_dict()
    problems = [f"no {name}" for name in expected if name not in tensors]
    problems += [f"unknown {name}" for name in tensors if name not in expected]
    problems += [
        f"{name} is {list(tensors[name].shape)} instead of {list(value.shape)}"
        for name, value in expected.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    # `load_state_dict` would convert integers to floating point without a word.
    problems += [
        f"{name} holds {tensors[name].dtype} instead of {value.dtype}"
        for name, value in expected.items()
        if name in tensors and value.is_floating_point() and not tensors[name].is_floating_point()
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"{origin} does not fit the model: {'; '.join(map(shown, problems[:3]))}{more}; {remedy}")
    model.load_state_dict(dict(tensors))

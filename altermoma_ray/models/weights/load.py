"""Weights from a file: our own checkpoints, the released ones of BEVFusion, and both as saved by training code.

A file's kind is told by its content, not by its name. Released checkpoints come from mit-han-lab/bevfusion
(``bevfusion-det.pth``, which fits the code before July 2023) and from mmdetection3d's projects/BEVFusion
(``bevfusion_lidar-cam_….pth``, ``bevfusion_converted.pth``), and for the BEVFusion of Liang et al. from
ADLab-AutoDrive/BEVFusion. Three modules share the work:
:mod:`altermoma_ray.models.weights.state_files` reads the tensors of a file without running anything,
:mod:`altermoma_ray.models.weights.recognition` finds the model's tensors among them, and
:mod:`altermoma_ray.models.releases.bevfusion` turns released tensors into ours.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Mapping

import torch
from rich.markup import escape
from torch import Tensor

from altermoma_ray.console import console
from altermoma_ray.errors import UserError
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.checkpoint import is_of_others, load_checkpoint
from altermoma_ray.models.configurations.config import ModelConfig
from altermoma_ray.models.configurations.named import adopted
from altermoma_ray.models.releases.bevfusion import NAMINGS, OURS, Release, is_constant, is_optional
from altermoma_ray.models.weights.recognition import WeightSet, find_weights
from altermoma_ray.models.weights.state_files import (
    NAMED_MISFITS,
    check_numbers,
    is_safetensors,
    read_state,
    shown,
    some,
)
from altermoma_ray.storage import Location

logger = logging.getLogger(__name__)

_ENDINGS = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".index.json")
_SHARD = re.compile(r"-\d+-of-\d+\.\w+$")
"""The end of a shard's name."""


def load_weights(path: Location | str | os.PathLike[str], config: ModelConfig) -> FusionModel:
    """A model of a configuration with the weights of a file, on the CPU in evaluation mode.

    Args:
        path: our safetensors, or any file of released weights: ``.pth``, ``.ckpt``, ``.safetensors`` or an index of
            shards.
        config: the model's configuration; every tensor of the file must fit.

    Example::

        model = load_weights("bevfusion-det.pth", configuration("bevfusion-mit"))

    Note:
        The model's configuration is ``config`` but for ``head.height``, which is the convention of the weights.

    Raises:
        UserError: the file is missing, damaged, no file of weights, of another model, or holds NaN or infinite weights;
            the first misfitting tensors are named.
    """
    location = path if isinstance(path, Location) else Location.parse(path)
    if location.size() < 0:
        raise UserError(_no_file(location))
    data = location.read_bytes()
    if is_safetensors(data) and not is_of_others(data):
        return _load_own(location, config)
    file = read_state(data, location)
    return from_released(file.tensors, config, origin=str(location), entries=file.entries)


def from_released(
    tensors: Mapping[str, Tensor], config: ModelConfig, *, origin: str, entries: Collection[str] = ()
) -> FusionModel:
    """A model with released weights, on the CPU in evaluation mode; one printed line names the chosen weights.

    Args:
        tensors: by released name, under any prefix.
        config: the model's configuration.
        origin: the tensors' file, for messages.
        entries: names in the outermost dictionary of the file.

    Raises:
        UserError: a tensor is missing, unknown, does not fit or holds NaN or infinite values.
    """
    model = FusionModel(config)
    ours = model.state_dict()
    found = find_weights(tensors, ours, entries)
    if not found:
        *others, last = (release.origin for release in NAMINGS if release is not OURS)
        raise UserError(
            f"{origin} holds no BEVFusion weights (its tensors: {some([name.split('/')[-1] for name in tensors])}); "
            f"give a checkpoint released by {', '.join(others)} or {last}, or a .safetensors file of our own"
        )
    weights, release = found[0], found[0].release
    released_names = {release.name(name): name for name in ours}
    misfits = _misfits(weights.tensors, ours, released_names, release)
    if misfits:
        remedy = "choose the model that it was made for, or another checkpoint"
        if _SHARD.search(origin):
            remedy = "it is one of several shards: give their index"
        raise UserError(
            f"{origin} does not fit model {config.name!r}: {len(misfits)} tensors do not ({some(misfits)}); {remedy}"
        )
    converted = {
        name: _converted(name, ours[name], weights.tensors.get(theirs), release)
        for theirs, name in released_names.items()
    }
    # Under the released names, which the user can look up in the file.
    check_numbers({theirs: converted[name] for theirs, name in released_names.items()}, origin)
    # Other constants (a grid, the frustum) are loaded all the same: the weights were trained with them.
    differing = [name for name in converted if is_constant(name) and not ours[name].equal(converted[name])]
    if differing:
        logger.warning("%s was made with other constants than model %r: %s", origin, config.name, some(differing))
    model.load_state_dict(converted)
    if release.height is not None and "height" in type(config.head).model_fields:
        head = config.head.model_copy(update={"height": release.height})
        model.config = config.model_copy(update={"head": head})
    _tell(found, origin)
    return model.eval()


def _no_file(location: Location) -> str:
    """The message about a missing file; it lists the checkpoints of a folder given in the file's place."""
    names = [child.name for child in location.children()] if location.is_folder() else []
    if ".metadata" in names:
        return (
            f"{location} is a folder of torch.distributed.checkpoint; make one file of it with "
            "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE"
        )
    files = sorted((name for name in names if name.endswith(_ENDINGS)), key=lambda name: not name.endswith("json"))
    such = f", such as {some(files)} in this folder" if files else ""
    return f"no checkpoint at {location}; give the path of a .safetensors or .pth file{such}"


def _converted(name: str, ours: Tensor, theirs: Tensor | None, release: Release) -> Tensor:
    """The value for a tensor of the model: the file's, converted; or the model's own.

    The model's own value stays where the file lacks the tensor, and where the file holds the same constant rounded.
    """
    # A counter cast to half precision may have become infinite, and infinity is no integer.
    if theirs is None or (theirs.is_floating_point() and not ours.is_floating_point() and not theirs.isfinite().all()):
        return ours
    converted = release.convert(name, ours, theirs)
    return ours if is_constant(name) and _same_but_rounded(ours, converted, theirs.dtype) else converted


def _same_but_rounded(ours: Tensor, theirs: Tensor, stored: torch.dtype) -> bool:
    """Whether a file's constant is ours, up to rounding.

    The file may have rounded the constant to its own type ``stored``, or an earlier file to half precision.
    """
    precision = torch.finfo(stored).eps if stored in (torch.float16, torch.bfloat16) else 1e-5
    if ours.allclose(theirs, rtol=precision):
        return True
    return any(ours.to(rounded).to(ours.dtype).equal(theirs) for rounded in (torch.float16, torch.bfloat16))


def _tell(found: list[WeightSet], origin: str) -> None:
    """Print the names of the chosen weights of a file and of its other sets of weights."""
    weights, *others = found
    line = f"{len(weights.tensors)} tensors of {weights.release.origin}'s BEVFusion"
    if weights.prefix:
        line += f" under {shown(weights.prefix)!r}"
    if others:
        why = "the averaged weights" if weights.averaged else "the first in the file"
        line += f", {why}; also there: {', '.join(repr(shown(other.prefix)) for other in others[:NAMED_MISFITS])}"
    elif weights.averaged:
        line += ", the averaged weights"
    if weights.left_out:
        line += f"; {weights.left_out} other tensors beside them are left out"
    console.print(f"[bold]checkpoint[/] {escape(f'{origin}: {line}')}")


def _misfits(
    tensors: Mapping[str, Tensor], ours: Mapping[str, Tensor], released_names: Mapping[str, str], release: Release
) -> list[str]:
    """A line about each misfitting tensor: missing, unknown, of another shape or type."""
    misfits = [
        f"{theirs} is missing"
        for theirs, name in released_names.items()
        if theirs not in tensors and not is_optional(name)
    ]
    misfits += [f"{theirs} is unknown" for theirs in tensors if theirs not in released_names]
    for theirs, name in released_names.items():
        if theirs not in tensors:
            continue
        tensor, shapes = tensors[theirs], release.shapes(name, ours[name])
        if tensor.shape not in shapes:
            wanted = " or ".join(str(list(shape)) for shape in shapes)
            misfits.append(f"{theirs} has shape {list(tensor.shape)} instead of {wanted}")
        elif not _is_convertible(tensor.dtype, ours[name].dtype, optional=is_optional(name)):
            misfits.append(f"{theirs} holds {tensor.dtype} instead of {ours[name].dtype}")
    return misfits


def _is_convertible(theirs: torch.dtype, ours: torch.dtype, *, optional: bool) -> bool:
    """Whether a file's type of numbers may become ours.

    Some training code casts whole files to half precision, counters included; ``optional`` lets these counters pass.
    """
    # The other floating-point types (float8) hold quantised weights, whose scales would be missing here.
    if theirs in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return ours.is_floating_point or optional
    return not ours.is_floating_point and not (theirs.is_floating_point or theirs.is_complex or theirs == torch.bool)


def _load_own(location: Location, config: ModelConfig) -> FusionModel:
    model, _ = load_checkpoint(location)
    model.config = adopted(model.config, config)
    if model.config.name != config.name:
        raise UserError(f"{location} is of model {model.config.name!r}, not {config.name!r}; choose that model")
    exact, state = FusionModel(model.config).state_dict(), model.state_dict()
    for name in filter(is_constant, exact):  # the file may have been cast to half precision
        if _same_but_rounded(exact[name], state[name], exact[name].dtype):
            state[name].copy_(exact[name])
    check_numbers(state, str(location))
    return model

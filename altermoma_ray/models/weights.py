"""Weights from a file: our own checkpoints and the released ones of BEVFusion.

What a file is decides its content, not its name. Released checkpoints are those of mit-han-lab/bevfusion
(``bevfusion-det.pth``; of the code before July 2023, which fits that file) and of mmdetection3d's projects/BEVFusion
(``bevfusion_lidar-cam_….pth``, ``bevfusion_converted.pth``); :mod:`altermoma_ray.models.released_names` says how their
tensors become ours. Nothing is ever unpickled but tensors and plain containers.
"""

from __future__ import annotations

import io
import logging
import os
import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from altermoma_ray.errors import UserError
from altermoma_ray.models.checkpoint import load_checkpoint
from altermoma_ray.models.config import ModelConfig
from altermoma_ray.models.fusion import FusionModel
from altermoma_ray.models.released_names import RELEASES, Release, current_names, is_constant
from altermoma_ray.storage import Location

logger = logging.getLogger(__name__)

NAMED_MISFITS = 3
"""Tensors that an error names; it counts all of them."""


def load_weights(path: Location | str | os.PathLike[str], config: ModelConfig) -> FusionModel:
    """A model of a configuration with the weights of a file, on the CPU in evaluation mode.

    Args:
        path: our safetensors, or a released ``.pth``.
        config: what the model has to be; every tensor of the file must fit.

    Note:
        The model's configuration is ``config`` but for ``head.height``, which is the convention of the weights.

    Raises:
        UserError: the file is missing, damaged, no weights, or of another model; the first tensors that do not fit
            are named.
    """
    location = path if isinstance(path, Location) else Location.parse(path)
    if location.size() < 0:
        raise UserError(f"no checkpoint at {location}; give the path of a .safetensors or .pth file")
    data = location.read_bytes()
    if _is_safetensors(data):
        return _load_own(location, config)
    return from_released(_read_pickle(data, location), config, origin=str(location))


def from_released(tensors: Mapping[str, Tensor], config: ModelConfig, *, origin: str) -> FusionModel:
    """A model with released weights, on the CPU in evaluation mode.

    Args:
        tensors: by released name.
        config: what the model has to be.
        origin: where they come from, for messages.

    Raises:
        UserError: a tensor is missing, unknown or does not fit.
    """
    model = FusionModel(config)
    ours = model.state_dict()
    tensors = current_names(tensors)
    release = max(RELEASES, key=lambda release: sum(release.name(name) in tensors for name in ours))
    released_names = {release.name(name): name for name in ours}
    if not released_names.keys() & tensors.keys():
        raise UserError(
            f"{origin} holds no BEVFusion weights (its tensors: {_some(list(tensors))}); give a checkpoint released by "
            f"{' or '.join(release.origin for release in RELEASES)}, or a .safetensors file of our own"
        )
    misfits = _misfits(tensors, ours, released_names, release)
    if misfits:
        raise UserError(
            f"{origin} does not fit model {config.name!r}: {len(misfits)} tensors do not ({_some(misfits)}); "
            "choose the model that it was made for, or another checkpoint"
        )
    converted = {name: release.convert(name, ours[name], tensors[theirs]) for theirs, name in released_names.items()}
    differing = [name for name in converted if is_constant(name) and not ours[name].allclose(converted[name])]
    if differing:
        logger.warning("%s was made with other constants than model %r: %s", origin, config.name, _some(differing))
    model.load_state_dict(converted)
    logger.info("%s: %d tensors of %s's BEVFusion", origin, len(converted), release.origin)
    head = config.head.model_copy(update={"height": release.height})
    model.config = config.model_copy(update={"head": head})
    return model.eval()


def _misfits(
    tensors: Mapping[str, Tensor], ours: Mapping[str, Tensor], released_names: Mapping[str, str], release: Release
) -> list[str]:
    """What is wrong with each tensor that does not fit."""
    misfits = [f"{theirs} is missing" for theirs in released_names if theirs not in tensors]
    misfits += [f"{theirs} is unknown" for theirs in tensors if theirs not in released_names]
    for theirs, name in released_names.items():
        if theirs not in tensors:
            continue
        tensor, shapes = tensors[theirs], release.shapes(name, ours[name])
        if tensor.shape not in shapes:
            wanted = " or ".join(str(list(shape)) for shape in shapes)
            misfits.append(f"{theirs} has shape {list(tensor.shape)} instead of {wanted}")
        elif tensor.is_floating_point() != ours[name].is_floating_point():
            misfits.append(f"{theirs} holds {tensor.dtype} instead of {ours[name].dtype}")
    return misfits


def _load_own(location: Location, config: ModelConfig) -> FusionModel:
    model, _ = load_checkpoint(location)
    if model.config.name != config.name:
        raise UserError(f"{location} is of model {model.config.name!r}, not {config.name!r}; choose that model")
    return model


def _is_safetensors(data: bytes) -> bool:
    """Whether a file begins as the format prescribes: the header's length, then the header's JSON object."""
    return data[8:9] == b"{"


def _read_pickle(data: bytes, location: Location) -> Mapping[str, Tensor]:
    """The tensors of a file of ``torch.save``, out of the wrapping that training code puts around them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that no torch.save wrote
            content: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may fail anywhere in the reader
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise UserError(
                f"{location} is a pickle that holds more than weights ({refused[1]}), which is not read for safety; "
                "if you trust it, save the weights alone: torch.save(torch.load(FILE, weights_only=False)"
                "['state_dict'], NEW_FILE)"
            ) from error
        if data[:1] == b"\x80" and data[1] > 2:  # pickle's mark, of a protocol that torch.save does not use
            raise UserError(
                f"{location} is a pickle that torch.save did not write, which is not read for safety; "
                "if you trust it, write its weights with torch.save"
            ) from error
        raise UserError(
            f"{location} is no checkpoint, or a damaged one; copy it again, or give another file"
        ) from error
    tensors = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"{location} is a pickle, but not of weights by name; give a checkpoint's file")
    return {str(name): tensor.detach() for name, tensor in tensors.items()}


def _some(items: list[str]) -> str:
    return ", ".join(items[:NAMED_MISFITS]) + (", …" if len(items) > NAMED_MISFITS else "")

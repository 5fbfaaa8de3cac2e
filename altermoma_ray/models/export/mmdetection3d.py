"""Weights under mmdetection3d's names, and the widths of a pruned model's layers beside them.

mmdetection3d builds a model from a configuration with one list of channels for each part; a pruned model has a width of
its own in every layer. ``widths.json`` therefore lists every narrowed layer by its name there. Build the model of the
configuration, give the listed layers their widths, then load the weights.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from altermoma_ray.errors import UserError
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.configurations.lidar import LidarConfig
from altermoma_ray.models.configurations.transfusion import TransFusionHeadConfig
from altermoma_ray.models.export.sensors import camera_and_lidar
from altermoma_ray.models.releases.bevfusion import MMDET3D
from altermoma_ray.models.weights.state_files import read_state
from altermoma_ray.storage import Location

WEIGHTS, WIDTHS = "weights.pth", "widths.json"
_CHANNELS = ("in_channels", "out_channels", "in_features", "out_features", "num_features")
"""Attributes with the widths of a layer."""
_HEADS = ("heads",)
"""Attributes with the widths of a module of several layers: window attention."""


def check_namable(model: FusionModel) -> None:
    """Find out whether mmdetection3d has the parts of a model.

    Raises:
        UserError: it lacks a part, or reads the model's boxes in another way.
    """
    config = model.config
    camera, lidar = camera_and_lidar(config)
    if (
        not isinstance(config.head, TransFusionHeadConfig)
        or not isinstance(lidar, LidarConfig)
        or getattr(camera, "depth_net", None) is None
    ):
        raise UserError(
            f"{config.name} has a part that mmdetection3d's BEVFusion lacks (a head other than TransFusion's, pillars, "
            "or a lift without LiDAR depth); take --target onnx"
        )
    if config.head.height != MMDET3D.height:
        raise UserError(
            f"the head learned the z of a box's {config.head.height}, but mmdetection3d reads the z of its "
            f"{MMDET3D.height}, and no change of the weights mends that; take --target onnx"
        )


def released_state(model: FusionModel) -> dict[str, Tensor]:
    """The model's tensors under mmdetection3d's names and in its layout.

    >>> from altermoma_ray.models.configurations.named import configuration
    >>> state = released_state(configuration("bevfusion-mit-toy").build())
    >>> [name for name in state if name.startswith("fusion_layer")][:2]
    ['fusion_layer.0.weight', 'fusion_layer.1.weight']
    """
    return {
        MMDET3D.name(name): MMDET3D.restore(name, tensor).contiguous() for name, tensor in model.state_dict().items()
    }


def weight_bytes(state: Mapping[str, Tensor]) -> bytes:
    """The tensors as a ``.pth`` for mmdetection3d."""
    buffer = io.BytesIO()
    torch.save({"state_dict": dict(state)}, buffer)
    return buffer.getvalue()


def read_back(data: bytes, model: FusionModel) -> dict[str, Tensor]:
    """The tensors of a ``.pth``, read without unpickling, under the model's own names.

    Args:
        data: the file's content.
        model: gives names and layouts.
    """
    found = read_state(data, Location.parse(WEIGHTS)).tensors
    by_name = {name.removeprefix("state_dict/"): tensor for name, tensor in found.items()}
    return {name: MMDET3D.convert(name, own, by_name[MMDET3D.name(name)]) for name, own in model.state_dict().items()}


def narrowed_layers(model: FusionModel) -> dict[str, dict[str, list[int]]]:
    """By layer and attribute, the width and the unpruned width; narrowed layers only.

    Example of an entry::

        {"pts_backbone.blocks.0.0": {"out_channels": [72, 128]}}
    """
    unpruned = model.config.build()
    whole = dict(unpruned.named_modules())
    layers: dict[str, dict[str, list[int]]] = {}
    for name, module in model.named_modules():
        here, before = _widths(module), _widths(whole[name])
        changed = {key: [value, before[key]] for key, value in here.items() if value != before[key]}
        if changed:
            # The rules rename tensors, whose names go on behind the layer's.
            layers[_layer(f"{name}.")] = changed
    others = unpruned.state_dict()
    changed_layers = {_layer(name) for name, tensor in model.state_dict().items() if tensor.shape != others[name].shape}
    # A layer of a kind that has its widths elsewhere would be missing here, and its weights would not load there.
    assert changed_layers == set(layers), changed_layers ^ set(layers)
    return layers


def width_bytes(model: FusionModel, layers: Mapping[str, object]) -> bytes:
    """The JSON of a model's narrowed layers."""
    return json.dumps({"model": model.config.name, "layers": layers}, indent=1).encode()


def _layer(tensor: str) -> str:
    """The released name of the layer of one of our tensors."""
    return MMDET3D.name(tensor).rpartition(".")[0]


def _widths(module: nn.Module) -> dict[str, int]:
    """The widths of a layer by PyTorch's names for them."""
    names = _CHANNELS if next(module.children(), None) is None else _HEADS
    return {name: int(getattr(module, name)) for name in names if isinstance(getattr(module, name, None), int)}

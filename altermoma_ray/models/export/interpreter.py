"""Runs a file for libspconv in plain torch, to check the file: the library itself is closed and needs a GPU.

The interpreter reads the file alone. It finds the pairs of voxels by itself, shares them by the name of their rulebook
as the runtime does, and refuses what the runtime's parser would not understand.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from onnx import ModelProto, NodeProto, helper, numpy_helper
from torch import Tensor

from altermoma_ray.models.export.sparse_file import output_shape

READ = {
    "SparseConvolution": (
        *("kernel_size", "stride", "padding", "dilation", "subm", "inverse", "activation", "rulebook", "output_bound"),
        *("precision", "output_precision"),
    ),
    "Add": ("precision", "output_precision"),
    "Relu": (),
    "ScatterDense": ("format", "input_spatial_shape", "output_shape"),
    "Transpose": ("dims",),
    "Reshape": ("dims",),
}
"""Attributes that the runtime's parser reads, by operation; it knows no other operation."""


@dataclass(frozen=True)
class Voxels:
    """Sparse voxels: features [V, C], coordinates [V, 3] int64 of one sample, and the grid's cells (x, y, z)."""

    features: Tensor
    coordinates: Tensor
    shape: tuple[int, ...]


Pairs = list[tuple[Tensor, Tensor]]
"""For each kernel cell, rows of inputs and the rows of the outputs that they are added to."""


def interpret(model: ModelProto, features: Tensor, coordinates: Tensor, shape: Sequence[int]) -> Tensor:
    """The last tensor of a file for the voxels of one sample.

    Products are summed in single precision. A file in half precision has every tensor rounded, as the runtime keeps it.

    Args:
        model: the file.
        features: [V, C] of the voxels.
        coordinates: [V, 4] sample (0), x, y, z.
        shape: cells of the grid along x, y, z.

    Raises:
        ValueError: the runtime would refuse or misread the file.
    """
    weights = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in model.graph.initializer}
    kind = next(iter(weights.values())).dtype
    tensors: dict[str, Any] = {
        model.graph.input[0].name: Voxels(features.to(kind).float(), coordinates[:, 1:].long(), tuple(shape))
    }
    books: dict[str, tuple[Any, Pairs, Voxels]] = {}
    for node in model.graph.node:
        attributes = _attributes(node)
        inputs = [tensors[name] for name in node.input if name in tensors]
        if node.op_type == "SparseConvolution":
            weight, bias = (weights[name] for name in node.input[1:])
            found: Any = _convolve(inputs[0], weight.float(), bias.float(), attributes, books)
        elif node.op_type == "Add":
            first, second = inputs
            if not torch.equal(first.coordinates, second.coordinates):
                raise ValueError(f"{node.name} adds voxels of other places")
            found = replace(first, features=first.features + second.features)
        elif node.op_type == "Relu":
            found = replace(inputs[0], features=inputs[0].features.relu())
        elif node.op_type == "ScatterDense":
            found = _scatter(inputs[0], attributes)
        elif node.op_type == "Transpose":
            found = inputs[0].permute(attributes["dims"])
        else:
            found = inputs[0].reshape(attributes["dims"])
        if isinstance(found, Voxels):
            found = replace(found, features=found.features.to(kind).float())
        tensors[node.output[0]] = found
    return tensors[model.graph.output[0].name]


def _attributes(node: NodeProto) -> dict[str, Any]:
    found = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    found = {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}
    if node.op_type not in READ:
        raise ValueError(f"{node.name} is a {node.op_type}, which the runtime does not know")
    missing = [name for name in READ[node.op_type] if name not in found]
    if missing:
        raise ValueError(f"{node.name} has no attribute {missing[0]}")
    return found


def _convolve(
    voxels: Voxels, weight: Tensor, bias: Tensor, attributes: dict[str, Any], books: dict[str, Any]
) -> Voxels:
    outputs, *kernel, inputs = weight.shape
    if kernel != list(attributes["kernel_size"]) or len(bias) != outputs or inputs != voxels.features.shape[1]:
        raise ValueError(
            f"weight {list(weight.shape)} and bias {list(bias.shape)} do not fit a kernel {attributes['kernel_size']} "
            f"on {voxels.features.shape[1]} channels"
        )
    if list(attributes["dilation"]) != [1, 1, 1] or attributes["inverse"]:
        raise ValueError("the interpreter knows no dilation and no inverse convolution")
    geometry = (*kernel, *attributes["stride"], *attributes["padding"], attributes["subm"])
    book = attributes["rulebook"]
    if book not in books:
        pairs, places = _pairs(voxels, kernel, attributes)
        books[book] = ((geometry, voxels.coordinates), pairs, places)
    (expected, coordinates), pairs, places = books[book]
    # The runtime would take the pairs without asking.
    if expected != geometry or not torch.equal(coordinates, voxels.coordinates):
        raise ValueError(f"rulebook {book} is shared by convolutions of other geometry or voxels")
    if len(places.coordinates) > attributes["output_bound"]:
        raise ValueError(f"{len(places.coordinates)} voxels are more than output_bound={attributes['output_bound']}")
    features = bias.expand(len(places.coordinates), -1).clone()
    for (rows, targets), cell in zip(pairs, weight.flatten(1, 3).unbind(1), strict=True):
        features.index_add_(0, targets, voxels.features[rows] @ cell.T)
    if attributes["activation"] == "ReLU":
        features = features.relu()
    return replace(places, features=features)


def _pairs(voxels: Voxels, kernel: Sequence[int], attributes: dict[str, Any]) -> tuple[Pairs, Voxels]:
    """The pairs of a convolution, and its output voxels without features.

    An output cell o and the kernel cell k read the input cell o · stride − padding + k.
    """
    stride, padding = (torch.tensor(attributes[name]) for name in ("stride", "padding"))
    if attributes["subm"]:
        shape, keys = voxels.shape, _keys(voxels.coordinates, voxels.shape)
    else:
        shape = tuple(output_shape(voxels.shape, kernel, attributes["stride"], attributes["padding"]))
        keys = torch.cat([key for _, key in _reached(voxels, kernel, stride, padding, shape)]).unique()
    order = keys.argsort()
    ranked = keys[order]
    pairs = []
    for rows, key in _reached(voxels, kernel, stride, padding, shape):
        place = torch.searchsorted(ranked, key).clamp(max=len(keys) - 1)
        is_there = ranked[place] == key
        pairs.append((rows[is_there], order[place[is_there]]))
    if attributes["subm"]:
        return pairs, voxels
    size_y, size_z = shape[1:]
    coordinates = torch.stack([keys // (size_y * size_z), keys // size_z % size_y, keys % size_z], dim=1)
    return pairs, Voxels(voxels.features.new_zeros(0), coordinates, shape)


def _reached(
    voxels: Voxels, kernel: Sequence[int], stride: Tensor, padding: Tensor, shape: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each kernel cell, the rows of voxels that some output cell reads there, and the keys of these cells."""
    for cell in itertools.product(*map(range, kernel)):
        moved = voxels.coordinates + padding - torch.tensor(cell)
        target = moved.div(stride, rounding_mode="floor")
        inside = ((moved % stride == 0) & (target >= 0) & (target < torch.tensor(shape))).all(1)
        rows = inside.nonzero()[:, 0]
        yield rows, _keys(target[rows], shape)


def _keys(coordinates: Tensor, shape: Sequence[int]) -> Tensor:
    x, y, z = coordinates.unbind(1)
    return (x * shape[1] + y) * shape[2] + z


def _scatter(voxels: Voxels, attributes: dict[str, Any]) -> Tensor:
    """A dense [1, C, x, y, z]."""
    size = attributes["output_shape"]
    if attributes["format"] != "xyz" or list(voxels.shape) != list(attributes["input_spatial_shape"]):
        raise ValueError(f"ScatterDense is told a grid of {attributes['input_spatial_shape']}, but gets {voxels.shape}")
    if size != [1, voxels.features.shape[1], *voxels.shape]:
        raise ValueError(f"ScatterDense is told an output of {size}")
    dense = voxels.features.new_zeros((*voxels.shape, size[1]))
    dense[tuple(voxels.coordinates.unbind(1))] = voxels.features
    return dense.permute(3, 0, 1, 2)[None]

"""The sparse LiDAR encoder as ``lidar.backbone.xyz.onnx``, the file that CUDA-BEVFusion's parser for libspconv reads.

ONNX is only the container here: the operations are libspconv's own, without a domain, and no ONNX runtime takes them.
The parser knows SparseConvolution, Add, Relu, ScatterDense, Transpose and Reshape. Normalisation is folded into the
convolution before it, and a ReLU behind a convolution is its ``activation``; only the ReLU behind a residual sum is a
node. Voxels are [V, 5] in half precision, their coordinates (sample, x, y, z).

Source: the parser and exporter of NVIDIA's Lidar_AI_Solution, read for the names and types of what they exchange.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, TensorProto, helper
from torch import Tensor, nn

from altermoma_ray import __version__
from altermoma_ray.models.encoders.lidar import LidarEncoder, ResidualBlock, SubmanifoldConvolution
from altermoma_ray.models.layers.sparse import SparseConvolution

FILE = "lidar.backbone.xyz.onnx"
INPUT = "0"
OUTPUT_BOUND = 200_000
"""Most voxels behind a convolution, for which the runtime keeps memory; the value of its own exporter."""

WIDTH_STEP = 16
"""Widths of the published encoder are multiples of this number."""


def sparse_model(encoder: LidarEncoder, *, half: bool = True) -> ModelProto:
    """The file of a LiDAR encoder.

    Args:
        encoder: its factors on the points are folded into the first convolution.
        half: write weights in half precision, as the parser wants them; single precision is for checks.
    """
    writer = _Writer(encoder.backbone.spatial_shape, half)
    layers = encoder.backbone
    (convolution, norm, _) = layers.input_conv
    tensor = writer.convolution(INPUT, convolution, norm, "subm1", scale=encoder.point_scale)
    for number, stage in enumerate(layers.stages, start=1):
        for layer in stage:
            if isinstance(layer, ResidualBlock):
                tensor = writer.block(tensor, layer, f"subm{number}")
            else:
                tensor = writer.convolution(tensor, layer[0], layer[1], f"spconv{number}")
    (convolution, norm, _) = layers.output_conv
    tensor = writer.convolution(tensor, convolution, norm, "spconv_out")
    return writer.finish(tensor, convolution.out_channels)


class _Writer:
    """Collects nodes and weights; every node's output has the next number as its name."""

    def __init__(self, spatial_shape: Sequence[int], half: bool) -> None:
        self.shape = list(spatial_shape)
        self.half = half
        self.nodes: list[Any] = []
        self.weights: list[TensorProto] = []
        self.convolutions = 0

    def convolution(
        self,
        tensor: str,
        layer: SparseConvolution,
        norm: nn.BatchNorm1d,
        rulebook: str,
        *,
        activation: str = "ReLU",
        scale: Tensor | None = None,
    ) -> str:
        """A convolution with its normalisation and activation; gives the name of its output.

        Args:
            tensor: name of the input.
            layer: its weight is [out, x, y, z, in], the file's own order.
            norm: of its outputs.
            rulebook: layers of one name share the pairs of voxels to multiply.
            activation: ``ReLU`` or ``None``.
            scale: factors on the input channels.
        """
        weight, bias = folded(layer.weight, norm)
        number, self.convolutions = self.convolutions, self.convolutions + 1
        names = [f"spconv{number}.weight", f"spconv{number}.bias"]
        self.weights += [self._tensor(names[0], weight if scale is None else weight * scale)]
        self.weights += [self._tensor(names[1], bias)]
        is_subm = isinstance(layer, SubmanifoldConvolution)
        kernel, stride, dilation = (list(map(int, one)) for one in (layer.kernel_size, layer.stride, layer.dilation))
        # A submanifold convolution keeps its voxels whatever its padding; the file states the one that centres it.
        padding = [side // 2 for side in kernel] if is_subm else list(map(int, layer.padding))
        before = self.shape
        if not is_subm:
            self.shape = output_shape(before, kernel, stride, padding)
        return self._node(
            "SparseConvolution",
            [tensor, *names],
            f"conv{number}",
            ndim=3,
            input_spatial_shape=before,
            output_spatial_shape=self.shape,
            in_channels=layer.in_channels,
            out_channels=layer.out_channels,
            kernel_size=kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            output_padding=[0, 0, 0],
            groups=1,
            subm=int(is_subm),
            inverse=0,
            transposed=0,
            rulebook=rulebook,
            activation=activation,
            output_bound=OUTPUT_BOUND,
            precision="fp16",
            output_precision="fp16",
        )

    def block(self, tensor: str, layer: ResidualBlock, rulebook: str) -> str:
        """Two submanifold convolutions, the sum with their input, and its ReLU."""
        hidden = self.convolution(tensor, layer.conv1, layer.norm1, rulebook)
        hidden = self.convolution(hidden, layer.conv2, layer.norm2, rulebook, activation="None")
        number = sum(node.op_type == "Add" for node in self.nodes)
        added = self._node("Add", [hidden, tensor], f"add{number}", precision="fp16", output_precision="fp16")
        return self._node("Relu", [added], f"relu{number}")

    def finish(self, tensor: str, channels: int) -> ModelProto:
        """The voxels as a map whose channels are c·Z + z, and the whole file."""
        x, y, z = self.shape
        dense = [1, channels, x, y, z]
        tensor = self._node(
            "ScatterDense", [tensor], "scatter0", format="xyz", input_spatial_shape=self.shape, output_shape=dense
        )
        tensor = self._node("Transpose", [tensor], "transpose0", dims=[0, 1, 4, 2, 3])
        tensor = self._node("Reshape", [tensor], "reshape0", dims=[1, channels * z, x, y])
        kind = TensorProto.FLOAT16 if self.half else TensorProto.FLOAT
        first = next(iter(self.weights)).dims[-1]
        graph = helper.make_graph(
            name="scn",
            nodes=self.nodes,
            inputs=[helper.make_tensor_value_info(INPUT, kind, ["voxels", first])],
            outputs=[helper.make_tensor_value_info(tensor, kind, [1, channels * z, x, y])],
            initializer=self.weights,
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_operatorsetid("ai.onnx", 11)],
            producer_name="altermoma_ray",
            producer_version=__version__,
        )

    def _node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        output = str(len(self.nodes) + 1)
        self.nodes.append(helper.make_node(kind, inputs, [output], name, **attributes))
        return output

    def _tensor(self, name: str, values: Tensor) -> TensorProto:
        kind = (TensorProto.FLOAT16, np.float16) if self.half else (TensorProto.FLOAT, np.float32)
        data = np.ascontiguousarray(values.detach().cpu().numpy().astype(kind[1]))
        return helper.make_tensor(name, kind[0], data.shape, data.tobytes(), raw=True)


def folded(weight: Tensor, norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that does the work of its normalisation in evaluation mode, too.

    Args:
        weight: [out, ...] of a convolution without a bias.
        norm: of its outputs.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        return weight * factor.view(-1, *[1] * (weight.ndim - 1)), norm.bias - norm.running_mean * factor


def output_shape(
    shape: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> list[int]:
    """Cells behind a strided convolution.

    >>> output_shape([1440, 1440, 41], [3, 3, 3], [2, 2, 2], [1, 1, 1])
    [720, 720, 21]
    """
    return [
        (size + 2 * pad - side) // step + 1
        for size, side, step, pad in zip(shape, kernel, stride, padding, strict=True)
    ]

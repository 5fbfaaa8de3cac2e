"""ONNX files of dense parts, and running them again with onnxruntime."""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Mapping

import onnx
import onnxruntime
import torch
from torch import Tensor

from altermoma_ray import __version__
from altermoma_ray.models.export.parts import Part

PROVIDERS = ["CPUExecutionProvider"]


def onnx_bytes(part: Part, opset: int) -> bytes:
    """A part as an ONNX file with static shapes and single-precision weights.

    Args:
        part: its example inputs set the shapes.
        opset: version of ONNX's operations.
    """
    buffer = io.BytesIO()
    # The older exporter: the newer one writes opset 18 at least, and CUDA-BEVFusion takes 13. The older one warns of
    # sizes that become constants, which is the purpose here.
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            part.module,
            tuple(part.inputs.values()),
            buffer,  # type: ignore[arg-type]
            input_names=list(part.inputs),
            output_names=list(part.outputs),
            opset_version=opset,
            dynamo=False,
        )
    data = _simplified(buffer.getvalue())
    onnx.checker.check_model(data, full_check=True)
    return data


def _simplified(data: bytes) -> bytes:
    """The same file with everything computed that does not depend on its inputs.

    PyTorch writes the arithmetic of sizes as operations; with static shapes all of that is constant. onnxruntime
    computes it at its basic level, which writes standard operations alone.
    """
    options = _options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/simplified.onnx"
        onnxruntime.InferenceSession(data, options, providers=PROVIDERS)
        model = onnx.load(options.optimized_model_filepath)
    # onnxruntime lists all sets of operations that it knows; the file uses the standard one.
    standard = [one for one in model.opset_import if one.domain == ""]
    del model.opset_import[:]
    model.opset_import.extend(standard)
    model.producer_name, model.producer_version = "altermoma_ray", __version__
    return model.SerializeToString()


def run_onnx(data: bytes, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs of an ONNX file, by name, from onnxruntime on the CPU.

    Args:
        data: the file's content.
        inputs: by name.
    """
    session = onnxruntime.InferenceSession(data, _options(), providers=PROVIDERS)
    names = [output.name for output in session.get_outputs()]
    found = session.run(names, {name: tensor.contiguous().numpy() for name, tensor in inputs.items()})
    return {name: torch.from_numpy(values) for name, values in zip(names, found, strict=True)}


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # As many threads as PyTorch: onnxruntime would otherwise take all processors of a shared machine.
    options.intra_op_num_threads = torch.get_num_threads()
    return options


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """The shapes of tensors by name."""
    return {name: list(tensor.shape) for name, tensor in tensors.items()}

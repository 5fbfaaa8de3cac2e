"""The formats of an export, one function for each: a model to files and their checks.

Nothing is written here. A file that differs from the model raises before any file exists.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx
import onnxruntime
import torch
from torch import Tensor

from altermoma_ray.data.batch import Batch
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.configurations.centerpoint import CenterPointHeadConfig
from altermoma_ray.models.encoders.lidar import LidarEncoder, SparseEncoder
from altermoma_ray.models.export import mmdetection3d as mmdet3d
from altermoma_ray.models.export import sparse_file
from altermoma_ray.models.export.checks import HALF_TOLERANCE, TOLERANCE, Check, aligned, difference, differences
from altermoma_ray.models.export.interpreter import interpret
from altermoma_ray.models.export.onnx_file import onnx_bytes, run_onnx, shapes
from altermoma_ray.models.export.parts import BOXES, BoxPart, Part, dense_parts, splat_outputs, whole_outputs
from altermoma_ray.models.export.program_file import program_bytes, run_program
from altermoma_ray.models.export.runtime_limits import check_limits
from altermoma_ray.models.export.sample import drawn_sample
from altermoma_ray.models.layers.sparse import SparseConvolution
from altermoma_ray.models.layers.voxelise import voxelise

Tell = Callable[[str], None]
"""Told each step before it begins, such as ``making fuser.onnx``."""
Run = Callable[[bytes, Part, Mapping[str, Tensor]], dict[str, Tensor]]
"""Runs the content of a part's file on inputs by name."""

OPSET = 17
"""ONNX's operations of a general export: the first with one operation for a layer normalisation."""
RUNTIME_OPSET = 13
"""Those of CUDA-BEVFusion."""
MARGIN = 1e-5
"""Least margin of the proposals of a sample to check on; see :meth:`BoxPart.margin`. Rounding moves heats by 1e-6."""
TRIES = 6
"""Samples drawn until one has that margin."""


@dataclass
class Export:
    """Files by name, and their checks.

    Attributes:
        files: contents by name.
        checks: one or more for each file, and one for the chain of the dense files.
        notes: about the whole export.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def record(self, model: FusionModel, target: str) -> str:
        """The text of ``checks.json``."""
        checks = [check.record() for check in self.checks]
        return json.dumps(
            {"model": model.config.name, "target": target, "notes": self.notes, "checks": checks}, indent=1
        )


def to_onnx(model: FusionModel, tell: Tell, seed: int = 0) -> Export:
    """The dense parts as ONNX, for any widths, cameras, grid and head of this project's models."""
    made = Export(notes=_box_notes(model))
    sample, parts = _examples(model, seed)
    _dense(made, model, sample, parts, OPSET, tell)
    return made


def to_cuda_bevfusion(model: FusionModel, tell: Tell, seed: int = 0) -> Export:
    """The five files that NVIDIA's CUDA-BEVFusion reads.

    Raises:
        UserError: the runtime would refuse the model.
    """
    check_limits(model)
    made = Export(
        notes=[
            "dim is log of width, length, height; rot is sine and cosine of -yaw - pi/2; height is the z of the top: "
            "the conventions that the runtime decodes",
            *_width_notes(model.encoders["lidar"].backbone),  # type: ignore[union-attr, arg-type]
        ]
    )
    sample, parts = _examples(model, seed, runtime_boxes=True)
    _dense(made, model, sample, parts, RUNTIME_OPSET, tell)
    tell(f"making and checking {sparse_file.FILE}")
    _sparse(made, model.encoders["lidar"], sample)  # type: ignore[arg-type]
    return made


def to_torch(model: FusionModel, tell: Tell, seed: int = 0) -> Export:
    """The dense parts as ``torch.export`` programs."""
    made = Export(notes=_box_notes(model))
    sample, parts = _examples(model, seed)
    for part in parts:
        tell(f"making {part.name}.pt2")
        made.files[f"{part.name}.pt2"] = program_bytes(part)
    by = f"torch.export of PyTorch {torch.__version__}"
    tell("checking all")
    _check_parts(made, model, sample, parts, lambda data, part, inputs: run_program(data, inputs, [*part.outputs]), by)
    return made


def to_mmdetection3d(model: FusionModel, tell: Tell, seed: int = 0) -> Export:
    """The weights under mmdetection3d's names, and the widths of the narrowed layers.

    Raises:
        UserError: mmdetection3d has no place for a part.
    """
    mmdet3d.check_namable(model)
    tell(f"making {mmdet3d.WEIGHTS} and {mmdet3d.WIDTHS}")
    state = mmdet3d.released_state(model)
    data = mmdet3d.weight_bytes(state)
    found = mmdet3d.read_back(data, model)
    differing = {name: difference(found[name].double(), own.double()) for name, own in model.state_dict().items()}
    worst = max(differing, key=lambda name: differing[name])
    check = Check(
        file=mmdet3d.WEIGHTS,
        by="reading it back",
        against="the weights in PyTorch",
        differences={mmdet3d.MMDET3D.name(worst): differing[worst]},
        tolerance=0.0,
        not_run_on=("mmdetection3d",),
    )
    layers = mmdet3d.narrowed_layers(model)
    told = Check(file=mmdet3d.WIDTHS, by=f"looking up its {len(layers)} layers", against="the shapes of the weights")
    return Export(
        files={mmdet3d.WEIGHTS: data, mmdet3d.WIDTHS: mmdet3d.width_bytes(model, layers)},
        checks=[check.enforce(), told],
        notes=[f"{mmdet3d.WIDTHS} has [width, unpruned width] of every narrowed layer"],
    )


TARGETS: Mapping[str, Callable[[FusionModel, Tell, int], Export]] = {
    "onnx": to_onnx,
    "cuda-bevfusion": to_cuda_bevfusion,
    "torch": to_torch,
    "mmdetection3d": to_mmdetection3d,
}
"""By the name on the command line; the last argument is the seed of the sample that files are checked on."""


def _examples(model: FusionModel, seed: int, *, runtime_boxes: bool = False) -> tuple[Batch, list[Part]]:
    """A drawn sample and the parts that have run on it.

    Of a few samples, the first whose proposals are no matter of rounding; else the one with the clearest choice.
    """
    tried: list[tuple[float, Batch, list[Part]]] = []
    for attempt in range(TRIES):
        sample = drawn_sample(model.config, seed + attempt)
        parts = dense_parts(model, sample, runtime_boxes=runtime_boxes)
        head = parts[-1].module
        margin = head.margin(parts[-1].inputs["middle"]) if isinstance(head, BoxPart) else 1.0
        tried.append((margin, sample, parts))
        if margin > MARGIN:
            break
    _, sample, parts = max(tried, key=lambda one: one[0])
    return sample, parts


def _dense(made: Export, model: FusionModel, sample: Batch, parts: Sequence[Part], opset: int, tell: Tell) -> None:
    """The ONNX files of the dense parts."""
    for part in parts:
        tell(f"making {part.name}.onnx")
        made.files[f"{part.name}.onnx"] = onnx_bytes(part, opset)
    by = f"onnxruntime {onnxruntime.__version__}"
    tell("checking all")
    _check_parts(made, model, sample, parts, lambda data, _, inputs: run_onnx(data, inputs), by, opset)


def _check_parts(
    made: Export,
    model: FusionModel,
    sample: Batch,
    parts: Sequence[Part],
    run: Run,
    by: str,
    opset: int | None = None,
) -> None:
    """Run each file on the inputs that the model gives its part, and then the files as a chain."""
    found: dict[str, dict[str, Tensor]] = {}
    files = {part.name: name for part, name in zip(parts, made.files, strict=True)}
    not_run_on = () if opset is None else ("TensorRT",)
    for part in parts:
        found[part.name] = run(made.files[files[part.name]], part, part.inputs)
        check = Check(
            file=files[part.name],
            by=by,
            inputs=shapes(part.inputs),
            outputs=shapes(part.outputs),
            opset=opset,
            differences=differences(_comparable(part, found[part.name], part.outputs), part.outputs),
            not_run_on=not_run_on,
        )
        made.checks.append(check.enforce())
    camera, view, fuser, head = parts
    # The first file has run on the very inputs of the chain already.
    splatted = splat_outputs(model, sample, found[camera.name])
    seen = run(made.files[files[view.name]], view, {"feat_in": splatted})["feat_out"]
    middle = run(made.files[files[fuser.name]], fuser, {"camera": seen, "lidar": fuser.inputs["lidar"]})
    outputs = run(made.files[files[head.name]], head, middle)
    expected = whole_outputs(model, sample, head)
    chain = Check(
        file="all as a chain",
        by=by,
        against="the whole model",
        outputs=shapes(expected),
        opset=opset,
        differences=differences(_comparable(head, outputs, expected), expected),
        not_run_on=not_run_on,
    )
    made.checks.append(chain.enforce())


def _comparable(part: Part, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Outputs in the expected order: boxes of almost equal heats may change places."""
    return aligned(found, expected) if part.name == BOXES else found


@torch.no_grad()
def _sparse(made: Export, encoder: LidarEncoder, sample: Batch) -> None:
    """The sparse encoder's file, and its checks by the interpreter."""
    voxels = voxelise(
        sample.points,
        lower=encoder.lower,
        size=encoder.config.voxel_size,
        grid=encoder.grid,
        max_points=encoder.config.max_points,
        max_voxels=encoder.config.max_voxels_test,
    )
    expected = encoder(sample)
    shape = encoder.backbone.spatial_shape
    made.files[sparse_file.FILE] = sparse_file.sparse_model(encoder).SerializeToString()
    half = onnx.load_from_string(made.files[sparse_file.FILE])
    # Single precision shows that the file computes the encoder's function; half precision, how it is rounded.
    for file, tolerance, precision in (
        (sparse_file.sparse_model(encoder, half=False), TOLERANCE, "all numbers in single precision"),
        (half, HALF_TOLERANCE, "half precision as written"),
    ):
        output = file.graph.output[0].name
        check = Check(
            file=sparse_file.FILE,
            by=f"this project's interpreter, {precision}, {len(voxels.features):,} voxels",
            inputs={sparse_file.INPUT: list(voxels.features.shape)},
            outputs={output: list(expected.shape)},
            opset=11,
            differences={output: difference(interpret(file, voxels.features, voxels.coordinates, shape), expected)},
            tolerance=tolerance,
            not_run_on=("libspconv",),
        )
        made.checks.append(check.enforce())


def _width_notes(encoder: SparseEncoder) -> list[str]:
    """Widths that the closed library may not take."""
    widths = {layer.out_channels for layer in encoder.modules() if isinstance(layer, SparseConvolution)}
    odd = sorted(width for width in widths if width % sparse_file.WIDTH_STEP)
    if not odd:
        return []
    return [
        f"LiDAR widths {', '.join(map(str, odd))} are no multiples of {sparse_file.WIDTH_STEP}: libspconv does not say "
        "which widths its kernels take"
    ]


def _box_notes(model: FusionModel) -> list[str]:
    height = getattr(model.config.head, "height", None)
    if height is None:
        return []
    # A CenterPoint head describes boxes from the corner of each cell.
    corner = "cell" if isinstance(model.config.head, CenterPointHeadConfig) else "map"
    return [
        "dim is log of length, width, height; rot is sine and cosine of the yaw; reg is x, y in cells "
        f"from the lower corner of the {corner}; height is the z of a box's {height}"
    ]

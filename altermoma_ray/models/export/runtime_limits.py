"""The models that CUDA-BEVFusion can take: figures that its C++ code fixes, and a width that its kernel needs.

Every width inside a file is free, and so is a width on which two files agree. Only the context between the camera's
file and the splat is bound: a thread of the splat's kernel sums ten channels.

Source: ``src/main.cpp`` and the splat's kernel of NVIDIA's Lidar_AI_Solution.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from altermoma_ray.errors import UserError
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.configurations.bevfusion_mit import CONFIGURATION as PUBLISHED
from altermoma_ray.models.configurations.config import ModelConfig
from altermoma_ray.models.configurations.transfusion import TransFusionHeadConfig
from altermoma_ray.models.export.sensors import camera_and_lidar

CONTEXT_STEP = 10
"""The context's width must be a multiple of this."""
MOST_PROPOSALS = 1024
"""Boxes for which the runtime keeps memory."""


def check_limits(model: FusionModel) -> None:
    """Find out whether the runtime takes a model.

    Raises:
        UserError: the head, a figure or a width does not fit; the message has the reason.
    """
    config = model.config
    camera, _ = camera_and_lidar(config)
    if not isinstance(config.head, TransFusionHeadConfig):
        raise UserError(
            f"{config.name} has a {config.head.title} head, but CUDA-BEVFusion reads boxes of a TransFusion head; take "
            "--target onnx"
        )
    if getattr(camera, "depth_net", None) is None:
        raise UserError(
            f"{config.name} lifts pictures without LiDAR depth, but CUDA-BEVFusion feeds depth pictures; take "
            "--target onnx"
        )
    others = [f"{name} is {_shown(here)} instead of {_shown(fixed)}" for name, here, fixed in _figures(config)]
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise UserError(
            f"{config.name} does not fit CUDA-BEVFusion, whose C++ code fixes its figures: {others[0]}{more}; take "
            "--target onnx"
        )
    if config.head.proposals > MOST_PROPOSALS:
        raise UserError(
            f"{config.name} has {config.head.proposals} proposals, but CUDA-BEVFusion keeps {MOST_PROPOSALS} boxes at "
            "most; take --target onnx"
        )
    width = int(model.encoders["camera"].view_transform.channels)  # type: ignore[union-attr, arg-type]
    if width % CONTEXT_STEP:
        raise UserError(
            f"the camera's context has {width} channels, but CUDA-BEVFusion's splat takes multiples of {CONTEXT_STEP}; "
            "prune with --target cuda-bevfusion, or export with --target onnx"
        )


def _figures(config: ModelConfig) -> Iterator[tuple[str, Any, Any]]:
    """Figures that differ from the fixed ones: name, value, fixed value. The published model has the fixed ones."""
    fixed = PUBLISHED
    pairs: dict[str, tuple[Any, Any]] = {
        "number of cameras": (len(config.inputs.cameras), len(fixed.inputs.cameras)),
        "voxel grid": (config.voxel_grid, fixed.voxel_grid),
        "stride of the LiDAR encoder": (camera_and_lidar(config)[1].stride, camera_and_lidar(fixed)[1].stride),
        "BEV map": (config.head.bev_size, fixed.head.bev_size),
    }
    for section, names in {
        "inputs": ("image_size", "resize_test", "bottom_crop", "mean", "std", "point_range"),
        "camera": ("depth_bins", "grid_x", "grid_y", "grid_z"),
        "lidar": ("voxel_size", "max_points", "max_voxels_test"),
    }.items():
        here, there = getattr(config, section), getattr(fixed, section)
        pairs |= {f"{section}.{name}": (getattr(here, name), getattr(there, name)) for name in names}
    for name, (value, wanted) in pairs.items():
        if value != wanted:
            yield name, value, wanted


def _shown(value: Any) -> str:
    """A figure for a message: sizes with crosses."""
    return " × ".join(f"{part:g}" for part in value) if isinstance(value, tuple) else f"{value:g}"

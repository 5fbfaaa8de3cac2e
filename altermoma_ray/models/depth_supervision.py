"""Depth supervision of the camera branch: the depth distribution of each cell learns from the cell's LiDAR points.

Li et al., *BEVDepth: Acquisition of Reliable Depth for Multi-View 3D Object Detection*, AAAI 2023, section 3.2: a
cell's target is the bin of its nearest point. The published BEVFusion does without, since its camera backbone comes
pre-trained; from random weights the detection loss alone finds the depths only slowly.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from altermoma_ray.data.batch import Batch
from altermoma_ray.models.encoders.camera import CameraEncoder
from altermoma_ray.models.views.depth_lss import paint_depth


class DepthSupervision:
    """Listens to a camera encoder while a model runs, and gives the loss of the predicted depths.

    >>> with DepthSupervision(model.encoders["camera"]) as supervision:      # doctest: +SKIP
    ...     outputs = model(batch)
    ...     loss = supervision.loss(batch)
    """

    def __init__(self, encoder: nn.Module) -> None:
        assert isinstance(encoder, CameraEncoder)
        self._view = encoder.view_transform
        self._logits: Tensor | None = None
        self._handle: RemovableHandle | None = None

    def __enter__(self) -> DepthSupervision:
        self._handle = self._view.lift_net.register_forward_hook(self._keep)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._handle is not None
        self._handle.remove()

    def loss(self, batch: Batch) -> Tensor:
        """Mean cross entropy over the cells with a LiDAR point, for each sample of the last forward pass, [N]."""
        assert self._logits is not None
        target = self._target(batch)
        # The lift net runs on all cameras' pictures in a row; the target is by sample.
        logits = self._logits.unflatten(0, (len(batch), -1))
        self._logits = None  # the graph must not outlive the loss; a second call without a pass fails above
        losses = functional.cross_entropy(logits.movedim(2, 1), target, ignore_index=-1, reduction="none")
        # A mean over the hit cells of each sample: far samples with few points weigh as much as dense ones.
        return losses.flatten(1).sum(1) / (target >= 0).flatten(1).sum(1).clamp(min=1)

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._logits = output[:, : self._view.bins]

    def _target(self, batch: Batch) -> Tensor:
        """Bin of the nearest point in each cell, int64 [N, C, h, w]; -1 where no point lies within the bins."""
        lidar_to_pixel = batch.camera_intrinsics @ torch.linalg.inv(batch.camera_to_lidar)[..., :3, :]
        painted = paint_depth(
            batch.points, lidar_to_pixel, batch.image_augmentation, batch.lidar_augmentation, self._view.image_size
        )
        # The least depth by a maximum over negated depths; empty pixels (painted 0) must never win.
        nearest = -functional.max_pool2d(-painted.masked_fill(painted == 0, torch.inf), self._view.stride)
        depths = self._view.frustum[:, 0, 0, 2]
        step = depths[1] - depths[0]
        # Each depth of the frustum is the centre of its bin: half a step belongs to the bin on either side.
        found = ((nearest - depths[0]) / step + 0.5).floor()
        return torch.where((found >= 0) & (found < len(depths)), found, -1).long()

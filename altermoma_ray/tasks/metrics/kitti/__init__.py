"""The official KITTI object metric in bird's-eye view and in space: AP-BEV and AP-3D, R11 and R40."""

from __future__ import annotations

from altermoma_ray.tasks.metrics.kitti.evaluation import Figures, evaluate
from altermoma_ray.tasks.metrics.kitti.files import read_frames, read_labels

__all__ = ["Figures", "evaluate", "read_frames", "read_labels"]

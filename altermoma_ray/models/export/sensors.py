"""The sensors of models that can be exported: the files of every target are made for a camera and a LiDAR."""

from __future__ import annotations

from altermoma_ray.errors import UserError
from altermoma_ray.models.configurations.camera import AnyCamera
from altermoma_ray.models.configurations.config import ModelConfig
from altermoma_ray.models.configurations.lidar import AnyLidar


def camera_and_lidar(config: ModelConfig) -> tuple[AnyCamera, AnyLidar]:
    """The sections of both sensors.

    Raises:
        UserError: the model has other sensors.
    """
    if config.camera is None or config.lidar is None or len(config.sensors) > 2:
        raise UserError(
            f"{config.name} has {', '.join(config.sensors)}, but files are made for a camera and a LiDAR alone; export "
            "the model yourself with torch.export or torch.onnx"
        )
    return config.camera, config.lidar

"""altermoma_ray: a distributed pruning search for camera-LiDAR fusion models with AlterMOMA."""

__version__ = "0.1.0"

"""A synthetic nuScenes, for users without the real one: a small town in the layout of the official devkit."""

from __future__ import annotations

from altermoma_ray.data.synthetic.generate import generate, matches
from altermoma_ray.data.synthetic.upload import generate_at

__all__ = ["generate", "generate_at", "matches"]

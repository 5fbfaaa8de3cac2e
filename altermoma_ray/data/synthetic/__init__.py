"""A synthetic nuScenes, for users without the real one: a small town in the layout of the official devkit."""

from __future__ import annotations

from altermoma_ray.data.synthetic.generate import generate, matches
from altermoma_ray.data.synthetic.upload import provide

__all__ = ["generate", "matches", "provide"]

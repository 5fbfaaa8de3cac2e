"""A synthetic nuScenes, for whoever has none: a small town as the official devkit would read it."""

from __future__ import annotations

from altermoma_ray.data.synthetic.generate import generate, matches
from altermoma_ray.data.synthetic.upload import provide

__all__ = ["generate", "matches", "provide"]

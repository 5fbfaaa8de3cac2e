"""The synthetic data set at any location: written in place on a disk, or made on this machine and uploaded."""

from __future__ import annotations

from functools import partial

from altermoma_ray.data.synthetic.generate import generate
from altermoma_ray.data.synthetic.writing import make_at
from altermoma_ray.storage import Location


def generate_at(
    target: Location,
    *,
    scenes: int | None = None,
    seed: int = 0,
    progress: bool = True,
    keyframes: int = 2,
    reflective_ground: bool = False,
    occlusion: bool = False,
) -> None:
    """Make the data set of :func:`generate` at a location which every node of a cluster can read.

    Args:
        target: the data set's folder, on a disk missing or empty.
        scenes: see :func:`generate`.
        seed: see :func:`generate`.
        progress: show bars on stderr.
        keyframes: see :func:`generate`.
        reflective_ground: see :func:`generate`.
        occlusion: see :func:`generate`.

    Raises:
        UserError: an argument is out of range, or the location cannot be written.
    """
    make = partial(
        generate,
        scenes=scenes,
        seed=seed,
        progress=progress,
        keyframes=keyframes,
        reflective_ground=reflective_ground,
        occlusion=occlusion,
    )
    make_at(target, make, progress=progress)

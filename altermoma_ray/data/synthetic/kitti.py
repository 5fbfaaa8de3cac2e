"""A synthetic KITTI in the official layout: one camera ahead and a LiDAR of 64 beams, in the town of the nuScenes one.

Example::

    generate(Path("kitti"), train=8, val=4)
    Kitti(dataroot="kitti", storage="storage").prepare()
"""

from __future__ import annotations

import os
from dataclasses import asdict
from functools import partial
from pathlib import Path

from altermoma_ray.data.synthetic.kitti_frames import FOLDERS, FrameParameters, write_frame
from altermoma_ray.data.synthetic.writing import has_card, in_order, make_at, whole_folder, write_card
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

GENERATOR_VERSION = 1
"""Raised whenever the same parameters would give other files."""
# KITTI's limits of difficulty are in pixels: at half its width, cars of up to 22 m are high enough to count.
TOY = FrameParameters(train=800, val=240, seed=0, width=624, azimuths=480)


def generate(
    out: Path,
    *,
    train: int = TOY.train,
    val: int = TOY.val,
    seed: int = TOY.seed,
    width: int = TOY.width,
    azimuths: int = TOY.azimuths,
    processes: int | None = None,
    progress: bool = True,
) -> None:
    """Write a synthetic KITTI.

    Args:
        out: folder to write; must be missing or empty. It appears complete or not at all.
        train: frames of the training split.
        val: frames of the validation split.
        seed: the same seed gives the same bytes, whatever the number of processes.
        width: of the pictures (pixels); the height follows KITTI's 1242 x 375.
        azimuths: LiDAR returns a ring, all around.
        processes: all cores by default.
        progress: show a bar on stderr.

    Raises:
        UserError: an argument is out of range, or the folder is taken or cannot be written.
    """
    parameters = FrameParameters(train=train, val=val, seed=seed, width=width, azimuths=azimuths)
    _check(parameters)
    if processes is not None and processes < 1:
        raise UserError(f"processes must be at least 1, but got {processes}; leave it out to use all cores")
    with whole_folder(out) as folder:
        training = folder / "training"
        for name in FOLDERS:
            (training / name).mkdir(parents=True)
        work, numbers = partial(write_frame, parameters, training), range(train + val)
        in_order(work, numbers, processes or os.cpu_count() or 1, "synthetic frames", progress=progress)
        splits = {"train": numbers[:train], "val": numbers[train:], "trainval": numbers}
        (folder / "ImageSets").mkdir()
        for name, frames in splits.items():
            (folder / "ImageSets" / f"{name}.txt").write_text("".join(f"{frame:06d}\n" for frame in frames))
        write_card(folder, _card(parameters))


def generate_at(target: Location, *, progress: bool = True) -> None:
    """Make the toy set at a location which every node of a cluster can read.

    Args:
        target: the data set's folder, on a disk missing or empty.
        progress: show bars on stderr.

    Raises:
        UserError: the location cannot be written.
    """
    make_at(target, partial(generate, progress=progress), progress=progress)


def matches(folder: Location) -> bool:
    """Whether the folder holds the toy set.

    Raises:
        UserError: the location cannot be read.
    """
    return has_card(folder, _card(TOY))


def _check(parameters: FrameParameters) -> None:
    limits = {"train": (1, 7481), "val": (1, 7518), "seed": (0, 2**32 - 1), "width": (64, 1242), "azimuths": (90, 2160)}
    for name, (low, high) in limits.items():
        value = getattr(parameters, name)
        if not low <= value <= high:
            raise UserError(f"{name} must be in {low}..{high}, but got {value}")


def _card(parameters: FrameParameters) -> dict[str, object]:
    return {
        "generator": "altermoma_ray.data.synthetic.kitti",
        "generator_version": GENERATOR_VERSION,
        **asdict(parameters),
    }

"""Writing a whole data set with several processes, all or nothing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from altermoma_ray.data.synthetic import rig, tables, town
from altermoma_ray.data.synthetic.scene import Parameters, write_scene
from altermoma_ray.data.synthetic.writing import has_card, in_order, whole_folder, write_card
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

GENERATOR_VERSION = 1
"""Raised whenever the same parameters would give other files."""
TOY_SCENES = 675
# 600 of the toy's 675 scenes: smaller sets keep the same share.
TRAINING_SHARE = 600 / 675


def generate(
    out: Path,
    *,
    scenes: int | None = None,
    seed: int = 0,
    processes: int | None = None,
    progress: bool = True,
    keyframes: int = 2,
    sweeps: int = 2,
    width: int = 400,
    azimuths: int = 480,
    cameras: int = len(rig.CAMERAS),
    lidar_channel: str = rig.LIDAR.channel,
    reflective_ground: bool = False,
    redundancy: float | None = None,
    occlusion: bool = False,
) -> None:
    """Write a synthetic nuScenes data set, version ``v1.0-trainval``.

    Args:
        out: folder to write; must be missing or empty. It appears complete or not at all.
        scenes: 1 to 850, eight of nine in the training split; the toy's 675 by default.
        seed: the same seed gives the same bytes, whatever the number of processes.
        processes: all cores by default.
        progress: show a bar on stderr.
        keyframes: keyframes a scene, half a second apart.
        sweeps: LiDAR sweeps before each keyframe.
        width: of the 16:9 pictures (pixels).
        azimuths: LiDAR returns a ring.
        cameras: 1 to 12; another number than nuScenes' six are spread around the car and named ``CAM_0`` and so on.
        lidar_channel: name of the LiDAR, which begins with ``LIDAR``.
        reflective_ground: whether the LiDAR's intensity tells road, walkway, grass and paint apart.
        redundancy: how much each sensor alone can tell of class and place, 0 to 1; see
            :mod:`altermoma_ray.data.synthetic.cues`. None gives the usual set.
        occlusion: whether objects may be hidden from the LiDAR at some keyframes, as tracking wants them; otherwise
            every object has LiDAR points at every keyframe of its scene.

    Raises:
        UserError: an argument is out of range, or the folder is taken or cannot be written.
    """
    parameters = _parameters(
        scenes,
        seed,
        keyframes,
        sweeps,
        width,
        azimuths,
        cameras,
        lidar_channel,
        reflective_ground=reflective_ground,
        redundancy=redundancy,
        occlusion=occlusion,
    )
    if processes is not None and processes < 1:
        raise UserError(f"processes must be at least 1, but got {processes}; leave it out to use all cores")
    with whole_folder(out) as folder:
        _write(parameters, folder, processes or os.cpu_count() or 1, progress)


def _write(parameters: Parameters, folder: Path, processes: int, progress: bool) -> None:
    eyes, lidar = rig.cameras(parameters.cameras), rig.lidar(parameters.lidar_channel)
    _make_folders(folder, (lidar, *eyes, *rig.RADARS), lidar)
    _write_map(folder)
    static = tables.static_tables(parameters.scenes, parameters.width, parameters.height, eyes, lidar)
    names = list(enumerate(_scene_names(parameters.scenes)))
    work = partial(_write_numbered, parameters, folder)
    rows = in_order(work, names, processes, "synthetic scenes", progress=progress)
    tables.write(tables.merge([static, *rows]), folder / tables.VERSION)
    write_card(folder, _card(parameters))


def matches(
    out: Location | Path,
    scenes: int | None = None,
    seed: int = 0,
    *,
    keyframes: int = 2,
    reflective_ground: bool = False,
    occlusion: bool = False,
) -> bool:
    """Whether the folder holds the data set of :func:`generate` with the same arguments.

    Args:
        out: the data set's folder.
        scenes: see :func:`generate`.
        seed: see :func:`generate`.
        keyframes: see :func:`generate`.
        reflective_ground: see :func:`generate`.
        occlusion: see :func:`generate`.

    Raises:
        UserError: the location cannot be read.
    """
    wanted = _parameters(scenes, seed, keyframes, 2, 400, 480, reflective_ground=reflective_ground, occlusion=occlusion)
    return has_card(out, _card(wanted))


def _parameters(
    scenes: int | None,
    seed: int,
    keyframes: int,
    sweeps: int,
    width: int,
    azimuths: int,
    cameras: int = len(rig.CAMERAS),
    lidar_channel: str = rig.LIDAR.channel,
    *,
    reflective_ground: bool = False,
    redundancy: float | None = None,
    occlusion: bool = False,
) -> Parameters:
    scenes = TOY_SCENES if scenes is None else scenes
    limits = {
        "scenes": (scenes, 1, 850),
        "seed": (seed, 0, 2**32 - 1),
        "keyframes": (keyframes, 1, 4),
        "sweeps": (sweeps, 0, 9),
        "width": (width, 64, 1600),
        "azimuths": (azimuths, 90, 2160),
        "cameras": (cameras, 1, 12),
    }
    # Checked here, not in the parser: `generate_at` and tests call without a command line.
    for name, (value, low, high) in limits.items():
        if not low <= value <= high:
            raise UserError(f"{name} must be in {low}..{high}, but got {value}")
    if width % 16:
        raise UserError(f"width must be a multiple of 16 for 16:9 pictures, but got {width}")
    # Not a row of the limits above: no dial at all is allowed too, and NaN is outside of every range.
    if redundancy is not None and not 0 <= redundancy <= 1:
        raise UserError(f"redundancy must be in 0..1, but got {redundancy:g}; leave it out for the usual set")
    if not re.fullmatch(r"LIDAR\w+", lidar_channel, re.ASCII):
        raise UserError(f"a LiDAR channel must be LIDAR and letters, digits or _, but got {lidar_channel!r}; rename it")
    return Parameters(
        scenes=scenes,
        seed=seed,
        keyframes=keyframes,
        sweeps=sweeps,
        width=width,
        azimuths=azimuths,
        cameras=cameras,
        lidar_channel=lidar_channel,
        reflective_ground=reflective_ground,
        redundancy=redundancy,
        occlusion=occlusion,
    )


def _card(parameters: Parameters) -> dict[str, object]:
    figures = asdict(parameters)
    # Named only where they differ, because the cards of older sets lack them.
    for name in ("cameras", "lidar_channel", "reflective_ground", "redundancy", "occlusion"):
        if figures[name] == getattr(Parameters, name):
            del figures[name]
    return {"generator": "altermoma_ray.data.synthetic", "generator_version": GENERATOR_VERSION, **figures}


def _scene_names(scenes: int) -> list[str]:
    """Official names: scenes of the training split, then of the validation split."""
    from nuscenes.utils import splits  # imports the whole devkit: seconds

    training = min(max(round(scenes * TRAINING_SHARE), 1), len(splits.train))
    # At least one scene to validate on, or no search could be evaluated.
    if scenes > 1:
        training = min(training, scenes - 1)
    return splits.train[:training] + splits.val[: scenes - training]


def _make_folders(root: Path, mounts: Sequence[rig.Mount], lidar: rig.Mount) -> None:
    for mount in mounts:
        (root / "samples" / mount.channel).mkdir(parents=True)
    (root / "sweeps" / lidar.channel).mkdir(parents=True)
    (root / "maps" / "expansion").mkdir(parents=True)


def _write_map(root: Path) -> None:
    (root / "maps" / f"{tables.MAP_TOKEN}.png").write_bytes(town.map_mask())
    expansion = json.dumps(town.map_expansion(), separators=(",", ":"))
    (root / "maps" / "expansion" / f"{town.LOCATION}.json").write_text(expansion)


def _write_numbered(parameters: Parameters, root: Path, numbered: tuple[int, str]) -> tables.Tables:
    index, name = numbered
    return write_scene(parameters, index, name, root)

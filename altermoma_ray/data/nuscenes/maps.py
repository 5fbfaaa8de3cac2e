"""Masks of the nuScenes map about the LiDAR, drawn by the devkit from its map expansion (version 1.3 or later)."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from altermoma_ray.data.raster import RasterConfig
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

_LAYERS = {"divider": ("road_divider", "lane_divider")}
_REMEDY = "download 'Map expansion v1.3' of nuScenes into {}"


def check_maps(dataroot: Location, names: Iterable[str]) -> None:
    """Look at the map expansion of every place.

    Args:
        dataroot: folder of nuScenes.
        names: of the maps, e.g. ``singapore-onenorth``.

    Raises:
        UserError: a file is missing or no JSON, is older than version 1.3, or the devkit knows no map of the name.
    """
    from nuscenes.map_expansion.map_api import locations

    for name in sorted(set(names)):
        file = _file(dataroot, name)
        remedy = _REMEDY.format(file.parent)
        if name not in locations:
            raise UserError(f"the tables name the map {name!r}, but nuScenes has {', '.join(locations)}; rename it")
        if not file.exists():
            raise UserError(f"the map expansion {file} is missing; {remedy}")
        try:
            content = json.loads(file.read_bytes())
        except ValueError as error:
            raise UserError(f"the map expansion {file} is no JSON; {remedy}") from error
        version = content.get("version", "1.0") if isinstance(content, dict) else "unknown"
        if not isinstance(version, str) or not _is_recent(version):
            raise UserError(f"the map expansion {file} has version {version}, but 1.3 is needed; {remedy}")


def draw_rasters(
    dataroot: Location, name: str, lidar_to_global: np.ndarray, augmentation: np.ndarray, config: RasterConfig
) -> np.ndarray:
    """[class, x, y] bool masks in the augmented lidar frame.

    The published code moves and turns the patch by the inverse augmentation. Here the patch also grows and is
    mirrored with the inverse, so that masks and points stay together under every augmentation.

    Args:
        dataroot: folder of nuScenes.
        name: of the map.
        lidar_to_global: [4, 4].
        augmentation: [4, 4] lidar frame to augmented lidar frame: a similarity about z, mirrors allowed.
        config: extent, cells and classes.
    """
    # A raster cannot be asked of the devkit in a mirrored frame: draw the unmirrored one and turn its x axis round.
    mirrored = np.linalg.det(augmentation[:2, :2]) < 0
    upright = np.diag([-1.0, 1, 1, 1]) @ augmentation if mirrored else augmentation
    to_global = lidar_to_global @ np.linalg.inv(upright)
    size = 2 * config.extent * abs(np.linalg.det(augmentation[:3, :3])) ** (-1 / 3)
    patch = (to_global[0, 3], to_global[1, 3], size, size)
    angle = math.degrees(math.atan2(to_global[1, 0], to_global[0, 0]))
    layers = [layer for one in config.classes for layer in _LAYERS.get(one, (one,))]
    drawn = _open_map(str(dataroot), name).get_map_mask(patch, angle, layers, (config.cells, config.cells))
    masks = dict(zip(layers, drawn.astype(bool), strict=True))
    # The devkit's rows are y: transposed, the first axis is x, as in every map of the models.
    rasters = np.stack(
        [np.any([masks[layer] for layer in _LAYERS.get(one, (one,))], axis=0).T for one in config.classes]
    )
    return np.ascontiguousarray(rasters[:, ::-1] if mirrored else rasters)


@lru_cache(maxsize=8)
def _open_map(dataroot: str, name: str) -> Any:
    from nuscenes.map_expansion.map_api import NuScenesMap

    return NuScenesMap(dataroot=str(_local_root(Location.parse(dataroot), name)), map_name=name)


def _local_root(dataroot: Location, name: str) -> Path:
    """A local folder with the map's ``maps/expansion``; of a bucket, a copy named after address, size and time."""
    if dataroot.is_local:
        return Path(dataroot.path)
    file = _file(dataroot, name)
    info = file.info()
    digest = hashlib.blake2b(f"{file} {info.size} {info.mtime_ns}".encode(), digest_size=16).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "altermoma_ray" / "maps" / digest
    copy = _file(Location.parse(cache), name)
    if not copy.exists():
        copy.write_bytes(file.read_bytes())
    return cache


def _file(dataroot: Location, name: str) -> Location:
    return dataroot.join("maps", "expansion", f"{name}.json")


def _is_recent(version: str) -> bool:
    return version >= "1.3"  # as text, as the devkit compares

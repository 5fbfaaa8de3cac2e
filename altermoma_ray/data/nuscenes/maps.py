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
from shapely import STRtree

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
    # Imported here: the map module brings in matplotlib and OpenCV, which other data sets do without.
    from nuscenes.map_expansion.map_api import locations

    for name in sorted(set(names)):
        file = _file(dataroot, name)
        remedy = _REMEDY.format(file.parent)
        # The devkit asserts on an unknown name, without naming the table which holds the name.
        if name not in locations:
            raise UserError(f"the tables name the map {name!r}, but nuScenes has {', '.join(locations)}; rename it")
        if not file.exists():
            raise UserError(f"the map expansion {file} is missing; {remedy}")
        try:
            content = json.loads(file.read_bytes())
        except ValueError as error:
            raise UserError(f"the map expansion {file} is no JSON; {remedy}") from error
        # Files of 1.0 carry no version at all.
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
    # A grown scene shows a smaller patch of the map: the cube root of the determinant is the scale of three axes.
    size = 2 * config.extent * abs(np.linalg.det(augmentation[:3, :3])) ** (-1 / 3)
    patch = (to_global[0, 3], to_global[1, 3], size, size)
    angle = math.degrees(math.atan2(to_global[1, 0], to_global[0, 0]))
    layers = [layer for one in config.classes for layer in _LAYERS.get(one, (one,))]
    drawn = _open_map(str(dataroot), name).draw(patch, angle, layers, (config.cells, config.cells))
    masks = dict(zip(layers, drawn.astype(bool), strict=True))
    # The devkit's rows are y: transposed, the first axis is x, as in every map of the models.
    rasters = np.stack(
        [np.any([masks[layer] for layer in _LAYERS.get(one, (one,))], axis=0).T for one in config.classes]
    )
    return np.ascontiguousarray(rasters[:, ::-1] if mirrored else rasters)


class _Map:
    """A map of the devkit with its records found by place.

    The devkit looks at every record of a layer for every mask: seconds for a real map. A record whose box does not
    touch the patch leaves no trace in the mask, so that the devkit's own drawing is given the others only.
    """

    def __init__(self, devkit: Any) -> None:
        self._devkit = devkit
        # Geometry is built once for each token: the devkit builds the polygon anew at each call, for every mask.
        self.extract_polygon = lru_cache(maxsize=None)(devkit.extract_polygon)
        self.extract_line = lru_cache(maxsize=None)(devkit.extract_line)
        self._layers: dict[str, tuple[list[dict[str, Any]], STRtree]] = {}
        self._near: dict[str, list[dict[str, Any]]] = {}

    def draw(self, patch: tuple[float, ...], angle: float, layers: list[str], cells: tuple[int, int]) -> np.ndarray:
        """The devkit's ``get_map_mask``, [layer, y, x].

        Args:
            patch: x and y of the centre, height and width (m, on the map).
            angle: of the patch, counter-clockwise from the map's x axis (degrees).
            layers: the devkit's names of layers.
            cells: rows and columns of a mask.
        """
        from nuscenes.map_expansion.map_api import NuScenesMapExplorer

        area = NuScenesMapExplorer.get_patch_coord(patch, angle)
        for layer in layers:
            records, tree = self._layer(layer)
            # Sorted: the tree's order is its own, but the devkit draws in the order of the file.
            self._near[layer] = [records[number] for number in sorted(tree.query(area))]
        # The explorer is handed this object for a map: `__getattr__` shows it the near records only.
        return NuScenesMapExplorer(self).get_map_mask(patch, angle, layers, cells)

    def __getattr__(self, name: str) -> Any:
        """An attribute read by the devkit's drawing: the records near the patch, or the devkit's own attribute."""
        # copy and pickle ask for dunder methods before `__init__` has run; answering would recurse without end.
        if name.startswith("__"):
            raise AttributeError(name)
        return self._near[name] if name in self._near else getattr(self._devkit, name)

    def _layer(self, layer: str) -> tuple[list[dict[str, Any]], STRtree]:
        if layer not in self._layers:
            records = getattr(self._devkit, layer)
            if layer in self._devkit.non_geometric_line_layers:
                # The bare line decides: the devkit cuts a line off at the patch before drawing its width.
                shapes = [self.extract_line(record["line_token"]) for record in records]
            else:
                if layer == "drivable_area":  # one record for a whole quarter: one for each of its polygons
                    records = [{"polygon_tokens": [one]} for record in records for one in record["polygon_tokens"]]
                tokens = [
                    record["polygon_tokens"][0] if "polygon_tokens" in record else record["polygon_token"]
                    for record in records
                ]
                shapes = [self.extract_polygon(one) for one in tokens]
            self._layers[layer] = records, STRtree(shapes)
        return self._layers[layer]


@lru_cache(maxsize=8)
def _open_map(dataroot: str, name: str) -> _Map:
    from nuscenes.map_expansion.map_api import NuScenesMap

    return _Map(NuScenesMap(dataroot=str(_local_root(Location.parse(dataroot), name)), map_name=name))


def _local_root(dataroot: Location, name: str) -> Path:
    """A local folder with the map's ``maps/expansion``; of a bucket, a copy named after address, size and time."""
    if dataroot.is_local:
        return Path(dataroot.path)
    file = _file(dataroot, name)
    info = file.info()
    # The copy is named by size and time as well: a map replaced in the bucket gets another copy.
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

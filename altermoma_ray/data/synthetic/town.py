"""The town: one square tile around a crossroads, repeated, and the nuScenes map files of the town.

Global frame: x east, y north (m), origin at the south-western corner. Tile frame: the same axes, origin at the centre
of the crossroads. Traffic keeps to the right.
"""

from __future__ import annotations

import io
import itertools
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from altermoma_ray.data.synthetic.tokens import token

# The devkit accepts its own four names of maps only.
LOCATION = "boston-seaport"
# The devkit refuses older versions.
MAP_VERSION = "1.3"
# Wider than the reach of objects on both sides of the car (48 m).
TILE = 80.0
"""Side of a tile (m)."""
TILES = 8
"""Tiles along a side of the town."""
CELL = 0.1
"""Side of a cell of the rasters, and of a pixel of the map mask (m)."""
SURFACES = ("grass", "road", "walkway", "carpark", "white", "yellow")
"""Kinds of ground in a cell; the last two are paint on the road."""

ROAD = 7.0
"""Half width of a road: two lanes a direction."""
LANE = 3.5
WALKWAY = 11.0
"""Outer edge of the walkway, from the middle of the road."""
CROSSING = (7.6, 10.4)
"""Pedestrian crossings lie at this distance from the centre of the crossroads."""
STOP = (11.2, 11.8)
"""Stop lines."""
CARPARK = (13.0, 33.0)

Rectangle = tuple[float, float, float, float]
"""x0, y0, x1, y1 (m)."""
Line = tuple[float, float, float, float]


def _turns(shape: Rectangle) -> list[Rectangle]:
    """The rectangle in each of the four arms of the crossroads, from its place in the arm towards +x."""
    x0, y0, x1, y1 = shape
    # A quarter turn takes (x, y) to (-y, x); the corners are sorted anew, low before high.
    return [shape, (-y1, x0, -y0, x1), (-x1, -y1, -x0, -y0), (y0, -x1, y1, -x0)]


HALF = TILE / 2
LAYERS: dict[str, list[Rectangle]] = {
    "drivable_area": [(-HALF, -ROAD, HALF, ROAD), (-ROAD, -HALF, ROAD, HALF)],
    "walkway": [
        *_turns((ROAD, ROAD, HALF, WALKWAY)),
        *_turns((ROAD, -WALKWAY, HALF, -ROAD)),
    ],
    "ped_crossing": _turns((CROSSING[0], -ROAD, CROSSING[1], ROAD)),
    "stop_line": _turns((STOP[0], 0.0, STOP[1], ROAD)),
    "carpark_area": _turns((CARPARK[0], CARPARK[0], CARPARK[1], CARPARK[1])),
}
"""Areas of one tile."""
LINES: dict[str, list[Line]] = {
    "road_divider": _turns((STOP[1], 0.0, HALF, 0.0)),
    "lane_divider": [*_turns((STOP[1], LANE, HALF, LANE)), *_turns((STOP[1], -LANE, HALF, -LANE))],
}


@lru_cache(maxsize=1)
def surfaces() -> NDArray[np.uint8]:
    """The kind of ground without paint: [x, y] cells of a tile, positions in ``SURFACES``."""
    raster = np.zeros((round(TILE / CELL),) * 2, np.uint8)
    # In this order: roads cross walkways, and the later fill wins.
    for layer, surface in (("carpark_area", "carpark"), ("walkway", "walkway"), ("drivable_area", "road")):
        for area in LAYERS[layer]:
            _fill(raster, area, surface)
    return raster


@lru_cache(maxsize=1)
def ground() -> NDArray[np.uint8]:
    """The look of the ground: ``surfaces`` with lane markings, zebra crossings, stop lines and parking bays."""
    # A copy: the cached array is shared, and paint in it would turn up in `surface_at`.
    raster = surfaces().copy()
    for stripe in np.arange(-ROAD + 0.4, ROAD, 1.0):
        for area in _turns((CROSSING[0], stripe, CROSSING[1], stripe + 0.5)):
            _fill(raster, area, "white")
    for area in LAYERS["stop_line"]:
        _fill(raster, area, "white")
    for area in _turns((STOP[1], -0.1, HALF, 0.1)):
        _fill(raster, area, "yellow")
    for side, start in itertools.product((-LANE, LANE), np.arange(STOP[1] + 1, HALF, 4.0)):
        for area in _turns((start, side - 0.1, start + 2.0, side + 0.1)):
            _fill(raster, area, "white")
    for start in np.arange(CARPARK[0], CARPARK[1], 2.5):
        for area in _turns((start, CARPARK[0], start + 0.2, CARPARK[0] + 5.0)):
            _fill(raster, area, "white")
    return raster


def _fill(raster: NDArray[np.uint8], area: Rectangle, surface: str) -> None:
    x0, y0, x1, y1 = (round((value + HALF) / CELL) for value in area)
    raster[x0:x1, y0:y1] = SURFACES.index(surface)


def ground_at(x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The look of the ground at global positions x, y (m), as positions in ``SURFACES``; shaped as ``x`` and ``y``."""
    cells = ground()
    # Floor before the remainder: truncation would mirror the cells west and south of the origin.
    east, north = (np.floor(axis / CELL).astype(np.int64) % len(cells) for axis in (x, y))
    return cells[east, north]


def surface_at(x: float, y: float) -> str:
    """The name of the ground at a global position."""
    cells = surfaces()
    # `int` truncates, which is the floor here: scenes keep to the inner tiles, where positions are positive.
    return SURFACES[cells[int(x / CELL) % len(cells), int(y / CELL) % len(cells)]]


def map_mask() -> bytes:
    """The map mask as nuScenes has it, a PNG at ten pixels a metre, north up: 255 on roads and walkways, else 0."""
    known = np.isin(surfaces(), [SURFACES.index("road"), SURFACES.index("walkway")])
    # Transposed and turned upside down: the raster is [x, y] with y north, a picture's rows run south.
    town = np.tile(np.uint8(255) * known.T[::-1].astype(np.uint8), (TILES, TILES))
    stream = io.BytesIO()
    Image.fromarray(town).save(stream, "PNG", compress_level=3)
    return stream.getvalue()


class _Geometry:
    """Nodes, lines and polygons of the map expansion, with tokens by number."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, object]] = []
        self.lines: list[dict[str, object]] = []
        self.polygons: list[dict[str, object]] = []

    def node_tokens(self, points: list[tuple[float, float]]) -> list[str]:
        # Every shape has nodes of its own, though neighbours share corners: the devkit reads each shape alone.
        tokens = [token("node", len(self.nodes) + number) for number in range(len(points))]
        self.nodes += [{"token": name, "x": x, "y": y} for name, (x, y) in zip(tokens, points, strict=True)]
        return tokens

    def line(self, shape: Line) -> str:
        name = token("line", len(self.lines))
        self.lines.append({"token": name, "node_tokens": self.node_tokens([shape[:2], shape[2:]])})
        return name

    def polygon(self, area: Rectangle, holes: list[Rectangle] | None = None) -> str:
        name = token("polygon", len(self.polygons))
        inner = [{"node_tokens": self.node_tokens(_corners(hole))} for hole in holes or []]
        outer = self.node_tokens(_corners(area))
        self.polygons.append({"token": name, "exterior_node_tokens": outer, "holes": inner})
        return name


def _corners(area: Rectangle) -> list[tuple[float, float]]:
    x0, y0, x1, y1 = area
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def map_expansion() -> dict[str, object]:
    """The map expansion (version 1.3) for ``nuscenes.map_expansion.map_api.NuScenesMap``.

    The map has the layers of bird's-eye segmentation; lanes, road segments, traffic lights and connectivity are empty.
    """
    geometry = _Geometry()
    edge = TILE * TILES
    tiles = [((i + 0.5) * TILE, (j + 0.5) * TILE) for i in range(TILES) for j in range(TILES)]
    layers: dict[str, list[dict[str, object]]] = {}

    # One polygon with holes, the form of nuScenes' own drivable areas.
    drivable = geometry.polygon((0.0, 0.0, edge, edge), _blocks(edge))
    layers["drivable_area"] = [{"token": token("drivable_area", 0), "polygon_tokens": [drivable]}]

    for layer in ("ped_crossing", "walkway", "stop_line", "carpark_area"):
        areas = [_moved(area, centre) for centre in tiles for area in LAYERS[layer]]
        layers[layer] = [
            {"token": token(layer, number), "polygon_token": geometry.polygon(area)}
            for number, area in enumerate(areas)
        ]
    for layer, shapes in LINES.items():
        moved = [_moved(shape, centre) for centre in tiles for shape in shapes]
        layers[layer] = [
            {"token": token(layer, number), "line_token": geometry.line(shape)} for number, shape in enumerate(moved)
        ]
    # The stop line of an arm serves the crossing of the same arm: both lists run over tiles, then arms.
    for stop, crossing in zip(layers["stop_line"], layers["ped_crossing"], strict=True):
        stop |= {
            "stop_line_type": "PED_CROSSING",
            "ped_crossing_tokens": [crossing["token"]],
            "traffic_light_tokens": [],
            "road_block_token": "",
        }
    for record in layers["ped_crossing"]:
        record["road_segment_token"] = ""
    for record in layers["carpark_area"]:
        record |= {"orientation": 0.0, "road_block_token": ""}
    for record in layers["road_divider"]:
        record["road_segment_token"] = None
    for record in layers["lane_divider"]:
        record["lane_divider_segments"] = []
    # The devkit loads every layer by name in its constructor, so that an absent one would stop it.
    empty: dict[str, object] = {
        name: [] for name in ("road_segment", "road_block", "lane", "lane_connector", "traffic_light")
    }
    return {
        "version": MAP_VERSION,
        "canvas_edge": [edge, edge],
        "node": geometry.nodes,
        "line": geometry.lines,
        "polygon": geometry.polygons,
        **layers,
        **empty,
        "arcline_path_3": {},
        "connectivity": {},
    }


def _blocks(edge: float) -> list[Rectangle]:
    """The holes of the one drivable polygon: a block between the roads each, cut off at the town's edge."""
    middles = [-HALF, *((number + 0.5) * TILE for number in range(TILES)), edge + HALF]
    # Blocks lie between neighbouring roads; the first and the last are cut in half by the town's edge.
    gaps = [(max(low + ROAD, 0.0), min(high - ROAD, edge)) for low, high in itertools.pairwise(middles)]
    inset = 1e-3  # holes that touch the outline would make the polygon invalid
    return [
        (max(x0, inset), max(y0, inset), min(x1, edge - inset), min(y1, edge - inset))
        for (x0, x1), (y0, y1) in itertools.product(gaps, gaps)
    ]


def _moved(shape: Rectangle, centre: tuple[float, float]) -> Rectangle:
    return shape[0] + centre[0], shape[1] + centre[1], shape[2] + centre[0], shape[3] + centre[1]

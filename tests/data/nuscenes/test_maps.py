"""Rasters of a small hand-made map: one road, one crossing, a divider of each kind."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from altermoma_ray.data.nuscenes.maps import check_maps, draw_rasters
from altermoma_ray.data.raster import RasterConfig
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

NAME = "boston-seaport"
CONFIG = RasterConfig(extent=25.0, cells=100)
EMPTY = (
    "road_segment",
    "road_block",
    "lane",
    "lane_connector",
    "stop_line",
    "carpark_area",
    "walkway",
    "traffic_light",
)


def expansion() -> dict:
    """A road along x at 100 < y < 110, x up to 120, crossed at 104 < x < 108; dividers at y = 105 and y = 102."""
    nodes, polygons, lines = [], [], []

    def node(x: float, y: float) -> str:
        nodes.append({"token": f"n{len(nodes)}", "x": x, "y": y})
        return nodes[-1]["token"]

    def box(x0: float, y0: float, x1: float, y1: float) -> str:
        corners = [node(x0, y0), node(x1, y0), node(x1, y1), node(x0, y1)]
        polygons.append({"token": f"p{len(polygons)}", "exterior_node_tokens": corners, "holes": []})
        return polygons[-1]["token"]

    def line(y: float) -> str:
        lines.append({"token": f"l{len(lines)}", "node_tokens": [node(60, y), node(120, y)]})
        return lines[-1]["token"]

    return {
        "version": "1.3",
        "canvas_edge": [300.0, 300.0],
        "drivable_area": [{"token": "d", "polygon_tokens": [box(60, 100, 120, 110)]}],
        "ped_crossing": [{"token": "c", "polygon_token": box(104, 100, 108, 110), "road_segment_token": ""}],
        "road_divider": [{"token": "r", "line_token": line(105), "road_segment_token": None}],
        "lane_divider": [{"token": "s", "line_token": line(102), "lane_divider_segments": []}],
        **{layer: [] for layer in EMPTY},
        **{name: {} for name in ("connectivity", "arcline_path_3")},
        "node": nodes,
        "polygon": polygons,
        "line": lines,
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nuscenes")
    (folder / "maps" / "expansion").mkdir(parents=True)
    (folder / "maps" / "expansion" / f"{NAME}.json").write_text(json.dumps(expansion()))
    return Location.parse(folder)


def pose(x: float, y: float, degrees: float) -> np.ndarray:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = np.eye(4)
    matrix[:2] = [[cos, -sin, 0, x], [sin, cos, 0, y]]
    return matrix


def expected_road(lidar_to_global: np.ndarray, augmentation: np.ndarray, margin: float) -> np.ndarray:
    """The drivable area, made wider by a margin (m), by looking up the centre of each cell."""
    step = 2 * CONFIG.extent / CONFIG.cells
    centres = -CONFIG.extent + step * (np.arange(CONFIG.cells) + 0.5)
    x, y = np.meshgrid(centres, centres, indexing="ij")
    points = np.stack([x, y, np.zeros_like(x), np.ones_like(x)], axis=-1)
    places = points @ (lidar_to_global @ np.linalg.inv(augmentation)).T
    x, y = places[..., 0], places[..., 1]
    return (x > 60 - margin) & (x < 120 + margin) & (y > 100 - margin) & (y < 110 + margin)


@pytest.mark.parametrize("mirror", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
@pytest.mark.parametrize("scale", [1.0, 0.8])
def test_rasters_move_with_the_points(root, mirror, scale):
    lidar_to_global = pose(105, 103, 70)
    augmentation = np.diag([*mirror, 1, 1]) @ np.diag([scale, scale, scale, 1]) @ pose(1.5, -2, 25)
    road = draw_rasters(root, NAME, lidar_to_global, augmentation, CONFIG)[0]
    # The devkit rounds corners to whole cells and draws a polygon's border too: about one cell either way.
    assert road[expected_road(lidar_to_global, augmentation, -1.0)].all()
    assert not road[~expected_road(lidar_to_global, augmentation, 1.0)].any()


def test_classes_stand_in_order_and_both_dividers_count(root):
    rasters = draw_rasters(root, NAME, pose(105, 103, 0), np.eye(4), CONFIG)
    assert rasters.shape == (6, 100, 100)
    assert rasters.dtype == bool
    area, crossing, walkway, stop_line, car_park, divider = rasters
    assert crossing[51, 50]
    assert not crossing[40, 50]
    assert area[81:].sum() == 0  # the road ends 15 m ahead along x, the first axis
    assert divider[20].sum() >= 2
    assert divider[20, 54:56].any()
    assert divider[20, 47:50].any()
    assert not (walkway | stop_line | car_park).any()


def test_a_sound_map_passes(root):
    check_maps(root, [NAME, NAME])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            None,
            r"the map expansion .*boston-seaport\.json is missing; download 'Map expansion v1\.3' of nuScenes into ",
        ),
        ('{"version": "1.2"}', r"boston-seaport\.json has version 1\.2, but 1\.3 is needed; download"),
        ("{}", r"boston-seaport\.json has version 1\.0, but 1\.3 is needed; download"),
        ("{", r"boston-seaport\.json is no JSON; download"),
    ],
)
def test_bad_map_expansions_are_named(tmp_path, text, message):
    folder = tmp_path / "maps" / "expansion"
    folder.mkdir(parents=True)
    if text is not None:
        (folder / f"{NAME}.json").write_text(text)
    with pytest.raises(UserError, match=message):
        check_maps(Location.parse(tmp_path), [NAME])


def test_an_unknown_map_is_named(root):
    with pytest.raises(UserError, match="the tables name the map 'atlantis', but nuScenes has "):
        check_maps(root, ["atlantis"])


@pytest.mark.parametrize("degrees", [0, 33, -160])
def test_records_found_by_place_draw_the_devkit_s_masks(synthetic_root, degrees):
    from nuscenes.map_expansion.map_api import NuScenesMap

    devkit = NuScenesMap(dataroot=str(synthetic_root), map_name=NAME)
    layers = ["drivable_area", "ped_crossing", "walkway", "stop_line", "carpark_area", "road_divider", "lane_divider"]
    for x, y in ((200, 230), (78, 41), (2, 320)):  # the last one at the map's edge
        found = draw_rasters(Location.parse(synthetic_root), NAME, pose(x, y, degrees), np.eye(4), CONFIG)
        masks = devkit.get_map_mask((x, y, 50, 50), degrees, layers, (100, 100)).astype(bool)
        expected = [*masks[:5], masks[5] | masks[6]]
        assert all(np.array_equal(one, mask.T) for one, mask in zip(found, expected, strict=True))
        assert found[0].any()

"""The 13 tables of nuScenes: the rows common to all scenes, and the writing of all tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from altermoma_ray.data.nuscenes.dataroot import TABLES
from altermoma_ray.data.synthetic import rig, town
from altermoma_ray.data.synthetic.kinds import KINDS
from altermoma_ray.data.synthetic.tokens import token

# The official evaluation asserts on the end of a version's name: the splits `train` and `val` need a `trainval`.
VERSION = "v1.0-trainval"
ATTRIBUTES = (
    "vehicle.moving",
    "vehicle.stopped",
    "vehicle.parked",
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "pedestrian.moving",
)
# Listed all the same: code which maps all 23 categories of nuScenes finds each of them.
OTHER_CATEGORIES = (
    "human.pedestrian.child",
    "human.pedestrian.wheelchair",
    "human.pedestrian.stroller",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.police_officer",
    "human.pedestrian.construction_worker",
    "animal",
    "vehicle.bus.bendy",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
    "movable_object.pushable_pullable",
    "movable_object.debris",
    "static_object.bicycle_rack",
)
"""Categories of nuScenes without an object in the town."""
VISIBILITIES = (("v0-40", 0, 40), ("v40-60", 40, 60), ("v60-80", 60, 80), ("v80-100", 80, 100))
SCENES_PER_LOG = 25
MAP_TOKEN = token("map", town.LOCATION)

Row = dict[str, Any]
Tables = dict[str, list[Row]]


def visibility_token(share: float) -> str:
    """The token for the share of an object, in 0..1, seen by the cameras."""
    return next(
        str(number) for number, (_, _, high) in enumerate(VISIBILITIES, 1) if share * 100 <= high or high == 100
    )


def log_file(scene: int) -> str:
    """The name of a scene's log, the scenes counted from 0; the names of the scene's files begin with the log's."""
    # A date of its own for each log: the devkit knows logs by these names, in nuScenes' form.
    number = scene // SCENES_PER_LOG
    return f"n008-2018-08-{1 + number // 10:02d}-{9 + number % 10:02d}-00-00-0400"


def static_tables(
    scenes: int, width: int, height: int, cameras: Sequence[rig.Mount] = rig.CAMERAS, lidar: rig.Mount = rig.LIDAR
) -> Tables:
    """Rows of the tables which do not depend on single scenes.

    Args:
        scenes: number of scenes, which decides the number of logs.
        width: of all pictures (pixels).
        height: of all pictures (pixels).
        cameras: the cameras on the car.
        lidar: the LiDAR on the car.
    """
    logs = [log_file(scene) for scene in range(0, scenes, SCENES_PER_LOG)]
    mounts = [(lidar, "lidar"), *((m, "camera") for m in cameras), *((m, "radar") for m in rig.RADARS)]
    return {
        "attribute": [_named("attribute", name) for name in ATTRIBUTES],
        # Tokens are made of names, so that a category has the same token in every data set.
        "category": [_named("category", name) for name in (*(kind.category for kind in KINDS), *OTHER_CATEGORIES)],
        "visibility": [
            {
                "token": str(number),
                "level": level,
                "description": f"visibility of whole object is between {low} and {high}%",
            }
            for number, (level, low, high) in enumerate(VISIBILITIES, 1)
        ],
        "sensor": [
            {"token": token("sensor", mount.channel), "channel": mount.channel, "modality": modality}
            for mount, modality in mounts
        ],
        "calibrated_sensor": [_calibration(mount, modality, width, height) for mount, modality in mounts],
        "log": [
            {
                "token": token("log", log),
                "logfile": log,
                "vehicle": "n008",
                "date_captured": log[5:15],
                "location": town.LOCATION,
            }
            for log in logs
        ],
        "map": [
            {
                # The devkit joins map and scene through the log; one mask serves all logs, as they are of one town.
                "category": "semantic_prior",
                "token": MAP_TOKEN,
                "filename": f"maps/{MAP_TOKEN}.png",
                "log_tokens": [token("log", log) for log in logs],
            }
        ],
    }


def _named(table: str, name: str) -> Row:
    return {"token": token(table, name), "name": name, "description": ""}


def _calibration(mount: rig.Mount, modality: str, width: int, height: int) -> Row:
    camera = modality == "camera"
    return {
        "token": token("calibrated_sensor", mount.channel),
        "sensor_token": token("sensor", mount.channel),
        "translation": list(mount.translation),
        "rotation": rig.camera_quaternion(mount.yaw) if camera else rig.yaw_quaternion(mount.yaw),
        # An empty list for other sensors, not a missing field: nuScenes has it in every record.
        "camera_intrinsic": rig.camera_intrinsic(mount, width, height).tolist() if camera else [],
    }


def merge(parts: Iterable[Tables]) -> Tables:
    """All 13 tables, rows in the order of the parts."""
    # All names first: a table without any row must exist as a file, or the devkit stops.
    merged: Tables = {name: [] for name in TABLES}
    for part in parts:
        for name, rows in part.items():
            merged[name] += rows
    return merged


def write(tables: Tables, folder: Path) -> None:
    """One JSON file a table."""
    folder.mkdir(parents=True)
    for name, rows in tables.items():
        # Without spaces after the separators: tables are read whole at each indexing, from a bucket perhaps.
        (folder / f"{name}.json").write_text(json.dumps(rows, separators=(",", ":")))

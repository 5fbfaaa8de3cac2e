"""The 13 tables of nuScenes: those that are the same for every scene, and their writing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from altermoma_ray.data.nuscenes.dataroot import TABLES
from altermoma_ray.data.synthetic import rig, town
from altermoma_ray.data.synthetic.kinds import KINDS
from altermoma_ray.data.synthetic.tokens import token

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
"""Categories of nuScenes that the town does not use."""
VISIBILITIES = (("v0-40", 0, 40), ("v40-60", 40, 60), ("v60-80", 60, 80), ("v80-100", 80, 100))
SCENES_PER_LOG = 25
MAP_TOKEN = token("map", town.LOCATION)

Row = dict[str, Any]
Tables = dict[str, list[Row]]


def visibility_token(share: float) -> str:
    """The token for the share of an object, in 0..1, that the cameras see."""
    return next(
        str(number) for number, (_, _, high) in enumerate(VISIBILITIES, 1) if share * 100 <= high or high == 100
    )


def log_file(scene: int) -> str:
    """The name of the log that a scene, counted from 0, was cut from; file names begin with it."""
    number = scene // SCENES_PER_LOG
    return f"n008-2018-08-{1 + number // 10:02d}-{9 + number % 10:02d}-00-00-0400"


def static_tables(
    scenes: int, width: int, height: int, cameras: Sequence[rig.Mount] = rig.CAMERAS, lidar: rig.Mount = rig.LIDAR
) -> Tables:
    """Rows of the tables that do not come from scenes; pictures have ``width`` x ``height`` pixels."""
    logs = [log_file(scene) for scene in range(0, scenes, SCENES_PER_LOG)]
    mounts = [(lidar, "lidar"), *((m, "camera") for m in cameras), *((m, "radar") for m in rig.RADARS)]
    return {
        "attribute": [_named("attribute", name) for name in ATTRIBUTES],
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
        "camera_intrinsic": rig.camera_intrinsic(mount, width, height).tolist() if camera else [],
    }


def merge(parts: Iterable[Tables]) -> Tables:
    """All 13 tables, rows in the order of the parts."""
    merged: Tables = {name: [] for name in TABLES}
    for part in parts:
        for name, rows in part.items():
            merged[name] += rows
    return merged


def write(tables: Tables, folder: Path) -> None:
    """One JSON file a table."""
    folder.mkdir(parents=True)
    for name, rows in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(rows, separators=(",", ":")))

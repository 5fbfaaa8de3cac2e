"""Reads nuScenes' JSON tables through nuscenes-devkit, once, into one Arrow table with a row for each keyframe.

The devkit sees a temporary folder that holds links to (or, from a remote dataroot, copies of) the 13 tables and empty
files in place of the map masks: it needs no sensor data, and no extension (lidarseg, panoptic) can get in its way.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from rich.progress import Progress

from altermoma_ray.console import console
from altermoma_ray.data.batch import CLASSES
from altermoma_ray.data.dataroot import check_dataroot, check_name
from altermoma_ray.data.rig import Rig, channels_of, find_rig
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes

PREVIOUS_SWEEPS = 10
SPLITS = {"v1.0-mini": ("mini_train", "mini_val"), "v1.0-test": ("test",)}
"""The official splits of a version; of any other version, ``train`` and ``val``."""

_CHUNK = 200  # keyframes turned into Arrow at a time, which bounds the memory that their Python objects take
_COPY = "copy the tables again"
_MATRIX = pa.list_(pa.float64(), 16)
_FRAME = [
    ("file", pa.string()),
    ("timestamp", pa.int64()),
    ("sensor_to_ego", _MATRIX),
    ("ego_to_global", _MATRIX),
]
SCHEMA = pa.schema(
    [
        ("token", pa.string()),
        ("scene_token", pa.string()),
        ("scene_name", pa.string()),
        ("split", pa.string()),
        ("timestamp", pa.int64()),
        ("location", pa.string()),
        (
            "cameras",
            pa.list_(
                pa.struct(
                    [
                        ("channel", pa.string()),
                        *_FRAME,
                        ("width", pa.int32()),
                        ("height", pa.int32()),
                        ("intrinsic", pa.list_(pa.float64(), 9)),
                    ]
                )
            ),
        ),
        ("lidar", pa.list_(pa.struct(_FRAME))),  # the keyframe's turn, then the earlier ones, newest first
        ("radars", pa.list_(pa.struct([("channel", pa.string()), *_FRAME]))),
        (
            "boxes",
            pa.list_(
                pa.struct(
                    [
                        ("box", pa.list_(pa.float64(), 9)),
                        ("global_box", pa.list_(pa.float64(), 9)),
                        ("label", pa.int8()),
                        ("category", pa.string()),
                        ("attribute", pa.string()),
                        ("visibility", pa.int8()),
                        ("num_lidar_pts", pa.int32()),
                        ("num_radar_pts", pa.int32()),
                        ("token", pa.string()),
                        ("instance_token", pa.string()),
                    ]
                )
            ),
        ),
    ]
)


def read_tables(dataroot: Location, version: str, *, progress: bool = True) -> pa.Table:
    """All keyframes of a version, in the order of the ``scene`` table and of time; see ``SCHEMA``.

    The table's metadata hold the data set's sensors, under ``rig``.

    Raises:
        UserError: the dataroot or version is missing, or a table is broken.
    """
    tables = check_dataroot(dataroot, version)
    with tempfile.TemporaryDirectory(prefix="altermoma-tables-") as folder:
        nusc = _open_devkit(tables, Path(folder), version)
    batches = []
    try:
        samples = [sample for scene in nusc.scene for sample in _samples(nusc, scene)]
        rig = find_rig(channels_of(nusc, samples))
        reader = _Reader(nusc, version, rig)
        with Progress(console=console, disable=not (progress and console.is_terminal), transient=True) as bar:
            for start in bar.track(range(0, len(samples), _CHUNK), description="indexing keyframes"):
                rows = [reader.row(sample) for sample in samples[start : start + _CHUNK]]
                batches.append(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
    except KeyError as error:
        raise UserError(
            f"the tables in {dataroot.join(version)} do not fit together: no record or field {error}; {_COPY}"
        ) from None
    except (TypeError, ValueError, IndexError, AttributeError, pa.ArrowException) as error:  # values of another kind
        raise UserError(
            f"the tables in {dataroot.join(version)} hold values that nuScenes does not ({error}); {_COPY}"
        ) from error
    return pa.Table.from_batches(batches, schema=SCHEMA).replace_schema_metadata({"rig": rig.model_dump_json()})


def _open_devkit(tables: dict[str, Location], folder: Path, version: str) -> NuScenes:
    from nuscenes.nuscenes import NuScenes

    root = Location.parse(folder)
    (folder / version).mkdir()
    for name, table in tables.items():
        target = folder / version / f"{name}.json"
        if table.is_local:
            target.symlink_to(table.path)
        else:
            target.write_bytes(table.read_bytes())
    try:
        for record in json.loads(tables["map"].read_bytes()):
            check_name(tables["map"].parent.parent, record["filename"])
            root.join(record["filename"]).write_bytes(b"")
        return NuScenes(version, str(folder), verbose=False)
    except UserError:
        raise
    except Exception as error:  # whatever a broken table makes the devkit do
        for table in tables.values():
            try:
                json.loads(table.read_bytes())
            except ValueError as reason:
                raise UserError(f"{table} is not valid JSON ({reason}); {_COPY}") from error
        raise UserError(
            f"the tables in {tables['map'].path.rpartition('/')[0]} do not fit together: "
            f"{type(error).__name__} {error}; {_COPY}"
        ) from error


def _samples(nusc: NuScenes, scene: dict[str, Any]) -> Iterator[dict[str, Any]]:
    token = scene["first_sample_token"]
    while token:
        sample = nusc.get("sample", token)
        yield sample
        token = sample["next"]


class _Reader:
    """Turns the devkit's records into rows of ``SCHEMA``."""

    def __init__(self, nusc: NuScenes, version: str, rig: Rig) -> None:
        from nuscenes.eval.detection.utils import category_to_detection_name
        from nuscenes.utils.splits import create_splits_scenes

        self.nusc, self.rig = nusc, rig
        splits = create_splits_scenes()
        self.splits = {name: split for split in SPLITS.get(version, ("train", "val")) for name in splits[split]}
        self.labels = {
            category["name"]: CLASSES.index(name) if (name := category_to_detection_name(category["name"])) else -1
            for category in nusc.category
        }

    def row(self, sample: dict[str, Any]) -> dict[str, Any]:
        scene = self.nusc.get("scene", sample["scene_token"])
        data = {channel: self.nusc.get("sample_data", token) for channel, token in sample["data"].items()}
        sweeps = [data[self.rig.lidar]]
        while sweeps[-1]["prev"] and len(sweeps) <= PREVIOUS_SWEEPS:
            sweeps.append(self.nusc.get("sample_data", sweeps[-1]["prev"]))
        lidar = [self._frame(sweep) for sweep in sweeps]
        return {
            "token": sample["token"],
            "scene_token": scene["token"],
            "scene_name": scene["name"],
            "split": self.splits.get(scene["name"], "other"),
            "timestamp": sample["timestamp"],
            "location": self.nusc.get("log", scene["log_token"])["location"],
            "cameras": [self._camera(channel, data[channel]) for channel in self.rig.cameras if channel in data],
            "lidar": lidar,
            "radars": [
                {"channel": channel, **self._frame(record)}
                for channel, record in sorted(data.items())
                if record["sensor_modality"] == "radar"
            ],
            "boxes": list(self._boxes(sample["anns"], lidar[0])),
        }

    def _frame(self, record: dict[str, Any]) -> dict[str, Any]:
        sensor = self.nusc.get("calibrated_sensor", record["calibrated_sensor_token"])
        pose = self.nusc.get("ego_pose", record["ego_pose_token"])
        return {
            "file": record["filename"],
            "timestamp": record["timestamp"],
            "sensor_to_ego": _matrix(sensor).ravel(),
            "ego_to_global": _matrix(pose).ravel(),
        }

    def _camera(self, channel: str, record: dict[str, Any]) -> dict[str, Any]:
        sensor = self.nusc.get("calibrated_sensor", record["calibrated_sensor_token"])
        return {
            "channel": channel,
            **self._frame(record),
            "width": record["width"],
            "height": record["height"],
            "intrinsic": np.array(sensor["camera_intrinsic"], dtype=float).ravel(),
        }

    def _boxes(self, tokens: Iterable[str], lidar: dict[str, Any]) -> Iterator[dict[str, Any]]:
        lidar_to_global = lidar["ego_to_global"].reshape(4, 4) @ lidar["sensor_to_ego"].reshape(4, 4)
        to_lidar = np.linalg.inv(lidar_to_global)
        for token in tokens:
            record = self.nusc.get("sample_annotation", token)
            velocity = self.nusc.box_velocity(token)
            pose = _matrix(record)
            attributes = record["attribute_tokens"]
            visibility = record["visibility_token"]
            yield {
                "box": _box(to_lidar @ pose, record["size"], to_lidar[:3, :3] @ velocity),
                "global_box": _box(pose, record["size"], velocity),
                "label": self.labels[record["category_name"]],
                "category": record["category_name"],
                "attribute": self.nusc.get("attribute", attributes[0])["name"] if attributes else "",
                "visibility": int(visibility) if visibility.isdigit() else 0,
                "num_lidar_pts": record["num_lidar_pts"],
                "num_radar_pts": record["num_radar_pts"],
                "token": token,
                "instance_token": record["instance_token"],
            }


def _matrix(record: dict[str, Any]) -> np.ndarray:
    """[4, 4] of a record's ``translation`` (m) and ``rotation`` (unit quaternion w, x, y, z)."""
    w, x, y, z = np.array(record["rotation"]) / np.linalg.norm(record["rotation"])
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = record["translation"]
    return matrix


def _box(pose: np.ndarray, size: list[float], velocity: np.ndarray) -> np.ndarray:
    """Row of nine numbers from a box's [4, 4] pose (its x axis points forward), nuScenes' (width, length, height)."""
    width, length, height = size
    yaw = np.arctan2(pose[1, 0], pose[0, 0])
    return np.array([*pose[:3, 3], length, width, height, yaw, *velocity[:2]])

"""Reads nuScenes' JSON tables through nuscenes-devkit, once, into one Arrow table with a row for each keyframe.

The devkit sees a temporary folder of links to the 13 tables (copies of them, from a remote dataroot) and of empty files
in place of the map masks. The devkit thus needs no sensor data, and no extension (lidarseg, panoptic) can get in the
way. The tables are checked after they are loaded and before the devkit works with them
(:mod:`altermoma_ray.data.nuscenes.checks`).

Example: a row for each keyframe, and the records left out::

    table = read_tables(Location.parse("/data/nuscenes"), "v1.0-mini")
    table.rows.num_rows, table.left_out  # (404, {})
"""

from __future__ import annotations

import json
import posixpath
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from rich.progress import Progress

from altermoma_ray.console import console
from altermoma_ray.data.nuscenes.checks import check_records, find_faults
from altermoma_ray.data.nuscenes.classes import CLASSES
from altermoma_ray.data.nuscenes.dataroot import check_dataroot, check_name, existing_files
from altermoma_ray.data.nuscenes.faults import Fault, Tables, describe_fault
from altermoma_ray.data.nuscenes.leaving_out import MISSING, LeftOut, leave_out_faulty, leave_out_missing, left_out_text
from altermoma_ray.data.nuscenes.reading import AS_PUBLISHED, Reading
from altermoma_ray.data.nuscenes.relations import check_chains
from altermoma_ray.data.nuscenes.rig import Rig, channels_of, find_rig
from altermoma_ray.data.nuscenes.splits import FILE as SPLITS_FILE
from altermoma_ray.data.nuscenes.splits import scene_splits
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes

PREVIOUS_SWEEPS = 10
"""Earlier turns of the LiDAR kept for each keyframe; training uses up to ten."""
PREVIOUS_RADAR_SWEEPS = 5
"""Earlier measurements of each radar kept for each keyframe."""

_CHUNK = 200  # keyframes turned into Arrow at a time, which bounds the memory of their Python objects
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
        # Of each channel the keyframe's measurement, then the earlier ones, newest first.
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


@dataclass(frozen=True, kw_only=True)
class KeyframeTable:
    """The result of :func:`read_tables`."""

    rows: pa.Table
    """A row for each keyframe; see ``SCHEMA``."""
    rig: Rig
    """The data set's sensors."""
    left_out: LeftOut
    """Number of records left out of the rows, by kind."""
    folders: list[str]
    """Folders whose files decided about scenes and sweeps to leave out."""


def read_tables(
    dataroot: Location, version: str, reading: Reading = AS_PUBLISHED, *, progress: bool = True
) -> KeyframeTable:
    """All keyframes of a version, in the order of the ``scene`` table and of time.

    Args:
        dataroot: folder of the data set.
        version: of nuScenes.
        reading: the user's way to read the data set, with the records to leave out.
        progress: whether to show a bar on a terminal.

    Raises:
        UserError: the dataroot or version is missing, or a table is broken.
    """
    # The checks find most faults by name; the last two `except` clauses catch combinations which no rule foresaw.
    tables = check_dataroot(dataroot, version)
    splits = scene_splits(dataroot.join(version, SPLITS_FILE), version)
    left_out: LeftOut = {}
    folders: list[str] = []

    def existing(names: Sequence[str]) -> set[str]:
        folders.extend(sorted(set(map(posixpath.dirname, names))))
        return existing_files(dataroot, names)

    def sift(loaded: Tables) -> None:
        left_out.update(_sift(loaded, str(dataroot.join(version)), reading, existing))

    # The devkit reads all tables in its constructor: the links may go as soon as it has returned.
    with tempfile.TemporaryDirectory(prefix="altermoma-tables-") as folder:
        nusc = _open_devkit(tables, Path(folder), version, sift)
    batches = []
    try:
        samples = [sample for scene in nusc.scene for sample in _samples(nusc, scene)]
        # The rig first, from all keyframes: rows can only be read once the one LiDAR is known.
        rig = find_rig(channels_of(nusc, samples))
        reader = _Reader(nusc, splits, rig)
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
    rows = pa.Table.from_batches(batches, schema=SCHEMA)
    return KeyframeTable(rows=rows, rig=rig, left_out=left_out, folders=folders)


def _sift(tables: Tables, place: str, reading: Reading, existing: Callable[[Sequence[str]], set[str]]) -> LeftOut:
    """Check the tables, and take out the records to leave out.

    Args:
        tables: changed in place.
        place: the tables' folder, for messages.
        reading: the user's way to read the data set.
        existing: a function from file names to the existing ones among them.

    Raises:
        UserError: an indispensable record is at fault, or nothing is left.
    """
    check_records(tables, place)
    faults = find_faults(tables)
    fixed = [fault for fault in faults if not fault.can_be_left_out]
    if faults and (fixed or not reading.skip_invalid):
        # A fault which no option can leave out is told first: mending the others would not help.
        first = (fixed or faults)[0]
        others = len(set(map(_of, faults)) - {_of(first)})
        also = f", and {others} other field{'s' if others > 1 else ''} at fault" if others else ""
        remedy = "mend them, or leave such records out with --skip-invalid" if first.can_be_left_out else _COPY
        raise UserError(f"{describe_fault(tables, first)}{also} in {place}; {remedy}")
    # After the references: the walk along a chain relies on tokens which exist.
    check_chains(tables, place)
    left_out = leave_out_faulty(tables, faults) if faults else {}
    if reading.partial:
        left_out |= leave_out_missing(tables, existing)
    if not tables["sample"]:
        raise UserError(f"no keyframe of {place} is left, without {left_out_text(left_out) or 'any sample'}; {_COPY}")
    return left_out


def _of(fault: Fault) -> tuple[str, str]:
    return fault.table, fault.field


def _open_devkit(tables: dict[str, Location], folder: Path, version: str, sift: Callable[[Tables], None]) -> NuScenes:
    """The devkit on the tables.

    Args:
        tables: the files of the tables, by name.
        folder: an empty folder for the devkit to read, not needed afterwards.
        version: of nuScenes.
        sift: checks and changes the loaded records, before the devkit works with them.
    """
    from nuscenes.nuscenes import NuScenes

    class Sifted(NuScenes):
        # The one step of the devkit's constructor between loading the tables and working with them.
        def __make_reverse_index__(self, verbose: bool) -> None:
            sift({name: getattr(self, name) for name in self.table_names})
            super().__make_reverse_index__(verbose)

    root = Location.parse(folder)
    (folder / version).mkdir()
    for name, table in tables.items():
        target = folder / version / f"{name}.json"
        if table.is_local:
            # Links on one machine: the tables of the full data set have gigabytes, and copying them would fill /tmp.
            target.symlink_to(table.path)
        else:
            target.write_bytes(table.read_bytes())
    try:
        for record in json.loads(tables["map"].read_bytes()):
            # A hostile name could otherwise make an empty file anywhere on the machine.
            check_name(tables["map"].parent.parent, record["filename"])
            # Empty masks satisfy the devkit's constructor, which only opens a mask when somebody draws it.
            root.join(record["filename"]).write_bytes(b"")
        return Sifted(version, str(folder), verbose=False)
    except UserError:
        raise
    except Exception as error:  # a broken table may fail anywhere in the devkit
        for table in tables.values():
            try:
                json.loads(table.read_bytes())
            except (ValueError, RecursionError) as reason:
                raise UserError(f"{table} is not valid JSON ({reason}); {_COPY}") from error
        raise UserError(
            f"the tables in {tables['map'].path.rpartition('/')[0]} do not fit together: "
            f"{type(error).__name__} {error}; {_COPY}"
        ) from error


def _samples(nusc: NuScenes, scene: dict[str, Any]) -> Iterator[dict[str, Any]]:
    token = scene["first_sample_token"]  # check_chains has made sure of an end
    while token:
        sample = nusc.get("sample", token)
        yield sample
        token = sample["next"]


class _Reader:
    """Turns the devkit's records into rows of ``SCHEMA``."""

    def __init__(self, nusc: NuScenes, splits: dict[str, str], rig: Rig) -> None:
        from nuscenes.eval.detection.utils import category_to_detection_name

        self.nusc, self.splits, self.rig = nusc, splits, rig
        self._to_ego: dict[str, np.ndarray] = {}
        self.labels = {
            category["name"]: CLASSES.index(name) if (name := category_to_detection_name(category["name"])) else -1
            for category in nusc.category
        }

    def row(self, sample: dict[str, Any]) -> dict[str, Any]:
        scene = self.nusc.get("scene", sample["scene_token"])
        data = {channel: self.nusc.get("sample_data", token) for channel, token in sample["data"].items()}
        # Missing sweeps count among the ten, so that leaving one out does not reach further back in time.
        sweeps = self._chain(data[self.rig.lidar], PREVIOUS_SWEEPS)
        lidar = [self._frame(sweep) for sweep in sweeps if not sweep.get(MISSING)]
        return {
            "token": sample["token"],
            "scene_token": scene["token"],
            "scene_name": scene["name"],
            "split": self.splits.get(scene["name"], "other"),
            "timestamp": int(sample["timestamp"]),
            "location": self.nusc.get("log", scene["log_token"])["location"],
            "cameras": [self._camera(channel, data[channel]) for channel in self.rig.cameras if channel in data],
            "lidar": lidar,
            "radars": [
                {"channel": channel, **self._frame(measured)}
                for channel, record in sorted(data.items())
                if record["sensor_modality"] == "radar"
                for measured in self._chain(record, PREVIOUS_RADAR_SWEEPS)
            ],
            "boxes": list(self._boxes(sample["anns"], lidar[0])),
        }

    def _chain(self, record: dict[str, Any], earlier: int) -> list[dict[str, Any]]:
        """A keyframe's record and the records of the same sensor before, newest first, at most so many earlier ones."""
        chain = [record]
        while chain[-1]["prev"] and len(chain) <= earlier:
            chain.append(self.nusc.get("sample_data", chain[-1]["prev"]))
        return chain

    def _frame(self, record: dict[str, Any]) -> dict[str, Any]:
        token = record["calibrated_sensor_token"]
        # Calibrations are few, and each belongs to thousands of frames.
        if token not in self._to_ego:
            self._to_ego[token] = _matrix(self.nusc.get("calibrated_sensor", token)).ravel()
        pose = self.nusc.get("ego_pose", record["ego_pose_token"])
        return {
            "file": record["filename"],
            "timestamp": int(record["timestamp"]),
            "sensor_to_ego": self._to_ego[token],
            "ego_to_global": _matrix(pose).ravel(),
        }

    def _camera(self, channel: str, record: dict[str, Any]) -> dict[str, Any]:
        sensor = self.nusc.get("calibrated_sensor", record["calibrated_sensor_token"])
        return {
            "channel": channel,
            **self._frame(record),
            "width": int(record["width"]),
            "height": int(record["height"]),
            "intrinsic": np.array(sensor["camera_intrinsic"], dtype=float).ravel(),
        }

    def _boxes(self, tokens: Iterable[str], lidar: dict[str, Any]) -> Iterator[dict[str, Any]]:
        lidar_to_global = lidar["ego_to_global"].reshape(4, 4) @ lidar["sensor_to_ego"].reshape(4, 4)
        to_lidar = np.linalg.inv(lidar_to_global)
        for token in tokens:
            record = self.nusc.get("sample_annotation", token)
            # The devkit's finite difference over neighbouring keyframes; NaN where a box has none near in time.
            velocity = self.nusc.box_velocity(token)
            pose = _matrix(record)
            attributes = record["attribute_tokens"]
            visibility = record["visibility_token"]
            yield {
                # A direction, unlike a place, is only turned: the upper left 3 x 3 of the matrix.
                "box": _box(to_lidar @ pose, record["size"], to_lidar[:3, :3] @ velocity),
                "global_box": _box(pose, record["size"], velocity),
                "label": self.labels[record["category_name"]],
                "category": record["category_name"],
                "attribute": self.nusc.get("attribute", attributes[0])["name"] if attributes else "",
                # The token of a visibility is its level in nuScenes, "1" to "4"; other tables may have any text.
                "visibility": int(visibility) if visibility.isdigit() else 0,
                "num_lidar_pts": int(record["num_lidar_pts"]),
                "num_radar_pts": int(record["num_radar_pts"]),
                "token": token,
                "instance_token": record["instance_token"],
            }


def _matrix(record: dict[str, Any]) -> np.ndarray:
    """[4, 4] of a record's ``translation`` (m) and ``rotation`` (unit quaternion w, x, y, z)."""
    # Normalised: tables round quaternions, and a rotation matrix of a longer one would scale, too.
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
    """Row of nine numbers for a box.

    Args:
        pose: [4, 4]; the box's x axis points forward.
        size: width, length, height (m), nuScenes' order.
        velocity: [3] (m/s).
    """
    width, length, height = size
    # Roll and pitch of the LiDAR's own tilt are dropped, as in the published code: boxes stand upright.
    yaw = np.arctan2(pose[1, 0], pose[0, 0])
    return np.array([*pose[:3, 3], length, width, height, yaw, *velocity[:2]])

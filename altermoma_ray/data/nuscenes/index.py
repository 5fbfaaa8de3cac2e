"""The Arrow index: the content of the nuScenes tables about each keyframe, memory-mapped, one row a keyframe.

Example::

    index = open_index(Location.parse("/data/nuscenes"), "v1.0-mini", Location.parse("storage"))
    record = index.record(index.samples("train")[0])

The file is one uncompressed Arrow record batch: opening the file reads its schema alone, and a row's numbers are views
of the mapped file. The file's metadata describe the tables of its origin; after a change of these tables the index is
built anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pyarrow as pa

from altermoma_ray.data.arrow import Nested, local_copy, read_batch, write_table
from altermoma_ray.data.nuscenes.dataroot import check_dataroot, describe
from altermoma_ray.data.nuscenes.reading import AS_PUBLISHED, Reading
from altermoma_ray.data.nuscenes.records import BoxTable, CameraFrame, LidarSweep, RadarFrame, SampleRecord
from altermoma_ray.data.nuscenes.rig import Rig
from altermoma_ray.data.nuscenes.splits import FILE as SPLITS_FILE
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

FORMAT = "1"
"""Version of the file's layout; a file of another version is built anew."""
RADARS = "sweeps"
"""What the file holds of radars; files of earlier releases hold keyframes alone, and do not say so."""


class Index:
    """The keyframes of one nuScenes version.

    An index is cheap to open, and cheap to send to another process: the process maps the file itself.

    Example: the labels in the first keyframe of a split::

        index = Index(file, dataroot)
        index.labels(index.samples("train")[0])  # array([0, 0, 8], dtype=int8)
    """

    def __init__(self, file: Location, dataroot: Location, reading: Reading = AS_PUBLISHED) -> None:
        """Map an index file.

        Args:
            file: a file of :func:`build_index`; a remote file is first copied to a local cache.
            dataroot: the folder below which its sensor files lie.
            reading: the user's way to read the sensor files.

        Raises:
            UserError: the file is missing, or is no index of this version of the layout.
        """
        self.file, self.dataroot, self.reading = file, dataroot, reading
        try:
            self._batch, facts = read_batch(file)
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{file} is not a readable index ({error}); build it with `index nusc`") from error
        if facts.get("format") != FORMAT:
            raise UserError(f"{file} has index format {facts.get('format')}, not {FORMAT}; build it with `index nusc`")
        if "rig" not in facts:  # an index older than rigs, which may lack cameras of the tables
            raise UserError(f"{file} does not say which sensors the data have; build it with `index nusc`")
        # Told apart from the format: the format is part of the fingerprint, by which all stored results are named.
        if facts.get("radars") != RADARS:
            raise UserError(f"{file} does not hold the sweeps of radars; build it with `index nusc`")
        self.rig = Rig.model_validate_json(facts["rig"])
        """The data set's sensors."""
        self.version = facts["version"]
        self.fingerprint = facts["fingerprint"]
        """Hash of the tables' content and the layout, for cache keys; sensor files do not enter."""
        self.created = facts["created"]
        self.sources: dict[str, list[Any]] = json.loads(facts["sources"])
        """Size (bytes), modification time (ns) and hash of each table."""
        self.left_out: dict[str, int] = json.loads(facts.get("left_out", "{}"))
        """Number of records of the tables left out of the index, by kind.

        See :mod:`altermoma_ray.data.nuscenes.leaving_out`.
        """
        self.folders: list[str] = json.loads(facts.get("folders", "[]"))
        """Folders of the sensor files on which the rows depend, below the dataroot; often none."""
        self.listing: str = facts.get("listing", "")
        """Hash of the names of the files in these folders when the index was built; see :func:`listing_of`."""
        columns = ("cameras", "lidar", "radars", "boxes")
        self._nested = {name: Nested(self._batch.column(name), _MATRICES) for name in columns}

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    # Pickled as its arguments: a process which receives the index maps the file instead of copying it.
    def __reduce__(self) -> tuple[type[Index], tuple[Location, Location, Reading]]:
        return Index, (self.file, self.dataroot, self.reading)

    @property
    def splits(self) -> dict[str, int]:
        """Names of the splits present, with their numbers of keyframes."""
        counts = self._batch.column("split").value_counts().to_pylist()
        return {entry["values"]: entry["counts"] for entry in counts}

    def samples(self, split: str) -> list[int]:
        """Rows of a split's keyframes; without ``train`` or ``val``, ``mini_train`` or ``mini_val`` is meant.

        Raises:
            UserError: the index holds no keyframe of this split.
        """
        # A user asks for `train` alone; only the mini version calls its splits by other names.
        for name in (split, f"mini_{split}"):
            rows = [row for row, found in enumerate(self._batch.column("split").to_pylist()) if found == name]
            if rows:
                return rows
        there = ", ".join(sorted(self.splits)) or "none"
        raise UserError(
            f"{self.dataroot} ({self.version}) has no keyframe of split {split!r}; it has: {there}; "
            f"choose a data set that has it, or name its scenes in {self.version}/{SPLITS_FILE}"
        )

    def tokens(self) -> list[str]:
        """The sample tokens of all rows."""
        return list(self._batch.column("token").to_pylist())

    def scenes(self) -> list[str]:
        """The scene tokens of all rows."""
        return list(self._batch.column("scene_token").to_pylist())

    def locations(self) -> list[str]:
        """The names of the maps of all rows."""
        return list(self._batch.column("location").to_pylist())

    def cameras(self) -> list[list[str]]:
        """The channels of the cameras with a picture, for each row."""
        return [self._nested["cameras"].get(row, "channel") for row in range(len(self))]

    def sensor_files(self) -> tuple[list[str], list[str]]:
        """Names of all pictures, and of all LiDAR files, earlier sweeps included; a name may occur twice."""
        return self._nested["cameras"].all("file"), self._nested["lidar"].all("file")

    def radar_files(self, sweeps: int) -> list[str]:
        """Names of the radar files of all rows, so many sweeps of each radar; a name may occur twice."""
        found = []
        for row in range(len(self)):
            seen: dict[str, int] = {}
            radars = self._nested["radars"]
            for channel, file in zip(radars.get(row, "channel"), radars.get(row, "file"), strict=True):
                seen[channel] = seen.get(channel, 0) + 1
                if seen[channel] <= sweeps:
                    found.append(file)
        return found

    def labels(self, row: int) -> np.ndarray:
        """Labels of a keyframe's boxes to learn from (:attr:`BoxTable.learnable`), without decoding the rest."""
        boxes = self._nested["boxes"]
        labels, points = boxes.get(row, "label"), boxes.get(row, "num_lidar_pts") + boxes.get(row, "num_radar_pts")
        return labels[(labels >= 0) & (points > 0)]

    def record(self, row: int) -> SampleRecord:
        """The whole description of one keyframe."""
        text = {
            name: self._batch.column(name)[row].as_py()
            for name in ("token", "scene_token", "scene_name", "split", "timestamp", "location")
        }
        # The first entry is the keyframe's own turn of the LiDAR; see `SCHEMA`.
        keyframe, *sweeps = (_rename(frame, "lidar") for frame in self._nested["lidar"].records(row))
        boxes = self._nested["boxes"]
        radars: dict[str, list[RadarFrame]] = {}
        for frame in self._nested["radars"].records(row):
            radars.setdefault(frame.pop("channel"), []).append(RadarFrame(**_rename(frame, "radar")))
        return SampleRecord(
            **text,
            cameras={
                frame.pop("channel"): CameraFrame(**_rename(frame, "camera"))
                for frame in self._nested["cameras"].records(row)
            },
            lidar=LidarSweep(**keyframe),
            sweeps=[LidarSweep(**sweep) for sweep in sweeps],
            radars={channel: frames[0] for channel, frames in radars.items()},
            radar_sweeps={channel: frames[1:] for channel, frames in radars.items()},
            boxes=BoxTable(
                boxes=boxes.get(row, "box"),
                global_boxes=boxes.get(row, "global_box"),
                labels=boxes.get(row, "label"),
                categories=boxes.get(row, "category"),
                attributes=boxes.get(row, "attribute"),
                visibility=boxes.get(row, "visibility"),
                num_lidar_pts=boxes.get(row, "num_lidar_pts"),
                num_radar_pts=boxes.get(row, "num_radar_pts"),
                tokens=boxes.get(row, "token"),
                instance_tokens=boxes.get(row, "instance_token"),
            ),
        )


def open_index(
    dataroot: Location,
    version: str,
    storage: Location,
    reading: Reading = AS_PUBLISHED,
    *,
    look: bool = False,
    progress: bool = True,
) -> Index:
    """The index of a nuScenes version, kept in ``storage/index``; built if missing, stale or unreadable.

    Args:
        dataroot: folder of the data set.
        version: of nuScenes.
        storage: folder for everything derived.
        reading: the user's way to read the data set, with the records to leave out.
        look: whether to list the folders of sensor files again, where scenes without files are left out; the index is
            built anew if their files have changed.
        progress: whether to show a bar on a terminal.

    Raises:
        UserError: the dataroot or version is missing, a table is broken, or the storage cannot be written.
    """
    tables = _tables(dataroot, version)
    file = index_file(dataroot, version, storage, reading)
    if file.exists():
        try:
            index = Index(file, dataroot, reading)
        except UserError:  # of an older layout, or damaged
            pass
        else:
            # Tables of the same size and time are not read again: this check costs milliseconds at every start.
            sources = {name: describe(table, index.sources.get(name)) for name, table in tables.items()}
            listing = listing_of(dataroot, index.folders) if look else index.listing
            if _fingerprint(version, sources, reading, listing) == index.fingerprint:
                return index
    build_index(dataroot, version, file, reading, progress=progress)
    # A bucket's time has seconds: an index rebuilt within one would otherwise be read from the older copy.
    local_copy(file, renew=True)
    return Index(file, dataroot, reading)


def index_file(dataroot: Location, version: str, storage: Location, reading: Reading = AS_PUBLISHED) -> Location:
    """The address of an index file in a storage folder.

    Args:
        dataroot: folder of the data set.
        version: of nuScenes.
        storage: folder for everything derived.
        reading: the user's way to read the data set; every way has an index of its own.
    """
    place = dataroot.kept_in(storage)
    # The default adds nothing, so that indexes of earlier releases, which knew one reading, keep their names.
    identity = place if reading.is_default else f"{place} {reading.model_dump_json()}"
    place = hashlib.blake2b(identity.encode(), digest_size=4).hexdigest()
    return storage.join("index", f"nuscenes-{version}-{place}.arrow")


def listing_of(dataroot: Location, folders: Sequence[str]) -> str:
    """Hash of the names of the files now in folders of a dataroot; empty for no folders."""
    state = hashlib.blake2b(digest_size=16)
    for folder in folders:
        # Names only, no sizes or times: copying a data set must not make its index stale.
        names = sorted(info.base_name for info in dataroot.join(folder).listing() if info.is_file)
        state.update(json.dumps([folder, names]).encode())
    return state.hexdigest() if folders else ""


def _tables(dataroot: Location, version: str) -> dict[str, Location]:
    """All sources of an index: the tables, and the user's splits if there are any."""
    splits = dataroot.join(version, SPLITS_FILE)
    return check_dataroot(dataroot, version) | ({"splits": splits} if splits.exists() else {})


def build_index(
    dataroot: Location, version: str, out: Location, reading: Reading = AS_PUBLISHED, *, progress: bool = True
) -> None:
    """Read the tables through the devkit and write the index file, whole or not at all.

    Args:
        dataroot: folder of the data set.
        version: of nuScenes.
        out: the file to write.
        reading: the user's way to read the data set.
        progress: whether to show a bar on a terminal.

    Raises:
        UserError: the dataroot or version is missing, a table is broken, or ``out`` cannot be written.
    """
    from altermoma_ray.data.nuscenes.tables import (
        read_tables,  # needs the devkit and torch; opening an index needs neither
    )

    # Described before they are read: a change in between makes the index stale, instead of wrong and trusted.
    sources = {name: describe(table) for name, table in _tables(dataroot, version).items()}
    read = read_tables(dataroot, version, reading, progress=progress)
    listing = listing_of(dataroot, read.folders)
    facts = {
        "format": FORMAT,
        "rig": read.rig.model_dump_json(),
        "radars": RADARS,
        "version": version,
        "fingerprint": _fingerprint(version, sources, reading, listing),
        "left_out": json.dumps(read.left_out),
        "folders": json.dumps(read.folders),
        "listing": listing,
        "sources": json.dumps(sources),
        # For people who look into the file; the reader is given the dataroot, which may have moved.
        "dataroot": dataroot.kept_in(out.parent.parent),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    write_table(read.rows, facts, out)


_MATRICES = {"intrinsic": (3, 3), "sensor_to_ego": (4, 4), "ego_to_global": (4, 4)}


def _rename(frame: dict[str, Any], sensor: str) -> dict[str, Any]:
    """Name the sensor in a frame's fields and turn NumPy's integers into Python's."""
    return {
        key.replace("sensor", sensor): int(value) if isinstance(value, np.integer) else value
        for key, value in frame.items()
    }


def _fingerprint(version: str, sources: dict[str, list[Any]], reading: Reading, listing: str) -> str:
    content: list[Any] = [FORMAT, version, {name: entry[2] for name, entry in sources.items()}]
    if not reading.is_default:  # otherwise the fingerprint stays the one of earlier releases, and so do their caches
        content += [reading.model_dump(mode="json"), listing]
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()

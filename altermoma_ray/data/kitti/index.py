"""The Arrow index of a KITTI dataroot: labels, calibration, planes and picture sizes, memory-mapped, one row a frame.

Example::

    index = open_index(Location.parse("/data/kitti"), Location.parse("storage"))
    frame = index.frame(index.samples("train")[0])
    frame.labels.types  # ('Pedestrian',)

The file's metadata describe the files of its origin by name, size and time; after a change the index is built anew.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pyarrow as pa

from altermoma_ray.data.arrow import Nested, local_copy, numbers, read_batch, write_table
from altermoma_ray.data.kitti.dataroot import CALIBRATION, OBJECTS, PICTURES, PLANES, Listings, list_folders
from altermoma_ray.data.kitti.frames import SCHEMA, Frame, read_rows
from altermoma_ray.data.kitti.labels import Labels
from altermoma_ray.data.kitti.splits import SPLITS, split_files
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

FORMAT = "1"
"""Version of the file's layout; a file of another version is built anew."""


class Index:
    """The frames of a dataroot's splits.

    An index is cheap to open, and cheap to send to another process: the process maps the file itself.
    """

    def __init__(self, file: Location, dataroot: Location) -> None:
        """Map an index file.

        Args:
            file: a file of :func:`build_index`; a remote file is first copied to a local cache.
            dataroot: the folder with the frames' files.

        Raises:
            UserError: the file is missing, or is no index of this version of the layout.
        """
        self.file, self.dataroot = file, dataroot
        try:
            self._batch, facts = read_batch(file)
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{file} is not a readable index ({error}); build it with `index kitti`") from error
        if facts.get("format") != FORMAT or not self._batch.schema.equals(SCHEMA):
            raise UserError(f"{file} has index format {facts.get('format')}, not {FORMAT}; build it with `index kitti`")
        self.fingerprint = facts["fingerprint"]
        """Hash of the content of splits, labels, calibrations and planes, and of the sizes of pictures."""
        self.listing = facts["listing"]
        """Hash of the names, sizes and times of these files when the index was built."""
        self.created = facts["created"]
        self.has_planes = facts["planes"] == "files"
        """Whether planes are from files; otherwise each is :data:`.calibration.DEFAULT_PLANE`."""
        self._objects = Nested(self._batch.column("objects"))
        self._arrays = {
            name: numbers(self._batch.column(name).values).reshape(len(self), *shape)
            for name, shape in (("projection", (3, 4)), ("to_rectified", (3, 4)), ("plane", (4,)))
        }

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    # Pickled as its arguments: a process which receives the index maps the file instead of copying it.
    def __reduce__(self) -> tuple[type[Index], tuple[Location, Location]]:
        return Index, (self.file, self.dataroot)

    def samples(self, split: str) -> list[int]:
        """Rows of a split's frames, in the order of its file.

        Args:
            split: ``train`` or ``val``.
        """
        return [row for row, found in enumerate(self._batch.column("split").to_pylist()) if found == split]

    def names(self) -> list[str]:
        """The names of the frames of all rows, such as ``000042``."""
        return list(self._batch.column("frame").to_pylist())

    def sizes(self) -> list[tuple[str, int, int]]:
        """Name, width and height of each row's picture (pixels)."""
        columns = (self._batch.column(name).to_pylist() for name in ("frame", "width", "height"))
        return list(zip(*columns, strict=True))

    def labels(self, row: int) -> Labels:
        """All objects of a frame, as its file lists them."""
        get = self._objects.get
        return Labels(
            types=tuple(get(row, "type")),
            truncation=get(row, "truncation"),
            occlusion=get(row, "occlusion"),
            alpha=get(row, "alpha"),
            boxes_2d=get(row, "box_2d"),
            sizes=get(row, "size"),
            locations=get(row, "location"),
            rotation_y=get(row, "rotation_y"),
        )

    def frame(self, row: int) -> Frame:
        """The whole description of a frame."""
        text: dict[str, Any] = {
            name: self._batch.column(name)[row].as_py() for name in ("frame", "split", "width", "height")
        }
        return Frame(
            name=text["frame"],
            split=text["split"],
            width=text["width"],
            height=text["height"],
            labels=self.labels(row),
            **{name: values[row] for name, values in self._arrays.items()},
        )


def open_index(dataroot: Location, storage: Location, *, progress: bool = True) -> Index:
    """The index of a dataroot, kept in ``storage/index``; built if missing, stale or unreadable.

    Args:
        dataroot: folder of the data set.
        storage: folder for everything derived.
        progress: whether to show a bar on a terminal.

    Raises:
        UserError: a folder or file is missing or broken, or the storage cannot be written.
    """
    file, listings = index_file(dataroot, storage), list_folders(dataroot)
    listing = listing_of(dataroot, listings)
    if file.exists():
        try:
            index = Index(file, dataroot)
            if index.listing == listing:
                return index
        except UserError:  # of an older layout, or damaged
            pass
    build_index(dataroot, listings, listing, file, progress=progress)
    # A bucket's time has seconds: an index rebuilt within one would otherwise be read from the older copy.
    local_copy(file, renew=True)
    return Index(file, dataroot)


def index_file(dataroot: Location, storage: Location) -> Location:
    """The address of an index file in a storage folder."""
    place = hashlib.blake2b(dataroot.kept_in(storage).encode(), digest_size=4).hexdigest()
    return storage.join("index", f"kitti-{place}.arrow")


def listing_of(dataroot: Location, listings: Listings) -> str:
    """Hash of the names, sizes and times of the files that an index is made of."""
    state = hashlib.blake2b(digest_size=16)
    # Point clouds are not read into the index: a new one does not make it stale.
    for folder in (PICTURES, CALIBRATION, OBJECTS, PLANES):
        files = listings.get(folder, {})
        state.update(json.dumps([folder, [(name, one.size, one.mtime_ns) for name, one in files.items()]]).encode())
    for name, file in split_files(dataroot).items():
        info = file.info()
        state.update(json.dumps([name, info.size, info.mtime_ns]).encode())
    return state.hexdigest()


def build_index(dataroot: Location, listings: Listings, listing: str, out: Location, *, progress: bool = True) -> None:
    """Read the frames' files and write the index file, whole or not at all.

    Args:
        dataroot: folder of the data set.
        listings: of its folders.
        listing: hash of these files, taken before they are read: a change in between makes the index stale, instead of
            wrong and trusted.
        out: the file to write.
        progress: whether to show a bar on a terminal.

    Raises:
        UserError: a file is missing or broken, or ``out`` cannot be written.
    """
    rows, content = read_rows(dataroot, listings, progress=progress)
    facts = {
        "format": FORMAT,
        "fingerprint": hashlib.blake2b(f"{FORMAT} {content}".encode(), digest_size=16).hexdigest(),
        "listing": listing,
        "planes": "files" if PLANES in listings else "default",
        # For people who look into the file; the reader is given the dataroot, which may have moved.
        "dataroot": dataroot.kept_in(out.parent.parent),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    write_table(pa.Table.from_batches([pa.RecordBatch.from_pylist(rows, schema=SCHEMA)]), facts, out)


def counts(index: Index) -> dict[str, int]:
    """Numbers of frames by split."""
    return {split: len(index.samples(split)) for split in SPLITS}


def learned(labels: Labels, types: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of the classes to learn, [M, 7] float64 (:mod:`.geometry`), and labels, [M] int64 positions in ``types``.

    Args:
        labels: of a frame.
        types: the classes to learn.
    """
    chosen = [number for number, name in enumerate(labels.types) if name in types]
    positions = [types.index(labels.types[number]) for number in chosen]
    # The file's order is height, width, length.
    columns = [labels.locations, labels.sizes[:, ::-1], labels.rotation_y[:, None]]
    return np.concatenate(columns, axis=1)[chosen], np.array(positions, np.int64)

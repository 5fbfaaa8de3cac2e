"""Checks of a nuScenes dataroot, and reading its files; errors name the user's mistake or the broken file.

Tables and files may come from anybody, and nothing in them is trusted. A file name leads to a file inside the dataroot
or to an error, and only JPEG and PNG are decoded, under any file name.

Example: the points of one LiDAR file::

    points = read_points(dataroot, "samples/LIDAR_TOP/scan.pcd.bin")  # [P, 5]
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from altermoma_ray.console import console
from altermoma_ray.data.nuscenes.clouds import check_size, decode_points
from altermoma_ray.data.nuscenes.reading import AS_PUBLISHED, Reading
from altermoma_ray.data.pictures import cause, decode_picture
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

TABLES = (
    "attribute",
    "calibrated_sensor",
    "category",
    "ego_pose",
    "instance",
    "log",
    "map",
    "sample",
    "sample_annotation",
    "sample_data",
    "scene",
    "sensor",
    "visibility",
)
_OPENED = 8  # point clouds of each folder to look into before anything costly begins


def check_dataroot(dataroot: Location, version: str) -> dict[str, Location]:
    """The tables of a version, by name.

    Raises:
        UserError: the dataroot, the version or a table is missing.
    """
    if not dataroot.is_folder():
        raise UserError(f"dataroot {dataroot} is no folder; give --dataroot the folder that holds `v1.0-...`")
    folder = dataroot.join(version)
    if not folder.is_folder():
        found = ", ".join(child.name for child in dataroot.children() if child.join("sample_data.json").exists())
        remedy = f"choose a version that is there: {found}" if found else "it holds no nuScenes version at all"
        raise UserError(f"dataroot {dataroot} has no version {version!r}; {remedy}")
    tables = {name: folder.join(f"{name}.json") for name in TABLES}
    # One listing in place of 13 requests: a bucket answers each in tens of milliseconds.
    there = {child.name for child in folder.children()}
    missing = [table.name for table in tables.values() if table.name not in there]
    if missing:
        raise UserError(f"{folder} lacks {', '.join(missing)}; copy all 13 tables of nuScenes there")
    return tables


def describe(table: Location, known: list[Any] | None = None) -> list[Any]:
    """Size (bytes), modification time (ns) and BLAKE2 hash of a file.

    Args:
        table: the file.
        known: its earlier description; with the same size and time, the file is not read again.

    Raises:
        UserError: the file cannot be read.
    """
    info = table.info()
    if known and known[:2] == [info.size, info.mtime_ns]:
        return known
    state = hashlib.blake2b(digest_size=16)
    try:
        with table.filesystem.open_input_stream(table.path) as stream:
            # In blocks: a table of the full data set has gigabytes.
            while block := stream.read(1 << 20):
                state.update(block)
    except OSError as error:
        raise UserError(f"cannot read {table} ({cause(error)}); check the file and its access") from error
    return [info.size, info.mtime_ns, state.hexdigest()]


def sensor_file(dataroot: Location, name: str, reading: Reading = AS_PUBLISHED) -> Location:
    """The address of a file named in a table.

    Args:
        dataroot: folder of the data set.
        name: the file's path below the dataroot.
        reading: the user's way to read the data set; ``follow_links`` allows links out of the dataroot.

    Raises:
        UserError: the name leads out of the dataroot, by itself or through a forbidden link.
    """
    check_name(dataroot, name)
    file = dataroot.join(name)
    if dataroot.is_local and not reading.follow_links:
        _check_link(dataroot, name, os.path.realpath(dataroot.path))
    return file


def existing_files(dataroot: Location, names: Sequence[str]) -> set[str]:
    """The existing ones of the named sensor files; folders are listed, no file is opened.

    Raises:
        UserError: a name may lead out of the dataroot.
    """
    for name in names:
        check_name(dataroot, name)
    return set(sizes_of(dataroot, names)) & set(names)


def sizes_of(dataroot: Location, names: Sequence[str]) -> dict[str, int]:
    """Sizes (bytes) of all files in the folders of the named ones."""
    # A listing tells a thousand sizes in one request; asking a bucket for each file would take hours.
    sizes: dict[str, int] = {}
    for folder in dict.fromkeys(map(posixpath.dirname, names)):
        for info in dataroot.join(folder).listing():
            if info.is_file:
                sizes[posixpath.join(folder, info.base_name)] = info.size
    return sizes


def check_files(
    dataroot: Location, pictures: Sequence[str], clouds: Sequence[str], reading: Reading = AS_PUBLISHED
) -> None:
    """Look at the sizes of sensor files, and into eight LiDAR files of each folder, spread over it.

    Folders are listed, so a whole data set takes seconds.

    Args:
        dataroot: the folder below which the names lie.
        pictures: camera files.
        clouds: LiDAR files.
        reading: the LiDAR files' columns, and the rule about links.

    Raises:
        UserError: a file is missing or empty, a LiDAR file is cut short or of another layout, or a name leads out of
            the dataroot.
    """
    names = [*dict.fromkeys([*pictures, *clouds])]
    for name in names:
        check_name(dataroot, name)
    sizes = sizes_of(dataroot, names)
    if dataroot.is_local and not reading.follow_links:
        _check_links(dataroot, names)
    missing = [name for name in names if name not in sizes]
    if missing:
        raise UserError(
            f"dataroot {dataroot} lacks {len(missing)} of the {len(names)} pictures and LiDAR files that its tables "
            f"name, {missing[0]} for one; copy them there, or leave out scenes without files with --partial"
        )
    for name in pictures:
        if not sizes[name]:
            raise UserError(f"picture {dataroot.join(name)} is empty; copy it from nuScenes again")
    for name in clouds:
        check_size(dataroot.join(name), sizes[name], reading.lidar_columns)
    brightest = [read_points(dataroot, name, reading)[:, 3].max(initial=0) for name in some_of_each_folder(clouds)]
    if 0 < max(brightest, default=0) <= 1:
        console.print("  LiDAR intensities lie in 0..1; nuScenes has 0..255, on which released weights were trained")


def some_of_each_folder(names: Sequence[str]) -> Iterator[str]:
    """Point clouds to look into before anything costly begins: at most eight of each folder, spread over it.

    >>> list(some_of_each_folder(["samples/a", "sweeps/b", "samples/c", "samples/a"]))
    ['samples/a', 'samples/c', 'sweeps/b']
    """
    # A wrong layout mostly holds for a whole folder; files spread over it also find a change in between.
    for folder in dict.fromkeys(map(posixpath.dirname, names)):
        inside = [name for name in dict.fromkeys(names) if posixpath.dirname(name) == folder]
        for position in np.unique(np.linspace(0, len(inside) - 1, _OPENED).round().astype(int)):
            yield inside[position]


def check_name(dataroot: Location, name: str) -> None:
    """Refuse a name which is no row of printable parts between slashes, the form of nuScenes' names.

        >>> check_name(Location.parse("/data"), "samples/CAM_FRONT/picture.jpg")
        >>> check_name(Location.parse("/data"), "../secret")
        Traceback (most recent call last):
        altermoma_ray.errors.UserError: file name '../secret' leaves its folder /data; use names inside it

    Raises:
        UserError: the name has another form, and may lead out of the dataroot.
    """
    # An empty part is a leading or doubled slash: joined to a folder, "/etc/passwd" would replace it.
    if not name.isprintable() or "://" in name or {"", ".."} & {*name.split("/")}:
        raise UserError(f"file name {name!r} leaves its folder {dataroot}; use names inside it")


def _check_links(dataroot: Location, names: Sequence[str]) -> None:
    """Follow the symbolic links among files and their folders; plain files cost nothing but a folder's listing."""
    root, wanted = os.path.realpath(dataroot.path), set(names)
    for folder in dict.fromkeys(map(posixpath.dirname, names)):
        path = dataroot.join(folder).path
        # The folder's own link is followed once, for all its files.
        if not os.path.isdir(path):
            continue
        _check_link(dataroot, folder, root)
        with os.scandir(path) as entries:
            links = [posixpath.join(folder, entry.name) for entry in entries if entry.is_symlink()]
        for name in links:
            if name in wanted:
                _check_link(dataroot, name, root)


def _check_link(dataroot: Location, name: str, root: str) -> None:
    """Refuse a link out of the dataroot, except below links directly in the dataroot (``samples``).

    Users often link ``samples`` and ``sweeps`` to another disk; these links are their own work, unlike deeper ones.

    Args:
        dataroot: folder of the data set.
        name: a file's or folder's path below the dataroot.
        root: real path of the dataroot, links followed.
    """
    target = os.path.realpath(os.path.join(root, name))
    folder = os.path.realpath(os.path.join(root, name.partition("/")[0]))
    if all(os.path.commonpath([place, target]) != place for place in (root, folder)):
        raise UserError(
            f"{dataroot.join(name)} is a link out of dataroot {dataroot}; put the files themselves there, mount them, "
            "or give --follow-links if the link is yours"
        )


def read_picture(
    dataroot: Location, name: str, width: int, height: int, reading: Reading = AS_PUBLISHED
) -> Image.Image:
    """An RGB picture of the size given in the tables.

    Args:
        dataroot: folder of the data set.
        name: the picture's path below the dataroot.
        width: in the tables (pixels).
        height: in the tables (pixels).
        reading: the user's way to read the data set.

    Raises:
        UserError: the file is missing, broken, cut short, no JPEG or PNG, or of another size.
    """
    file = sensor_file(dataroot, name, reading)
    return decode_picture(file, _read(file), (width, height), said_by="the tables", origin="nuScenes")


def read_points(dataroot: Location, name: str, reading: Reading = AS_PUBLISHED) -> np.ndarray:
    """[P, 5] float32 of a LiDAR file: x, y, z (m, lidar frame), intensity (0..255), ring; the array may be read-only.

    Args:
        dataroot: folder of the data set.
        name: the LiDAR file's path below the dataroot.
        reading: the user's way to read the data set, with the columns of its LiDAR files.

    Raises:
        UserError: the file is missing, empty, cut short, or holds other columns.
    """
    file = sensor_file(dataroot, name, reading)
    return decode_points(file, _read(file), reading.lidar_columns)


def read_bytes(dataroot: Location, name: str, reading: Reading = AS_PUBLISHED) -> tuple[Location, bytes]:
    """The address of a sensor's file, and its content.

    Args:
        dataroot: folder of the data set.
        name: the file's path below the dataroot.
        reading: the user's way to read the data set.

    Raises:
        UserError: the file is missing, or its name leads out of the dataroot.
    """
    file = sensor_file(dataroot, name, reading)
    return file, _read(file)


def _read(file: Location) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read {file} ({cause(error)}), which the tables name; copy it to the dataroot"
        ) from None

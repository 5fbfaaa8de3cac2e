"""What a nuScenes dataroot must hold, and reading its files; a user's mistake or a broken file is named."""

from __future__ import annotations

import hashlib
import io
import posixpath
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from pyarrow import fs

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
_POINT_BYTES = 20  # x, y, z, intensity, ring as float32


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
    missing = [table.name for table in tables.values() if not table.exists()]
    if missing:
        raise UserError(f"{folder} lacks {', '.join(missing)}; copy all 13 tables of nuScenes there")
    return tables


def describe(table: Location, known: list[Any] | None = None) -> list[Any]:
    """Size (bytes), modification time (ns) and BLAKE2 hash of a file.

    Args:
        table: the file.
        known: its earlier description; when size and time are still the same, the file is not read again.
    """
    info = table.filesystem.get_file_info([table.path])[0]
    if known and known[:2] == [info.size, info.mtime_ns]:
        return known
    state = hashlib.blake2b(digest_size=16)
    with table.filesystem.open_input_stream(table.path) as stream:
        while block := stream.read(1 << 20):
            state.update(block)
    return [info.size, info.mtime_ns, state.hexdigest()]


def check_files(dataroot: Location, pictures: Sequence[str], clouds: Sequence[str]) -> None:
    """Look at the sizes of sensor files without opening any: folders are listed, so a whole data set takes seconds.

    Args:
        dataroot: the folder that names are relative to.
        pictures: camera files.
        clouds: LiDAR files.

    Raises:
        UserError: some are missing, empty or (LiDAR) cut short, or a name leads out of the dataroot.
    """
    names = [*dict.fromkeys([*pictures, *clouds])]
    paths = {name: dataroot.join(name).path for name in names}
    sizes: dict[str, int] = {}
    for folder in dict.fromkeys(posixpath.dirname(path) for path in paths.values()):
        selector = fs.FileSelector(folder, allow_not_found=True)
        sizes.update({info.path: info.size for info in dataroot.filesystem.get_file_info(selector) if info.is_file})
    missing = [name for name, path in paths.items() if path not in sizes]
    if missing:
        raise UserError(
            f"dataroot {dataroot} lacks {len(missing)} of the {len(names)} pictures and LiDAR files that its tables "
            f"name, {missing[0]} for one; copy them there"
        )
    for name in pictures:
        if not sizes[paths[name]]:
            raise UserError(f"picture {dataroot.join(name)} is empty; copy it from nuScenes again")
    for name in clouds:
        _check_points(dataroot.join(name), sizes[paths[name]])


def read_picture(dataroot: Location, name: str, width: int, height: int) -> Image.Image:
    """An RGB picture of the size that the tables give.

    Raises:
        UserError: the file is missing, broken, cut short or of another size.
    """
    try:
        image = Image.open(io.BytesIO(_read(dataroot, name))).convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow raises on broken files
        raise UserError(
            f"picture {dataroot.join(name)} is broken ({_cause(error)}); copy it from nuScenes again"
        ) from None
    if image.size != (width, height):
        raise UserError(
            f"picture {dataroot.join(name)} has {image.width}x{image.height} pixels, but the tables say "
            f"{width}x{height}; copy it from nuScenes again"
        )
    return image


def read_points(dataroot: Location, name: str) -> np.ndarray:
    """[P, 5] float32 of a LiDAR file: x, y, z (m, lidar frame), intensity (0..255), ring; read-only.

    Raises:
        UserError: the file is missing, empty or cut short.
    """
    data = _read(dataroot, name)
    _check_points(dataroot.join(name), len(data))
    return np.frombuffer(data, dtype="<f4").reshape(-1, 5)


def _check_points(file: Location, size: int) -> None:
    if not size or size % _POINT_BYTES:
        raise UserError(
            f"LiDAR file {file} has {size} bytes, no whole number of {_POINT_BYTES}-byte points; "
            "copy it from nuScenes again"
        )


def _read(dataroot: Location, name: str) -> bytes:
    file = dataroot.join(name)
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read {file} ({_cause(error)}), which the tables name; copy it to the dataroot"
        ) from None


def _cause(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

"""Reading the text files of all frames, and the headers of their pictures, into rows of the index."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
from rich.progress import track

from altermoma_ray.console import console
from altermoma_ray.data.kitti.calibration import DEFAULT_PLANE, Calibration, Floats, parse_calibration, parse_plane
from altermoma_ray.data.kitti.dataroot import (
    CALIBRATION,
    OBJECTS,
    PICTURES,
    PLANES,
    Listings,
    check_present,
    frame_file,
    read,
    read_size,
)
from altermoma_ray.data.kitti.labels import Labels, parse_labels
from altermoma_ray.data.kitti.splits import parse_splits, split_files
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

DONT_CARE = "DontCare"
"""The type of areas whose objects are not labelled."""
_READERS = 16  # at a time: small files of a bucket wait for answers more than for bytes
_EDGE = 5.0  # pixels that a labelled box may lie outside of its picture
_MIDDLE = 0.25  # share of a picture's width and height within which the principal point lies about its middle


def _vector(length: int) -> pa.DataType:
    return pa.list_(pa.float64(), length)


SCHEMA = pa.schema(
    {
        "frame": pa.string(),
        "split": pa.string(),
        "width": pa.int64(),
        "height": pa.int64(),
        "projection": _vector(12),
        "to_rectified": _vector(12),
        "plane": _vector(4),
        "objects": pa.list_(
            pa.struct(
                {
                    "type": pa.string(),
                    "truncation": pa.float64(),
                    "occlusion": pa.int64(),
                    "alpha": pa.float64(),
                    "box_2d": _vector(4),
                    "size": _vector(3),
                    "location": _vector(3),
                    "rotation_y": pa.float64(),
                }
            )
        ),
    }
)
"""Columns of the index, in the units and frames of :class:`Frame`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One frame: everything about it that is not in its picture and its point cloud."""

    name: str
    """Such as ``000042``."""
    split: str
    """``train`` or ``val``."""
    width: int
    """Of the picture (pixels)."""
    height: int
    projection: Floats
    """[3, 4] rectified camera frame to homogeneous pixel (P2)."""
    to_rectified: Floats
    """[3, 4] velodyne frame to rectified camera frame."""
    plane: Floats
    """[4] a, b, c, d of the ground; (a, b, c) is of length 1 and points up."""
    labels: Labels
    """All objects, ``DontCare`` included."""


def read_rows(dataroot: Location, listings: Listings, *, progress: bool = True) -> tuple[list[dict[str, Any]], str]:
    """The rows of all frames of the splits, and a hash of the content they were read from.

    Args:
        dataroot: folder of the data set.
        listings: of its folders; without one of planes, each frame has the default plane.
        progress: whether to show a bar on a terminal.

    Raises:
        UserError: a split names an absent frame, or a file is missing or broken.
    """
    texts = {name: read(file) for name, file in split_files(dataroot).items()}
    splits = parse_splits(texts, dataroot)
    check_present(dataroot, splits, listings)
    wanted = [(split, frame) for split, frames in splits.items() for frame in frames]
    state = hashlib.blake2b(digest_size=16)
    rows = []
    work = partial(_read_row, dataroot, PLANES in listings)
    with ThreadPoolExecutor(_READERS) as threads:
        hidden = not (progress and console.is_terminal)
        found = track(threads.map(work, wanted), "frames", len(wanted), console=console, transient=True, disable=hidden)
        try:
            for row, digest in found:
                rows.append(row)
                state.update(digest)
        except UserError:
            # Thousands of files may still be waiting to be read.
            threads.shutdown(cancel_futures=True)
            raise
    return rows, state.hexdigest()


def _read_row(dataroot: Location, has_planes: bool, wanted: tuple[str, str]) -> tuple[dict[str, Any], bytes]:
    """A frame's row, and the hash of its content."""
    split, frame = wanted
    names = [CALIBRATION, OBJECTS, *([PLANES] if has_planes else [])]
    files = {name: frame_file(dataroot, name, frame) for name in names}
    contents = {name: read(file) for name, file in files.items()}
    texts = {name: _text(files[name], content) for name, content in contents.items()}
    calibration = parse_calibration(texts[CALIBRATION], str(files[CALIBRATION]))
    labels = parse_labels(texts[OBJECTS], str(files[OBJECTS]), scored=False)
    picture = frame_file(dataroot, PICTURES, frame)
    width, height = read_size(picture)
    _check_picture(picture, width, height, calibration, labels)
    _check_objects(files[OBJECTS], labels)
    plane = parse_plane(texts[PLANES], str(files[PLANES])).tolist() if has_planes else list(DEFAULT_PLANE)
    row = {
        "frame": frame,
        "split": split,
        "width": width,
        "height": height,
        "projection": calibration.projection.ravel().tolist(),
        "to_rectified": calibration.to_rectified.ravel().tolist(),
        "plane": plane,
        "objects": _objects(labels),
    }
    state = hashlib.blake2b(f"{split} {frame} {width} {height}".encode(), digest_size=16)
    for name in names:
        # The length as well: otherwise the end of one file could pass for the beginning of the next.
        state.update(f"{name} {len(contents[name])} ".encode() + contents[name])
    return row, state.digest()


def _text(file: Location, content: bytes) -> str:
    try:
        return content.decode("ascii")
    except UnicodeDecodeError:
        raise UserError(f"{file} is no ASCII text; copy it from KITTI again") from None


def _check_picture(picture: Location, width: int, height: int, calibration: Calibration, labels: Labels) -> None:
    """Refuse a picture that calibration and labels were not made for, such as a resized one."""
    size = f"picture {picture} has {width}x{height} pixels, but its frame's"
    focal, principal = calibration.projection[2, 2], calibration.projection[:2, 2]
    across, down = principal / focal
    if abs(across / width - 0.5) > _MIDDLE or abs(down / height - 0.5) > _MIDDLE:
        raise UserError(f"{size} calibration has its middle at {across:.0f}, {down:.0f}; give the original picture")
    if len(labels):
        right, bottom = labels.boxes_2d[:, 2:].max(axis=0)
        if labels.boxes_2d.min() < -_EDGE or right > width + _EDGE or bottom > height + _EDGE:
            left, top = labels.boxes_2d[:, :2].min(axis=0)
            box = f"{left:.0f}, {top:.0f} to {right:.0f}, {bottom:.0f}"
            raise UserError(f"{size} labels cover {box}; give the original picture")


def _check_objects(file: Location, labels: Labels) -> None:
    for number, name in enumerate(labels.types):
        left, top, right, bottom = labels.boxes_2d[number]
        if left > right or top > bottom:
            raise UserError(f"{file} has a {name} with a 2D box whose left or top is beyond its right or bottom")
        if name != DONT_CARE and labels.sizes[number].min() <= 0:
            raise UserError(f"{file} has a {name} of size {labels.sizes[number].tolist()}; sizes must be above 0")


def _objects(labels: Labels) -> list[dict[str, Any]]:
    # Python's own numbers: for NumPy's, pyarrow would import pandas where present.
    columns = {
        "type": list(labels.types),
        "truncation": labels.truncation.tolist(),
        "occlusion": labels.occlusion.tolist(),
        "alpha": labels.alpha.tolist(),
        "box_2d": labels.boxes_2d.tolist(),
        "size": labels.sizes.tolist(),
        "location": labels.locations.tolist(),
        "rotation_y": labels.rotation_y.tolist(),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

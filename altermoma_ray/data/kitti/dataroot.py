"""The files of a KITTI dataroot: which there are, and reading them; errors name the broken file.

Layout: ``training/{image_2,velodyne,calib,label_2,planes}/NNNNNN.*`` and ``ImageSets/{train,val}.txt``. Files may come
from anybody, and nothing in them is trusted.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pyarrow import fs

from altermoma_ray.data.pictures import cause, decode_picture
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

TRAINING = "training"
PICTURES, POINTS, CALIBRATION, OBJECTS, PLANES = "image_2", "velodyne", "calib", "label_2", "planes"
ENDINGS = {PICTURES: ".png", POINTS: ".bin", CALIBRATION: ".txt", OBJECTS: ".txt", PLANES: ".txt"}
REQUIRED = (PICTURES, POINTS, CALIBRATION, OBJECTS)
ORIGIN = "KITTI"
_POINT_BYTES = 16  # x, y, z and reflectance as float32
_FARTHEST = 1000.0  # m; the LiDAR reaches 120 m
_OPENED = 8  # frames to look into before anything costly begins
_PNG = b"\x89PNG\r\n\x1a\n"

Listings = dict[str, dict[str, fs.FileInfo]]
"""Files of each folder by name."""


def frame_file(dataroot: Location, folder: str, frame: str) -> Location:
    """The address of a frame's file in one of the folders of :data:`ENDINGS`."""
    return dataroot.join(TRAINING, folder, frame + ENDINGS[folder])


def list_folders(dataroot: Location) -> Listings:
    """The files in all folders of a dataroot; ``planes`` may be missing.

    Raises:
        UserError: the dataroot or a folder is missing.
    """
    if not dataroot.is_folder():
        raise UserError(f"dataroot {dataroot} is no folder; give --dataroot the folder that holds `{TRAINING}`")
    training = dataroot.join(TRAINING)
    there = {child.name for child in training.children()}
    missing = [folder for folder in REQUIRED if folder not in there]
    if missing:
        fault = f"{training} lacks {', '.join(missing)}" if there else f"dataroot {dataroot} has no `{TRAINING}`"
        raise UserError(f"{fault}; it must hold {', '.join(REQUIRED)} of KITTI's object detection")
    folders = [*REQUIRED, *([PLANES] if PLANES in there else [])]
    return {
        folder: {info.base_name: info for info in training.join(folder).listing() if info.is_file} for folder in folders
    }


def check_present(dataroot: Location, splits: dict[str, list[str]], listings: Listings) -> None:
    """Look for the files of all frames of the splits.

    Args:
        dataroot: folder of the data set.
        splits: names of frames by split.
        listings: of the folders.

    Raises:
        UserError: a file is missing, or empty, or a point cloud is not a row of points.
    """
    for folder, files in listings.items():
        for split, frames in splits.items():
            missing = [frame for frame in frames if frame + ENDINGS[folder] not in files]
            if missing:
                raise UserError(
                    f"split {split} names frame {missing[0]}, but {frame_file(dataroot, folder, missing[0])} is "
                    f"missing ({len(missing)} of {len(frames)} are); copy it there, or name the frames that there are "
                    f"in ImageSets/{split}.txt"
                )
            empty = [frame for frame in frames if not files[frame + ENDINGS[folder]].size and folder != OBJECTS]
            if empty:
                raise UserError(f"{frame_file(dataroot, folder, empty[0])} is empty; copy it from {ORIGIN} again")
    for frame in (frame for frames in splits.values() for frame in frames):
        size = listings[POINTS][frame + ENDINGS[POINTS]].size
        if size % _POINT_BYTES:
            raise UserError(_no_points(frame_file(dataroot, POINTS, frame), f"{size} bytes"))


def check_some(dataroot: Location, sizes: Sequence[tuple[str, int, int]]) -> None:
    """Look into the point clouds and pictures of eight frames, spread over all.

    Args:
        dataroot: folder of the data set.
        sizes: names of all frames, with width and height of their pictures (pixels).

    Raises:
        UserError: a file is broken.
    """
    for position in np.unique(np.linspace(0, len(sizes) - 1, _OPENED).round().astype(int)):
        frame, width, height = sizes[position]
        read_points(dataroot, frame)
        read_picture(dataroot, frame, width, height)


def read_points(dataroot: Location, frame: str) -> NDArray[np.float32]:
    """[P, 4] float32 of a point cloud: x, y, z (m, velodyne frame), reflectance 0..1; the array may be read-only.

    Raises:
        UserError: the file is missing, cut short, or holds other numbers.
    """
    file = frame_file(dataroot, POINTS, frame)
    data = read(file)
    if not data or len(data) % _POINT_BYTES:
        raise UserError(_no_points(file, f"{len(data)} bytes"))
    points = np.frombuffer(data, "<f4").reshape(-1, 4)
    # Numbers of another layout mostly run over these limits: reflectances of 0..255, or five columns read as four.
    # Compared so that NaN is refused as well.
    if not (np.abs(points[:, :3]) < _FARTHEST).all():
        raise UserError(_no_points(file, "a coordinate that is no number below 1 km"))
    if not ((points[:, 3] >= 0) & (points[:, 3] <= 1)).all():
        raise UserError(_no_points(file, "a reflectance outside of 0..1"))
    return points


def _no_points(file: Location, found: str) -> str:
    return f"points {file} hold {found}, but a point is x, y, z, reflectance as float32; copy it from {ORIGIN} again"


def read_picture(dataroot: Location, frame: str, width: int, height: int) -> Image.Image:
    """The RGB picture of a frame.

    Args:
        dataroot: folder of the data set.
        frame: its name.
        width: in the index (pixels).
        height: in the index (pixels).

    Raises:
        UserError: the file is missing, broken, or of another size.
    """
    file = frame_file(dataroot, PICTURES, frame)
    return decode_picture(file, read(file), (width, height), said_by="the figures of the index", origin=ORIGIN)


def read_size(file: Location) -> tuple[int, int]:
    """Width and height of a PNG picture (pixels), from its header.

    Raises:
        UserError: the file is missing, or is no PNG.
    """
    try:
        head = file.read_part(0, 24)
    except OSError as error:
        raise UserError(f"cannot read {file} ({cause(error)}); copy it to the dataroot") from None
    # Signature, length and name of the first block, then width and height.
    if len(head) < 24 or head[:8] != _PNG or head[12:16] != b"IHDR":
        raise UserError(f"picture {file} is broken (no PNG); copy it from {ORIGIN} again")
    width, height = struct.unpack(">II", head[16:24])
    return int(width), int(height)


def read(file: Location) -> bytes:
    """A file's content.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file} ({cause(error)}); copy it to the dataroot") from None

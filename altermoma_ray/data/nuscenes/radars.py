"""Radar files of nuScenes, and the returns of all radars at a keyframe.

A file is a point cloud of the Point Cloud Library (``.pcd``, version 0.7): lines of text, then the returns in binary,
each the columns of :data:`altermoma_ray.data.radar.COLUMNS` in the types that the text names.

Example: the returns of a keyframe, for a model of the published figures::

    returns = read_returns(dataroot, record, RadarInputConfig())  # [P, 45], lidar frame
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from altermoma_ray.data.nuscenes.dataroot import read_bytes, sizes_of, some_of_each_folder
from altermoma_ray.data.nuscenes.index import Index
from altermoma_ray.data.nuscenes.reading import AS_PUBLISHED, Reading
from altermoma_ray.data.nuscenes.records import RadarFrame, SampleRecord
from altermoma_ray.data.radar import COLUMNS, VALUES, RadarInputConfig, advance, encode, transform_returns
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

_COPY = "copy it from nuScenes again"
_TYPES = {("F", 4): "<f4", ("I", 1): "<i1", ("I", 2): "<i2", ("I", 4): "<i4", ("U", 1): "<u1", ("U", 2): "<u2"}
_LONGEST_HEADER = 4096  # bytes; nuScenes' has some 350


def decode_returns(file: Location, data: bytes) -> NDArray[np.float32]:
    """[P, 18] returns of a file in the radar's frame (x ahead, y left; m, m/s), without returns that have no place.

    Args:
        file: the file's address, for messages.
        data: the file's content.

    Raises:
        UserError: the file is no binary point cloud, has other columns than nuScenes' or is cut short.
    """
    lines, begin = _header(file, data)
    names = tuple(lines.get("FIELDS", ()))
    if names != COLUMNS:
        raise UserError(f"radar file {file} has the columns {' '.join(names) or 'none'}, not nuScenes' 18; {_COPY}")
    try:
        kinds = [_TYPES[kind, int(size)] for kind, size in zip(lines["TYPE"], lines["SIZE"], strict=True)]
        layout, count = np.dtype(list(zip(names, kinds, strict=True))), int(lines["POINTS"][0])
    except (KeyError, ValueError, IndexError):
        raise UserError(f"radar file {file} has a header that does not tell types or points; {_COPY}") from None
    needed = layout.itemsize * count
    if count < 0 or len(data) - begin < needed:
        raise UserError(
            f"radar file {file} is cut short: {count} returns need {needed} bytes, but {len(data) - begin} are left; "
            f"{_COPY}"
        )
    table = np.frombuffer(data, layout, count, begin)
    returns = np.stack([table[name].astype(np.float32) for name in names], axis=1)
    # A radar that saw nothing has one return of NaN.
    return returns[np.isfinite(returns).all(axis=1)]


def read_returns(
    dataroot: Location,
    record: SampleRecord,
    config: RadarInputConfig,
    reading: Reading = AS_PUBLISHED,
    *,
    scene: NDArray[np.float64] | None = None,
    within: Callable[[NDArray[np.float32]], NDArray[np.bool_]] | None = None,
) -> NDArray[np.float32]:
    """[P, 45] returns of all radars in the keyframe's lidar frame, newest sweeps first; no state is filtered out.

    Earlier returns are moved to where their measured velocity has brought them at the time of the keyframe.

    Args:
        dataroot: folder of the data set.
        record: the keyframe.
        config: how many sweeps and returns.
        reading: the user's way to read the data set.
        scene: [4, 4] lidar frame to augmented lidar frame, in which the returns then are; None leaves them.
        within: [P] bool of the returns in the model's range; the others do not count among the most.

    Raises:
        UserError: a file is missing or broken.
    """
    from_global = np.linalg.inv(record.lidar_to_global)
    chains = [[frame, *record.radar_sweeps.get(channel, [])] for channel, frame in record.radars.items()]
    clouds = [np.empty((0, VALUES), np.float32)]
    for turn in range(config.sweeps):
        for frame in (chain[turn] for chain in chains if turn < len(chain)):
            clouds.append(_in_keyframe(dataroot, frame, record, from_global, reading))
    returns = np.concatenate(clouds)
    if scene is not None:
        returns = transform_returns(returns, scene)
    if within is not None:
        returns = returns[within(returns)]
    # Cut after the range, unlike in the published code: far returns, which no pillar sees, take no near one's place.
    return returns[: config.max_points]


def _in_keyframe(
    dataroot: Location, frame: RadarFrame, record: SampleRecord, from_global: NDArray[np.float64], reading: Reading
) -> NDArray[np.float32]:
    file, data = read_bytes(dataroot, frame.file, reading)
    age = (record.lidar.timestamp - frame.timestamp) / 1e6
    to_keyframe = from_global @ frame.ego_to_global @ frame.radar_to_ego
    return advance(transform_returns(encode(decode_returns(file, data), age), to_keyframe), age)


def check_radars(index: Index, config: RadarInputConfig) -> None:
    """Make sure of radars in the tables, and of the files that a model of these figures reads.

    Eight files of each folder, spread over it, are looked into.

    Raises:
        UserError: the tables name no radar or files that are missing, or a file is broken.
    """
    names = index.radar_files(config.sweeps)
    if not names:
        raise UserError(
            f"the model reads radars, but the tables of {index.dataroot} name none; give a data set with radars, or "
            "choose a model without"
        )
    missing = sorted(set(names) - set(sizes_of(index.dataroot, names)))
    if missing:
        raise UserError(
            f"the model reads radars, but dataroot {index.dataroot} lacks {len(missing)} of the {len(set(names))} "
            f"radar files that its tables name, {missing[0]} for one; copy them there, or choose a model without radars"
        )
    for name in some_of_each_folder(names):
        decode_returns(*read_bytes(index.dataroot, name, index.reading))


def _header(file: Location, data: bytes) -> tuple[dict[str, list[str]], int]:
    """The words behind the first word of each line of the text, and the place where the returns begin."""
    lines: dict[str, list[str]] = {}
    begin = 0
    while begin < _LONGEST_HEADER and (end := data.find(b"\n", begin, begin + _LONGEST_HEADER)) >= 0:
        name, *words = data[begin:end].decode("ascii", "replace").split() or [""]
        lines[name], begin = words, end + 1
        if name == "DATA":
            if words != ["binary"]:
                break
            return lines, begin
    raise UserError(f"radar file {file} is no binary point cloud (.pcd); {_COPY}")

"""What ``python -m altermoma_ray.index nusc`` does."""

from __future__ import annotations

from altermoma_ray.data.nuscenes.dataroot import check_files
from altermoma_ray.data.nuscenes.index import open_index
from altermoma_ray.data.nuscenes.leaving_out import left_out_text
from altermoma_ray.data.nuscenes.reading import Reading
from altermoma_ray.data.nuscenes.rig import check_rig
from altermoma_ray.data.nuscenes.splits import DEFAULT_VERSION
from altermoma_ray.storage import Location


def index_lines(dataroot: Location, storage: Location, version: str | None, reading: Reading) -> list[str]:
    """Build the index when it is missing or stale, look at the files named in it, and describe it.

    Args:
        dataroot: folder of the data set.
        storage: folder for everything derived.
        version: of nuScenes; None for ``v1.0-trainval``.
        reading: the user's way to read the data set.

    Raises:
        UserError: the data set is missing or broken, or the storage cannot be written.
    """
    # With --partial the folders are listed again: files may have come or gone since the index was built.
    index = open_index(dataroot, version or DEFAULT_VERSION, storage, reading, look=reading.partial)
    check_rig(index)
    # Files are checked at every call: tables may name files of archives which were never unpacked.
    check_files(index.dataroot, *index.sensor_files(), index.reading)
    splits = ", ".join(f"{name} {count}" for name, count in sorted(index.splits.items()))
    lines = [f"{index.file}: {len(index)} keyframes ({splits}), {index.rig}, built {index.created}"]
    return lines + ([f"left out: {left_out_text(index.left_out)}"] if index.left_out else [])

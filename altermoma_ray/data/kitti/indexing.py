"""What ``python -m altermoma_ray.index kitti`` does."""

from __future__ import annotations

from altermoma_ray.data.kitti.calibration import NO_PLANES
from altermoma_ray.data.kitti.dataroot import check_some
from altermoma_ray.data.kitti.index import counts, open_index
from altermoma_ray.data.nuscenes.reading import Reading
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location


def index_lines(dataroot: Location, storage: Location, version: str | None, reading: Reading) -> list[str]:
    """Build the index when it is missing or stale, look into some of the frames, and describe the index.

    Args:
        dataroot: folder of the data set.
        storage: folder for everything derived.
        version: None, as KITTI has no versions.
        reading: the default, as KITTI is read as published.

    Raises:
        UserError: the data set is missing or broken, the storage cannot be written, or an option is nuScenes' own.
    """
    if version is not None or not reading.is_default:
        raise UserError(
            "--version, --skip-invalid, --partial, --lidar-columns and --follow-links are for nuScenes; leave them out "
            "with kitti"
        )
    index = open_index(dataroot, storage)
    check_some(index.dataroot, index.sizes())
    splits = ", ".join(f"{name} {count}" for name, count in counts(index).items())
    lines = [f"{index.file}: {len(index)} frames ({splits}), built {index.created}"]
    return lines if index.has_planes else [*lines, NO_PLANES]

"""``python -m altermoma_ray.index nusc``: read the nuScenes tables once into the Arrow index."""

from __future__ import annotations

from altermoma_ray import cli
from altermoma_ray.data.nuscenes.dataroot import check_files
from altermoma_ray.data.nuscenes.index import open_index
from altermoma_ray.data.nuscenes.leaving_out import left_out_text
from altermoma_ray.data.nuscenes.rig import check_rig
from altermoma_ray.storage import Location


def main() -> None:
    """Build the index when it is missing or stale, look at the files named in the index, and tell its content."""
    parser = cli.Parser(prog="python -m altermoma_ray.index", description=__doc__)
    parser.add_argument("dataset", choices=["nusc"], help="the data set: nuScenes, or the synthetic one in its layout")
    parser.add_argument("--dataroot", required=True, help="folder or URI (s3://, gs://) that holds `v1.0-...`")
    parser.add_argument("--version", default="v1.0-trainval", help="nuScenes version (default: %(default)s)")
    cli.add_reading_options(parser)
    cli.add_storage_option(parser)
    options = parser.parse_args()
    storage = Location.parse(options.storage)
    storage.check_writable()
    reading = cli.reading_of(options)
    # With --partial the folders are listed again: files may have come or gone since the index was built.
    index = open_index(Location.parse(options.dataroot), options.version, storage, reading, look=reading.partial)
    check_rig(index)
    # Files are checked at every call: tables may name files of archives which were never unpacked.
    check_files(index.dataroot, *index.sensor_files(), index.reading)
    splits = ", ".join(f"{name} {count}" for name, count in sorted(index.splits.items()))
    print(f"{index.file}: {len(index)} keyframes ({splits}), {index.rig}, built {index.created}")
    if index.left_out:
        print(f"left out: {left_out_text(index.left_out)}")


if __name__ == "__main__":
    cli.run(main)

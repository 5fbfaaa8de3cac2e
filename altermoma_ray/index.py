"""``python -m altermoma_ray.index DATASET``: read the tables or text files of a data set once into an Arrow index."""

from __future__ import annotations

from importlib import import_module

from altermoma_ray import cli
from altermoma_ray.storage import Location

DATASETS = {"nusc": "nuscenes", "kitti": "kitti"}
"""Folders of data sets below :mod:`altermoma_ray.data`; each has a module ``indexing`` with ``index_lines``."""


def main() -> None:
    """Build the index when it is missing or stale, look at the files of the data set, and tell the index's content."""
    parser = cli.Parser(prog="python -m altermoma_ray.index", description=__doc__)
    parser.add_argument("dataset", choices=[*DATASETS], help="the data set's layout: nuScenes' or KITTI's")
    parser.add_argument(
        "--dataroot", required=True, help="folder or URI (s3://, gs://) that holds `v1.0-...`, or KITTI's `training`"
    )
    parser.add_argument("--version", help="nuScenes version (default: v1.0-trainval)")
    cli.add_reading_options(parser)
    cli.add_storage_option(parser)
    options = parser.parse_args()
    storage = Location.parse(options.storage)
    storage.check_writable()
    indexing = import_module(f"altermoma_ray.data.{DATASETS[options.dataset]}.indexing")
    dataroot = Location.parse(options.dataroot)
    for line in indexing.index_lines(dataroot, storage, options.version, cli.reading_of(options)):
        print(line)


if __name__ == "__main__":
    cli.run(main)

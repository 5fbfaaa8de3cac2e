"""``python -m altermoma_ray.data.synthetic --out DIR``: write a synthetic nuScenes data set."""

from __future__ import annotations

from pathlib import Path

from altermoma_ray import cli
from altermoma_ray.data.synthetic.generate import TOY_SCENES, generate


def main() -> None:
    """Parse the options and generate."""
    parser = cli.Parser(prog="python -m altermoma_ray.data.synthetic", description=__doc__)
    # A `Path`, not a `Location`: many processes write small files, which a bucket would take hours for.
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must be missing or empty")
    parser.add_argument("--scenes", type=int, default=None, help=f"1 to 850; default {TOY_SCENES}, the toy")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same files")
    parser.add_argument("--processes", type=int, default=None, help="default: all cores")
    parser.add_argument("--keyframes", type=int, default=2, help="keyframes a scene, half a second apart; default 2")
    parser.add_argument("--sweeps", type=int, default=2, help="LiDAR sweeps before each keyframe; default 2")
    parser.add_argument("--width", type=int, default=400, help="of the 16:9 pictures, up to 1600; default 400")
    parser.add_argument("--azimuths", type=int, default=480, help="LiDAR returns a ring; default 480")
    parser.add_argument("--cameras", type=int, default=6, help="1 to 12 around the car; default 6, as nuScenes has")
    parser.add_argument("--lidar-channel", default="LIDAR_TOP", help="name of the LiDAR; default LIDAR_TOP")
    parser.add_argument(
        "--reflective-ground", action="store_true", help="the LiDAR tells road, walkway, grass and paint apart"
    )
    parser.add_argument(
        "--redundancy",
        type=float,
        metavar="0..1",
        help="how much of class and place each sensor alone can tell; default: the usual set",
    )
    parser.add_argument(
        "--occlusion", action="store_true", help="objects may be hidden from the LiDAR at some keyframes, for tracking"
    )
    options = parser.parse_args()
    # The names of the options are the names of the arguments, and `generate` itself checks their ranges.
    generate(**vars(options))


if __name__ == "__main__":
    cli.run(main)

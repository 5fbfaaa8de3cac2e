"""``python -m altermoma_ray.tasks.metrics.kitti``: the official KITTI object metric of a folder of detections."""

from __future__ import annotations

import json

from altermoma_ray import cli
from altermoma_ray.storage import Location
from altermoma_ray.tasks.metrics.kitti import evaluate, read_frames, read_labels


def main() -> None:
    """Read both folders and print AP-3D and AP-BEV, in percent, as JSON."""
    parser = cli.Parser(prog="python -m altermoma_ray.tasks.metrics.kitti", description=__doc__)
    parser.add_argument("--labels", required=True, help="folder or URI of ground truth, such as training/label_2")
    parser.add_argument("--detections", required=True, help="folder or URI of results, with a score on each line")
    parser.add_argument("--frames", required=True, help="file with a frame's name on each line, such as val.txt")
    options = parser.parse_args()
    frames = read_frames(Location.parse(options.frames))
    ground_truth = read_labels(Location.parse(options.labels), frames, scored=False)
    detections = read_labels(Location.parse(options.detections), frames, scored=True)
    print(json.dumps(evaluate(ground_truth, detections), indent=2))


if __name__ == "__main__":
    cli.run(main)

"""A picture of how AVOD-FPN sees one frame of KITTI: its two views, the proposals of its first stage, its detections.

    python examples/kitti_picture.py --out frame.png                                   # the toy, a synthetic frame
    python examples/kitti_picture.py --dataroot /data/kitti --model avod-fpn-toy --checkpoint avod.safetensors \\
        --frame 000002 --out frame.png
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from altermoma_ray.cli import run
from altermoma_ray.data.drawing import EDGES
from altermoma_ray.data.kitti.geometry import box_corners, project
from altermoma_ray.data.kitti.labels import Labels
from altermoma_ray.errors import UserError
from altermoma_ray.workloads.reference import find_workload

COLOURS = {"Car": "tab:orange", "Pedestrian": "tab:red", "Cyclist": "tab:purple"}
AROUND = ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))


def main() -> None:
    """Run the model on the frame, and draw both views one below the other."""
    options = _parser().parse_args()
    workload = find_workload("kitti", options.storage, dataroot=options.dataroot, model=options.model).load()
    model = workload.unpruned(options.checkpoint).eval()
    data, task = workload.source(), workload.task_for(model)
    data.prepare()
    names = data.index().names()
    rows = data.rows("validation") + data.rows("train")
    row = rows[0] if options.frame is None else next((row for row in rows if names[row] == options.frame), None)
    if row is None:
        raise UserError(f"no frame {options.frame} in {data.dataroot}; there are {names[rows[0]]} and others")
    batch = data.collate([data.dataset([row], augment=False, seed=0)[0]])
    with torch.inference_mode():
        outputs = model(batch)
        (found,) = task.decode(outputs, batch).values()
    truth = data.ground_truth([row])[names[row]]

    inputs = data.inputs
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(12, 14), height_ratios=(1, 2.6), layout="constrained")
    picture = (batch.images[0].permute(1, 2, 0).numpy() + inputs.image_mean) / 255
    above.imshow(picture.clip(0, 1))
    projection = batch.projection[0].double().numpy()
    _draw(above, truth, lambda corners: project(corners, projection)[0], truth_colour="white")
    _draw(above, found, lambda corners: project(corners, projection)[0], least=options.least_score)
    above.set(xlim=(0, inputs.image_size[1]), ylim=(inputs.image_size[0], 0), xticks=[], yticks=[])
    above.set_title(f"frame {names[row]}: camera; objects white, detections coloured")

    low, high = inputs.x_range
    # Row 0 of the map is the far end, so that the map stands as the driver looks.
    below.imshow(batch.bev[0, :-1].amax(dim=0), extent=(low, high, *inputs.z_range), cmap="Greys", vmax=1)
    proposals = outputs["proposals"][0]
    x, z, length, width = (proposals[:, number].numpy() for number in (0, 2, 3, 5))
    frames = np.stack([np.stack([x + a * length / 2, z + b * width / 2], 1) for a, b in AROUND], 1)
    below.add_collection(LineCollection(list(frames), colors="tab:blue", linewidths=0.4, alpha=0.5))
    _draw(below, truth, lambda corners: corners[:, [0, 2]], truth_colour="black")
    _draw(below, found, lambda corners: corners[:, [0, 2]], least=options.least_score)
    below.set(xlim=(low, high), ylim=inputs.z_range, xlabel="x (m)", ylabel="z (m)", aspect="equal")
    below.set_title(f"LiDAR from above; {len(proposals)} proposals blue, objects black, detections coloured")
    figure.savefig(options.out, dpi=90)
    print(options.out)


def _draw(
    axes: Axes,
    labels: Labels,
    place: Callable[[np.ndarray], np.ndarray],
    *,
    truth_colour: str | None = None,
    least: float = 0.0,
) -> None:
    """Draw the edges of boxes; DontCare has none.

    Args:
        axes: of the view.
        labels: the boxes.
        place: from corners [8, 3] (m, rectified camera frame) to points [8, 2] of the view.
        truth_colour: of every box; None for a colour by type.
        least: detections of a lower score are left out.
    """
    boxes = np.column_stack((labels.locations, labels.sizes[:, [2, 1, 0]], labels.rotation_y))
    scores = np.ones(len(labels)) if labels.scores is None else labels.scores
    for kind, corners, score in zip(labels.types, box_corners(boxes), scores, strict=True):
        # A box that reaches behind the camera has no outline in the picture.
        if kind == "DontCare" or score < least or corners[:, 2].min() < 0.5:
            continue
        points = place(corners)
        colour = truth_colour or COLOURS.get(kind, "tab:green")
        lines = [points[[start, end]] for start, end in EDGES]
        axes.add_collection(LineCollection(lines, colors=colour, linewidths=2.5 if truth_colour else 1.2))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataroot", help="KITTI's folder of `training` (default: the synthetic set)")
    parser.add_argument("--model", help="named configuration (default: the toy on the synthetic set)")
    parser.add_argument("--checkpoint", help="weights (default: those that come with the project)")
    parser.add_argument("--frame", help="name of the frame, such as 000002 (default: the first to validate on)")
    parser.add_argument("--least-score", type=float, default=0.3, help="of the detections drawn (default: 0.3)")
    parser.add_argument("--storage", default="storage", help="folder of the index and of the synthetic set")
    parser.add_argument("--out", default="frame.png", help="the picture's file (default: frame.png)")
    return parser


if __name__ == "__main__":
    run(main)

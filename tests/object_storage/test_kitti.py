from __future__ import annotations

import pytest

from altermoma_ray.errors import UserError
from altermoma_ray.tasks.metrics.kitti import evaluate, read_frames, read_labels

CAR = "Car 0 0 -10 100 100 200 160 1.5 1.6 3.9 0 1.6 20 0"


def test_the_metric_reads_its_folders_from_a_bucket(s3):
    names = [f"{number:06d}" for number in range(41)]
    folder = s3.join("kitti")
    folder.join("val.txt").write_text("\n".join(names))
    for name in names:
        folder.join("label_2", f"{name}.txt").write_text(CAR)
        folder.join("found", f"{name}.txt").write_text(f"{CAR} 0.{name}1")
    frames = read_frames(folder.join("val.txt"))
    truth = read_labels(folder.join("label_2"), frames, scored=False)
    found = read_labels(folder.join("found"), frames, scored=True)
    assert (list(truth), list(found)) == (names, names)
    assert evaluate(truth, found)["car"]["3d"]["r40"]["hard"] == 100
    with pytest.raises(UserError, match=r"frame 000041 has no labels: s3://.*/label_2/000041\.txt.* is missing"):
        read_labels(folder.join("label_2"), [*frames, "000041"], scored=False)
    with pytest.raises(UserError, match=r"labels s3://.*/nowhere.* is no folder"):
        read_labels(folder.join("nowhere"), frames, scored=False)

"""KITTI in a bucket: made there, indexed there, and read as from a disk."""

from __future__ import annotations

from functools import partial

import pytest

from altermoma_ray.data.kitti.index import open_index
from altermoma_ray.data.kitti.inputs import KittiInputs
from altermoma_ray.data.kitti.source import Kitti
from altermoma_ray.data.synthetic.kitti import generate
from altermoma_ray.data.synthetic.writing import CARD, make_at
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location
from altermoma_ray.tasks.metrics.kitti import evaluate, read_frames, read_labels
from altermoma_ray.testing.values import differences

CAR = "Car 0 0 -10 100 100 200 160 1.5 1.6 3.9 0 1.6 20 0"
INPUTS = KittiInputs(image_size=(24, 80), x_range=(-20, 20), z_range=(0, 40), cell=0.5)


def test_samples_of_a_bucket_are_those_of_the_disk(s3, server, objects, tmp_path):
    make = partial(generate, train=2, val=1, width=312, azimuths=240, processes=1, progress=False)
    disk, bucket = Location.parse(tmp_path / "kitti"), s3.join("kitti")
    for place in (disk, bucket):
        make_at(place, make, progress=False)
    assert objects(bucket)[CARD] == disk.join(CARD).read_bytes()
    here, there = (
        Kitti(dataroot=str(place), storage=storage, inputs=INPUTS)
        for place, storage in ((disk, str(tmp_path / "storage")), (bucket, str(s3)))
    )
    for source in (here, there):
        source.prepare()
    assert here.fingerprint("train") == there.fingerprint("train")
    ours, theirs = (source.dataset([0, 2], augment=True, seed=1)[1] for source in (here, there))
    assert not differences(ours, theirs)
    # Opened again: the folders are listed, the index is looked up in its local copy, and no frame is read.
    server.requests.clear()
    open_index(bucket, s3, progress=False)
    assert server.requests["PUT"] == 0
    assert server.requests["GET"] < 12


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

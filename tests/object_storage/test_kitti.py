"""KITTI in a bucket: made there, indexed there, and read as from a disk."""

from __future__ import annotations

from functools import partial

from altermoma_ray.data.kitti.index import open_index
from altermoma_ray.data.kitti.inputs import KittiInputs
from altermoma_ray.data.kitti.source import Kitti
from altermoma_ray.data.synthetic.kitti import generate
from altermoma_ray.data.synthetic.writing import CARD, make_at
from altermoma_ray.storage import Location
from altermoma_ray.testing.values import differences

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

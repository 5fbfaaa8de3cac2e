"""A data set and its index in a bucket."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from altermoma_ray.data.nuscenes.dataroot import check_files
from altermoma_ray.data.nuscenes.dataset import NuScenesDataset
from altermoma_ray.data.nuscenes.index import open_index
from altermoma_ray.data.synthetic import generate_at, matches
from altermoma_ray.errors import UserError
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.storage import Location

VERSION = "v1.0-trainval"


def test_samples_of_a_bucket_are_those_of_the_disk(s3, dataroot, synthetic_root, tmp_path):
    inputs = configuration("bevfusion-mit-toy").inputs
    local = open_index(Location.parse(synthetic_root), VERSION, Location.parse(tmp_path), progress=False)
    index = open_index(Location.parse(dataroot), VERSION, s3, progress=False)
    assert index.fingerprint == local.fingerprint
    row = index.samples("val")[0]
    ours, theirs = (NuScenesDataset(place, [row], inputs, augment=False)[0] for place in (index, local))
    for name in ("images", "points", "boxes", "camera_to_lidar"):
        np.testing.assert_array_equal(getattr(ours, name).numpy(), getattr(theirs, name).numpy())


def test_an_index_in_a_bucket_is_opened_again_and_built_anew_when_a_table_changes(s3, dataroot, buckets, server):
    index = open_index(Location.parse(dataroot), VERSION, s3, progress=False)
    created = index.file.read_bytes()
    server.requests.clear()
    again = pickle.loads(pickle.dumps(open_index(Location.parse(dataroot), VERSION, s3, progress=False)))
    assert again.fingerprint == index.fingerprint
    assert server.requests["GET"] < 20
    assert server.requests["PUT"] == 0
    key = f"nuscenes/{VERSION}/sample_annotation.json"
    good = buckets.get_object(Bucket="frames", Key=key)["Body"].read()
    try:
        records = json.loads(good)
        records[0]["num_lidar_pts"] = 12345678
        buckets.put_object(Bucket="frames", Key=key, Body=json.dumps(records))
        assert open_index(Location.parse(dataroot), VERSION, s3, progress=False).fingerprint != index.fingerprint
        assert index.file.read_bytes() != created
    finally:
        buckets.put_object(Bucket="frames", Key=key, Body=good)


def test_looking_at_all_sensor_files_takes_a_request_for_each_folder(s3, dataroot, server, buckets):
    index = open_index(Location.parse(dataroot), VERSION, s3, progress=False)
    pictures, clouds = index.sensor_files()
    folders = {name.rpartition("/")[0] for name in pictures + clouds}
    server.requests.clear()
    check_files(index.dataroot, pictures, clouds)
    lidar_folders = {name.rpartition("/")[0] for name in clouds}
    opened = 2 * 8 * len(lidar_folders)  # of each, eight files are looked into, by two requests a file
    assert len(folders) + opened < sum(server.requests.values()) + 1 < 2 * len(folders) + 2 + opened
    assert 2 * len(folders) + 2 + opened < len(set(pictures + clouds))
    key = f"nuscenes/{pictures[0]}"
    good = buckets.get_object(Bucket="frames", Key=key)["Body"].read()
    buckets.delete_object(Bucket="frames", Key=key)
    try:
        with pytest.raises(UserError, match=rf"lacks 1 of the \d+ pictures .* {pictures[0]} for one; copy them there"):
            check_files(index.dataroot, pictures, clouds)
    finally:
        buckets.put_object(Bucket="frames", Key=key, Body=good)


def test_the_synthetic_set_is_made_in_a_bucket_whole_or_not_at_all(s3, objects, tmp_path):
    target, local = s3.join("synthetic-nuscenes"), tmp_path / "same"
    assert not matches(target, scenes=1, seed=5)
    generate_at(target, scenes=1, seed=5, progress=False)
    assert matches(target, scenes=1, seed=5)
    assert not matches(target, scenes=1, seed=6)
    generate_at(Location.parse(local), scenes=1, seed=5, progress=False)
    made = {file.relative_to(local).as_posix(): file for file in local.rglob("*") if file.is_file()}
    assert objects(target) == {name: file.read_bytes() for name, file in made.items()}
    target.join("synthetic.json").delete()
    assert not matches(target, scenes=1, seed=5)
    generate_at(target, scenes=1, seed=5, progress=False)  # over what an interrupted upload left
    assert matches(target, scenes=1, seed=5)

from __future__ import annotations

import numpy as np
import pytest
import torch

from altermoma_ray.data.nuscenes.dataset import NuScenesDataset
from altermoma_ray.data.nuscenes.disturbances import DISTURBANCES, outside_lost_objects
from altermoma_ray.data.nuscenes.index import Index, open_index
from altermoma_ray.data.nuscenes.records import sweep_to_keyframe
from altermoma_ray.data.transforms import InputConfig, transform_points
from altermoma_ray.storage import Location

INPUTS = InputConfig(image_size=(48, 128), resize_test=0.32, sweeps=3, point_range=(-25.6, -25.6, -5, 25.6, 25.6, 3))


@pytest.fixture(scope="module")
def index(synthetic_root, tmp_path_factory) -> Index:
    storage = Location.parse(tmp_path_factory.mktemp("storage"))
    return open_index(Location.parse(synthetic_root), "v1.0-trainval", storage, progress=False)


def points_of(index, rows, name=None):
    disturbance = None if name is None else DISTURBANCES[name]
    dataset = NuScenesDataset(index, rows, INPUTS, augment=False, disturbance=disturbance)
    return [dataset[position].points.numpy() for position in range(len(rows))]


@pytest.mark.parametrize(("name", "degrees"), [("lidar-60", 60), ("lidar-90", 90)])
def test_a_narrow_lidar_keeps_what_lies_ahead(index, name, degrees):
    (row, *_) = index.samples("val")
    (whole,), (narrow,) = points_of(index, [row]), points_of(index, [row], name)
    # The LiDAR's x axis points right, its y axis forward, on nuScenes' car and on the synthetic one.
    ahead = np.abs(np.degrees(np.arctan2(whole[:, 0], whole[:, 1])))
    newest = whole[:, 4] == 0
    np.testing.assert_array_equal(narrow[narrow[:, 4] == 0], whole[newest & (ahead <= degrees)])
    assert 0 < len(narrow) < len(whole)
    # Earlier sweeps are cut about the vehicle as it stood then: nothing of them lies behind.
    later = narrow[narrow[:, 4] > 0]
    assert len(later)
    assert np.abs(np.degrees(np.arctan2(later[:, 0], later[:, 1] + 5))).max() < degrees + 45


def test_lost_objects_have_no_point_and_the_others_all_of_theirs(index):
    rows = index.samples("train")
    lost, kept = 0, 0
    for row, whole, halved in zip(rows, points_of(index, rows), points_of(index, rows, "objects-half"), strict=True):
        gone = {tuple(point) for point in whole} - {tuple(point) for point in halved}
        record = index.record(row)
        for box, count in zip(record.boxes.boxes, record.boxes.num_lidar_pts, strict=True):
            turn = np.array([[np.cos(box[6]), np.sin(box[6])], [-np.sin(box[6]), np.cos(box[6])]])
            newest = whole[whole[:, 4] == 0]
            inside = (np.abs((newest[:, :2] - box[:2]) @ turn.T) <= box[3:5] / 2 - 0.01).all(axis=1)
            inside &= np.abs(newest[:, 2] - box[2]) <= box[5] / 2 - 0.01
            taken = [tuple(point) in gone for point in newest[inside]]
            # Two boxes may share a rim, hence not exactly all.
            if len(taken) > 5 and count:
                lost += np.mean(taken) > 0.9
                kept += np.mean(taken) < 0.1
    assert lost + kept > 40
    assert 0.3 < lost / (lost + kept) < 0.7


def test_objects_are_lost_in_earlier_sweeps_where_they_were_then(index):
    """Of a moving object that is lost nothing is left, nor a trace of where it came from."""
    for row in index.samples("train"):
        record = index.record(row)
        for sweep in record.sweeps:
            back = np.linalg.inv(sweep_to_keyframe(record, sweep))
            seconds = (record.lidar.timestamp - sweep.timestamp) / 1e6
            centres = record.boxes.boxes[:, :3].copy()
            centres[:, :2] -= record.boxes.boxes[:, 7:9] * seconds
            kept = outside_lost_objects(transform_points(centres, back), sweep, record, share=1.0)
            assert not kept.any()


def test_a_sample_is_disturbed_the_same_way_again(index):
    rows = index.samples("train")[:2]
    first, again = points_of(index, rows, "objects-half"), points_of(index, rows[::-1], "objects-half")[::-1]
    assert all(torch.equal(torch.tensor(a), torch.tensor(b)) for a, b in zip(first, again, strict=True))

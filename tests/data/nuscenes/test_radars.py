"""Radar files against the devkit's reader, and returns in the keyframe's frame against its geometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.data_classes import RadarPointCloud

from altermoma_ray.data.nuscenes.dataset import NuScenesDataset, collate
from altermoma_ray.data.nuscenes.index import Index, open_index
from altermoma_ray.data.nuscenes.radars import decode_returns, read_returns
from altermoma_ray.data.radar import VELOCITY, RadarInputConfig
from altermoma_ray.data.synthetic.radar import FIELDS, encode
from altermoma_ray.data.transforms import InputConfig
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

INPUTS = InputConfig(
    image_size=(16, 32),
    resize_test=0.08,
    sweeps=1,
    point_range=(-25.6, -25.6, -5.0, 25.6, 25.6, 3.0),
    radar=RadarInputConfig(),
)
FILE = Location.parse("/data/samples/RADAR_FRONT/front.pcd")


@pytest.fixture(scope="module")
def index(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    storage = Location.parse(tmp_path_factory.mktemp("storage"))
    return open_index(Location.parse(synthetic_root), "v1.0-trainval", storage, progress=False)


@pytest.fixture(scope="module")
def nusc(synthetic_root: Path) -> NuScenes:
    return NuScenes("v1.0-trainval", str(synthetic_root), verbose=False)


@pytest.fixture
def all_states():
    """The devkit's reader without its filters, which are global."""
    RadarPointCloud.disable_filters()
    yield
    RadarPointCloud.default_filters()


def test_files_read_as_the_devkit_reads_them(index, synthetic_root, all_states):
    for frame in index.record(1).radars.values():
        expected = RadarPointCloud.from_file(str(synthetic_root / frame.file)).points.T
        np.testing.assert_array_equal(decode_returns(FILE, (synthetic_root / frame.file).read_bytes()), expected)


def test_sweeps_are_those_of_the_devkit_where_their_velocity_has_brought_them(index, nusc, all_states):
    record = index.record(1)
    assert all(len(sweeps) == 1 for sweeps in record.radar_sweeps.values())
    found = read_returns(index.dataroot, record, RadarInputConfig())
    expected, ages = [], []
    for channel in record.radars:
        cloud, lags = RadarPointCloud.from_file_multisweep(
            nusc, nusc.get("sample", record.token), channel, "LIDAR_TOP", nsweeps=6, min_distance=0
        )
        expected.append(cloud.points[:3].T)
        ages.append(lags[0])
    expected, ages = np.concatenate(expected), np.concatenate(ages)
    # The devkit's order is by radar, ours by age: newest first.
    assert (np.diff(found[:, 6] > 0.2) >= 0).all()
    standing = found.copy()
    standing[:, :2] -= found[:, 6:7] * found[:, VELOCITY]
    ours, theirs = (np.column_stack(pair) for pair in ((standing[:, :3], found[:, 6]), (expected, ages)))
    ours, theirs = ours[np.lexsort(ours.T.round(2))], theirs[np.lexsort(theirs.T.round(2))]
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


@pytest.mark.parametrize("augment", [False, True])
def test_moving_objects_carry_their_own_velocity(index, augment):
    """The measured velocity is the box's, seen along the line to the radar, whatever turned and flipped the scene."""
    samples = NuScenesDataset(index, range(len(index)), INPUTS, augment=augment, seed=1)
    errors, ages = [], []
    for sample in (samples[number] for number in range(len(samples))):
        returns, boxes = sample.radar.double(), sample.boxes.double()
        for box in boxes[boxes[:, 7:9].norm(dim=1) > 2]:
            offset, (cos, sin) = returns[:, :2] - box[:2], (box[6].cos(), box[6].sin())
            along, across = offset @ torch.stack([cos, sin]), offset @ torch.stack([-sin, cos])
            speed = returns[:, VELOCITY].norm(dim=1)
            inside = (along.abs() < box[3] / 2 + 0.3) & (across.abs() < box[4] / 2 + 0.3) & (speed > 0.5)
            seen = (returns[:, VELOCITY] @ box[7:9]) / speed
            errors.append((seen - speed)[inside])
            ages.append(returns[inside, 6])
    errors, ages = torch.cat(errors), torch.cat(ages)
    assert len(errors) > 40
    assert (ages > 0.4).sum() > 10  # of the keyframe before: moved on by velocity, else they were outside of the box
    assert errors.abs().max() < 0.5


def test_the_newest_returns_in_range_are_kept(index):
    record = index.record(1)
    everything = read_returns(index.dataroot, record, RadarInputConfig())
    few = read_returns(index.dataroot, record, RadarInputConfig(max_points=10))
    np.testing.assert_array_equal(few, everything[:10])
    newest = read_returns(index.dataroot, record, RadarInputConfig(sweeps=1))
    assert 0 < len(newest) < len(everything)
    np.testing.assert_array_equal(newest, everything[: len(newest)])
    near = read_returns(
        index.dataroot, record, RadarInputConfig(max_points=10), within=lambda points: points[:, 0] > everything[10, 0]
    )
    np.testing.assert_array_equal(near, everything[everything[:, 0] > everything[10, 0]][:10])


def test_batches_without_radar_are_as_ever(index):
    plain = InputConfig(**{**INPUTS.model_dump(), "radar": None})
    assert "radar" not in plain.model_dump_json()
    without, with_radar = (
        collate([NuScenesDataset(index, [1], inputs, augment=True, seed=3)[0]]) for inputs in (plain, INPUTS)
    )
    assert without.radar == []
    assert len(with_radar.radar) == 1
    for name, value in vars(without).items():
        other = getattr(with_radar, name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other), name
        elif name not in ("radar", "tokens"):
            assert all(torch.equal(*pair) for pair in zip(value, other, strict=True)), name


def good_file(count=3):
    return encode(np.zeros(count, FIELDS))


def test_a_radar_that_saw_nothing_has_no_return():
    nothing = np.zeros(1, FIELDS)
    nothing["x"] = np.nan
    assert decode_returns(FILE, encode(nothing)).shape == (0, 18)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no binary point cloud"),
        (b"\xff" * 9000, "is no binary point cloud"),
        (good_file().replace(b"DATA binary", b"DATA ascii"), "is no binary point cloud"),
        (good_file().replace(b" rcs ", b" cross "), "has the columns x y z dyn_prop id cross .*, not nuScenes' 18"),
        (good_file()[:-60], "is cut short: 3 returns need 129 bytes, but 70 are left"),
        (good_file().replace(b"POINTS 3", b"POINTS many"), "has a header that does not tell types or points"),
        (good_file().replace(b"POINTS 3", b"POINTS -1"), "is cut short: -1 returns"),
        (good_file().replace(b"SIZE 4", b"SIZE 9"), "has a header that does not tell types or points"),
    ],
)
def test_broken_files_are_told(data, message):
    with pytest.raises(UserError, match=f"radar file /data/samples/RADAR_FRONT/front.pcd {message}.*; copy it from"):
        decode_returns(FILE, data)

"""The geometry of the synthetic data set: rays, motion, sensors, all without a file."""

from __future__ import annotations

import numpy as np
import pytest
from nuscenes.utils.data_classes import Box
from pyquaternion import Quaternion

from altermoma_ray.data.synthetic import rig
from altermoma_ray.data.synthetic.camera import Camera
from altermoma_ray.data.synthetic.cues import Cues
from altermoma_ray.data.synthetic.kinds import KINDS, Cuboid, Paint
from altermoma_ray.data.synthetic.lidar import Lidar
from altermoma_ray.data.synthetic.raycast import cast, placements
from altermoma_ray.data.synthetic.scene import Parameters, plan, sweep_times
from altermoma_ray.data.synthetic.world import EgoMotion, _build, _overlap, _swept

SCENES = 5
PARAMETERS = Parameters(scenes=SCENES, seed=3, keyframes=2, sweeps=2, width=400, azimuths=480)


def test_nothing_collides():
    for index in range(SCENES):
        scene, _ = plan(PARAMETERS, index)
        outlines = [_swept(body, (-0.1, 0.5)) for body in scene.bodies]
        for number, outline in enumerate(outlines):
            assert not any(_overlap(outline, other) for other in outlines[:number])


def one_box(x, y, yaw, size):
    kind = KINDS[0].__class__(
        name="box",
        category="vehicle.car",
        size=tuple((value, value) for value in size),
        parts=(Cuboid((-0.5, -0.5, 0.0), (0.5, 0.5, 1.0)),),
        paints=(Paint((0, 0), (0, 0), (1, 1)),) * 2,
        reflectivity=40,
        count=(1, 1),
    )
    return _build(np.random.default_rng(0), kind, size, (x, y), yaw, 0.0, False, "road", Cues())


@pytest.mark.parametrize("grid", [Camera(rig.CAMERAS[0], 160, 90), Camera(rig.CAMERAS[4], 160, 90), Lidar(180)])
def test_the_caster_agrees_with_a_search_along_each_ray(grid):
    """Walk along every ray in small steps until a body holds the point."""
    bodies = (one_box(9, 1, 0.3, (4, 2, 1.6)), one_box(14, 3, -1.0, (6, 2.5, 3)), one_box(-1, 6, 2.0, (3, 1, 1)))
    placed = placements(bodies, (0.0, 0.0, 0.0), 0.0)
    hits = cast(grid, placed)
    step = 0.02
    walked = np.full(hits.distance.shape, np.inf)
    for distance in np.arange(0.2, 20, step):
        points = grid.origin[:, None, None] + distance * grid.rays
        for body in bodies:
            cos, sin = np.cos(body.yaw), np.sin(body.yaw)
            x, y = points[0] - body.x, points[1] - body.y
            local = np.stack([cos * x + sin * y, cos * y - sin * x, points[2]])
            inside = (np.abs(local - body.centres[0][:, None, None]) <= body.halves[0][:, None, None]).all(0)
            walked[inside & np.isinf(walked)] = distance
    both = np.isfinite(walked) & np.isfinite(hits.distance)
    assert both.sum() > 100
    assert np.all(walked[both] - hits.distance[both] > -1e-3)
    assert np.quantile(walked[both] - hits.distance[both], 0.99) < step + 1e-3
    assert not np.any(np.isfinite(walked) & np.isinf(hits.distance))
    missed = np.isfinite(hits.distance) & np.isinf(walked)  # corners cut by less than a step
    assert missed.sum() <= 0.05 * both.sum() + 2


def test_ego_motion_is_the_integral_of_its_velocity():
    for motion in (EgoMotion(1, 2, 0.3, 5, 0), EgoMotion(1, 2, 0.3, 5, 0.6), EgoMotion(1, 2, 0.3, 5, -0.6)):
        x, y, yaw = motion.pose(0.0)
        for time in np.arange(0.0, 0.5, 1e-4):
            middle = yaw + 0.5e-4 * motion.yaw_rate
            x, y, yaw = x + 5e-4 * np.cos(middle), y + 5e-4 * np.sin(middle), yaw + 1e-4 * motion.yaw_rate
            del time
        assert motion.pose(0.5) == pytest.approx((x, y, yaw), abs=1e-5)


def test_the_recorded_rotation_is_that_of_the_camera():
    """A point ahead of the camera has its depth along z in the camera's frame."""
    for mount in rig.CAMERAS:
        offset = np.array([5 * np.cos(mount.yaw), 5 * np.sin(mount.yaw), 1.0])
        ahead = np.array(mount.translation) + offset
        box = Box(ahead, [1, 1, 1], Quaternion())
        box.translate(-np.array(mount.translation))
        box.rotate(Quaternion(rig.camera_quaternion(mount.yaw)).inverse)
        assert box.center == pytest.approx([0, -1, 5], abs=1e-9)


def test_sweeps_lead_to_their_keyframe():
    assert [turn[0] for turn in sweep_times(PARAMETERS)] == [0, 0, 0, 1, 1, 1]
    assert [turn[1] for turn in sweep_times(PARAMETERS)] == pytest.approx([-0.1, -0.05, 0, 0.4, 0.45, 0.5])

"""The dial of redundancy: what it turns, and that the usual set is the set without a dial."""

from __future__ import annotations

import numpy as np
import pytest

from altermoma_ray.data.synthetic import camera, generate, matches, radar, rig
from altermoma_ray.data.synthetic.cues import Cues, cues_at
from altermoma_ray.data.synthetic.kinds import KINDS, RIDDEN_HEIGHT
from altermoma_ray.data.synthetic.raycast import placements
from altermoma_ray.data.synthetic.scene import Parameters, plan
from altermoma_ray.data.synthetic.world import Scene, plan_scene
from altermoma_ray.errors import UserError

PAIRS = (
    ("truck", "construction_vehicle"),
    ("bus", "trailer"),
    ("motorcycle", "bicycle"),
    ("pedestrian", "traffic_cone"),
)
TIMES = np.array([0.0, 0.5])


def scenes_at(redundancy: float | None) -> list[Scene]:
    return [plan_scene(np.random.default_rng([7, number]), TIMES, TIMES, cues_at(redundancy)) for number in range(25)]


@pytest.fixture(scope="module")
def by_dial() -> dict[float | None, list[Scene]]:
    return {position: scenes_at(position) for position in (None, 0.0, 0.5, 1.0)}


def told_by_reflectivity(scenes: list[Scene]) -> float:
    """Share of objects whose class a threshold in the middle between look-alikes tells."""
    right, total = 0, 0
    for darker, lighter in PAIRS:
        values = {
            name: np.array([body.reflectivity for scene in scenes for body in scene.bodies if body.kind.name == name])
            for name in (darker, lighter)
        }
        middle = sum(kind.reflectivity for kind in KINDS if kind.name in values) / 2
        right += (values[darker] < middle).sum() + (values[lighter] > middle).sum()
        total += sum(map(len, values.values()))
    return right / total


def test_the_lidar_tells_look_alikes_by_chance_at_0_and_surely_at_1(by_dial):
    told = {position: told_by_reflectivity(scenes) for position, scenes in by_dial.items()}
    assert 0.4 < told[0.0] < 0.6
    assert told[0.0] < told[None] < told[0.5] < told[1.0]
    assert told[1.0] > 0.99


def test_all_objects_of_a_class_are_equally_large_at_1(by_dial):
    for position, scenes in by_dial.items():
        sizes: dict[str, set] = {}
        for body in (body for scene in scenes for body in scene.bodies):
            ridden = body.attribute == "cycle.with_rider"
            sizes.setdefault(f"{body.kind.name} {ridden}", set()).add(body.size)
            limits = (*body.kind.size[:2], RIDDEN_HEIGHT if ridden else body.kind.size[2])
            assert all(low <= length <= high for length, (low, high) in zip(body.size, limits, strict=True))
        assert {len(found) == 1 for found in sizes.values()} == {position == 1.0}, position


def test_the_radar_sees_every_object_of_a_class_at_1(by_dial):
    missed, strengths = {}, {}
    for position, scenes in by_dial.items():
        missed[position], strengths[position] = 0, {"pedestrian": [], "traffic_cone": []}
        for number, scene in enumerate(scenes):
            kept = [body for body in scene.bodies if body.kind.name in strengths[position]]
            for body in kept:
                placed = placements(scene.keep([body]).bodies, scene.ego.pose(0.0), 0.0)
                if abs(np.arctan2(placed[0].y, placed[0].x - rig.RADARS[0].translation[0])) > np.pi / 3.1:
                    continue
                random = np.random.default_rng([3, number])
                returns = radar.measure(rig.RADARS[0], placed, 0.0, 0.0, 0.0, random, cues_at(position))
                true = returns[returns["rcs"] > 0.5] if position in (None, 0.0) else returns[returns["rcs"] > -1.5]
                missed[position] += len(true) == 0
                strengths[position][body.kind.name] += true["rcs"].tolist()
    assert missed[1.0] < 0.1 * missed[0.0]
    step = np.mean(strengths[1.0]["traffic_cone"]) - np.mean(strengths[1.0]["pedestrian"])
    assert 5 < step < 9


def test_haze_is_nearer_at_1():
    assert [round(cues_at(position).haze) for position in (0.0, 0.5, 1.0)] == [120, 60, 30]
    assert camera.Camera(rig.CAMERAS[0], 64, 36).haze == Cues().haze == 120


def test_the_usual_set_is_the_set_without_a_dial(by_dial):
    """The same draws: at 0, where sizes and their order of drawing are the usual, only reflectivities differ."""
    for usual, turned in zip(by_dial[None], by_dial[0.0], strict=True):
        assert [(body.kind, body.size, body.x, body.yaw) for body in usual.bodies] == [
            (body.kind, body.size, body.x, body.yaw) for body in turned.bodies
        ]
        assert any(
            one.reflectivity != other.reflectivity for one, other in zip(usual.bodies, turned.bodies, strict=True)
        )


def test_a_set_is_recognised_by_its_dial(tmp_path):
    generate(tmp_path / "set", scenes=1, processes=1, progress=False, redundancy=1.0, width=64, azimuths=90)
    card = (tmp_path / "set" / "synthetic.json").read_text()
    assert '"redundancy": 1.0' in card
    assert not matches(tmp_path / "set", 1)
    parameters = Parameters(scenes=1, seed=0, keyframes=2, sweeps=2, width=64, azimuths=90, redundancy=1.0)
    scene, _ = plan(parameters, 0)
    assert len({body.size for body in scene.bodies if body.kind.name == "car"}) == 1


@pytest.mark.parametrize("position", [-0.1, 1.5, float("nan")])
def test_a_position_off_the_dial_is_told(tmp_path, position):
    with pytest.raises(UserError, match=r"redundancy must be in 0\.\.1, but got .*; leave it out for the usual set"):
        generate(tmp_path / "set", scenes=1, redundancy=position, progress=False)
    assert not list(tmp_path.iterdir())

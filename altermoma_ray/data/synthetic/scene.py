"""One scene: its sensor files and its rows of the tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from altermoma_ray.data.synthetic import camera, lidar, radar, rig
from altermoma_ray.data.synthetic.cues import Cues, cues_at
from altermoma_ray.data.synthetic.raycast import Placement, placements
from altermoma_ray.data.synthetic.tables import Row, Tables, log_file, visibility_token
from altermoma_ray.data.synthetic.tokens import token
from altermoma_ray.data.synthetic.world import Scene, plan_scene

KEYFRAME_INTERVAL = 0.5
# The rates of nuScenes: keyframes at 2 Hz, LiDAR turns at 20 Hz.
SWEEP_INTERVAL = 0.05
MINIMUM_POINTS = 2
"""Objects with fewer LiDAR points at any keyframe are taken out of the world: annotated objects are exactly the ones
reached by the sensors. With :attr:`Parameters.occlusion` only those go that have fewer at every keyframe."""
# August 2018, the month in the logs' names; the devkit takes any time.
FIRST_TIMESTAMP = 1_533_150_000_000_000
SCENE_SPACING = 30.0
"""Between the first keyframes of two scenes (s)."""


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """The parameters of a synthetic data set; the same parameters give the same bytes.

    >>> Parameters(scenes=1, seed=0, keyframes=2, sweeps=2, width=400, azimuths=480).height
    225
    """

    scenes: int
    seed: int
    keyframes: int
    """A scene's, half a second apart."""
    sweeps: int
    """LiDAR sweeps before each keyframe."""
    width: int
    """Of a picture, 16:9 (pixels)."""
    azimuths: int
    """LiDAR returns a ring."""
    cameras: int = len(rig.CAMERAS)
    """Number of cameras; nuScenes' own rig has six."""
    lidar_channel: str = rig.LIDAR.channel
    reflective_ground: bool = False
    """Whether the LiDAR tells road, walkway, grass and paint apart by their reflectivity."""
    redundancy: float | None = None
    """How much each sensor alone can tell of class and place, 0..1; None is the usual set."""
    occlusion: bool = False
    """Whether objects stay in the world which are hidden from the LiDAR at some keyframes, but not at all."""

    @property
    def height(self) -> int:
        return self.width * 9 // 16

    @property
    def cues(self) -> Cues:
        """What each sensor alone can tell."""
        return cues_at(self.redundancy)


# A process writes many scenes of one data set: rays and ground points are the same for all of them.
@lru_cache(maxsize=1)
def _sensors(parameters: Parameters) -> tuple[list[camera.Camera], lidar.Lidar]:
    mounts = rig.cameras(parameters.cameras)
    haze = parameters.cues.haze
    eyes = [camera.Camera(mount, parameters.width, parameters.height, haze) for mount in mounts]
    return eyes, lidar.Lidar(parameters.azimuths)


def keyframe_times(parameters: Parameters) -> NDArray[np.float64]:
    """[K] seconds from the scene's first keyframe."""
    return np.arange(parameters.keyframes) * KEYFRAME_INTERVAL


def sweep_times(parameters: Parameters) -> list[tuple[int, float, bool]]:
    """Every LiDAR turn in order: the next keyframe, the turn's time (s), whether the turn is the keyframe's own."""
    return [
        (keyframe, keyframe * KEYFRAME_INTERVAL - back * SWEEP_INTERVAL, back == 0)
        for keyframe in range(parameters.keyframes)
        for back in range(parameters.sweeps, -1, -1)
    ]


def plan(parameters: Parameters, index: int) -> tuple[Scene, list[NDArray[np.float32]]]:
    """The scene with the given number, and the LiDAR's point cloud for each of :func:`sweep_times`."""
    turns = sweep_times(parameters)
    keyframes = keyframe_times(parameters)
    earliest = -max(mount.early for mount in (*rig.cameras(parameters.cameras), *rig.RADARS))
    # Cameras and radars fire before their keyframe: the earliest exposure may come before the first LiDAR turn.
    times = np.array([earliest, *(time for _, time, _ in turns)])
    scene = plan_scene(_random(parameters, index, "plan"), times, keyframes, parameters.cues)
    counts = [
        _lidar_counts(_placed(scene, time), _scan(parameters, index, scene, number))
        # Keyframes only: boxes are annotated there, and a body hidden in a sweep does no harm.
        for number, (_, time, keyframe) in enumerate(turns)
        if keyframe
    ]
    # Taking a body away only adds points to the others: a ray's noise does not depend on what it meets.
    enough = (np.max if parameters.occlusion else np.min)(counts, 0) >= MINIMUM_POINTS
    # Clutter stays in any case: unlabelled bodies need no points.
    kept = [body for body, seen in zip(scene.bodies, enough, strict=True) if seen or not body.kind.category]
    scene = scene.keep(kept)
    # Scanned anew without the bodies taken out, which had hidden others.
    return scene, [_scan(parameters, index, scene, number) for number in range(len(turns))]


def write_scene(parameters: Parameters, index: int, name: str, root: Path) -> Tables:
    """Write the files of one scene, and return its rows.

    Args:
        parameters: of the data set.
        index: number of the scene, from 0.
        name: of the scene.
        root: the data set's folder, with all its sub-folders made.
    """
    return _Writer(parameters, index, name, root).write()


class _Writer:
    def __init__(self, parameters: Parameters, index: int, name: str, root: Path) -> None:
        self.parameters, self.index, self.name, self.root = parameters, index, name, root
        self.scene, self.clouds = plan(parameters, index)
        self.log = log_file(index)
        self.tables: Tables = {
            table: [] for table in ("sample", "sample_data", "ego_pose", "scene", "instance", "sample_annotation")
        }

    def write(self) -> Tables:
        """Write pictures, point clouds and rows."""
        turns = sweep_times(self.parameters)
        keyframes = keyframe_times(self.parameters)
        self._write_chain(
            rig.lidar(self.parameters.lidar_channel),
            [
                (keyframe, time, is_keyframe, cloud.tobytes())
                for (keyframe, time, is_keyframe), cloud in zip(turns, self.clouds, strict=True)
            ],
        )
        # Files first: the annotations need visible shares and radar points, which are counted while sensors are
        # written.
        shares = self._write_pictures(keyframes)
        radar_counts = self._write_radars(keyframes)
        key_clouds = [cloud for (_, _, is_keyframe), cloud in zip(turns, self.clouds, strict=True) if is_keyframe]
        for keyframe, time in enumerate(keyframes):
            counts = _lidar_counts(_placed(self.scene, float(time)), key_clouds[keyframe])
            self._annotate(keyframe, float(time), counts, radar_counts[keyframe], shares[keyframe])
        self._describe(keyframes)
        return self.tables

    def _write_pictures(self, keyframes: NDArray[np.float64]) -> NDArray[np.float64]:
        """[K, bodies] visible share of each body's pixels, over all cameras."""
        # A stream of random numbers for each kind of sensor: another number of cameras leaves LiDAR and radars
        # unchanged.
        random = _random(self.parameters, self.index, "camera")
        cameras, _ = _sensors(self.parameters)
        seen = np.zeros((len(keyframes), len(self.scene.bodies)))
        alone = np.zeros_like(seen)
        for eye in cameras:
            frames = []
            for keyframe, time in enumerate(keyframes):
                # Each camera fires at its own moment, as on the nuScenes car: code without ego motion between sensors
                # shows errors.
                moment = float(time) - eye.mount.early
                placed = _placed(self.scene, moment)
                exposure = camera.expose(eye, placed, self.scene.ego.pose(moment), self.scene.look, random)
                seen[keyframe] += exposure.seen
                alone[keyframe] += exposure.alone
                frames.append((keyframe, moment, True, camera.encode(exposure.picture)))
            self._write_chain(eye.mount, frames, self.parameters.width, self.parameters.height)
        # A body outside of all pictures has share 0, not 0 / 0.
        return seen / np.maximum(alone, 1)

    def _write_radars(self, keyframes: NDArray[np.float64]) -> NDArray[np.int64]:
        """[K, bodies] radar points in each box."""
        random = _random(self.parameters, self.index, "radar")
        ego = self.scene.ego
        counts = np.zeros((len(keyframes), len(self.scene.bodies)), np.int64)
        for mount in rig.RADARS:
            frames = []
            for keyframe, time in enumerate(keyframes):
                moment = float(time) - mount.early
                yaw = ego.pose(moment)[2]
                placed = _placed(self.scene, moment)
                returns = radar.measure(mount, placed, yaw, ego.speed, ego.yaw_rate, random, self.parameters.cues)
                # Boxes are annotated for the keyframe, points measured from the car at its pose a little earlier.
                boxes = placements(self.scene.bodies, ego.pose(moment), float(time))
                points = np.stack([returns["x"], returns["y"], returns["z"]], 1).astype(np.float64)
                # Summed over radars, as in nuScenes' own counts.
                counts[keyframe] += count_points(boxes, _to_ego(points, mount))
                frames.append((keyframe, moment, True, radar.encode(returns)))
            self._write_chain(mount, frames)
        return counts

    def _write_chain(
        self, mount: rig.Mount, frames: list[tuple[int, float, bool, bytes]], width: int = 0, height: int = 0
    ) -> None:
        """Write a sensor's files and their rows.

        Args:
            mount: the sensor.
            frames: in order of time: the next keyframe, time (s), whether the frame is the keyframe's own, bytes.
            width: of a camera's pictures (pixels).
            height: of a camera's pictures (pixels).
        """
        # The devkit picks its reader by the ending.
        ending = {"LIDAR": "pcd.bin", "RADAR": "pcd"}.get(mount.channel[:5], "jpg")
        # All tokens first: each row names its successor.
        tokens = [self._token("sample_data", mount.channel, number) for number in range(len(frames))]
        for number, (keyframe, time, is_keyframe, data) in enumerate(frames):
            timestamp = self._timestamp(time)
            folder = "samples" if is_keyframe else "sweeps"
            file = f"{folder}/{mount.channel}/{self.log}__{mount.channel}__{timestamp}.{ending}"
            (self.root / file).write_bytes(data)
            x, y, yaw = self.scene.ego.pose(time)
            self.tables["ego_pose"].append(
                {
                    "token": tokens[number],
                    "timestamp": timestamp,
                    "rotation": rig.yaw_quaternion(yaw),
                    "translation": [x, y, 0.0],
                }
            )
            self.tables["sample_data"].append(
                {
                    "token": tokens[number],
                    "sample_token": self._token("sample", keyframe),
                    # One pose a frame, under the frame's own token, as in nuScenes.
                    "ego_pose_token": tokens[number],
                    "calibrated_sensor_token": token("calibrated_sensor", mount.channel),
                    "timestamp": timestamp,
                    "fileformat": ending.split(".")[0],
                    "is_key_frame": is_keyframe,
                    "height": height,
                    "width": width,
                    "filename": file,
                    **_neighbours(tokens, number),
                }
            )

    def _annotate(
        self,
        keyframe: int,
        time: float,
        lidar_counts: NDArray[np.int64],
        radar_counts: NDArray[np.int64],
        shares: NDArray[np.float64],
    ) -> None:
        for number, body in enumerate(self.scene.bodies):
            if not body.kind.category:
                continue
            x, y = body.position(time)
            length, width, height = body.size
            tokens = self._annotation_tokens(number)
            self.tables["sample_annotation"].append(
                {
                    "token": tokens[keyframe],
                    "sample_token": self._token("sample", keyframe),
                    "instance_token": self._token("instance", number),
                    "visibility_token": visibility_token(float(shares[number])),
                    "attribute_tokens": [token("attribute", body.attribute)] if body.attribute else [],
                    # The centre: nuScenes' boxes have their origin in the middle, the town's bodies on the ground.
                    "translation": [x, y, height / 2],
                    # nuScenes' order, which begins with the width.
                    "size": [width, length, height],
                    "rotation": rig.yaw_quaternion(body.yaw),
                    **_neighbours(tokens, keyframe),
                    "num_lidar_pts": int(lidar_counts[number]),
                    "num_radar_pts": int(radar_counts[number]),
                }
            )

    def _describe(self, keyframes: NDArray[np.float64]) -> None:
        """Rows of the scene, its samples and its instances."""
        samples = [self._token("sample", keyframe) for keyframe in range(len(keyframes))]
        scene_token = self._token("scene")
        for keyframe, time in enumerate(keyframes):
            self.tables["sample"].append(
                {
                    "token": samples[keyframe],
                    "timestamp": self._timestamp(float(time)),
                    **_neighbours(samples, keyframe),
                    "scene_token": scene_token,
                }
            )
        for number, body in enumerate(self.scene.bodies):
            if body.kind.category:
                tokens = self._annotation_tokens(number)
                self.tables["instance"].append(
                    {
                        "token": self._token("instance", number),
                        "category_token": token("category", body.kind.category),
                        "nbr_annotations": len(tokens),
                        "first_annotation_token": tokens[0],
                        "last_annotation_token": tokens[-1],
                    }
                )
        ego = self.scene.ego
        drive = "standing" if ego.speed == 0 else "straight on" if ego.yaw_rate == 0 else "turning"
        self.tables["scene"].append(
            {
                "token": scene_token,
                "log_token": token("log", self.log),
                "nbr_samples": len(samples),
                "first_sample_token": samples[0],
                "last_sample_token": samples[-1],
                "name": self.name,
                "description": f"Synthetic town, {drive}, {len(self.tables['instance'])} objects",
            }
        )

    def _annotation_tokens(self, body: int) -> list[str]:
        return [self._token("annotation", body, keyframe) for keyframe in range(self.parameters.keyframes)]

    def _token(self, *parts: object) -> str:
        return token(self.parameters.seed, self.name, *parts)

    def _timestamp(self, time: float) -> int:
        """Microseconds, as nuScenes counts them."""
        # Scenes follow each other by 30 s: no two frames of a log share a time, by which files are named.
        return FIRST_TIMESTAMP + round((self.index * SCENE_SPACING + time) * 1e6)


def _neighbours(tokens: list[str], number: int) -> Row:
    return {
        "prev": tokens[number - 1] if number else "",
        "next": tokens[number + 1] if number + 1 < len(tokens) else "",
    }


def _random(parameters: Parameters, index: int, purpose: str, number: int = 0) -> np.random.Generator:
    purposes = ("plan", "camera", "lidar", "radar")
    # Seeded by scene, purpose and number, not drawn one after the other: scenes are written by many processes.
    return np.random.default_rng([parameters.seed, index, purposes.index(purpose), number])


def _placed(scene: Scene, time: float) -> list[Placement]:
    return placements(scene.bodies, scene.ego.pose(time), time)


def _scan(parameters: Parameters, index: int, scene: Scene, number: int) -> NDArray[np.float32]:
    """The point cloud of one turn of the LiDAR.

    Args:
        parameters: of the data set.
        index: number of the scene.
        scene: the scene.
        number: of the turn in :func:`sweep_times`, which seeds the turn's noise.
    """
    _, time, _ = sweep_times(parameters)[number]
    _, spinner = _sensors(parameters)
    # Without the option the ground is uniform, as in sets made by earlier releases: same parameters, same bytes.
    pose = scene.ego.pose(time) if parameters.reflective_ground else None
    return lidar.scan(spinner, _placed(scene, time), _random(parameters, index, "lidar", number), pose)


def _lidar_counts(placed: list[Placement], cloud: NDArray[np.float32]) -> NDArray[np.int64]:
    return count_points(placed, _to_ego(cloud[:, :3].astype(np.float64), rig.LIDAR))


def _to_ego(points: NDArray[np.float64], mount: rig.Mount) -> NDArray[np.float64]:
    """[points, 3] from a LiDAR's or radar's frame to the ego frame."""
    cos, sin = math.cos(mount.yaw), math.sin(mount.yaw)
    x, y, z = points.T
    return np.stack([cos * x - sin * y, sin * x + cos * y, z], 1) + mount.translation


def count_points(placed: list[Placement], points: NDArray[np.float64]) -> NDArray[np.int64]:
    """[bodies] number of the points ([points, 3], ego frame) in each annotated box."""
    counts = np.zeros(len(placed), np.int64)
    for number, item in enumerate(placed):
        length, width, height = item.body.size
        x, y = points[:, 0] - item.x, points[:, 1] - item.y
        # The points are turned into the box's frame, where the test is one of ranges.
        cos, sin = math.cos(item.yaw), math.sin(item.yaw)
        inside = (np.abs(cos * x + sin * y) <= length / 2) & (np.abs(cos * y - sin * x) <= width / 2)
        counts[number] = np.count_nonzero(inside & (points[:, 2] >= 0) & (points[:, 2] <= height))
    return counts

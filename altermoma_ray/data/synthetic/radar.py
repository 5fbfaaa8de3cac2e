"""Five radars: a few returns from each body in view, with radial velocity, in the official ``.pcd`` layout."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from altermoma_ray.data.synthetic import rig
from altermoma_ray.data.synthetic.cues import Cues
from altermoma_ray.data.synthetic.raycast import Placement

RANGE = 70.0
POSITION_NOISE = 0.15
VELOCITY_NOISE = 0.1
CLUTTER = 6.0
"""Mean number of returns from nothing."""
USUAL = Cues()

FIELDS = np.dtype(
    [
        ("x", "<f4"),
        ("y", "<f4"),
        ("z", "<f4"),
        ("dyn_prop", "<i1"),
        ("id", "<i2"),
        ("rcs", "<f4"),
        ("vx", "<f4"),
        ("vy", "<f4"),
        ("vx_comp", "<f4"),
        ("vy_comp", "<f4"),
        ("is_quality_valid", "<i1"),
        ("ambig_state", "<i1"),
        ("x_rms", "<i1"),
        ("y_rms", "<i1"),
        ("invalid_state", "<i1"),
        ("pdh0", "<i1"),
        ("vx_rms", "<i1"),
        ("vy_rms", "<i1"),
    ]
)
"""One return, radar frame (x ahead, y left); ``*_comp`` are the velocities with the car's own motion taken out."""
MOVING, STATIONARY = 0, 1
UNAMBIGUOUS = 3


def measure(
    mount: rig.Mount,
    placed: list[Placement],
    ego_yaw: float,
    speed: float,
    yaw_rate: float,
    random: np.random.Generator,
    cues: Cues = USUAL,
) -> NDArray[np.void]:
    """The returns of one radar, of dtype ``FIELDS``; at least one, as the layout cannot hold none.

    Args:
        mount: the radar.
        placed: the bodies in the ego frame, at the moment of the measurement.
        ego_yaw: heading of the car in the global frame (rad).
        speed, yaw_rate: of the car (m/s, rad/s).
        random: draws returns, noise and clutter.
        cues: what the radar alone can tell of the bodies.
    """
    points: list[tuple[float, float, float, float, float]] = []  # x, y, global velocity in the radar's axes, strength
    cos, sin = math.cos(mount.yaw), math.sin(mount.yaw)
    for item in placed:
        points += _of_body(item, mount, ego_yaw, random, cues)
    for _ in range(1 + random.poisson(CLUTTER)):  # at least one: the devkit reads the first return unasked
        distance, bearing = random.uniform(3, RANGE), random.uniform(-0.5, 0.5) * mount.field_of_view
        points.append((distance * math.cos(bearing), distance * math.sin(bearing), 0.0, 0.0, -5.0))
    returns = np.zeros(len(points), FIELDS)
    x, y, velocity_x, velocity_y, strengths = np.array(points).T
    distance = np.hypot(x, y)
    ahead, left = x / distance, y / distance
    radial = velocity_x * ahead + velocity_y * left + random.normal(0, VELOCITY_NOISE, len(points))
    own_x, own_y = speed - yaw_rate * mount.translation[1], yaw_rate * mount.translation[0]  # of the radar's place
    own = (cos * own_x + sin * own_y) * ahead + (cos * own_y - sin * own_x) * left
    returns["x"], returns["y"] = x, y
    returns["vx_comp"], returns["vy_comp"] = radial * ahead, radial * left
    returns["vx"], returns["vy"] = (radial - own) * ahead, (radial - own) * left
    returns["rcs"] = strengths + random.normal(0, 2, len(points))
    returns["dyn_prop"] = np.where(np.hypot(velocity_x, velocity_y) > 0.5, MOVING, STATIONARY)
    returns["id"] = np.arange(len(points))
    returns["is_quality_valid"] = 1
    returns["ambig_state"] = UNAMBIGUOUS
    returns["x_rms"] = returns["y_rms"] = 19  # codes for classes of accuracy, not metres
    returns["pdh0"] = 1
    returns["vx_rms"] = returns["vy_rms"] = 16
    return returns


def _of_body(
    item: Placement, mount: rig.Mount, ego_yaw: float, random: np.random.Generator, cues: Cues
) -> list[tuple[float, float, float, float, float]]:
    """The returns of one body, as x, y, global velocity in the radar's axes, and strength; none out of view."""
    cos, sin = math.cos(mount.yaw), math.sin(mount.yaw)
    x, y = item.x - mount.translation[0], item.y - mount.translation[1]
    x, y = cos * x + sin * y, cos * y - sin * x
    expected = cues.radar_returns(item.body.kind)
    number = random.poisson(expected) if expected else 0
    if math.hypot(x, y) > RANGE or abs(math.atan2(y, x)) > mount.field_of_view / 2:
        return []
    if expected and not number and cues.radar_share and random.random() < cues.radar_share:
        number = 1
    yaw = item.yaw - mount.yaw
    length, width, _ = item.body.size
    heading = item.body.yaw - ego_yaw - mount.yaw
    strength = cues.radar_strength(item.body.kind)
    velocity = item.body.speed * math.cos(heading), item.body.speed * math.sin(heading)
    points = []
    for _ in range(number):
        ahead, left = random.uniform(-0.5, 0.5, 2) * (length, width)
        offset = np.array([ahead * math.cos(yaw) - left * math.sin(yaw), ahead * math.sin(yaw) + left * math.cos(yaw)])
        if offset @ (x, y) > 0:  # the near half of the body reflects
            offset = -offset
        at_x, at_y = np.array([x, y]) + offset + random.normal(0, POSITION_NOISE, 2)
        points.append((at_x, at_y, *velocity, strength))
    return points


def encode(returns: NDArray[np.void]) -> bytes:
    """The returns as a ``.pcd`` file."""
    kinds = [FIELDS[name] for name in FIELDS.names or ()]
    header = [
        "# .PCD v0.7 - Point Cloud Data file format",
        "VERSION 0.7",
        "FIELDS " + " ".join(FIELDS.names or ()),
        "SIZE " + " ".join(str(kind.itemsize) for kind in kinds),
        "TYPE " + " ".join(kind.kind.upper() for kind in kinds),
        "COUNT " + " ".join("1" for _ in kinds),
        f"WIDTH {len(returns)}",
        "HEIGHT 1",
        "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {len(returns)}",
        "DATA binary",
    ]
    # The devkit wants a byte after the last return, as the official files have.
    return "\n".join(header).encode() + b"\n" + returns.tobytes() + b"\n"

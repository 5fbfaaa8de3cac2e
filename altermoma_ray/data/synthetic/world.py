"""Scenes: the drive of the car, the bodies around the car, and their motion.

Frames: global (see ``town``), ego (see ``rig``). Time is in seconds, 0 at a scene's first keyframe.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from altermoma_ray.data.synthetic import rig, town
from altermoma_ray.data.synthetic.area import ALL_AROUND, Area
from altermoma_ray.data.synthetic.cues import Cues
from altermoma_ray.data.synthetic.kinds import (
    CLUTTER,
    KINDS,
    RIDDEN_HEIGHT,
    RIDDEN_PARTS,
    Kind,
    Paint,
)

CLEARANCE = 0.6
"""Free space between objects (m)."""
EGO_CLEARANCE = 1.2
INSET = 0.03
"""A body stays this far inside its annotated box (m), so that range noise leaves most of its points in the box."""
ATTEMPTS = 40


@dataclass(frozen=True)
class EgoMotion:
    """Constant speed (m/s) and yaw rate (rad/s) from a pose at time 0."""

    x: float
    y: float
    yaw: float
    speed: float
    yaw_rate: float

    def pose(self, time: float) -> tuple[float, float, float]:
        """x, y (m) and yaw (rad), global."""
        turned = self.yaw + self.yaw_rate * time
        # The limit of the circle's formula, whose radius has no bound.
        if abs(self.yaw_rate) < 1e-9:
            distance = self.speed * time
            return self.x + distance * math.cos(self.yaw), self.y + distance * math.sin(self.yaw), turned
        # A signed radius: one formula for turns to either side.
        radius = self.speed / self.yaw_rate
        x = self.x + radius * (math.sin(turned) - math.sin(self.yaw))
        y = self.y - radius * (math.cos(turned) - math.cos(self.yaw))
        return x, y, turned


@dataclass(frozen=True, eq=False)
class Body:
    """An object or a piece of clutter: boxes in common motion at constant velocity."""

    kind: Kind
    size: tuple[float, float, float]
    """Annotated length, width, height (m)."""
    x: float
    y: float
    """Global position at time 0 (m)."""
    yaw: float
    speed: float
    """Along the yaw (m/s)."""
    attribute: str
    """The nuScenes attribute; empty where the class has none."""
    reflectivity: float
    centres: NDArray[np.float32]
    """[parts, 3] in the body frame (m)."""
    halves: NDArray[np.float32]
    """[parts, 3], half sizes (m)."""
    colours: NDArray[np.float32]
    """[parts, 2, 3]: RGB 0..255 outside and inside the band."""
    bands: NDArray[np.float32]
    """[parts, 2]: heights between which the band runs (m)."""

    def position(self, time: float) -> tuple[float, float]:
        """Global x, y (m)."""
        return self.x + self.speed * time * math.cos(self.yaw), self.y + self.speed * time * math.sin(self.yaw)

    @property
    def velocity(self) -> tuple[float, float]:
        """Global vx, vy (m/s)."""
        return self.speed * math.cos(self.yaw), self.speed * math.sin(self.yaw)


@dataclass(frozen=True)
class Look:
    """A scene's light."""

    brightness: float
    sun: float
    """Direction the light comes from (rad, global)."""
    haze: NDArray[np.float32]
    """RGB 0..255 of the horizon."""
    zenith: NDArray[np.float32]
    ground: NDArray[np.float32]
    """[len(town.SURFACES), 3] RGB 0..255."""


@dataclass(frozen=True)
class Scene:
    """The whole world of a scene's sensors.

    Example: a scene without clutter::

        scene.keep([body for body in scene.bodies if body.kind.category])
    """

    ego: EgoMotion
    bodies: tuple[Body, ...]
    look: Look

    def keep(self, bodies: list[Body]) -> Scene:
        """The same scene with these bodies only."""
        return replace(self, bodies=tuple(bodies))


def plan_scene(
    random: np.random.Generator,
    times: NDArray[np.float64],
    keyframes: NDArray[np.float64],
    cues: Cues,
    *,
    kinds: tuple[Kind, ...] = (*KINDS, *CLUTTER),
    area: Area = ALL_AROUND,
) -> Scene:
    """Draw a scene.

    Args:
        random: the scene's own generator.
        times: [T] moments at which any sensor fires; nothing collides between the first and the last.
        keyframes: [K] moments at which objects must be within the area.
        cues: what each sensor alone can tell of the bodies.
        kinds: what there is in the world.
        area: where it is.
    """
    ego = _plan_ego(random, float(times.max()))
    span = (float(times.min()), float(times.max()))
    # The car at four moments: a turn covers no rectangle, but four with clearance cover its arc.
    taken = [
        _rectangle(x, y, yaw, rig.EGO_CENTRE, rig.EGO_LENGTH / 2 + EGO_CLEARANCE, rig.EGO_WIDTH / 2 + EGO_CLEARANCE)
        for x, y, yaw in (ego.pose(time) for time in np.linspace(*span, 4))
    ]
    bodies: list[Body] = []
    # Long things first: they find no room later.
    wanted = [kind for kind in kinds for _ in range(random.integers(kind.count[0], kind.count[1] + 1))]
    for kind in sorted(wanted, key=lambda kind: -kind.size[0][1]):
        for _ in range(ATTEMPTS):
            body = _place(random, kind, ego, keyframes, cues, area)
            # A refused place counts as an attempt: a crowded scene ends with fewer bodies instead of never.
            if body is None:
                continue
            # The whole way between the first and the last exposure, so that nothing has to be checked at single
            # moments.
            outline = _swept(body, span)
            if not any(_overlap(outline, other) for other in taken):
                bodies.append(body)
                taken.append(outline)
                break
    return Scene(ego, tuple(bodies), _plan_look(random))


def _plan_ego(random: np.random.Generator, duration: float) -> EgoMotion:
    """Drive straight in a lane, stand, or turn at the crossroads: planned eastwards, then turned by quarters."""
    choice = random.random()
    if choice < 0.3:  # turn left from the inner lane, or right from the outer one
        left = random.random() < 0.5
        radius = random.uniform(9.0, 12.0) if left else random.uniform(5.0, 5.8)
        speed = random.uniform(3.0, 6.0) if left else random.uniform(2.0, 3.5)
        rate = speed / radius
        turned = random.uniform(0.0, math.pi / 2 - rate * duration)
        lane = town.LANE * (0.5 if left else 1.5)
        sign = 1.0 if left else -1.0
        x = sign * lane - radius + radius * math.sin(turned)
        y = -lane + sign * radius * (1 - math.cos(turned))
        yaw, rate = sign * turned, sign * rate
    else:
        speed = 0.0 if choice < 0.45 else random.uniform(1.5, 8.0)
        rate = yaw = 0.0
        x = random.uniform(-town.TILE / 2, town.TILE / 2)
        # Lane middles: half and one and a half lanes right of the road's middle, as traffic keeps to the right.
        y = -town.LANE * random.choice([0.5, 1.5])
    quarter = int(random.integers(4))
    for _ in range(quarter):
        x, y = -y, x
    # Keep to the inner tiles, so that the map covers all that is seen.
    column, row = random.integers(1, town.TILES - 1, 2)
    centre_x, centre_y = (column + 0.5) * town.TILE, (row + 0.5) * town.TILE
    return EgoMotion(centre_x + x, centre_y + y, yaw + quarter * math.pi / 2, speed, rate)


def _place(
    random: np.random.Generator, kind: Kind, ego: EgoMotion, keyframes: NDArray[np.float64], cues: Cues, area: Area
) -> Body | None:
    """A body of the kind somewhere around the car; None at a forbidden place, or if the body would leave the area.

    Args:
        random: the scene's generator.
        kind: of the body.
        ego: the car's motion.
        keyframes: [K] moments at which the body must be within the area.
        cues: what each sensor alone can tell of the body.
        area: where bodies are.
    """
    # Drawn about the middle of the scene, so that moving bodies leave the area as rarely before as after.
    middle = float(keyframes.mean())
    ego_x, ego_y, ego_yaw = ego.pose(middle)
    ahead, left = area.draw(random)
    x = ego_x + ahead * math.cos(ego_yaw) - left * math.sin(ego_yaw)
    y = ego_y + ahead * math.sin(ego_yaw) + left * math.cos(ego_yaw)
    surface = town.surface_at(x, y)
    if surface not in kind.surfaces:
        return None
    length, width, height = (random.uniform(*cues.size(limits)) for limits in kind.size)
    walks = kind.name == "pedestrian"
    moves = random.random() < kind.moving and (surface == "road" or walks)
    speed = random.uniform(*kind.speed) if moves else 0.0
    yaw = _heading(random, x, y, surface)
    if walks or not kind.category:
        yaw = random.uniform(-math.pi, math.pi)
    # Back along the way: the place drawn is the body's at the middle, but positions are kept for time 0.
    x -= speed * middle * math.cos(yaw)
    y -= speed * middle * math.sin(yaw)
    ridden = kind.riders and (moves or random.random() < 0.3)
    if ridden:
        height = random.uniform(*cues.size(RIDDEN_HEIGHT))
    body = _build(random, kind, (length, width, height), (x, y), yaw, speed, ridden, surface, cues)
    for time in keyframes:
        ego_x, ego_y, ego_yaw = ego.pose(float(time))
        at_x, at_y = body.position(float(time))
        ahead = (at_x - ego_x) * math.cos(ego_yaw) + (at_y - ego_y) * math.sin(ego_yaw)
        left = (at_y - ego_y) * math.cos(ego_yaw) - (at_x - ego_x) * math.sin(ego_yaw)
        if not area.holds(ahead, left):
            return None
    return body


def _heading(random: np.random.Generator, x: float, y: float, surface: str) -> float:
    """A yaw along the lane on a road, square to the bays or along the walkway elsewhere, with some slack.

    Args:
        random: the scene's generator.
        x: of the body, global (m).
        y: of the body, global (m).
        surface: at this place.
    """
    # Distances from the middles of the two roads of the tile.
    across_x, across_y = ((value % town.TILE) - town.TILE / 2 for value in (x, y))
    along_x, along_y = abs(across_y) < town.ROAD, abs(across_x) < town.ROAD
    # On the crossing itself both roads run, and neither gives a direction.
    if surface == "road" and along_x != along_y:
        lane = (0.0 if across_y < 0 else math.pi) if along_x else (math.pi / 2 if across_x > 0 else -math.pi / 2)
        return lane + random.normal(0.0, 0.05)
    return random.integers(4) * math.pi / 2 + random.normal(0.0, 0.2)


def _build(
    random: np.random.Generator,
    kind: Kind,
    size: tuple[float, float, float],
    position: tuple[float, float],
    yaw: float,
    speed: float,
    ridden: bool,
    surface: str,
    cues: Cues,
) -> Body:
    parts = RIDDEN_PARTS if ridden else kind.parts
    paints = [_colour(random, paint) for paint in kind.paints]
    # No inset at the bottom: bodies stand on the ground, and so do their boxes.
    inner = np.array(size) - [2 * INSET, 2 * INSET, INSET]
    low = np.array([part.low for part in parts]) * inner
    high = np.array([part.high for part in parts]) * inner
    return Body(
        kind=kind,
        size=size,
        x=position[0],
        y=position[1],
        # Into -π to π, like the yaws read back from quaternions.
        yaw=math.remainder(yaw, 2 * math.pi),
        speed=speed,
        attribute=_attribute(kind, speed > 0, ridden, surface),
        reflectivity=float(np.clip(random.normal(cues.reflectivity(kind), cues.reflectivity_spread), 8.0, 120.0)),
        centres=((low + high) / 2).astype(np.float32),
        halves=((high - low) / 2).astype(np.float32),
        colours=np.array([[paints[part.paint], paints[part.band_paint]] for part in parts], np.float32),
        bands=np.array([part.band for part in parts], np.float32) * np.float32(inner[2]),
    )


def _attribute(kind: Kind, moves: bool, ridden: bool, surface: str) -> str:
    if kind.name == "pedestrian":
        return "pedestrian.moving" if moves else "pedestrian.standing"
    if kind.riders:
        return "cycle.with_rider" if ridden else "cycle.without_rider"
    if kind.category.startswith("vehicle."):
        return "vehicle.moving" if moves else "vehicle.stopped" if surface == "road" else "vehicle.parked"
    return ""


def _colour(random: np.random.Generator, paint: Paint) -> NDArray[np.float32]:
    # All three are drawn, even of a range without width, so that a changed paint leaves later draws alone.
    hue, saturation, value = (random.uniform(*limits) for limits in (paint.hue, paint.saturation, paint.value))
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value), np.float32) * 255


def _plan_look(random: np.random.Generator) -> Look:
    # One row a surface, in the order of `town.SURFACES`.
    bases = np.array([(86, 110, 62), (92, 92, 96), (150, 144, 136), (112, 110, 112), (215, 215, 212), (205, 170, 60)])
    grey = random.uniform(170, 225)
    return Look(
        brightness=random.uniform(0.75, 1.1),
        sun=random.uniform(-math.pi, math.pi),
        haze=np.array([grey, grey + 3, grey + 8], np.float32),
        zenith=np.array([grey * random.uniform(0.5, 0.95), grey * 0.92, grey + 20], np.float32),
        ground=(bases * random.uniform(0.92, 1.08, (len(bases), 1))).astype(np.float32),
    )


def _rectangle(
    x: float, y: float, yaw: float, ahead: float, half_length: float, half_width: float
) -> NDArray[np.float64]:
    """[4, 2] corners of a rectangle whose centre lies ahead of a pose.

    Args:
        x: of the pose (m).
        y: of the pose (m).
        yaw: of the pose (rad).
        ahead: distance of the centre (m).
        half_length: along the yaw (m).
        half_width: across the yaw (m).
    """
    forward = np.array([math.cos(yaw), math.sin(yaw)])
    left = np.array([-forward[1], forward[0]])
    signs = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)])
    return np.array([x, y]) + ahead * forward + signs[:, :1] * half_length * forward + signs[:, 1:] * half_width * left


def _swept(body: Body, span: tuple[float, float]) -> NDArray[np.float64]:
    """[4, 2] corners of the area covered by a body between two moments: a rectangle, as motion is along the yaw."""
    start, stop = body.speed * span[0], body.speed * span[1]
    length, width, _ = body.size
    half_length, half_width = (length + stop - start + CLEARANCE) / 2, (width + CLEARANCE) / 2
    return _rectangle(body.x, body.y, body.yaw, (start + stop) / 2, half_length, half_width)


def _overlap(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Whether two rectangles share a point: no edge direction of either separates them."""
    # Separating axis theorem: two convex shapes are apart only if the direction of some edge shows a gap.
    for rectangle in (one, other):
        axes = rectangle[1:3] - rectangle[:2]
        first, second = one @ axes.T, other @ axes.T
        if np.any((first.max(0) < second.min(0)) | (second.max(0) < first.min(0))):
            return False
    return True

"""The objects of the synthetic town: the ten detection classes and unlabelled clutter, their sizes, shapes and paints.

Classes come in pairs of one shape and size, so that geometry, which both sensors see, does not name the class: truck
and construction vehicle, bus and trailer, motorcycle and bicycle, pedestrian and traffic cone. Paint names it to the
cameras; reflectivity, whose spread within a class is about the step between the two, hints it to the LiDAR. Clutter
has the same sizes in other colours. Car and barrier are told by their shape alone.

Body frame: x forward (length), y left (width), z up from the ground. A part is a box given in fractions of the body:
x and y in -0.5..0.5, z in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass

Range = tuple[float, float]


@dataclass(frozen=True)
class Paint:
    """A range of colours: hue, saturation and value, each in 0..1."""

    hue: Range
    saturation: Range
    value: Range


@dataclass(frozen=True)
class Cuboid:
    """One box of a body; ``paint`` and ``band_paint`` are positions in the kind's list of paints."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    paint: int = 0
    band: Range = (0.0, 0.0)
    """Heights between which the part wears ``band_paint``, in fractions of the body's height."""
    band_paint: int = 1


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A class of objects, or of clutter where the category is empty."""

    name: str
    category: str = ""
    """The nuScenes category; empty for clutter, which is not annotated."""
    size: tuple[Range, Range, Range]
    """Ranges of length, width and height (m)."""
    parts: tuple[Cuboid, ...]
    paints: tuple[Paint, ...]
    reflectivity: float
    """Mean LiDAR intensity, 0..255; objects of a kind spread by ``REFLECTIVITY_SPREAD``."""
    count: Range
    """How many of them a scene tries to place: a whole number drawn from this closed range."""
    surfaces: tuple[str, ...] = ("road", "walkway", "carpark")
    moving: float = 0.0
    """Share of moving objects."""
    speed: Range = (0.0, 0.0)
    """Speed (m/s) of the moving ones."""
    radar: float = 0.0
    """Mean number of radar returns."""
    riders: bool = False
    """Whether an object may carry a rider, who then sits in ``RIDDEN_PARTS``."""


# As wide as the steps between paired classes: the LiDAR alone guesses a class better than chance, but not well.
REFLECTIVITY_SPREAD = 10.0
RIDDEN_HEIGHT: Range = (1.55, 1.75)

# Hues run from 0 to 1 around the circle; a range beyond 1 wraps, so reds are written as 0.98 to 1.02.
_GLASS = Paint((0.55, 0.62), (0.2, 0.4), (0.12, 0.22))
_BLACK = Paint((0.0, 1.0), (0.0, 0.1), (0.08, 0.16))
_WHITE = Paint((0.0, 1.0), (0.0, 0.06), (0.88, 0.98))
_CLOTHES = Paint((0.0, 1.0), (0.3, 0.9), (0.25, 0.6))

# The numbers after the corners: paint, heights of a band, paint of the band (a window, a skirt).
_CAR_PARTS = (
    Cuboid((-0.5, -0.5, 0.0), (0.5, 0.5, 0.55), 0, (0.0, 0.16), 2),
    Cuboid((-0.36, -0.46, 0.55), (0.22, 0.46, 1.0), 0, (0.58, 0.9), 1),
)
_TRUCK_PARTS = (
    Cuboid((0.2, -0.5, 0.0), (0.5, 0.5, 0.8), 0, (0.48, 0.7), 2),
    Cuboid((-0.5, -0.5, 0.0), (0.17, 0.5, 1.0), 1, (0.0, 0.15), 2),
)
_LONG_PARTS = (
    Cuboid((-0.5, -0.5, 0.12), (0.5, 0.5, 1.0), 0, (0.45, 0.75), 1),
    Cuboid((-0.48, -0.48, 0.0), (0.48, 0.48, 0.12), 2),
)
_CYCLE_PARTS = (Cuboid((-0.5, -0.22, 0.0), (0.5, 0.22, 0.85), 0), Cuboid((0.18, -0.5, 0.8), (0.32, 0.5, 1.0), 0))
# A rider replaces the cycle's parts, and is part of the annotated box, as nuScenes annotates cycles.
RIDDEN_PARTS = (Cuboid((-0.5, -0.22, 0.0), (0.5, 0.22, 0.58), 0), Cuboid((-0.2, -0.5, 0.4), (0.2, 0.5, 1.0), 1))
_COLUMN_PARTS = (
    Cuboid((-0.5, -0.5, 0.0), (0.5, 0.5, 0.72), 0, (0.3, 0.5), 1),
    Cuboid((-0.3, -0.3, 0.72), (0.3, 0.3, 1.0), 2),
)
_BLOCK_PARTS = (Cuboid((-0.5, -0.5, 0.0), (0.5, 0.5, 1.0), 0, (0.38, 0.72), 1),)

# Shared by both classes of a pair and by clutter: sizes must tell nothing, or the cameras would be superfluous.
_TRUCK_SIZE = ((5.4, 6.8), (2.2, 2.5), (2.4, 2.9))
_LONG_SIZE = ((7.6, 9.2), (2.5, 2.8), (2.9, 3.4))
_CYCLE_SIZE = ((1.7, 2.1), (0.6, 0.8), (1.05, 1.25))
_COLUMN_SIZE = ((0.45, 0.65), (0.45, 0.65), (1.15, 1.55))
_BARRIER_SIZE = ((0.4, 0.6), (1.9, 2.5), (0.9, 1.1))

# The order is the order of the category table, and part of the draws: another order gives another town.
KINDS = (
    Kind(
        name="car",
        category="vehicle.car",
        size=((4.1, 4.8), (1.75, 1.95), (1.45, 1.7)),
        parts=_CAR_PARTS,
        paints=(Paint((0.0, 1.0), (0.0, 0.12), (0.25, 0.85)), _GLASS, _BLACK),
        reflectivity=38,
        count=(2, 3),
        surfaces=("road", "carpark"),
        moving=0.5,
        speed=(2.0, 8.0),
        radar=2.5,
    ),
    Kind(
        name="truck",
        category="vehicle.truck",
        size=_TRUCK_SIZE,
        parts=_TRUCK_PARTS,
        paints=(_WHITE, Paint((0.57, 0.63), (0.7, 0.95), (0.55, 0.8)), _GLASS),
        # 36 against the construction vehicle's 48: the step is about `REFLECTIVITY_SPREAD`, see the module's text.
        reflectivity=36,
        count=(1, 2),
        surfaces=("road", "carpark"),
        moving=0.4,
        speed=(2.0, 6.0),
        radar=4.0,
    ),
    Kind(
        name="construction_vehicle",
        category="vehicle.construction",
        size=_TRUCK_SIZE,
        parts=_TRUCK_PARTS,
        paints=(
            Paint((0.12, 0.15), (0.85, 1.0), (0.8, 0.95)),
            Paint((0.12, 0.15), (0.85, 1.0), (0.75, 0.95)),
            _BLACK,
        ),
        reflectivity=48,
        count=(1, 2),
        surfaces=("road", "carpark"),
        moving=0.3,
        speed=(1.0, 3.0),
        radar=4.0,
    ),
    Kind(
        name="bus",
        category="vehicle.bus.rigid",
        size=_LONG_SIZE,
        parts=_LONG_PARTS,
        paints=(Paint((0.98, 1.02), (0.8, 0.95), (0.6, 0.8)), _GLASS, _BLACK),
        reflectivity=34,
        count=(1, 1),
        surfaces=("road", "carpark"),
        moving=0.5,
        speed=(2.0, 6.0),
        radar=5.0,
    ),
    Kind(
        name="trailer",
        category="vehicle.trailer",
        size=_LONG_SIZE,
        parts=_LONG_PARTS,
        paints=(_WHITE, Paint((0.0, 1.0), (0.0, 0.06), (0.75, 0.85)), _BLACK),
        reflectivity=46,
        count=(1, 1),
        surfaces=("road", "carpark"),
        moving=0.3,
        speed=(2.0, 5.0),
        radar=5.0,
    ),
    Kind(
        name="barrier",
        category="movable_object.barrier",
        size=_BARRIER_SIZE,
        parts=_BLOCK_PARTS,
        paints=(_WHITE, Paint((0.98, 1.01), (0.75, 0.9), (0.7, 0.85))),
        reflectivity=55,
        count=(2, 4),
        radar=0.8,
    ),
    Kind(
        name="motorcycle",
        category="vehicle.motorcycle",
        size=_CYCLE_SIZE,
        parts=_CYCLE_PARTS,
        paints=(Paint((0.98, 1.02), (0.85, 1.0), (0.55, 0.8)), _CLOTHES),
        reflectivity=34,
        count=(2, 3),
        moving=0.5,
        speed=(2.0, 7.0),
        radar=1.0,
        riders=True,
    ),
    Kind(
        name="bicycle",
        category="vehicle.bicycle",
        size=_CYCLE_SIZE,
        parts=_CYCLE_PARTS,
        paints=(Paint((0.47, 0.53), (0.85, 1.0), (0.75, 0.95)), _CLOTHES),
        reflectivity=46,
        count=(2, 3),
        moving=0.5,
        speed=(1.5, 5.0),
        radar=0.7,
        riders=True,
    ),
    Kind(
        name="pedestrian",
        category="human.pedestrian.adult",
        size=_COLUMN_SIZE,
        parts=_COLUMN_PARTS,
        paints=(
            Paint((0.72, 0.82), (0.6, 0.9), (0.5, 0.8)),
            Paint((0.72, 0.82), (0.6, 0.9), (0.4, 0.7)),
            Paint((0.05, 0.08), (0.35, 0.6), (0.5, 0.85)),
        ),
        reflectivity=30,
        count=(3, 4),
        moving=0.6,
        speed=(0.6, 1.8),
        radar=0.5,
    ),
    Kind(
        name="traffic_cone",
        category="movable_object.trafficcone",
        size=_COLUMN_SIZE,
        parts=_COLUMN_PARTS,
        paints=(
            Paint((0.04, 0.07), (0.9, 1.0), (0.9, 1.0)),
            _WHITE,
            Paint((0.04, 0.07), (0.9, 1.0), (0.9, 1.0)),
        ),
        reflectivity=42,
        count=(3, 4),
        radar=0.1,
    ),
)

_LEAVES = Paint((0.27, 0.36), (0.5, 0.8), (0.2, 0.4))
_WOOD = Paint((0.06, 0.09), (0.4, 0.6), (0.2, 0.35))

# Clutter has the sizes of classes, so that an unlabelled shape is met by every model: without clutter, each box of a
# size would be an object, and a detector would never learn to refuse.
CLUTTER = (
    Kind(
        name="pole",
        size=((0.25, 0.35), (0.25, 0.35), (2.8, 3.6)),
        parts=_BLOCK_PARTS,
        paints=(Paint((0.0, 1.0), (0.0, 0.1), (0.35, 0.5)), Paint((0.0, 1.0), (0.0, 0.1), (0.35, 0.5))),
        reflectivity=30,
        count=(1, 3),
        surfaces=("walkway", "carpark", "grass"),
    ),
    Kind(
        name="bin",
        size=_COLUMN_SIZE,
        parts=_COLUMN_PARTS,
        # A column's size and shape in green: only colour tells a bin from a pedestrian or a cone.
        paints=(_LEAVES, _LEAVES, _LEAVES),
        reflectivity=36,
        count=(1, 3),
        surfaces=("walkway", "carpark", "grass"),
    ),
    Kind(
        name="hedge",
        size=_BARRIER_SIZE,
        parts=_BLOCK_PARTS,
        paints=(_LEAVES, _LEAVES),
        reflectivity=22,
        count=(1, 3),
        surfaces=("walkway", "carpark", "grass"),
    ),
    Kind(
        name="shed",
        size=_TRUCK_SIZE,
        parts=_TRUCK_PARTS,
        paints=(_WOOD, _WOOD, _WOOD),
        reflectivity=30,
        count=(0, 1),
        surfaces=("carpark", "grass"),
    ),
)

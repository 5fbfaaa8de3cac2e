"""Pictures of one annotated object: cut out of a camera's picture, and seen from above among LiDAR points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Floats = NDArray[np.floating]

SIZE = 280
"""Width and height of either view (px)."""
REACH = 12.0
"""Metres from the object's centre to the edge of the view from above."""
LEAST_DEPTH = 0.5
"""Distance of every corner before a camera (m): a nearer box has no outline in the picture."""
# Corners 0 to 3 are a box's bottom, 4 to 7 its top.
EDGES = [(a, b) for a in range(4) for b in ((a + 1) % 4, a + 4)] + [(4 + a, 4 + (a + 1) % 4) for a in range(4)]
_BOX, _VEHICLE, _GROUND = "#ff8c1a", "#4da3ff", "#101418"


def cut_out(picture: Image.Image, corners: Floats) -> Image.Image:
    """The surroundings of a box in a picture, with the box's edges; square, :data:`SIZE` wide.

    Args:
        picture: RGB.
        corners: [8, 2] pixels of the box: the four of the bottom, then the four of the top in the same order.
    """
    low, high = corners.min(axis=0), corners.max(axis=0)
    # No more than the picture's height, and no less than shows what a small object stands beside.
    half = float(np.clip(0.8 * (high - low).max(), 40, picture.height / 2))
    left, top = (low + high) / 2 - half
    # Pillow fills what lies outside of the picture with black.
    found = picture.crop((round(left), round(top), round(left + 2 * half), round(top + 2 * half)))
    found = found.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    _lines(found, (corners - (left, top)) * SIZE / (2 * half), EDGES)
    return found


def from_above(points: Floats, outline: Floats) -> Image.Image:
    """A box on the ground among points, with a dot at the vehicle if it is near; :data:`SIZE` wide.

    Args:
        points: [P, 2] to the right and ahead of the vehicle (m).
        outline: [4, 2] corners of the box (m).
    """
    picture = Image.new("RGB", (SIZE, SIZE), _GROUND)
    # Ahead is up, where rows of pixels count downwards.
    scale, centre = SIZE / (2 * REACH) * np.array([1.0, -1.0]), outline.mean(axis=0)
    places = np.floor((points - centre) * scale + SIZE / 2).astype(int)
    inside = places[((places >= 0) & (places < SIZE)).all(axis=1)]
    pixels = np.array(picture)
    pixels[inside[:, 1], inside[:, 0]] = 230
    picture = Image.fromarray(pixels)
    _lines(picture, (outline - centre) * scale + SIZE / 2, EDGES[:8:2])
    x, y = -centre * scale + SIZE / 2
    ImageDraw.Draw(picture).ellipse((x - 4, y - 4, x + 4, y + 4), fill=_VEHICLE)
    return picture


def side_by_side(views: list[Image.Image]) -> Image.Image:
    """Views of :data:`SIZE` in one picture."""
    picture = Image.new("RGB", (SIZE * len(views), SIZE))
    for number, view in enumerate(views):
        picture.paste(view, (SIZE * number, 0))
    return picture


def _lines(picture: Image.Image, corners: Floats, edges: list[tuple[int, int]]) -> None:
    draw = ImageDraw.Draw(picture)
    for start, end in edges:
        draw.line([*corners[start].tolist(), *corners[end].tolist()], fill=_BOX, width=2)

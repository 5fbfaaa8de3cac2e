"""Annotated objects as a model finds them, for the certificate of a champion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FoundObject:
    """One annotated object, and how surely a model finds it.

    >>> car = FoundObject(name="7f3a", row=12, slices={"class": "car", "range": "20 to 30 m"}, score=0.81)
    >>> car.score >= 0.5
    True
    """

    name: str
    """Of the annotation, unique in the data set."""
    row: int
    """The data source's row of the object's sample."""
    slices: Mapping[str, str]
    """The value of each property that objects are counted by, such as ``{"class": "car"}``."""
    score: float
    """Confidence of the prediction matched with the object, above 0; 0 where no prediction is."""


@dataclass(frozen=True, kw_only=True)
class FoundObjects:
    """All objects of some samples, and the predictions that match none of them."""

    objects: tuple[FoundObject, ...]
    """In an order that does not depend on the predictions."""
    false_alarms: tuple[float, ...]
    """Confidences of the predictions without an object."""

"""Every number and every token of the nuScenes tables, checked once before anything works with them.

A box of no size, a quaternion of another length than 1 or a NaN in a pose would surface late, if at all: as boxes
missing from training, or as a failed assertion of the official evaluation after all trials were paid for.

Tables are the lists of records in their JSON files. A column of numbers alone is checked as one array. Only where the
array cannot be made is each value looked at, to name the records at fault.

Example: a description of the first fault of some tables::

    faults = find_faults(tables)
    describe_fault(tables, faults[0])
    # 'size of sample_annotation 3f… is [0, 1, 1], but must be three numbers above 0 and up to 1000 m'
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from altermoma_ray.data.nuscenes.faults import COPY, LATEST, MISSING, Fault, Tables, token_of
from altermoma_ray.data.nuscenes.relations import WAYS, doubled_files, strangers, wrong_order
from altermoma_ray.errors import UserError

FARTHEST = 1e8
"""Metres: coordinates of every map projection are nearer."""
LARGEST = 1e3
"""Metres: no box is longer."""
UNIT_TOLERANCE = 1e-3
"""Greatest difference between 1 and the length of a rotation's quaternion."""


@dataclass(frozen=True)
class _Rule:
    """A condition on the numbers of a column; ``shape`` is the shape of one value."""

    shape: tuple[int, ...]
    text: str
    holds: Callable[[np.ndarray], np.ndarray]
    """[N, *shape] to [N] bool."""

    def broken(self, values: Sequence[Any]) -> list[int]:
        """Places of the values against the rule."""
        # Comparing sets of types and lengths is as fast as Python gets: the full data set has millions of values.
        flat = values
        for length in self.shape:
            if {*map(type, flat)} <= {list} and {*map(len, flat)} <= {length}:
                flat = [*chain.from_iterable(flat)]
        if {*map(type, flat)} <= {int, float}:  # not bool, which NumPy would take for 0 and 1
            try:
                column = np.array(flat, dtype=float).reshape(len(values), *self.shape)
            except OverflowError:  # an integer beyond the range of floats; the single values will tell
                pass
            else:
                with np.errstate(all="ignore"):
                    return np.nonzero(~self.holds(column))[0].tolist()
        return [place for place, value in enumerate(values) if not self.holds_for(value)]

    def holds_for(self, value: Any) -> bool:
        if not _is_numeric(value, self.shape):
            return False
        try:
            single = np.array([value], dtype=float)
        except OverflowError:
            return False
        with np.errstate(all="ignore"):
            return bool(self.holds(single)[0])


def _is_numeric(value: Any, shape: tuple[int, ...]) -> bool:
    if not shape:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, list) and len(value) == shape[0] and all(_is_numeric(part, shape[1:]) for part in value)


def _finite(column: np.ndarray) -> np.ndarray:
    return np.isfinite(column).all(axis=tuple(range(1, column.ndim)))


def _whole(column: np.ndarray) -> np.ndarray:
    return np.isfinite(column) & (column >= 0) & (column == np.floor(column)) & (column < 2**62)


# Comparisons with NaN are false: `abs(column) <= limit` refuses NaN and infinite numbers along with large ones.
_PLACE = _Rule(
    (3,), f"three finite numbers within {FARTHEST:.0e} m", lambda column: (np.abs(column) <= FARTHEST).all(1)
)
_SIZE = _Rule(
    (3,), f"three numbers above 0 and up to {LARGEST:g} m", lambda column: ((column > 0) & (column <= LARGEST)).all(1)
)
_TIME = _Rule(
    (),
    f"a whole number of microseconds above 0 and below {LATEST}",
    lambda column: _whole(column) & (column > 0) & (column < LATEST),
)
_ROTATION = _Rule(
    (4,),
    f"a unit quaternion (length 1 to {UNIT_TOLERANCE:g})",
    lambda column: _finite(column) & (np.abs(np.linalg.norm(column, axis=1) - 1) <= UNIT_TOLERANCE),
)
_COUNT = _Rule((), "a whole number of at least 0", lambda column: _whole(column) & (column < 2**30))
_PIXELS = _Rule((), "a whole number above 0", lambda column: _whole(column) & (column > 0))
_INTRINSIC = _Rule(
    (3, 3),
    "3 x 3 finite numbers with focal lengths above 0 and last row 0, 0, 1",
    lambda column: (
        _finite(column) & (column[:, 0, 0] > 0) & (column[:, 1, 1] > 0) & (column[:, 2] == [0, 0, 1]).all(axis=1)
    ),
)

_NUMBERS: tuple[tuple[str, str, _Rule], ...] = (
    ("sample_annotation", "translation", _PLACE),
    ("sample_annotation", "size", _SIZE),
    ("sample_annotation", "rotation", _ROTATION),
    ("sample_annotation", "num_lidar_pts", _COUNT),
    ("sample_annotation", "num_radar_pts", _COUNT),
    ("ego_pose", "translation", _PLACE),
    ("ego_pose", "rotation", _ROTATION),
    ("calibrated_sensor", "translation", _PLACE),
    ("calibrated_sensor", "rotation", _ROTATION),
    ("sample_data", "timestamp", _TIME),
    ("sample", "timestamp", _TIME),
    ("scene", "nbr_samples", _COUNT),
    ("instance", "nbr_annotations", _COUNT),
)
# Other sensors have an empty intrinsic matrix and pictures of 0 × 0 pixels.
_OF_CAMERAS: tuple[tuple[str, str, _Rule], ...] = (
    ("calibrated_sensor", "camera_intrinsic", _INTRINSIC),
    ("sample_data", "width", _PIXELS),
    ("sample_data", "height", _PIXELS),
)

_REFERENCES: tuple[tuple[str, str, str], ...] = (
    ("calibrated_sensor", "sensor_token", "sensor"),
    ("scene", "log_token", "log"),
    ("scene", "first_sample_token", "sample"),
    ("scene", "last_sample_token", "sample"),
    ("sample", "scene_token", "scene"),
    ("sample_data", "sample_token", "sample"),
    ("sample_data", "ego_pose_token", "ego_pose"),
    ("sample_data", "calibrated_sensor_token", "calibrated_sensor"),
    ("instance", "category_token", "category"),
    ("sample_annotation", "sample_token", "sample"),
    ("sample_annotation", "instance_token", "instance"),
)
"""Table, field, and the table in which the field's token must occur."""
_CHAINED = ("sample", "sample_data", "sample_annotation")
"""Tables whose records name their predecessor and successor, or an empty text."""
_NAMES: tuple[tuple[str, str], ...] = (
    ("scene", "name"),
    ("log", "location"),
    ("category", "name"),
    ("attribute", "name"),
    ("sensor", "channel"),
    ("sensor", "modality"),
    ("sample_data", "filename"),
)


def check_records(tables: Tables, place: str) -> None:
    """Make sure of lists of records with tokens of their own, the ground of all other checks.

    Args:
        tables: the content of the JSON files.
        place: the tables' folder, for the message.

    Raises:
        UserError: a table is no list of records, or a token is missing or occurs twice.
    """
    for name, records in tables.items():
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise UserError(f"table {name} in {place} is no list of records; {COPY}")
        seen: set[str] = set()
        for number, record in enumerate(records):
            token = record.get("token")
            if not isinstance(token, str) or not token:
                raise UserError(f"record {number} of table {name} in {place} has no token; {COPY}")
            if token in seen:
                raise UserError(f"table {name} in {place} has two records with the token {token!r}; {COPY}")
            seen.add(token)


def find_faults(tables: Tables) -> list[Fault]:
    """All faults of single records: impossible numbers, missing names and tokens, times out of order.

    Args:
        tables: after :func:`check_records`.
    """
    faults = [_numbers(tables, table, field, rule) for table, field, rule in _NUMBERS]
    cameras = _camera_records(tables)
    faults += [_numbers(tables, table, field, rule, cameras[table]) for table, field, rule in _OF_CAMERAS]
    faults += [_names(tables, table, field) for table, field in _NAMES]
    tokens = {name: {record["token"] for record in records} for name, records in tables.items()}
    faults += [_reference(tables, tokens, *reference) for reference in _REFERENCES]
    faults += [_attributes(tables, tokens), _keyframe_flags(tables)]
    faults += [_reference(tables, tokens, "sample_annotation", "visibility_token", "visibility", optional=True)]
    for table in _CHAINED:
        faults += [_reference(tables, tokens, table, field, table, optional=True) for field in WAYS]
    faults += [strangers(tables, table, way) for table in ("sample_annotation", "sample_data") for way in WAYS]
    faults += [doubled_files(tables)]
    # The order of annotations follows from their samples' times, which must be sound first.
    if not any(fault.records for fault in faults if fault.table == "sample"):
        faults += [wrong_order(tables, table, way) for table in _CHAINED for way in WAYS]
    return [fault for fault in faults if fault.records]


def _numbers(tables: Tables, table: str, field: str, rule: _Rule, places: Sequence[int] | None = None) -> Fault:
    records = tables[table]
    where = range(len(records)) if places is None else places
    broken = rule.broken([records[place].get(field, MISSING) for place in where])
    return Fault(table, field, rule.text, [where[place] for place in broken], numeric=True)


def _names(tables: Tables, table: str, field: str) -> Fault:
    records = tables[table]
    broken = [place for place, record in enumerate(records) if not _is_text(record.get(field))]
    return Fault(table, field, "text", broken)


def _is_text(value: Any) -> bool:
    """Whether a value is a text, not empty and fit to be written; half of a surrogate pair is not."""
    try:
        return isinstance(value, str) and bool(value.encode())
    except UnicodeEncodeError:
        return False


def _reference(
    tables: Tables, tokens: dict[str, set[str]], table: str, field: str, target: str, *, optional: bool = False
) -> Fault:
    # The first and the last record of a chain have an empty text in the place of a neighbour.
    known: Iterable[str] = tokens[target] | {""} if optional else tokens[target]
    broken = []
    for place, record in enumerate(tables[table]):
        token = record.get(field)
        if not isinstance(token, str) or token not in known:
            broken.append(place)
    return Fault(table, field, f"the token of a record in table {target}", broken)


def _attributes(tables: Tables, tokens: dict[str, set[str]]) -> Fault:
    known, broken = tokens["attribute"], []
    for place, record in enumerate(tables["sample_annotation"]):
        value = record.get("attribute_tokens")
        if not isinstance(value, list) or not all(isinstance(token, str) and token in known for token in value):
            broken.append(place)
    return Fault("sample_annotation", "attribute_tokens", "a list of tokens of records in table attribute", broken)


def _keyframe_flags(tables: Tables) -> Fault:
    broken = [
        place for place, record in enumerate(tables["sample_data"]) if record.get("is_key_frame") not in (True, False)
    ]
    return Fault("sample_data", "is_key_frame", "true or false", broken)


def _camera_records(tables: Tables) -> dict[str, list[int]]:
    """Places of the cameras' records in their tables."""
    sensors = {record["token"] for record in tables["sensor"] if record.get("modality") == "camera"}
    calibrated = [
        place for place, record in enumerate(tables["calibrated_sensor"]) if token_of(record, "sensor_token") in sensors
    ]
    tokens = {tables["calibrated_sensor"][place]["token"] for place in calibrated}
    frames = [
        place
        for place, record in enumerate(tables["sample_data"])
        if token_of(record, "calibrated_sensor_token") in tokens
    ]
    return {"calibrated_sensor": calibrated, "sample_data": frames}

"""Faults of nuScenes tables: records that break a rule, counted and put into words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]
Tables = dict[str, list[Record]]
"""The records of each table, by its name."""

LATEST = 2**53
"""Microseconds: the year 2255. Nanoseconds since 1970, another habit, are more."""
_LEFT_OUT = ("ego_pose", "calibrated_sensor", "sample_data")
# Stands for the value of a missing field: a JSON file may hold null, so None would not do.
MISSING = object()
COPY = "copy the tables again"
"""The remedy of tables that were damaged on their way."""


@dataclass(frozen=True)
class Fault:
    """Records of one table with the same fault: one rule broken in one field.

    >>> Fault("ego_pose", "rotation", "a unit quaternion", [3], numeric=True).can_be_left_out
    True
    """

    table: str
    field: str
    rule: str
    records: Sequence[int]
    """Their places in the table."""
    numeric: bool = False
    """Whether the fault lies in a number, not in a token or a name, by which the tables hold together."""

    @property
    def can_be_left_out(self) -> bool:
        """Whether the records can be left out: boxes always; poses, calibrations and frames for wrong numbers only."""
        return self.table == "sample_annotation" or (self.numeric and self.table in _LEFT_OUT)


def describe_fault(tables: Tables, fault: Fault) -> str:
    """A fault in words: its first record is named, the others are counted."""
    first = tables[fault.table][fault.records[0]]
    value = first.get(fault.field, MISSING)
    found = "is missing" if value is MISSING else f"is {_short(value)}"
    more = len(fault.records) - 1
    like = f" ({more} more record{'s' if more > 1 else ''} like it)" if more else ""
    return f"{fault.field} of {fault.table} {first['token']} {found}, but must be {fault.rule}{like}"


def token_of(record: Record, field: str) -> str:
    """A token of a record; empty where the field holds no text."""
    # A list in the place of a token, looked up in a set, would raise a TypeError.
    value = record.get(field)
    return value if isinstance(value, str) else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

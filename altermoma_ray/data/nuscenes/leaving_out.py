"""Takes records out of the nuScenes tables, with all records which need them, and joins their neighbours.

Example: without the annotations of impossible numbers::

    left_out = leave_out_faulty(tables, find_faults(tables))  # {"invalid_annotations": 3}
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain

from altermoma_ray.data.nuscenes.faults import Fault, Record, Tables

USED = ("camera", "lidar")
"""Sensors needed by a keyframe: without their frame the keyframe is left out. A radar's frame is left out alone."""

MISSING = "is_missing"
"""Field in the ``sample_data`` record of a sweep whose file is missing."""

LeftOut = dict[str, int]
"""Number of records left out, by kind."""


def left_out_text(left_out: LeftOut) -> str:
    """The counts in words.

    >>> left_out_text({"invalid_annotations": 3, "scenes_without_files": 1})
    '3 invalid annotations, 1 scenes without files'
    """
    return ", ".join(f"{number} {kind.replace('_', ' ')}" for kind, number in left_out.items())


def leave_out_faulty(tables: Tables, faults: Iterable[Fault]) -> LeftOut:
    """Take out the records at fault: boxes alone, and keyframes with all of theirs if a pose or calibration is wrong.

    Args:
        tables: changed in place.
        faults: faults whose records may be left out.

    Returns:
        ``invalid_annotations``, ``invalid_frames`` (of sensors) and ``invalid_keyframes``, where there are any.
    """
    bad: dict[str, set[str]] = {name: set() for name in tables}
    for fault in faults:
        bad[fault.table].update(tables[fault.table][place]["token"] for place in fault.records)
    # A wrong pose or calibration spoils every frame with a reference to this record.
    frames = {
        record["token"]
        for record in tables["sample_data"]
        if record["token"] in bad["sample_data"]
        or record.get("ego_pose_token") in bad["ego_pose"]
        or record.get("calibrated_sensor_token") in bad["calibrated_sensor"]
    }
    modality = modality_of(tables)
    keyframes = {
        record["sample_token"]
        for record in tables["sample_data"]
        if record["token"] in frames and record.get("is_key_frame") and modality(record) in USED
    }
    count = {
        "invalid_annotations": len(bad["sample_annotation"]),
        "invalid_frames": len(frames),
        "invalid_keyframes": len(keyframes),
    }
    # Counted before: taking keyframes out below removes further annotations and frames, which are no faults of their
    # own.
    _take_out(tables, "sample_annotation", bad["sample_annotation"])
    _take_out(tables, "sample_data", frames)
    _take_out_keyframes(tables, keyframes)
    return {name: number for name, number in count.items() if number}


def leave_out_missing(tables: Tables, there: Callable[[Sequence[str]], Collection[str]]) -> LeftOut:
    """Take out scenes whose keyframes lack a picture or LiDAR file, and mark sweeps without files.

    Args:
        tables: changed in place.
        there: a function from file names to the existing ones among them.

    Returns:
        ``scenes_without_files`` and ``sweeps_without_files``, where there are any.
    """
    modality = modality_of(tables)
    needed = [
        record
        for record in tables["sample_data"]
        if (record["is_key_frame"] and modality(record) in USED) or modality(record) == "lidar"
    ]
    existing = there([record["filename"] for record in needed])
    missing = [record for record in needed if record["filename"] not in existing]
    scene_of = {record["token"]: record["scene_token"] for record in tables["sample"]}
    scenes = {scene_of[record["sample_token"]] for record in missing if record["is_key_frame"]}
    sweeps = [
        record
        for record in missing
        if not record["is_key_frame"] and scene_of.get(record["sample_token"]) not in scenes
    ]
    for record in sweeps:  # a missing sweep keeps its place in the chain, or an older sweep would take its place
        record[MISSING] = True
    keyframes = {token for token, scene in scene_of.items() if scene in scenes}
    # Frames between keyframes belong to a scene by their sample.
    others = {record["token"] for record in tables["sample_data"] if record["sample_token"] in keyframes}
    _take_out(tables, "sample_data", others)
    _take_out_keyframes(tables, keyframes)
    count = {"scenes_without_files": len(scenes), "sweeps_without_files": len(sweeps)}
    return {name: number for name, number in count.items() if number}


def modality_of(tables: Tables) -> Callable[[Record], str]:
    """A function for the kind of sensor (``camera``, ``lidar``, ``radar``) of a record in ``sample_data``."""
    sensors = {record["token"]: record["modality"] for record in tables["sensor"]}
    calibrated = {
        record["token"]: sensors.get(record.get("sensor_token"), "") for record in tables["calibrated_sensor"]
    }
    return lambda record: calibrated.get(record.get("calibrated_sensor_token"), "")


def _take_out_keyframes(tables: Tables, keyframes: Collection[str]) -> None:
    """Take out samples, their annotations and their frames, and scenes without any sample left."""
    if not keyframes:
        return
    # The children first: they are found by the tokens of the samples, which the last line takes out.
    for table in ("sample_annotation", "sample_data"):
        gone = {
            record["token"]
            for record in tables[table]
            if record["sample_token"] in keyframes and (table == "sample_annotation" or record["is_key_frame"])
        }
        _take_out(tables, table, gone)
    after = {record["token"]: record["next"] for record in tables["sample"]}
    scenes = []
    for scene in tables["scene"]:
        first = scene["first_sample_token"]
        while first in keyframes:
            first = after[first]
        if first:
            scenes.append({**scene, "first_sample_token": first})
    tables["scene"][:] = scenes
    # Frames between keyframes stay, though they name the nearest keyframe, which may be gone: a later keyframe has them
    # as sweeps, and nothing asks for the keyframe named in them.
    _take_out(tables, "sample", keyframes)


def _take_out(tables: Tables, table: str, gone: Collection[str]) -> None:
    """Take records out of a chained table; the records before and after them become neighbours.

    Args:
        tables: changed in place.
        table: name of the table.
        gone: tokens of the records to take out.
    """
    if not gone:
        return
    by_token = {record["token"]: record for record in tables[table]}

    def beyond(token: str, way: str) -> str:
        # A damaged chain may come back to itself; a token passed before ends the walk.
        passed = set()
        while isinstance(token, str) and token in gone and token not in passed:
            passed.add(token)
            token = by_token[token].get(way) or ""
        return token if isinstance(token, str) and token in by_token and token not in gone else ""

    kept = [record for record in tables[table] if record["token"] not in gone]
    for record, way in chain(((one, "prev") for one in kept), ((one, "next") for one in kept)):
        if record[way] in gone:
            record[way] = beyond(record[way], way)
    tables[table][:] = kept

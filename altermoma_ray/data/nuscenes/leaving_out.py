"""Takes records out of the nuScenes tables, with all that needs them, and joins what was before and after them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain

from altermoma_ray.data.nuscenes.checks import Fault, Record, Tables

USED = ("camera", "lidar")
"""Sensors without which a keyframe is left out; a radar's frame alone is."""

MISSING = "is_missing"
"""Field of a sweep in ``sample_data`` whose file is not there."""

LeftOut = dict[str, int]
"""How many records were left out, by kind."""


def left_out_text(left_out: LeftOut) -> str:
    """The counts in words.

    >>> left_out_text({"invalid_annotations": 3, "scenes_without_files": 1})
    '3 invalid annotations, 1 scenes without files'
    """
    return ", ".join(f"{number} {kind.replace('_', ' ')}" for kind, number in left_out.items())


def leave_out_faulty(tables: Tables, faults: Iterable[Fault]) -> LeftOut:
    """Take out the records at fault: boxes alone, and keyframes with all of theirs if a pose or calibration is wrong.

    Args:
        tables: are changed.
        faults: those that can be left out.

    Returns:
        ``invalid_annotations``, ``invalid_frames`` (of sensors) and ``invalid_keyframes``, where there are any.
    """
    bad: dict[str, set[str]] = {name: set() for name in tables}
    for fault in faults:
        bad[fault.table].update(tables[fault.table][place]["token"] for place in fault.records)
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
    _take_out(tables, "sample_annotation", bad["sample_annotation"])
    _take_out(tables, "sample_data", frames)
    _take_out_keyframes(tables, keyframes)
    return {name: number for name, number in count.items() if number}


def leave_out_missing(tables: Tables, there: Callable[[Sequence[str]], Collection[str]]) -> LeftOut:
    """Take out scenes with a picture or LiDAR file of a keyframe that is not there, and mark sweeps that are not.

    Args:
        tables: are changed.
        there: those of the named files that exist.

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
    for record in sweeps:  # it keeps its place in the chain, so that no older sweep takes it
        record[MISSING] = True
    keyframes = {token for token, scene in scene_of.items() if scene in scenes}
    # Frames between keyframes belong to a scene by their sample.
    others = {record["token"] for record in tables["sample_data"] if record["sample_token"] in keyframes}
    _take_out(tables, "sample_data", others)
    _take_out_keyframes(tables, keyframes)
    count = {"scenes_without_files": len(scenes), "sweeps_without_files": len(sweeps)}
    return {name: number for name, number in count.items() if number}


def modality_of(tables: Tables) -> Callable[[Record], str]:
    """Tells the kind of sensor of a record in ``sample_data``."""
    sensors = {record["token"]: record["modality"] for record in tables["sensor"]}
    calibrated = {
        record["token"]: sensors.get(record.get("sensor_token"), "") for record in tables["calibrated_sensor"]
    }
    return lambda record: calibrated.get(record.get("calibrated_sensor_token"), "")


def _take_out_keyframes(tables: Tables, keyframes: Collection[str]) -> None:
    """Take out samples, their annotations and their frames, and scenes of which nothing is left."""
    if not keyframes:
        return
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
    # Frames between keyframes stay, though they name the nearest keyframe, which may be gone: a later one has them as
    # sweeps, and nothing asks for the keyframe that they name.
    _take_out(tables, "sample", keyframes)


def _take_out(tables: Tables, table: str, gone: Collection[str]) -> None:
    """Take records out of a chained table; the ones before and after them become neighbours."""
    if not gone:
        return
    by_token = {record["token"]: record for record in tables[table]}

    def beyond(token: str, way: str) -> str:
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

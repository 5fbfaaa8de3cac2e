"""Rules between the records of nuScenes tables: what follows a record in time, and which records belong together."""

from __future__ import annotations

from altermoma_ray.data.nuscenes.faults import COPY, LATEST, Fault, Tables, token_of
from altermoma_ray.errors import UserError

WAYS = ("next", "prev")
"""Fields that name a record's neighbours in time."""


def wrong_order(tables: Tables, table: str, way: str) -> Fault:
    """Records whose neighbour is on the wrong side in time; two frames of a sensor may have the same time."""
    if table == "sample_annotation":
        times = {record["token"]: record["timestamp"] for record in tables["sample"]}
        times = {record["token"]: times.get(token_of(record, "sample_token")) for record in tables[table]}
    else:
        times = {record["token"]: record.get("timestamp") for record in tables[table]}
    # Only sound times are compared; records at fault are told by another rule, once.
    valid = {token: time for token, time in times.items() if type(time) in (int, float) and 0 < time < LATEST}
    strict = table != "sample_data"
    broken = []
    for place, record in enumerate(tables[table]):
        neighbour = record.get(way)
        # Before the times: a record which names itself is valid as a token, and would be walked without end.
        if neighbour == record["token"]:
            broken.append(place)
            continue
        if not neighbour or not isinstance(neighbour, str) or neighbour not in valid or record["token"] not in valid:
            continue  # told already, as a missing token or an impossible timestamp
        own, other = valid[record["token"]], valid[neighbour]
        if (own == other and strict) or (own > other if way == "next" else own < other):
            broken.append(place)
    return Fault(
        table, way, f"the token of {'a later' if way == 'next' else 'an earlier'} record in table {table}", broken
    )


def strangers(tables: Tables, table: str, way: str) -> Fault:
    """Annotations whose neighbour is of another instance, or files whose neighbour is of another sensor."""
    if table == "sample_annotation":
        kin, of = "instance", {record["token"]: token_of(record, "instance_token") for record in tables[table]}
    else:
        kin, of = "sensor", _sensors(tables)
    broken = []
    for place, record in enumerate(tables[table]):
        own, other = of[record["token"]], of.get(token_of(record, way), "")
        # Unknown tokens are told by another rule, once.
        if own and other and own != other:
            broken.append(place)
    return Fault(table, way, f"the token of a record of the same {kin} in table {table}", broken)


def doubled_files(tables: Tables) -> Fault:
    """Keyframe files of a sensor whose sample has an earlier file of the sensor: nobody could say which one counts."""
    sensors, seen, broken = _sensors(tables), set(), []
    for place, record in enumerate(tables["sample_data"]):
        pair = token_of(record, "sample_token"), sensors[record["token"]]
        if record.get("is_key_frame") is True and all(pair):
            if pair in seen:
                broken.append(place)
            seen.add(pair)
    return Fault("sample_data", "sample_token", "a sample without another keyframe file of the same sensor", broken)


def _sensors(tables: Tables) -> dict[str, str]:
    """The sensor of each file by the file's token; empty where the calibration is unknown."""
    calibrated = {record["token"]: token_of(record, "sensor_token") for record in tables["calibrated_sensor"]}
    return {
        record["token"]: calibrated.get(token_of(record, "calibrated_sensor_token"), "")
        for record in tables["sample_data"]
    }


def check_chains(tables: Tables, place: str) -> None:
    """Make sure of one chain of samples in each scene, from its first to its last, without samples outside of chains.

    Args:
        tables: after :func:`find_faults`.
        place: the tables' folder, for the message.

    Raises:
        UserError: a chain comes back to a sample, goes into another scene, leaves samples out, or has another last
            sample or length than its scene says.
    """
    samples = {record["token"]: record for record in tables["sample"]}
    reached: set[str] = set()
    ends: dict[str, tuple[str, int]] = {}
    for scene in tables["scene"]:
        token, last, length = scene["first_sample_token"], "", 0
        while token:
            sample = samples[token]
            # Without this test, a chain which comes back to itself would be walked without end.
            if token in reached:
                raise UserError(
                    f"the samples of scene {scene['token']} in {place} come back to sample {token}, which was there "
                    f"before; {COPY}"
                )
            if sample["scene_token"] != scene["token"]:
                raise UserError(
                    f"sample {token} in {place} follows in scene {scene['token']}, but names scene "
                    f"{sample['scene_token']}; {COPY}"
                )
            reached.add(token)
            last, length, token = token, length + 1, sample["next"]
        ends[scene["token"]] = last, length
    if lost := [token for token in samples if token not in reached]:
        raise UserError(
            f"{len(lost)} of the {len(samples)} samples in {place}, {lost[0]} for one, follow after no sample of their "
            f"scene; {COPY}"
        )
    for scene in tables["scene"]:
        last, length = ends[scene["token"]]
        if (scene["last_sample_token"], scene["nbr_samples"]) != (last, length):
            raise UserError(
                f"scene {scene['token']} in {place} has {length} samples, the last one {last}, but names "
                f"{scene['nbr_samples']} as nbr_samples and {scene['last_sample_token']} as last_sample_token; {COPY}"
            )

"""The sensors of a data set, by the channels in its tables, and a check of every keyframe for its cameras' pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from altermoma_ray.errors import UserError

if TYPE_CHECKING:
    from altermoma_ray.data.nuscenes.index import Index
    from altermoma_ray.data.transforms import InputConfig

CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
"""The nuScenes cameras, in the order of the published BEVFusion inputs."""
_USUAL_LIDAR = "LIDAR_TOP"


class Rig(BaseModel):
    """The sensors of a data set.

    >>> str(Rig(cameras=("CAM_A", "CAM_B"), lidar="LIDAR_ROOF", other_lidars=("LIDAR_SIDE",)))
    '2 cameras (CAM_A, CAM_B), LiDAR LIDAR_ROOF (not LIDAR_SIDE)'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cameras: tuple[str, ...]
    """Channels of the cameras: nuScenes' own in the published order, then all others by name."""
    lidar: str
    """Channel of the LiDAR whose points are read, and in whose frame boxes are."""
    other_lidars: tuple[str, ...] = ()
    """Channels of LiDARs left unread."""

    def __str__(self) -> str:
        others = f" (not {', '.join(self.other_lidars)})" if self.other_lidars else ""
        return f"{len(self.cameras)} cameras ({', '.join(self.cameras)}), LiDAR {self.lidar}{others}"


def find_rig(keyframes: Mapping[str, Mapping[str, str]]) -> Rig:
    """The sensors of a data set. Out of several LiDARs, LIDAR_TOP is read, else the first by name.

        >>> rig = find_rig({"a keyframe's token": {"CAM_FRONT": "camera", "LIDAR_TOP": "lidar"}})
        >>> rig.cameras, rig.lidar
        (('CAM_FRONT',), 'LIDAR_TOP')

    Args:
        keyframes: the modality of each channel, by the tokens of the keyframes.

    Raises:
        UserError: there is no camera, no LiDAR, or no LiDAR common to all keyframes.
    """
    cameras = {name for channels in keyframes.values() for name, kind in channels.items() if kind == "camera"}
    turns = [{name for name, kind in channels.items() if kind == "lidar"} for channels in keyframes.values()]
    # The key sorts LIDAR_TOP first (False before True), then by name: the choice must not depend on the tables' order.
    lidars = sorted(set().union(*turns), key=lambda name: (name != _USUAL_LIDAR, name))
    # One LiDAR must serve all keyframes: boxes and sweeps are in its frame.
    everywhere = [name for name in lidars if all(name in found for found in turns)]
    if keyframes and not lidars:
        raise UserError("the tables name no LiDAR file of any keyframe; give a data set with a LiDAR")
    if lidars and not everywhere:
        token, found = next(pair for pair in zip(keyframes, turns, strict=True) if lidars[0] not in pair[1])
        raise UserError(
            f"no LiDAR is in every keyframe: the tables have {', '.join(lidars)}, but keyframe {token} has "
            f"{', '.join(sorted(found)) or 'none'}; give all keyframes one channel"
        )
    if keyframes and not cameras:
        raise UserError("the tables name no picture of any keyframe; give a data set with a camera")
    lidar = everywhere[0] if everywhere else _USUAL_LIDAR
    # No matter of the tables' order: the order of the cameras decides the last digits of sums over cameras.
    ordered = [name for name in CAMERAS if name in cameras] + sorted(cameras - {*CAMERAS})
    return Rig(cameras=tuple(ordered), lidar=lidar, other_lidars=tuple(name for name in lidars if name != lidar))


def choose_cameras(inputs: InputConfig | None, index: Index) -> tuple[str, ...]:
    """The cameras of a model's input, in its order; without a model, all cameras of the data set.

    Raises:
        UserError: the model names a camera missing in the data set.
    """
    there = index.rig.cameras
    # The default cameras stand for all of the data set: a user's rig has other names and another number.
    wanted = there if inputs is None or inputs.cameras == CAMERAS else inputs.cameras
    lacking = [name for name in wanted if name not in there]
    if lacking:
        raise UserError(
            f"the model wants {len(wanted)} cameras ({', '.join(wanted)}), but {index.dataroot} has no {lacking[0]}; "
            f"it has {', '.join(there)}: choose a model for these"
        )
    return wanted


def check_rig(index: Index, inputs: InputConfig | None = None) -> None:
    """Make sure of a picture of every camera of a model's input in every keyframe.

    Raises:
        UserError: the data set lacks a camera, scenes have different cameras, or keyframes lack pictures.
    """
    wanted = choose_cameras(inputs, index)
    found = index.cameras()
    # All faulty keyframes at once: the message counts them, and a user mends one script instead of one keyframe.
    short = [row for row, cameras in enumerate(found) if not {*wanted} <= {*cameras}]
    if not short:
        return
    scenes = index.scenes()
    # Two causes, two remedies: scenes of different vehicles, or gaps within a scene.
    by_scene: dict[str, set[frozenset[str]]] = {}
    for scene, cameras in zip(scenes, found, strict=True):
        by_scene.setdefault(scene, set()).add(frozenset(cameras))
    record = index.record(short[0])
    lacks = ", ".join(name for name in wanted if name not in record.cameras)
    if all(len(kinds) == 1 for kinds in by_scene.values()):
        number = len({scenes[row] for row in short})
        raise UserError(
            f"{index.dataroot} has scenes with different cameras: {number} of {len(by_scene)} scenes lack some of "
            f"{', '.join(wanted)}, {record.scene_name} for one has no {lacks}; keep only scenes with the same cameras"
        )
    raise UserError(
        f"{len(short)} of {len(index)} keyframes of {index.dataroot} lack pictures of {', '.join(wanted)}: keyframe "
        f"{record.token} of {record.scene_name} has no {lacks}; add them, or take the keyframe out of the tables"
    )


def channels_of(nusc: Any, samples: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """The modality of each channel of each keyframe, for :func:`find_rig`, from a devkit's tables."""
    return {
        sample["token"]: {
            channel: nusc.get("sample_data", token)["sensor_modality"] for channel, token in sample["data"].items()
        }
        for sample in samples
    }

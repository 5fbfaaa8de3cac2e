"""Scenes for training and scenes for validation: the user's ``splits.json``, else the official lists."""

from __future__ import annotations

import json

from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

DEFAULT_VERSION = "v1.0-trainval"
"""The version of nuScenes by default, and the only version of the synthetic set."""
FILE = "splits.json"
"""A file beside the tables of a version, in nuscenes-devkit's form: names of splits, each with its scenes' names."""
_FIRST = ("train", "val", "mini_train", "mini_val", "test")
"""Splits by precedence: for a scene in several splits, the first of these counts."""


def is_mini(version: str) -> bool:
    """Whether a version holds the mini splits."""
    # A user's version may have any name ("my-mini"); only its end is fixed.
    return version.endswith("mini")


def split_names(version: str) -> tuple[str, str]:
    """Names of the splits of a version to train and to validate on.

    >>> split_names("v1.0-mini")
    ('mini_train', 'mini_val')
    """
    return ("mini_train", "mini_val") if is_mini(version) else ("train", "val")


def scene_splits(file: Location, version: str) -> dict[str, str]:
    """The split of each scene, by the scene's name.

    Args:
        file: ``splits.json``, which may be missing.
        version: of nuScenes.

    Raises:
        UserError: the file is not a mapping from splits to lists of scenes, or both splits share a scene.
    """
    if not file.exists():
        # Imported here: a data set with its own `splits.json` needs no devkit for this step.
        from nuscenes.utils.splits import create_splits_scenes

        official = create_splits_scenes()
        wanted = ("test",) if version.endswith("test") else split_names(version)
        return {scene: split for split in wanted for scene in official[split]}
    try:
        splits = json.loads(file.read_bytes())
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON ({error}); write {{split: [scene names]}}") from error
    if not isinstance(splits, dict) or not all(
        isinstance(scenes, list) and all(isinstance(scene, str) for scene in scenes) for scenes in splits.values()
    ):
        raise UserError(f"{file} does not name lists of scenes by split; write {{split: [scene names]}}")
    train, validation = split_names(version)
    # The first split of a scene would win in silence: the model would be validated on fewer scenes than the user names.
    both = sorted(set(splits.get(train, ())) & set(splits.get(validation, ())))
    if both:
        raise UserError(
            f"{file} names {len(both)} scenes both in {train!r} and in {validation!r}, the first is {both[0]!r}; "
            "leave each scene in one of the two"
        )
    # By precedence first, then in the file's order (the sort is stable); the first split of a scene stays.
    found: dict[str, str] = {}
    for split in sorted(splits, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST)):
        for scene in splits[split]:
            found.setdefault(scene, split)
    return found

"""The splits of KITTI's training frames: the user's ``ImageSets`` files, or the usual 3,712 and 3,769 frames.

The usual splits are those of Chen et al. (3DOP, NeurIPS 2015), by which results on KITTI's validation frames are
compared; no drive has frames in both.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping

import numpy as np

from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

FOLDER = "ImageSets"
SPLITS = ("train", "val")
FRAMES = 7481
"""Frames of KITTI's object training set."""
_FRAME = re.compile(r"[0-9]{6}")
# One bit a frame, the first frame in the highest bit of the first byte; set for frames of `train`.
_USUAL = (
    "kX7iJqpeU8if8b+Z3Ufx1XSm7ja+GPjEQqbjXljC3Af0kTyni7miTiYycoxCGZMIlgCGOOXh821ArvMgOaBOUWq2W3iWzDQn+vDvN8DH"
    "FcbSXofp2sflRVfxmi0zlFe4Ic39bQCHbt75JhXs+4Czua9qY01HxHM1pIlqFv7cQMmP6s3I3oDh5TwpRoVqoEIhDc7zBOIM7PkZFUKB"
    "oKKAD7SkfgfZ/4EtDSbr9DFC6f7Ga25oiU/a2vk6Prnmk5B6HYtrUrksgFNJ2iuqj2rdVQ3vR7mpCBics/GYbdNlUM/LFnmUNu91YEjj"
    "aTBTlzv+YCEwn158t4Qa4hdBqaPBwRUd9oSYqfDmLSZOBf48KRusp7ccvkczHulMld9yRMDGRc56lRMHstiXVA448+zEMx5d3JD/kO1W"
    "pBr2OQXC13HDFLId3AXy65SlMes624s50G3IKxAetQMpIvL+y5MxhNfEtjB7Ws/gK4BwttLzXL0mqAXtDTaKIM/tKA3MUFmOl15daMlV"
    "9Kg5Fbaa1KDtWsbNKRI2XsSvm2cvdlEVJMPPmswp8Frvn4KAB6mRT+4bewjdBgY8Xuo2Du5tGM9p9Hf/Mi1QaA/qssni8McH/KZk7X4P"
    "xKfHronnnVIl9cXLvvVnWRwpxYmrx2XlnpX1k5axX3UGD3vHFRsu6jdaiqZTILARBxTxAQdg/6Dn2JjwV3qNDGb86RMIwopcpJ4UsT9G"
    "Gb42MYT8wBmIZtVVuU8IiXn2sjwF8eKz3BlZovTvBtVZFXYGl4M+SCCHkIER1IQXNsUbPOR6dMg5uG7tB8Bmj7piXCvZNCTYQ5RN/WqR"
    "hJdYq1dRO5AcJQgd2PqxPxJ6QiuhhFRhMNi9+YnJkxWudeaGVrcPYiSLGBip/mkmi5j/8/r8yNuiE8OOEpS837zP62VVHmB5wzFB5w/b"
    "DryMT5NFczNqvsZDG/IuYg7bS/+8DZco58HL3i/0L3u0irHiiBCI6s9jbYuW2RfSixF+QJSAVZDEyeh6FM3BiNtvVleqOz2Nxdda7eM9"
    "dJ/eiQVcf7GfQ5fhxDKDdQejlofojjYPghHh/TEJhWseh0IzgLXypSsdGNUjx+HeExGujkdJ0NnwWvgOaaGbLgQSQ5CaUWRiTfMzppBU"
    "1RaSroLFm9tfHDWGV2uR6VppRGzAGc4yaqJUAi7W+Wpbwk8b2YE1FO/cElSrqS1U8lGOCGYF5HjsyI8sKD53rDA64YqCYF2CWhtcQakA"
)


def split_files(dataroot: Location) -> dict[str, Location]:
    """The files of the splits, by split; empty where the data set has none of them."""
    files = {name: dataroot.join(FOLDER, f"{name}.txt") for name in SPLITS}
    there = {child.name for child in dataroot.join(FOLDER).children()}
    found = {name: file for name, file in files.items() if file.name in there}
    if found and len(found) < len(files):
        missing = next(file for name, file in files.items() if name not in found)
        raise UserError(f"{missing} is missing beside {', '.join(file.name for file in found.values())}; add it")
    return found


def usual_splits() -> dict[str, list[str]]:
    """The names of the frames of the usual splits.

    >>> {name: len(frames) for name, frames in usual_splits().items()}
    {'train': 3712, 'val': 3769}
    """
    bits = np.unpackbits(np.frombuffer(base64.b64decode(_USUAL), np.uint8))[:FRAMES]
    return {name: [f"{number:06d}" for number in np.flatnonzero(bits == (name == "train"))] for name in SPLITS}


def parse_splits(texts: Mapping[str, bytes], dataroot: Location) -> dict[str, list[str]]:
    """The names of the frames of each split, from the content of the splits' files.

    Args:
        texts: content of ``ImageSets/<split>.txt``, by split; empty for the usual splits.
        dataroot: for errors.

    Raises:
        UserError: a line is no frame, a split is empty, or a frame comes twice.
    """
    if not texts:
        return usual_splits()
    splits: dict[str, list[str]] = {}
    seen: dict[str, str] = {}
    for name, text in texts.items():
        file = dataroot.join(FOLDER, f"{name}.txt")
        # Bytes outside ASCII become a sign that no frame's name has.
        splits[name] = text.decode("ascii", "replace").split()
        if not splits[name]:
            raise UserError(f"{file} names no frame; write a frame on each line, such as 000042")
        for frame in splits[name]:
            if not _FRAME.fullmatch(frame):
                raise UserError(f"{file} names frame {frame!r}; a frame has six digits, such as 000042")
            if frame in seen:
                twice = f"both {seen[frame]} and {name}" if seen[frame] != name else f"{name} twice"
                raise UserError(f"frame {frame} is in {twice} ({file.parent}); keep it once")
            seen[frame] = name
    return splits

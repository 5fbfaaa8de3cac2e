"""Reads the folders which the metric compares: a file ``FRAME.txt`` for each frame, as in ``label_2``."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from altermoma_ray.data.kitti.labels import Labels, parse_labels
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

_READERS = 16
"""Files read at a time from a bucket, whose answers take tens of milliseconds each."""


def read_frames(file: Location) -> list[str]:
    """The names of frames in a file, one a line, as in KITTI's ``ImageSets/val.txt``.

    Raises:
        UserError: the file is missing or names no frame, or a line holds several names or one of before.
    """
    try:
        lines = _text(file).split("\n")
    except FileNotFoundError:
        raise UserError(f"frames {file} is missing; give a file with the name of a frame on each line") from None
    frames: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        if len(words) > 1:
            raise UserError(f"{file}, line {number} is {line.strip()!r}; give one frame a line, such as 000042")
        if words[0] in frames:
            raise UserError(f"{file}, line {number} names frame {words[0]} again, after line {frames[words[0]]}")
        frames[words[0]] = number
    if not frames:
        raise UserError(f"{file} names no frame; give the name of a frame on each line, such as 000042")
    return list(frames)


def read_labels(folder: Location, frames: Sequence[str], *, scored: bool) -> dict[str, Labels]:
    """The labels of frames, by name and in the frames' order.

    Args:
        folder: holds a file ``FRAME.txt`` for each frame; other files are left alone.
        frames: names of frames.
        scored: whether the files hold results, with scores.

    Raises:
        UserError: the folder or the file of a frame is missing, or a file cannot be read as labels.
    """
    kind = "detections" if scored else "labels"
    if not folder.is_folder():
        raise UserError(f"{kind} {folder} is no folder; give the folder with a file FRAME.txt for each frame")

    def read(frame: str) -> Labels:
        file = folder.join(f"{frame}.txt")
        try:
            return parse_labels(_text(file), str(file), scored=scored)
        except FileNotFoundError:
            remedy = "; write an empty file for a frame without detections" if scored else "; give frames with labels"
            raise UserError(f"frame {frame} has no {kind}: {file} is missing{remedy}") from None

    if folder.is_local:  # threads would only wait for each other
        return {frame: read(frame) for frame in frames}
    with ThreadPoolExecutor(_READERS) as threads:
        return dict(zip(frames, threads.map(read, frames), strict=True))


def _text(file: Location) -> str:
    """A file's text.

    Raises:
        FileNotFoundError: the file is missing.
        UserError: the file cannot be read, or is no UTF-8.
    """
    try:
        return file.read_text()
    except UnicodeDecodeError:
        raise UserError(f"{file} is no text file in UTF-8; give a file of KITTI's text layout") from None

"""The synthetic data set at any location: written in place on a disk, or made on this machine and uploaded."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from rich.progress import track

from altermoma_ray.console import console
from altermoma_ray.data.synthetic.generate import CARD, generate
from altermoma_ray.storage import Location

_UPLOADS = 16  # at a time: small files wait for answers more than for bytes


def generate_at(
    target: Location,
    *,
    scenes: int | None = None,
    seed: int = 0,
    progress: bool = True,
    keyframes: int = 2,
    reflective_ground: bool = False,
    occlusion: bool = False,
) -> None:
    """Make the data set of :func:`generate` at a location which every node of a cluster can read.

    A bucket's copy is whole when its card is there, which comes last; an interrupted upload starts again.

    Args:
        target: the data set's folder, on a disk missing or empty.
        scenes: see :func:`generate`.
        seed: see :func:`generate`.
        progress: show bars on stderr.
        keyframes: see :func:`generate`.
        reflective_ground: see :func:`generate`.
        occlusion: see :func:`generate`.

    Raises:
        UserError: an argument is out of range, or the location cannot be written.
    """
    make = partial(
        generate,
        scenes=scenes,
        seed=seed,
        progress=progress,
        keyframes=keyframes,
        reflective_ground=reflective_ground,
        occlusion=occlusion,
    )
    # A disk needs no detour: `generate` writes beside the folder and renames in the end.
    if target.is_local:
        make(Path(target.path))
        return
    with tempfile.TemporaryDirectory(prefix="altermoma-synthetic-") as name:
        made = Path(name, "nuscenes")
        make(made)
        files = sorted(file.relative_to(made).as_posix() for file in made.rglob("*") if file.is_file())
        # A bucket has no rename of folders: the card, on which `matches` decides, must arrive after all other files.
        files.remove(CARD)
        with ThreadPoolExecutor(_UPLOADS) as threads:
            uploads = threads.map(lambda file: target.join(file).write_bytes((made / file).read_bytes()), files)
            # Going through the results also raises the errors of the threads, which `map` would keep to itself.
            for _ in track(uploads, "uploading", len(files), console=console, transient=True, disable=not progress):
                pass
        target.join(CARD).write_bytes((made / CARD).read_bytes())

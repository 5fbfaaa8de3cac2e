"""The synthetic data set at any location: written where it is to lie, or made on this machine and uploaded."""

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


def provide(
    target: Location,
    *,
    scenes: int | None = None,
    seed: int = 0,
    progress: bool = True,
    reflective_ground: bool = False,
) -> None:
    """Make the data set of :func:`generate` at a location, so that every node of a cluster can read it there.

    A bucket's copy is whole when its card is there, which comes last; one that was interrupted is uploaded again.

    Args:
        target: the data set's folder; on a disk it must be missing or empty.
        scenes: see :func:`generate`.
        seed: see :func:`generate`.
        progress: show bars on stderr.
        reflective_ground: see :func:`generate`.

    Raises:
        UserError: an argument is out of range, or the location cannot be written.
    """
    make = partial(generate, scenes=scenes, seed=seed, progress=progress, reflective_ground=reflective_ground)
    if target.is_local:
        make(Path(target.path))
        return
    with tempfile.TemporaryDirectory(prefix="altermoma-synthetic-") as name:
        made = Path(name, "nuscenes")
        make(made)
        files = sorted(file.relative_to(made).as_posix() for file in made.rglob("*") if file.is_file())
        files.remove(CARD)
        with ThreadPoolExecutor(_UPLOADS) as threads:
            uploads = threads.map(lambda file: target.join(file).write_bytes((made / file).read_bytes()), files)
            for _ in track(uploads, "uploading", len(files), console=console, transient=True, disable=not progress):
                pass
        target.join(CARD).write_bytes((made / CARD).read_bytes())

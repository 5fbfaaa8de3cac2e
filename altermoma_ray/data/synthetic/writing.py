"""Writing a data set with several processes, all or nothing, and knowing it again by its card."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track

from altermoma_ray.console import console
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

CARD = "synthetic.json"
"""File in the data set's folder with the parameters of its making."""
_UPLOADS = 16  # at a time: small files wait for answers more than for bytes

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, which becomes ``out`` at the end; nothing is left after an error.

    Raises:
        UserError: ``out`` is taken or cannot be written.
    """
    out = Path(out).expanduser().absolute()
    # Beside the target, on the same file system, where a rename is atomic; the random part keeps two commands apart.
    partial_folder = out.with_name(f".{out.name}.{uuid.uuid4().hex}.partial")
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out} exists and is not an empty folder; choose another folder or remove it")
        yield partial_folder
        # A rename replaces an empty folder too; onto a folder filled in the meantime it fails, and nothing is lost.
        partial_folder.rename(out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}; choose a folder that you may write") from error
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)


def write_card(folder: Path, figures: dict[str, object]) -> None:
    """Write the card, the last of the files: a folder with a card is whole even after a copy by hand."""
    (folder / CARD).write_text(json.dumps(figures, indent=1) + "\n")


def has_card(folder: Location | Path, figures: dict[str, object]) -> bool:
    """Whether a folder holds the data set with these figures.

    Raises:
        UserError: the location cannot be read.
    """
    place = folder if isinstance(folder, Location) else Location.parse(folder)
    try:
        return bool(json.loads(place.join(CARD).read_bytes()) == figures)
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return False


def in_order(
    work: Callable[[Item], Result], items: Sequence[Item], processes: int, description: str, *, progress: bool
) -> list[Result]:
    """The results for all items, in their order, so that nothing depends on the number of processes.

    Args:
        work: what to do; a function at a module's top level, or a partial of one.
        items: to work on.
        processes: 1 works in this process.
        description: of the bar.
        progress: show the bar on stderr.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not progress) as bar:
        return list(bar.track(_results(work, items, processes), len(items), description=description))


def _results(work: Callable[[Item], Result], items: Sequence[Item], processes: int) -> Iterator[Result]:
    processes = min(processes, len(items))
    if processes == 1:
        yield from map(work, items)
        return
    # Spawned, not forked: the caller may hold threads (Ray, torch).
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(work, items, chunksize=min(8, -(-len(items) // processes)))


def make_at(target: Location, make: Callable[[Path], None], *, progress: bool) -> None:
    """Make a data set at a location which every node of a cluster can read.

    A bucket's copy is whole when its card is there, which comes last; an interrupted upload starts again.

    Args:
        target: the data set's folder, on a disk missing or empty.
        make: writes the data set into a missing folder, whole or not at all.
        progress: show a bar on stderr.

    Raises:
        UserError: the data set cannot be made, or the location cannot be written.
    """
    # A disk needs no detour: the folder is written beside its place and renamed in the end.
    if target.is_local:
        make(Path(target.path))
        return
    with tempfile.TemporaryDirectory(prefix="altermoma-synthetic-") as name:
        made = Path(name, "set")
        make(made)
        files = sorted(file.relative_to(made).as_posix() for file in made.rglob("*") if file.is_file())
        # A bucket has no rename of folders: the card, which tells a whole set, must arrive after all other files.
        files.remove(CARD)
        with ThreadPoolExecutor(_UPLOADS) as threads:
            uploads = threads.map(lambda file: target.join(file).write_bytes((made / file).read_bytes()), files)
            # Going through the results also raises the errors of the threads, which `map` would keep to itself.
            for _ in track(uploads, "uploading", len(files), console=console, transient=True, disable=not progress):
                pass
        target.join(CARD).write_bytes((made / CARD).read_bytes())

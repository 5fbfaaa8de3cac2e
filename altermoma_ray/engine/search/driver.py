"""The process that drives a search: one at a time, so that no trial is run or logged twice."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from pydantic import BaseModel, ValidationError

from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

FILE = "driver.json"


class Driver(BaseModel):
    """A process by its machine, its number and its beginning, since numbers come again."""

    host: str
    pid: int
    started: float
    """Seconds since the epoch."""
    folder: str | None = None
    """Of the search; in a copy of it the process drives nothing."""

    @classmethod
    def of(cls, process: psutil.Process) -> Driver:
        """A process of this machine."""
        return cls(host=socket.gethostname(), pid=process.pid, started=process.create_time())

    def is_in(self, folder: Location) -> bool:
        """Whether it drives the search in this folder, not that of which the folder is a copy."""
        return self.folder in (None, str(folder)) or Location.parse(self.folder).is_same(folder)

    def runs_here(self) -> bool:
        """Whether this is another process of this machine that still runs."""
        if self.host != socket.gethostname() or self.pid == os.getpid():
            return False
        try:
            process = psutil.Process(self.pid)
            # The beginning of a process is told to a hundredth of a second and moves with the clock's corrections.
            return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - self.started) < 2.0
        except psutil.NoSuchProcess:
            return False


def check_undriven(folder: Location) -> None:
    """Refuse a search in storage that another process of this machine drives.

    A driver that was killed, or ran on another machine, does not count.

    Raises:
        UserError: one does.
    """
    driver = _read(folder.join(FILE))
    if driver is not None and driver.is_in(folder) and driver.runs_here():
        raise UserError(
            f"search {folder.name!r} in {folder.parent.parent} is in the hands of process {driver.pid} of this "
            "machine; wait for its end, or stop it first"
        )


@contextmanager
def sole_driver(folder: Location) -> Iterator[None]:
    """Hold a search in storage meanwhile; raises as :func:`check_undriven` does."""
    check_undriven(folder)
    file = folder.join(FILE)
    driver = Driver.of(psutil.Process()).model_copy(update={"folder": str(folder)})
    file.write_text(driver.model_dump_json())
    try:
        yield
    finally:
        file.delete()


def _read(file: Location) -> Driver | None:
    try:
        return Driver.model_validate_json(file.read_bytes()) if file.exists() else None
    except (ValidationError, FileNotFoundError):  # it ended just now
        return None

"""The driving process of a search: one process at a time, to run and log no trial twice."""

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
    """A process by its machine, number and beginning; the operating system gives the numbers again.

    >>> Driver(host="node-1", pid=4711, started=1.75e9).runs_here()
    False
    """

    host: str
    pid: int
    started: float
    """Time of the process's beginning, in seconds since the epoch."""
    folder: str | None = None
    """Folder of the search; the process does not drive a copy of this folder."""

    @classmethod
    def of(cls, process: psutil.Process) -> Driver:
        """The record of a process on this machine."""
        return cls(host=socket.gethostname(), pid=process.pid, started=process.create_time())

    def is_in(self, folder: Location) -> bool:
        """Whether the process drives the search in this folder; False in a copy of the search's own folder."""
        # The record is copied with its folder. Records of earlier releases name no folder, and count everywhere.
        return self.folder in (None, str(folder)) or Location.parse(self.folder).is_same(folder)

    def runs_here(self) -> bool:
        """Whether the process is on this machine, still runs, and is not the calling one."""
        if self.host != socket.gethostname() or self.pid == os.getpid():
            return False
        try:
            process = psutil.Process(self.pid)
            # The beginning of a process is known to a hundredth of a second and moves with the clock's corrections.
            # A zombie has ended, but keeps its number until its parent asks for the exit status.
            return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - self.started) < 2.0
        except psutil.NoSuchProcess:
            return False


def check_undriven(folder: Location) -> None:
    """Refuse a search driven by another process of this machine.

    A killed driver does not count, nor does a driver on another machine.

    Raises:
        UserError: another process of this machine drives the search.
    """
    driver = _read(folder.join(FILE))
    if driver is not None and driver.is_in(folder) and driver.runs_here():
        raise UserError(
            f"search {folder.name!r} in {folder.parent.parent} is in the hands of process {driver.pid} of this "
            "machine; wait for its end, or stop it first"
        )


@contextmanager
def sole_driver(folder: Location) -> Iterator[None]:
    """Hold a search inside the ``with`` block, against other drivers on this machine::

        with sole_driver(plan.folder):
            plan.save()

    Raises:
        UserError: another process of this machine drives the search.
    """
    # The storage of a search may have no locks. Two drivers starting in the same instant can therefore both pass;
    # the record is for people who start a search a second time by mistake.
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
    except (ValidationError, FileNotFoundError):  # a driver ended, or began to write, just now
        return None

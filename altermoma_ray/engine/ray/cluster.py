"""The place of Ray: the cluster named by ``RAY_ADDRESS``, or this machine and the folder of its session.

Ray itself tries for minutes to reach a wrong address, and fails with a traceback where its folder's name is too long.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc

from altermoma_ray.engine.ray import private
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

_ANSWER_SECONDS = 5
_SHORT = "/tmp"
_LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107
"""Most bytes in a socket's path: the system's 104 (macOS) or 108 (Linux), less the zero at the end."""
_OF_RAY = len(private.SESSION)
_OF_PYTHON = len("/pymp-12345678/listener-12345678")
"""Bytes added to the folder's name: by Ray, and by the processes which load data ahead."""


def cluster_address() -> str:
    """The address in ``RAY_ADDRESS``; empty where Ray is to be started on this machine."""
    # `local` is Ray's own word for a new session on this machine, whatever else runs here.
    address = os.environ.get("RAY_ADDRESS", "").strip()
    return "" if address == "local" else address


def check_cluster() -> None:
    """Find out within seconds whether Ray can be joined or started.

    Example:
        Before a plan is made and data are read::

            check_cluster()
            with ray_session():
                ...

    Raises:
        UserError: ``RAY_ADDRESS`` is no cluster's address or none answers there; or Ray would be started on this
            machine in a folder whose name is too long.
    """
    address = cluster_address()
    if not address:
        session_folder()  # called for its errors
        return
    # Ray's documentation gives both kinds of address for a cluster: each is told its own remedy.
    if address.startswith(("http://", "https://")):
        raise UserError(
            f"RAY_ADDRESS={address} is the address of a dashboard, which takes jobs only; submit this command with "
            "python -m jobs.submit, set HOST:PORT of the cluster (port 6379 unless it was started with another), or "
            "unset the variable to run on this machine"
        )
    if address.startswith("ray://"):
        raise UserError(
            f"RAY_ADDRESS={address} is for Ray's client, from which no search can be driven; set HOST:PORT of the "
            "cluster (port 6379 unless it was started with another) on one of its nodes, or submit this command with "
            "python -m jobs.submit"
        )
    silent = f"no Ray cluster answers at RAY_ADDRESS={address}; start it or unset the variable"
    if address == "auto":
        try:
            address = private.address_of_this_machine()
        except ConnectionError as error:
            raise UserError(silent) from error
        # Still unknown: Ray itself has to find the cluster.
        if address == "auto":
            return
    # From the right: an address of IPv6 has colons of its own.
    host, _, port = address.rpartition(":")
    if not host or "://" in host or not port.isdecimal() or int(port) >= 2**16:
        raise UserError(
            f"RAY_ADDRESS={address} is no address of a cluster; set HOST:PORT (port 6379 unless it was started with "
            "another), auto for a cluster on this machine, or unset the variable"
        )
    try:
        # A bare connection first: gRPC would wait out its whole time limit where a port refuses at once.
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except OSError as error:
        raise UserError(silent) from error
    if not os.environ.get("RAY_USE_TLS") and not _speaks_grpc(address):
        raise UserError(
            f"the server at RAY_ADDRESS={address} is no Ray cluster; set HOST:PORT of the cluster, not of its "
            "dashboard (port 6379 unless it was started with another)"
        )


def _speaks_grpc(address: str) -> bool:
    """Whether a server answers as a cluster's head does; Ray waits for minutes for any other server."""
    # Without a proxy, as Ray connects: the proxy in a user's environment need not reach the cluster.
    with grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=_ANSWER_SECONDS)
        except grpc.FutureTimeoutError:
            return False
    return True


def session_folder() -> str | None:
    """The folder for a session of Ray on this machine; None where Ray's own choice is short enough for its sockets.

    Raises:
        UserError: the folder cannot be written, or its name is too long. A long ``TMPDIR`` is passed over where the
            short folder can be written; a long ``RAY_TMPDIR`` is refused.
    """
    # RAY_TMPDIR was set for Ray alone, so this very folder is wanted, perhaps for its disk. TMPDIR is commonly set by a
    # batch system, for all programs.
    longest = _LONGEST_SOCKET - _OF_RAY
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    folder = os.environ.get(name, _SHORT)
    if _length(folder) <= longest:
        try:
            Location.parse(folder).check_writable()
        except UserError as error:
            raise UserError(f"Ray cannot work in {name}={folder}: {error}") from error
        return None
    if name == "TMPDIR" and os.access(_SHORT, os.W_OK):
        return _SHORT
    raise UserError(
        f"{name}={folder} is too long for Ray, whose sockets lie in it: the name has {_length(folder)} bytes and may "
        f"have {longest}; set RAY_TMPDIR to a shorter folder, such as {_SHORT}"
    )


@contextlib.contextmanager
def short_folders() -> Iterator[str | None]:
    """Let processes started inside the ``with`` block put their sockets into a short folder, if they must.

    Example:
        A session of Ray under a long ``TMPDIR``::

            with short_folders() as folder:
                ray.init(**private.in_folder(folder))

    Yields:
        Ray's folder; None for Ray's own choice.
    """
    folder = session_folder()
    given = os.environ.get("TMPDIR")
    # Sockets of Python's multiprocessing lie in TMPDIR as well, also where Ray's own are short enough by RAY_TMPDIR.
    too_long = given is not None and _length(given) > _LONGEST_SOCKET - _OF_PYTHON
    if too_long or folder is not None:
        os.environ["TMPDIR"] = _SHORT
    try:
        # `/tmp/ray` and not `/tmp`: Ray adds `ray` to a folder of its own choice, but not to a given one.
        yield None if folder is None else str(Path(folder, "ray"))
    finally:
        # Put back: all other temporary files of this process belong into the user's folder.
        if given is not None:
            os.environ["TMPDIR"] = given


def _length(folder: str) -> int:
    # Bytes, not letters: an umlaut takes two of them.
    return len(os.fsencode(folder))

"""Files on a local path, or in a bucket by an ``s3://`` or ``gs://`` URI, written atomically.

Everything that reads a data set or writes a result goes through :class:`Location`, so that a command works the same
on a laptop's disk, on NFS and on a bucket. Credentials and the server's address come from the environment, as with the
providers' own tools (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_ENDPOINT_URL``,
``GOOGLE_APPLICATION_CREDENTIALS``): addresses are printed, stored and logged, so they must not hold secrets.
"""

from __future__ import annotations

import errno
import os
import posixpath
import random
import re
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from pyarrow import fs

from altermoma_ray.addresses import inside, without_credentials
from altermoma_ray.errors import UserError

DEFAULT_STORAGE = "storage"
"""The folder of all results, in the working directory."""

_BUCKETS = ("s3", "gs", "gcs")
_STALE_CLAIM = 600.0
"""Seconds after which another's claim to a file counts as left behind: two requests lie between claim and file."""
# Losers of one round wait up to a second, so ten rounds let several writers pass one after the other.
_CLAIM_TRIES = 10
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK)
"""Errors of file systems without hard links."""
_ONE_PUT = "allow_delayed_open=true"
"""Makes pyarrow write a small S3 object with one request instead of three."""
_ADDRESS = "check the address and its access"
_WRITABLE = "choose a folder that you may write"
_REASONS = {
    "NO_SUCH_BUCKET": "its bucket does not exist",
    "Bucket '": "its bucket does not exist",
    "ACCESS_DENIED": "access is denied",
    "INVALID_ACCESS_KEY_ID": "access is denied",
    "INVALID_CLIENT_TOKEN_ID": "access is denied",
    "SIGNATURE_DOES_NOT_MATCH": "access is denied",
    "HTTP status 403": "access is denied",
    "NETWORK_CONNECTION": "its server does not answer",
}
"""Meanings of pyarrow's long messages, by a part of each."""


@dataclass(frozen=True)
class Location:
    """A file or folder on some file system.

    >>> root = Location.parse("/data/nuscenes")
    >>> root.join("samples", "CAM_FRONT", "picture.jpg").path
    '/data/nuscenes/samples/CAM_FRONT/picture.jpg'
    """

    filesystem: fs.FileSystem
    path: str
    """Path inside the file system, with forward slashes and no trailing one."""
    scheme: str = ""
    """The URI's scheme; empty on the local disk."""
    query: str = ""
    """The URI's options, such as ``?endpoint_override=127.0.0.1:9000&scheme=http``."""

    @classmethod
    def parse(cls, uri: str | os.PathLike[str]) -> Location:
        """Open a local path (made absolute) or a URI.

        Raises:
            UserError: the URI's scheme is unknown, the URI holds credentials, or its file system cannot be reached.
        """
        # Linux hands file names over as bytes; Python keeps bytes outside UTF-8 as surrogates, on which JSON, MLflow
        # and pyarrow fail later, each with a message of its own.
        text = os.fspath(uri)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(f"path {os.fsencode(text)!r} is not UTF-8; rename the folder") from None
        address = without_credentials(text)
        if "\0" in (unquote(text) if "://" in text else text):
            raise UserError(f"cannot open {address!r}: it holds a null character; give a local path, s3:// or gs://")
        if "://" not in text:
            return cls(fs.LocalFileSystem(), Path(text).expanduser().absolute().as_posix())
        # An address without its secrets differs from the given one; a trailing "?" or "&" is no secret.
        if address != text.rstrip("?&"):
            raise UserError(
                f"{address} was given with credentials, which would be stored and printed; set them in the environment "
                "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or GOOGLE_APPLICATION_CREDENTIALS)"
            )
        shown, _, options = address.partition("?")
        scheme, _, place = shown.partition("://")
        if scheme not in (*_BUCKETS, "file"):
            raise UserError(f"cannot open {shown}: {scheme}:// is not known; give a local path, s3:// or gs://")
        # pyarrow would take the first folder for the bucket, or open the root of the local disk.
        if not place or (scheme in _BUCKETS and place.startswith(("/", ":"))):
            raise UserError(f"cannot open {shown}: it names no bucket; give {scheme}://BUCKET/FOLDER")
        if "#" in text or text.endswith("?"):  # or the rest would be left out without a word
            raise UserError(f"cannot open {text}: in a URI '#' and '?' end the path; write %23 and %3F in their place")
        # A lone "%" is meant literally, but "%20" is quoted already: quote the first, and no "%" a second time.
        place = quote(re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", place), safe="/%:@+=,[]!$&'()*;~")
        try:
            opened = "&".join(filter(None, (options, _ONE_PUT if scheme == "s3" else "")))
            filesystem, path = fs.FileSystem.from_uri(f"{scheme}://{place}{'?' if opened else ''}{opened}")
        except Exception as error:
            raise UserError(f"cannot open {shown}: {_reason(error)}; give a local path, s3:// or gs://") from error
        if isinstance(filesystem, fs.LocalFileSystem):
            return cls(filesystem, path.rstrip("/"))
        # Without `_ONE_PUT`: the option is pyarrow's affair, and addresses are stored as the user gave them.
        return cls(filesystem, path.rstrip("/"), scheme, f"?{options}" if options else "")

    @property
    def is_local(self) -> bool:
        return self.scheme == ""

    @property
    def name(self) -> str:
        return posixpath.basename(self.path)

    def __str__(self) -> str:
        return self.path if self.is_local else f"{self.scheme}://{quote(self.path, safe='/@:+=,')}{self.query}"

    def join(self, *parts: str) -> Location:
        """The location below this one.

        Raises:
            UserError: a part would lead out of this folder (file names may come from a data set).
        """
        # Normalised before the check: "a/../../b" leaves the folder too, though the first part is a harmless name.
        relative = posixpath.normpath(posixpath.join(*parts))
        if relative.startswith("/") or relative.split("/")[0] == "..":
            raise UserError(f"file name {posixpath.join(*parts)!r} leaves its folder {self}; use names inside it")
        if "\0" in relative:
            raise UserError(f"file name {relative!r} in {self} holds a null character; use names of a file system")
        return self._at(self.path if relative == "." else posixpath.join(self.path, relative))

    @property
    def parent(self) -> Location:
        return self._at(posixpath.dirname(self.path))

    def _at(self, path: str) -> Location:
        return Location(self.filesystem, path, self.scheme, self.query)

    @property
    def plain(self) -> str:
        """The address for MLflow, which reads a bucket's literally, and a path too unless a part looks quoted.

        >>> Location.parse("/data/50%").plain, Location.parse("/data/a b").plain
        ('file:///data/50%25', '/data/a b')
        """
        if self.is_local:
            return f"file://{quote(self.path)}" if {"%", "?", "#"} & {*self.path} else self.path
        return f"{'gs' if self.scheme == 'gcs' else self.scheme}://{self.path}"

    def within(self, folder: Location) -> str | None:
        """The path relative to a folder, ``"."`` for the folder itself; None for a place elsewhere."""
        return inside(str(self), str(folder))

    def kept_in(self, folder: Location) -> str:
        """The address for a file in a folder: relative to the folder for places inside, as both can then move."""
        return self.within(folder) or str(self)

    def is_same(self, other: Location) -> bool:
        """Whether both are one place, also where links lead to the place by two names."""
        if self.is_local and other.is_local:
            try:
                # Compares the files themselves (device and inode), so hard links, bind mounts and case count as well.
                return os.path.samefile(self.path, other.path)
            except OSError:
                # One of both does not exist yet; the links on the way to it can still be followed.
                return os.path.realpath(self.path) == os.path.realpath(other.path)
        return self.plain == other.plain

    def exists(self) -> bool:
        return bool(self.info().type != fs.FileType.NotFound)

    def is_folder(self) -> bool:
        return bool(self.info().type == fs.FileType.Directory)

    def size(self) -> int:
        """Bytes of a file; -1 for a folder or a missing file."""
        size = self.info().size
        return -1 if size is None else int(size)

    def info(self) -> fs.FileInfo:
        """Kind, size (bytes) and modification time.

        Raises:
            UserError: the file system does not tell.
        """
        with self._explained("read", _ADDRESS):
            return self.filesystem.get_file_info([self.path])[0]

    def listing(self) -> list[fs.FileInfo]:
        """The entries directly below, sorted by path; empty when the folder is missing. One request for 1000 entries.

        Raises:
            UserError: the file system does not tell.
        """
        with self._explained("read", _ADDRESS):
            found = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        return sorted(found, key=lambda info: info.path)

    def children(self) -> list[Location]:
        """Files and folders directly below, sorted by name; empty when the folder is missing."""
        return [self._at(info.path) for info in self.listing()]

    def read_bytes(self) -> bytes:
        """The file's bytes.

        Raises:
            FileNotFoundError: the file is missing.
            UserError: the file cannot be read.
        """
        with self._explained("read", _ADDRESS), self.filesystem.open_input_file(self.path) as stream:
            return bytes(stream.read())

    def read_part(self, start: int, count: int) -> bytes:
        """``count`` of the file's bytes from ``start`` on, fewer at its end; a bucket is asked for no more than these.

        Raises:
            FileNotFoundError: the file is missing.
            UserError: the file cannot be read.
        """
        with self._explained("read", _ADDRESS), self.filesystem.open_input_file(self.path) as stream:
            return bytes(stream.read_at(count, start))

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def write_bytes(self, data: bytes) -> None:
        """Write the whole file or nothing: readers never see a part.

        Raises:
            UserError: the place cannot be written.
        """
        with self._explained("write", _WRITABLE):
            if not self.is_local:  # an object appears when its upload is closed
                with self.filesystem.open_output_stream(self.path) as stream:
                    stream.write(data)
                return
            target = Path(self.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            # In the target's own folder: a rename is atomic within one file system only.
            partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
            try:
                partial.write_bytes(data)
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)

    def write_text(self, text: str) -> None:
        self.write_bytes(text.encode())

    def write_new(self, data: bytes) -> bool:
        """Write the whole file where there is none; of several writers at once, one succeeds.

        On a disk, the file is a hard link to a finished file. A bucket's plain write cannot tell whether the file
        exists: each writer first leaves a claim beside the file and then lists the claims. A writer who finds
        another's claim draws back, and tries again a little later.

        Returns:
            Whether the file was written. False leaves everything as before.

        Raises:
            UserError: the place cannot be written.
        """
        if not self.is_local:
            return self._write_claimed(data)
        with self._explained("write", _WRITABLE):
            target = Path(self.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
            try:
                partial.write_bytes(data)
                return place_new(partial, target)
            finally:
                partial.unlink(missing_ok=True)

    def _write_claimed(self, data: bytes) -> bool:
        # Listings of S3 and GCS are strongly consistent: of two writers, the later one to list sees both claims. Both
        # may draw back, but never do both write.
        claims = self.parent.join(f".{self.name}.claims")
        for _ in range(_CLAIM_TRIES):
            own = claims.join(uuid.uuid4().hex)
            own.write_bytes(b"claimed")
            try:
                listed = {posixpath.basename(info.path): info.mtime_ns for info in claims.listing() if info.is_file}
                late = listed.pop(own.name) - int(_STALE_CLAIM * 1e9)  # all by the store's own clock
                if self.exists():
                    return False
                if all(written < late for written in listed.values()):
                    self.write_bytes(data)
                    return True
            finally:
                own.delete()
            # Not the seeded generator of `random`: two workers of one seed would wait alike, and meet again.
            time.sleep(random.SystemRandom().uniform(0, 1))
        return False

    def check_writable(self) -> None:
        """Find out whether files can be written in this folder, made or not yet; leaves no file behind.

        Raises:
            UserError: they cannot.
        """
        with self._explained("write to folder", _WRITABLE):
            if self.is_local:
                folder = Path(self.path)
                # The nearest existing ancestor decides; nothing is made before the command is known to be right.
                while not folder.exists():
                    folder = folder.parent
                with tempfile.TemporaryFile(dir=folder):
                    return
            # A bucket tells its permissions by a write alone.
            probe = posixpath.join(self.path, f".{uuid.uuid4().hex}.probe")
            with self.filesystem.open_output_stream(probe) as stream:
                stream.write(b"probe")
            self.filesystem.delete_file(probe)

    def make_folder(self) -> None:
        """Create the folder and its parents.

        Raises:
            UserError: the place cannot be written.
        """
        with self._explained("write", _WRITABLE):
            self.filesystem.create_dir(self.path, recursive=True)

    def delete(self) -> None:
        """Remove a file, or a folder with its content; nothing happens to a missing one.

        Raises:
            UserError: the place cannot be removed.
        """
        kind = self.info().type
        with self._explained("delete", _ADDRESS):
            if kind == fs.FileType.Directory:
                self.filesystem.delete_dir(self.path)
            elif kind != fs.FileType.NotFound:
                self.filesystem.delete_file(self.path)

    @contextmanager
    def _explained(self, action: str, remedy: str) -> Iterator[None]:
        """Turn errors of a file system, but for a missing file to read, into one :class:`UserError`."""
        try:
            yield
        except OSError as error:
            # A missing file is an answer, which callers act on; other errors end the command.
            if action == "read" and isinstance(error, FileNotFoundError):
                raise
            raise UserError(f"cannot {action} {self}: {_reason(error)}; {remedy}") from error


def place_new(partial: Path, target: Path) -> bool:
    """Give a finished file its name, if the name is free; tells whether the name was free. ``partial`` may be left.

    Raises:
        OSError: the place cannot be written.
    """
    try:
        # A hard link is refused where the name exists, atomically and on NFS as well; a rename would replace the file.
        os.link(partial, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:  # next best: an empty file takes the name, until the finished one replaces it
            target.open("xb").close()
        except FileExistsError:
            return False
        partial.replace(target)
    return True


def _reason(error: Exception) -> str:
    known = [meaning for part, meaning in _REASONS.items() if part in str(error)]
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return known[0] if known else str(text).splitlines()[0]

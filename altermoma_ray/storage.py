"""Files on a local path or on any ``pyarrow.fs`` URI (``s3://``, ``gs://``, ...), written atomically.

Everything that reads a data set or writes a result goes through :class:`Location`, so that a command works the same
on a laptop's disk and on a bucket.
"""

from __future__ import annotations

import os
import posixpath
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from altermoma_ray.errors import UserError

DEFAULT_STORAGE = "storage"
"""Where commands keep what they make: a folder in the working directory."""


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
    """The URI's options, such as ``?endpoint_override=...``."""

    @classmethod
    def parse(cls, uri: str | os.PathLike[str]) -> Location:
        """Open a local path (made absolute) or a URI.

        Raises:
            UserError: the URI's scheme is unknown or its file system cannot be reached.
        """
        text = os.fspath(uri)
        if "://" not in text:
            return cls(fs.LocalFileSystem(), Path(text).expanduser().absolute().as_posix())
        try:
            filesystem, path = fs.FileSystem.from_uri(text)
        except Exception as error:
            raise UserError(f"cannot open {text!r}: {error}; give a local path or an s3:// or gs:// URI") from error
        scheme = "" if isinstance(filesystem, fs.LocalFileSystem) else text.split("://", 1)[0]
        query = text[text.index("?") :] if scheme and "?" in text else ""
        return cls(filesystem, path.rstrip("/"), scheme, query)

    @property
    def is_local(self) -> bool:
        return self.scheme == ""

    @property
    def name(self) -> str:
        return posixpath.basename(self.path)

    def __str__(self) -> str:
        return self.path if self.is_local else f"{self.scheme}://{self.path}{self.query}"

    def join(self, *parts: str) -> Location:
        """The location below this one.

        Raises:
            UserError: a part would lead out of this folder (file names may come from a data set).
        """
        relative = posixpath.normpath(posixpath.join(*parts))
        if relative.startswith(("/", "..")):
            raise UserError(f"file name {posixpath.join(*parts)!r} leaves its folder {self}; use names inside it")
        return Location(self.filesystem, posixpath.join(self.path, relative), self.scheme, self.query)

    @property
    def parent(self) -> Location:
        return Location(self.filesystem, posixpath.dirname(self.path), self.scheme, self.query)

    def exists(self) -> bool:
        return bool(self._info().type != fs.FileType.NotFound)

    def is_folder(self) -> bool:
        return bool(self._info().type == fs.FileType.Directory)

    def size(self) -> int:
        """Bytes of a file; -1 for a folder or a missing file."""
        size = self._info().size
        return -1 if size is None else int(size)

    def _info(self) -> fs.FileInfo:
        try:
            return self.filesystem.get_file_info([self.path])[0]
        except OSError as error:
            raise UserError(f"cannot read {self}: {_first_line(error)}; check the address and its access") from error

    def children(self) -> list[Location]:
        """Files and folders directly below, sorted by name; empty when the folder is missing."""
        selector = fs.FileSelector(self.path, allow_not_found=True)
        paths = sorted(info.path for info in self.filesystem.get_file_info(selector))
        return [Location(self.filesystem, path, self.scheme, self.query) for path in paths]

    def read_bytes(self) -> bytes:
        """The file's bytes.

        Raises:
            FileNotFoundError: there is no such file.
            UserError: it cannot be read.
        """
        try:
            with self.filesystem.open_input_file(self.path) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UserError(f"cannot read {self}: {_first_line(error)}; check the file and its access") from error

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def write_bytes(self, data: bytes) -> None:
        """Write the whole file or nothing: readers never see a part of it.

        Raises:
            UserError: the place cannot be written.
        """
        try:
            if not self.is_local:  # an object appears when its upload is closed
                with self.filesystem.open_output_stream(self.path) as stream:
                    stream.write(data)
                return
            target = Path(self.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
            try:
                partial.write_bytes(data)
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot write {self}: {_first_line(error)}; choose a folder that you may write") from error

    def write_text(self, text: str) -> None:
        self.write_bytes(text.encode())

    def check_writable(self) -> None:
        """Find out whether files can be written in this folder, made or not yet; leaves nothing behind.

        Raises:
            UserError: they cannot.
        """
        try:
            if self.is_local:
                folder = Path(self.path)
                while not folder.exists():
                    folder = folder.parent
                with tempfile.TemporaryFile(dir=folder):
                    return
            probe = posixpath.join(self.path, f".{uuid.uuid4().hex}.probe")
            with self.filesystem.open_output_stream(probe):
                pass
            self.filesystem.delete_file(probe)
        except OSError as error:
            reason = error.strerror or _first_line(error)
            raise UserError(f"cannot write to folder {self}: {reason}; choose a folder that you may write") from error

    def make_folder(self) -> None:
        """Create the folder and its parents.

        Raises:
            UserError: the place cannot be written.
        """
        try:
            self.filesystem.create_dir(self.path, recursive=True)
        except OSError as error:
            raise UserError(f"cannot write {self}: {_first_line(error)}; choose a folder that you may write") from error

    def delete(self) -> None:
        """Remove a file, or a folder with all it holds; nothing happens when it is missing."""
        kind = self._info().type
        if kind == fs.FileType.Directory:
            self.filesystem.delete_dir(self.path)
        elif kind != fs.FileType.NotFound:
            self.filesystem.delete_file(self.path)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__

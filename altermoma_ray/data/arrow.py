"""Indexes of data sets as Arrow files: one uncompressed record batch, memory-mapped, with facts in its metadata.

Opening a file reads its schema alone, and a row's numbers are views of the mapped file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from altermoma_ray.storage import Location


def read_batch(file: Location) -> tuple[pa.RecordBatch, dict[str, str]]:
    """The one record batch of a file, mapped into memory, and the facts in its metadata.

    Args:
        file: a file of :func:`write_table`; a remote file is first copied to a local cache.

    Raises:
        OSError: the file is missing or cannot be read.
        pyarrow.ArrowInvalid: the file is damaged.
    """
    # One batch alone: with several, each row would first have to be looked up in its batch.
    batch = pa.ipc.open_file(pa.memory_map(str(local_copy(file)))).get_batch(0)
    return batch, {key.decode(): value.decode() for key, value in (batch.schema.metadata or {}).items()}


def write_table(table: pa.Table, facts: Mapping[str, str], out: Location) -> None:
    """Write a table as one record batch, whole or not at all.

    Args:
        table: the rows.
        facts: for the file's metadata.
        out: the file to write.

    Raises:
        UserError: ``out`` cannot be written.
    """
    table = table.combine_chunks().replace_schema_metadata(dict(facts))
    # In memory first: `write_bytes` is atomic, and a reader never maps half an index.
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    out.write_bytes(sink.getvalue().to_pybytes())


class Nested:
    """A list<struct> column as flat arrays, one for each field, with the rows' boundaries; numbers are not copied."""

    def __init__(self, column: pa.ListArray, shapes: Mapping[str, tuple[int, ...]] | None = None) -> None:
        """Take a column apart.

        Args:
            column: of the record batch.
            shapes: of the entries of fields with lists of fixed size, where they are no vectors.
        """
        self._offsets = numbers(column.offsets)
        self._fields: dict[str, Any] = {}
        for position, field in enumerate(column.type.value_type):
            values = column.values.field(position)
            # Sizes fixed in the schema: one reshape instead of a list of lists, without a copy.
            if pa.types.is_fixed_size_list(field.type):
                shape = (shapes or {}).get(field.name, (field.type.list_size,))
                self._fields[field.name] = numbers(values.values).reshape(-1, *shape)
            else:
                self._fields[field.name] = values if pa.types.is_string(field.type) else numbers(values)

    def all(self, name: str) -> list[Any]:
        """One field of all entries of all rows."""
        return list(self._fields[name].tolist())

    def get(self, row: int, name: str) -> Any:
        """One field of all entries of a row: a NumPy view, or a list of strings."""
        values = self._fields[name][self._offsets[row] : self._offsets[row + 1]]
        return values if isinstance(values, np.ndarray) else values.to_pylist()

    def records(self, row: int) -> list[dict[str, Any]]:
        """All fields of each entry of a row."""
        columns = [self.get(row, name) for name in self._fields]
        return [dict(zip(self._fields, entry, strict=True)) for entry in zip(*columns, strict=True)]


def numbers(array: pa.Array) -> np.ndarray:
    """A read-only view of an array without nulls (``to_numpy`` would import pandas where present: 0.3 s, 40 MB)."""
    # A slice shares its parent's buffer, hence the offset.
    view = np.frombuffer(array.buffers()[1], dtype=np.dtype(str(array.type)))
    return view[array.offset : array.offset + len(array)]


def local_copy(file: Location, *, renew: bool = False) -> Path:
    """A path to map into memory: the file's own, or a local copy named after the file's address, size and time.

    Buckets tell time in seconds: a file built anew within a second has the name of an older copy. ``renew`` then writes
    the copy again.
    """
    if file.is_local:
        return Path(file.path)
    info = file.info()
    name = hashlib.blake2b(f"{file} {info.size} {info.mtime_ns}".encode(), digest_size=16).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    copy = Location.parse(cache / "altermoma_ray" / "index" / f"{name}.arrow")
    if renew or not copy.exists():
        copy.write_bytes(file.read_bytes())
    return Path(copy.path)

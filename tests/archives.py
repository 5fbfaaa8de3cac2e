"""Zip archives, such as those of ``torch.save``, with a record exchanged."""

from __future__ import annotations

import io
import zipfile


def edited_record(data: bytes, ending: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(stream, "w") as target:
        for entry in source.infolist():
            target.writestr(entry, content if entry.filename.endswith(ending) else source.read(entry))
    return stream.getvalue()

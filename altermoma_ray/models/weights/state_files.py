"""Any file of weights as one flat dictionary of tensors: safetensors, ``torch.save``'s formats, an index of shards.

A tensor's name is its own one, below the names of the dictionaries around it: ``state_dict/module.fuser.0.weight`` lies
in an entry ``state_dict``. States of optimisers are left out. A name's meaning is the business of
:mod:`altermoma_ray.models.weights.load`. Nothing in a file is trusted; see
:mod:`altermoma_ray.models.weights.torch_files`.

Example::

    file = read_state(location.read_bytes(), location)
    file.tensors["state_dict/module.fuser.0.weight"]
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
from torch import Tensor

from altermoma_ray.errors import UserError
from altermoma_ray.models.weights.torch_files import (
    PLAIN_PICKLE,
    OtherFile,
    RefusedPickle,
    StandIn,
    TensorPart,
    TorchFile,
    is_stream,
    is_zip,
    read_stream,
    read_zip,
)
from altermoma_ray.storage import Location

SAVE_WEIGHTS = "save the weights alone with torch.save(model.state_dict(), FILE) and give that file"
_NAMED = 5
"""Most entries named in a message."""
NAMED_MISFITS = 3
"""Most tensors named in an error; the error counts all of them."""
_MOST_LEVELS = 16
"""Levels of nested dictionaries to look into."""


@dataclass(frozen=True)
class StateFile:
    """The tensors of a file, and the names of its outermost entries."""

    tensors: dict[str, Tensor]
    """By name, in the file's order; at least one."""
    entries: tuple[str, ...] = ()
    """Names in the outermost dictionary, tensors or not."""


def read_state(data: bytes, location: Location) -> StateFile:
    """The tensors of a file of any known format.

    Args:
        data: the file's bytes.
        location: the file's address; shards lie beside their index.

    Raises:
        UserError: the file is damaged, of no known format, or holds no tensors by name.
    """
    # The bytes decide, not the file's name: released files are renamed and served without endings.
    if is_safetensors(data):
        return StateFile(_read_safetensors(data, location))
    if data[:1] == b"{":
        return _read_shards(data, location)
    file = _read_torch(data, location)
    parts = _flat(file.content)
    if not parts:
        raise UserError(
            f"{location} is a pickle, but not of weights by name: it holds {_described(file.content)}; {SAVE_WEIGHTS}"
        )
    try:
        tensors = {name: file.tensor(part) for name, part in parts.items()}
    except Exception as error:  # as in _read_torch
        raise UserError(_damaged(location)) from error
    return StateFile(tensors, tuple(key for key in file.content if isinstance(key, str)))


def is_safetensors(data: bytes) -> bool:
    """Whether a file begins in safetensors' way: the header's length in 8 bytes, then the header's JSON object."""
    return data[8:9] == b"{"


def shown(name: str) -> str:
    """A name from a file, made fit for a message: on one line and not too long.

    >>> shown("fuser.0.weight"), shown("two\\nlines")
    ('fuser.0.weight', 'two\\\\nlines')
    """
    # A file's name may hold control characters, which would write over the terminal's lines.
    text = name if name.isprintable() else repr(name)[1:-1]
    return text if len(text) <= 120 else f"{text[:117]}..."


def some(items: list[str]) -> str:
    """The first of many names from a user's file, for a message."""
    return ", ".join(map(shown, items[:NAMED_MISFITS])) + (", …" if len(items) > NAMED_MISFITS else "")


def check_numbers(tensors: Mapping[str, Tensor], origin: str) -> None:
    """Make sure of finite weights.

    Args:
        tensors: by name; integers always pass.
        origin: the tensors' file, for the message.

    Raises:
        UserError: some weights are NaN or infinite; the message counts them.
    """
    broken = []
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.isfinite().all():
            continue
        counts = {"NaN": int(tensor.isnan().sum()), "infinite": int(tensor.isinf().sum())}
        parts = [f"{count:,} {what}" for what, count in counts.items() if count]
        broken.append(f"{name} has {' and '.join(parts)} of {tensor.numel():,}")
    if broken:
        raise UserError(
            f"{origin} holds weights that are no numbers, in {len(broken)} of {len(tensors)} tensors "
            f"({some(broken)}); its training had diverged: give a checkpoint from before that"
        )


def _read_safetensors(data: bytes, location: Location) -> dict[str, Tensor]:
    try:
        tensors = safetensors.torch.load(data)
    except Exception as error:  # SafetensorError, or a KeyError for a type unknown to this PyTorch
        raise UserError(
            f"{location} is no safetensors file or is damaged ({shown(str(error))}); copy it again, or give another"
        ) from error
    if not tensors:
        raise UserError(f"{location} holds no tensors; {SAVE_WEIGHTS}")
    return tensors


def _read_shards(data: bytes, location: Location) -> StateFile:
    """The tensors of all files named in an index (``model.safetensors.index.json``)."""
    try:
        names = set(json.loads(data)["weight_map"].values())
        shards = [location.parent.join(name) for name in sorted(names)]
    except UserError:
        raise
    except Exception as error:  # no JSON, no `weight_map`, names of other types, bytes of no encoding
        raise UserError(
            f"{location} is no checkpoint: neither weights nor an index of shards with a `weight_map`; give a "
            ".safetensors or .pth file"
        ) from error
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        try:
            content = shard.read_bytes()
        except FileNotFoundError as error:
            raise UserError(f"{location} names shard {shard}, which is missing; copy all shards there") from error
        # An index which names itself would be read without end.
        if content[:1] == b"{":
            raise UserError(f"{location} names shard {shard}, which is an index itself; copy the shards again")
        tensors |= read_state(content, shard).tensors
    if not tensors:
        raise UserError(f"{location} names no shards; copy it again, or give another file")
    return StateFile(tensors)


def _read_torch(data: bytes, location: Location) -> TorchFile:
    """The content of a file of ``torch.save``."""
    try:
        if is_zip(data):
            return read_zip(data)
        if is_stream(data):
            return read_stream(data)
    except RefusedPickle as error:
        raise UserError(
            f"{location} is a pickle that holds more than weights ({error}), which is not read for safety; if you "
            f"trust it, {SAVE_WEIGHTS}"
        ) from error
    except OtherFile as error:
        raise UserError(f"{location} is {error}") from error
    except Exception as error:  # a damaged file may fail anywhere in the reader
        raise UserError(_damaged(location)) from error
    if data[:1] == b"\x80":  # pickle's mark
        raise UserError(f"{location} is {PLAIN_PICKLE}")
    if data[:2] == b"\x1f\x8b":
        raise UserError(f"{location} is a gzip file; unpack it and give the file inside")
    if data.startswith(b"version https://git-lfs"):
        raise UserError(f"{location} is a pointer of Git LFS and not the file itself; run `git lfs pull` there")
    if data[:256].lstrip()[:1] == b"<":
        raise UserError(f"{location} is a web page and not the file itself; download it again")
    if data[257:262] == b"ustar":
        raise UserError(
            f"{location} is a tar archive; unpack it and give the file inside (or, where PyTorch 0.1 wrote it, save "
            "the weights again with a later one)"
        )
    raise UserError(_damaged(location))


def _damaged(location: Location) -> str:
    return f"{location} is no checkpoint, or a damaged one; copy it again, or give another file"


def _flat(content: Any) -> dict[str, TensorPart]:
    """The tensors in nested dictionaries; each dictionary is visited once, for it may contain itself."""
    found: dict[str, TensorPart] = {}
    seen: set[int] = set()

    def visit(items: Mapping[Any, Any], path: str, level: int) -> None:
        if id(items) in seen or level == _MOST_LEVELS or _is_optimiser(items):
            return
        seen.add(id(items))
        for key, value in items.items():
            if not isinstance(key, (str, int)):
                continue
            # Two keys may give one name (1 and "1"); the first one stays.
            if isinstance(value, TensorPart):
                found.setdefault(f"{path}{key}", value)
            elif isinstance(value, Mapping):
                visit(value, f"{path}{key}/", level + 1)

    if isinstance(content, Mapping):
        visit(content, "", 0)
    return found


def _is_optimiser(items: Mapping[Any, Any]) -> bool:
    return {"state", "param_groups"} <= {key for key in items if isinstance(key, str)}


def _described(content: Any) -> str:
    """The content of a file without weights, in words."""
    if isinstance(content, TensorPart):
        return "one tensor without a name"
    if isinstance(content, StandIn) and not content and content.origin != "collections.OrderedDict":
        return f"a whole object of class {shown(content.origin)}"
    if isinstance(content, (list, tuple)):
        return f"a list of {len(content)} items"
    if not isinstance(content, Mapping):
        return f"one {type(content).__name__}"
    if not content:
        return "an empty dictionary"
    if _is_optimiser(content):
        return "an optimizer's state"
    for key, value in content.items():
        if isinstance(value, StandIn) and not value and str(key) in ("model", "net", "module", "ema"):
            return f"{_described(value)} under {shown(str(key))!r}"
    keys = [shown(str(key)) for key in content if isinstance(key, (str, int))]
    return f"a dictionary without weights ({', '.join(keys[:_NAMED])}{', …' if len(keys) > _NAMED else ''})"

"""Files of ``torch.save``, read without trusting them: tensors, numbers, text and containers come out, nothing runs.

``torch.load(weights_only=True)`` refuses a whole file for one object that is no tensor, and training frameworks leave
such objects beside the weights (histories, paths, configurations). Here a pickle never reaches a class or function of
any module: :meth:`_Unpickler.find_class` hands out classes of this file alone, and every name that it does not know
becomes a :class:`StandIn`, which takes whatever the pickle does with it and keeps its items at most. Tensors are cut
from the file's bytes by :meth:`TensorPart.tensor`.

Formats: the zip archive (PyTorch 1.6 and later: ``data.pkl``, one stored record for each storage) and the stream before
it (five pickles, then the storages).
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_STREAM_MARK = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
"""What the first pickle of the older format holds; PyTorch chose the number."""
PLAIN_PICKLE = (
    "a pickle that torch.save did not write, which is not read for safety; if you trust it, write its weights with "
    "torch.save"
)
_BIG_ENDIAN = "written on a big-endian machine, which is not read; save it again on another"
_MOST_CLASSES = 1000
"""Different names that a pickle may mention; training frameworks mention a few dozen."""
_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
_RUNNING_MODULES = {"os", "posix", "nt", "sys", "subprocess", "importlib", "runpy", "shutil", "socket", "pty"}
_RUNNING_BUILTINS = {"eval", "exec", "execfile", "compile", "open", "__import__"}


class RefusedPickle(Exception):
    """The pickle names a function that no checkpoint needs and that would run something; nothing was run."""


class OtherFile(Exception):
    """The file is whole, but not read; the text says what it is and what to do."""


class _Stateless:
    """What a pickle may get hold of: its state cannot be set, neither an instance's nor the class's own."""

    def __setstate__(self, state: object) -> None:
        """Nothing of an object's inside is kept."""


@dataclass(frozen=True)
class _Storage(_Stateless):
    """A run of numbers in the file."""

    dtype: torch.dtype
    key: str
    start: int = 0
    """Its first number inside the run that is stored under ``key``."""


class TensorPart(_Stateless):
    """A tensor as its pickle describes it: a view on a storage."""

    def __init__(self, storage: _Storage, offset: int, size: Sequence[int], stride: Sequence[int], *_: object) -> None:
        if not isinstance(storage, _Storage):
            raise pickle.UnpicklingError("a tensor without a storage")
        self.key, self.dtype = storage.key, storage.dtype
        self._offset, self._size, self._stride = int(offset) + storage.start, tuple(size), tuple(stride)

    def tensor(self, stored: Tensor) -> Tensor:
        """The tensor, from the bytes (uint8) of its whole storage, which it shares.

        Raises:
            RuntimeError: it would reach outside of them.
        """
        return stored.view(self.dtype).as_strided(self._size, self._stride, self._offset)


class _TypedTensor(_Stateless):
    """``torch._utils._rebuild_tensor_v3``: the type stands beside the storage."""

    def __new__(cls, storage: _Storage, offset: int, size: Any, stride: Any, *rest: Any) -> Any:
        part = TensorPart(storage, offset, size, stride)
        if len(rest) > 2 and isinstance(rest[2], torch.dtype):
            part.dtype = rest[2]
        return part


class _Inner(_Stateless):
    """``torch._utils._rebuild_parameter`` and its like: the tensor inside is what counts."""

    def __new__(cls, inner: Any, *_: object) -> Any:
        return inner


class _Called(_Stateless):
    """``torch._tensor._rebuild_from_type_v2``: a tensor of a subclass, or with attributes."""

    def __new__(cls, build: Any, kind: Any, arguments: Any, state: Any) -> Any:
        if build not in _TENSORS.values():
            raise pickle.UnpicklingError("a tensor that is built by something else")
        return build(*arguments)


class StandIn(_Stateless, dict):  # type: ignore[type-arg]
    """An object of an unknown class: it takes what a pickle does to it, and keeps items as a dictionary would."""

    origin = ""
    """The class, as the pickle names it."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__
    __ne__ = object.__ne__

    def __call__(self, *_: object, **__: object) -> StandIn:
        return StandIn()

    def append(self, item: object) -> None:
        """Items of an unknown kind of list are left out."""

    def extend(self, items: object) -> None:
        """As for :meth:`append`."""


class _Ordered(StandIn):
    """``collections.OrderedDict``, which Python 2 made from a list of pairs."""

    origin = "collections.OrderedDict"

    def __init__(self, pairs: Sequence[tuple[Any, Any]] = ()) -> None:
        dict.__init__(self, pairs)


_TENSORS: dict[tuple[str, str], type] = {
    ("torch._utils", "_rebuild_tensor"): TensorPart,
    ("torch._utils", "_rebuild_tensor_v2"): TensorPart,
    ("torch._utils", "_rebuild_tensor_v3"): _TypedTensor,
    ("torch._utils", "_rebuild_parameter"): _Inner,
    ("torch._utils", "_rebuild_parameter_with_state"): _Inner,
}
_KNOWN: dict[tuple[str, str], type] = {
    **_TENSORS,
    ("torch._tensor", "_rebuild_from_type_v2"): _Called,
    ("collections", "OrderedDict"): _Ordered,
}


class _Unpickler(pickle.Unpickler):
    """Every name that a pickle mentions passes :meth:`find_class`, and no module is looked into there."""

    def __init__(self, stream: io.BytesIO) -> None:
        _check_memory(stream)
        super().__init__(stream, encoding="latin1")
        self.types: dict[str, torch.dtype] = {}
        self._classes: dict[tuple[str, str], type] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] in _RUNNING_MODULES or (
            module in ("builtins", "__builtin__") and name in _RUNNING_BUILTINS
        ):
            raise RefusedPickle(f"{module}.{name}")
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module in ("torch", "torch.cuda", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            return vars(torch)[name]
        if (module, name) not in self._classes:
            if len(self._classes) == _MOST_CLASSES:
                raise pickle.UnpicklingError(f"it names more than {_MOST_CLASSES} classes")
            self._classes[module, name] = type("StandIn", (StandIn,), {"origin": f"{module}.{name}"})
        return self._classes[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """A storage; in the older format also a module's class, which came with its source."""
        kind, first, *rest = pid
        if kind == "module":
            return first
        if kind != "storage" or not isinstance(first, torch.dtype):
            raise pickle.UnpicklingError("it refers to something that is no storage")
        key, _, _, *view = rest
        self.types.setdefault(str(key), first)
        return _Storage(first, str(key), view[0][1] if view and view[0] else 0)


def _check_memory(stream: io.BytesIO) -> None:
    """Look through a pickle's instructions for numbers of objects that Python would make room for at once.

    Raises:
        ValueError: there are more than the pickle's bytes can make, or the pickle is cut.
    """
    start = stream.tell()
    for code, number, _ in pickletools.genops(stream):
        if code.name.endswith("PUT") and (number or 0) > stream.getbuffer().nbytes:
            raise ValueError(f"object {number} in a smaller file")
    stream.seek(start)


class TorchFile:
    """What a file of ``torch.save`` holds.

    Args:
        content: text, numbers, lists, dictionaries, :class:`StandIn` and :class:`TensorPart`.
        stored: the bytes of a storage, by its key.
    """

    def __init__(self, content: Any, stored: Callable[[str], bytes]) -> None:
        self.content = content
        self._stored = stored
        self._storages: dict[str, Tensor] = {}

    def tensor(self, part: TensorPart) -> Tensor:
        """The tensor of a part of :attr:`content`, on the CPU.

        Raises:
            Exception: the file is damaged there.
        """
        if part.key not in self._storages:
            data = bytearray(self._stored(part.key))
            self._storages[part.key] = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0).byte()
        return part.tensor(self._storages[part.key])


def is_zip(data: bytes) -> bool:
    """Whether a file is a zip archive, as ``torch.save`` writes since 1.6."""
    return data[:4] == b"PK\x03\x04"


def is_stream(data: bytes) -> bool:
    """Whether a file begins as ``torch.save`` began before 1.6: with a pickle, of protocol 2 or of its mark."""
    return data[:2] == b"\x80\x02" or (data[:1] == b"\x80" and _STREAM_MARK in data[:64])


def read_zip(data: bytes) -> TorchFile:
    """Read the archive of ``torch.save``.

    Raises:
        RefusedPickle, OtherFile: see there.
        Exception: it is damaged or made by something else; where it fails is up to the file.
    """
    archive = zipfile.ZipFile(io.BytesIO(data))
    names = archive.namelist()
    pickles = [name for name in names if name.split("/")[-1] == "data.pkl"]
    if not pickles:
        raise OtherFile("a zip archive that torch.save did not write; unpack it and give the file inside")
    folder = min(pickles, key=len).removesuffix("data.pkl")
    if f"{folder}constants.pkl" in names:
        raise OtherFile("a TorchScript archive, which holds a program; save its state_dict() with torch.save")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise OtherFile("a compressed archive, as torch.save writes none; pack it again without compression (zip -0)")
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") == b"big":
        raise OtherFile(_BIG_ENDIAN)

    def stored(key: str) -> bytes:
        return archive.read(f"{folder}data/{key}")

    return TorchFile(_Unpickler(io.BytesIO(archive.read(f"{folder}data.pkl"))).load(), stored)


def read_stream(data: bytes) -> TorchFile:
    """Read what ``torch.save`` wrote before 1.6: mark, version, machine, content, the storages' keys, the storages.

    Raises:
        RefusedPickle, OtherFile: see there.
        Exception: it is damaged or made by something else; where it fails is up to the file.
    """
    stream = io.BytesIO(data)
    if _Unpickler(stream).load() != int.from_bytes(_STREAM_MARK, "little"):
        raise OtherFile(PLAIN_PICKLE)
    _, machine = _Unpickler(stream).load(), _Unpickler(stream).load()
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise OtherFile(_BIG_ENDIAN)
    unpickler = _Unpickler(stream)
    content = unpickler.load()
    places: dict[str, tuple[int, int]] = {}
    for key in _Unpickler(stream).load():
        (count,) = struct.unpack("<q", stream.read(8))
        start = stream.tell()
        end = start + count * unpickler.types[str(key)].itemsize
        if count < 0 or end > len(data):
            raise ValueError("it ends before its last tensor")
        places[str(key)] = start, end
        stream.seek(end)

    def stored(key: str) -> bytes:
        return data[slice(*places[key])]

    return TorchFile(content, stored)

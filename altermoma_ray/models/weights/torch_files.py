"""Files of ``torch.save``, read without trusting them: tensors, numbers, text and containers come out, nothing runs.

``torch.load(weights_only=True)`` refuses a whole file for one object of another kind, and training frameworks leave
histories, paths and configurations beside the weights. Here a pickle never reaches a class or function of any module:
:meth:`_Unpickler.find_class` hands out classes of this file alone. Every unknown name becomes a :class:`StandIn`, which
accepts every step of the pickle and keeps its items at most. :meth:`TensorPart.tensor` cuts tensors from the file's
bytes.

Example: the tensors in the outermost dictionary of a file::

    file = read_zip(data)
    tensors = {name: file.tensor(part) for name, part in file.content.items() if isinstance(part, TensorPart)}

Formats: the zip archive (PyTorch 1.6 and later: ``data.pkl``, one stored record for each storage) and the older stream
(five pickles, then the storages).
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
"""The number in the first pickle of the older format, chosen by PyTorch."""
PLAIN_PICKLE = (
    "a pickle that torch.save did not write, which is not read for safety; if you trust it, write its weights with "
    "torch.save"
)
_BIG_ENDIAN = "written on a big-endian machine, which is not read; save it again on another"
_MOST_CLASSES = 1000
"""Most different names in a pickle; training frameworks use a few dozen. Each unknown name costs a class."""
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
# The stand-ins would make these names harmless; a file with one of them is an attack, and its user should know.
_RUNNING_MODULES = {"os", "posix", "nt", "sys", "subprocess", "importlib", "runpy", "shutil", "socket", "pty"}
_RUNNING_BUILTINS = {"eval", "exec", "execfile", "compile", "open", "__import__"}


class RefusedPickle(Exception):
    """The pickle names a function which would run something and which no checkpoint needs; nothing was run."""


class OtherFile(Exception):
    """The file is whole, but of a kind not read here; the text names the kind and the remedy."""


class _Stateless:
    """Base of the classes within a pickle's reach: a pickle cannot set the state of an instance or of the class."""

    # Without this method, pickle's BUILD would write any attribute, `tensor` included, of an instance or a class.
    def __setstate__(self, state: object) -> None:
        """Nothing of an object's inside is kept."""


@dataclass(frozen=True)
class _Storage(_Stateless):
    """A run of numbers in the file."""

    dtype: torch.dtype
    key: str
    start: int = 0
    """Its first number inside the run stored under ``key``."""


class TensorPart(_Stateless):
    """A tensor as described by its pickle: a view on a storage."""

    def __init__(self, storage: _Storage, offset: int, size: Sequence[int], stride: Sequence[int], *_: object) -> None:
        if not isinstance(storage, _Storage):
            raise pickle.UnpicklingError("a tensor without a storage")
        self.key, self.dtype = storage.key, storage.dtype
        self._offset, self._size, self._stride = int(offset) + storage.start, tuple(size), tuple(stride)

    def tensor(self, stored: Tensor) -> Tensor:
        """The tensor, a view on the bytes (uint8) of its whole storage.

        Raises:
            RuntimeError: the tensor would reach outside of its storage.
        """
        # `as_strided` checks its bounds: a hostile size or offset cannot read foreign memory.
        return stored.view(self.dtype).as_strided(self._size, self._stride, self._offset)


class _TypedTensor(_Stateless):
    """``torch._utils._rebuild_tensor_v3``: the type stands beside the storage."""

    def __new__(cls, storage: _Storage, offset: int, size: Any, stride: Any, *rest: Any) -> Any:
        part = TensorPart(storage, offset, size, stride)
        # The arguments go on with requires_grad, hooks and the type; the storage is of plain bytes here.
        if len(rest) > 2 and isinstance(rest[2], torch.dtype):
            part.dtype = rest[2]
        return part


class _Inner(_Stateless):
    """``torch._utils._rebuild_parameter`` and its like: only the tensor inside counts."""

    def __new__(cls, inner: Any, *_: object) -> Any:
        return inner


class _Called(_Stateless):
    """``torch._tensor._rebuild_from_type_v2``: a tensor of a subclass, or with attributes."""

    def __new__(cls, build: Any, kind: Any, arguments: Any, state: Any) -> Any:
        # `build` comes from the pickle: only our own ways to a tensor may be called.
        if build not in _TENSORS.values():
            raise pickle.UnpicklingError("a tensor that is built by something else")
        return build(*arguments)


class StandIn(_Stateless, dict):  # type: ignore[type-arg]
    """An object of an unknown class, which accepts every step of a pickle and keeps items as a dictionary does."""

    origin = ""
    """The class's name in the pickle."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    # Pickles use objects of any class as keys of dictionaries; a plain dictionary could not be one.
    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__
    __ne__ = object.__ne__

    def __call__(self, *_: object, **__: object) -> StandIn:
        return StandIn()

    def append(self, item: object) -> None:
        """Items of an unknown kind of list are left out."""

    def extend(self, items: object) -> None:
        """The items are left out, as by :meth:`append`."""


class _Ordered(StandIn):
    """``collections.OrderedDict``; Python 2 pickled it with a list of pairs."""

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
    """A reader of pickles whose :meth:`find_class`, the way of every name in a pickle, looks into no module."""

    def __init__(self, stream: io.BytesIO) -> None:
        _check_memory(stream)
        # latin1 accepts every byte: files of Python 2 hold their text as bytes of any encoding.
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
        # `vars`, not `getattr`: torch's own `__getattr__` imports modules.
        if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            return vars(torch)[name]
        if (module, name) not in self._classes:
            if len(self._classes) == _MOST_CLASSES:
                raise pickle.UnpicklingError(f"it names more than {_MOST_CLASSES} classes")
            # A class for each name, since pickle asks for the same class again and messages show `origin`.
            self._classes[module, name] = type("StandIn", (StandIn,), {"origin": f"{module}.{name}"})
        return self._classes[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """A storage; in the older format also a module's class, stored with its source code."""
        kind, first, *rest = pid
        if kind == "module":
            return first
        if kind != "storage" or not isinstance(first, torch.dtype):
            raise pickle.UnpicklingError("it refers to something that is no storage")
        key, _, _, *view = rest
        # The older format tells the length of a storage in numbers, so their type is needed to find the next one.
        self.types.setdefault(str(key), first)
        return _Storage(first, str(key), view[0][1] if view and view[0] else 0)


def _check_memory(stream: io.BytesIO) -> None:
    """Refuse a pickle whose numbers of objects would make Python reserve too much memory at once.

    Raises:
        ValueError: an object's number exceeds the number of bytes in the file, or the pickle is cut.
    """
    start = stream.tell()
    # PUT n makes room for n objects in the memo; a file of 20 bytes could so ask for gigabytes.
    for code, number, _ in pickletools.genops(stream):
        if code.name.endswith("PUT") and (number or 0) > stream.getbuffer().nbytes:
            raise ValueError(f"object {number} in a smaller file")
    stream.seek(start)


class TorchFile:
    """The content of a file of ``torch.save``.

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
            # A copy which may be written to; tensors of one storage go on sharing it, as tied weights do.
            data = bytearray(self._stored(part.key))
            self._storages[part.key] = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0).byte()
        return part.tensor(self._storages[part.key])


def is_zip(data: bytes) -> bool:
    """Whether a file is a zip archive, the format of ``torch.save`` since 1.6."""
    return data[:4] == b"PK\x03\x04"


def is_stream(data: bytes) -> bool:
    """Whether a file begins like files of ``torch.save`` before 1.6: with a pickle of protocol 2 or of the mark."""
    return data[:2] == b"\x80\x02" or (data[:1] == b"\x80" and _STREAM_MARK in data[:64])


def read_zip(data: bytes) -> TorchFile:
    """Read the archive of ``torch.save``.

    Raises:
        RefusedPickle: the pickle would run something.
        OtherFile: the file is whole, but of a kind not read here.
        Exception: of any type: the file is damaged, or another program made it.
    """
    archive = zipfile.ZipFile(io.BytesIO(data))
    names = archive.namelist()
    pickles = [name for name in names if name.split("/")[-1] == "data.pkl"]
    if not pickles:
        raise OtherFile("a zip archive that torch.save did not write; unpack it and give the file inside")
    # The shortest path is the archive's own pickle; others may lie in folders beside it.
    folder = min(pickles, key=len).removesuffix("data.pkl")
    if f"{folder}constants.pkl" in names:
        raise OtherFile("a TorchScript archive, which holds a program; save its state_dict() with torch.save")
    # Compressed entries could unpack to any size; stored ones are no larger than the file.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise OtherFile("a compressed archive, as torch.save writes none; pack it again without compression (zip -0)")
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") == b"big":
        raise OtherFile(_BIG_ENDIAN)

    def stored(key: str) -> bytes:
        return archive.read(f"{folder}data/{key}")

    return TorchFile(_Unpickler(io.BytesIO(archive.read(f"{folder}data.pkl"))).load(), stored)


def read_stream(data: bytes) -> TorchFile:
    """Read a file of ``torch.save`` before 1.6: mark, version, machine, content, the storages' keys, the storages.

    Raises:
        RefusedPickle: the pickle would run something.
        OtherFile: the file is whole, but of a kind not read here.
        Exception: of any type: the file is damaged, or another program made it.
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
    # Each storage is preceded by its length, 8 bytes, in the order of the keys.
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

"""Files of ``torch.save`` are read as ``torch.load`` reads them, and nothing in them runs."""

from __future__ import annotations

import argparse
import builtins
import collections
import copyreg
import datetime
import functools
import io
import os
import pickle
import sys
import types
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from altermoma_ray.errors import UserError
from altermoma_ray.models.weights.recognition import find_weights
from altermoma_ray.models.weights.state_files import StateFile, read_state
from altermoma_ray.models.weights.torch_files import StandIn, read_zip
from altermoma_ray.storage import Location
from tests.archives import edited_record

FORMATS = [True, False]
"""Whether ``torch.save`` writes a zip archive."""


def save(content: object, *, archive: bool = True, protocol: int = 2) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=archive, pickle_protocol=protocol)
    return stream.getvalue()


def read(data: bytes) -> StateFile:
    return read_state(data, Location.parse("/nowhere/file.pth"))


def same(found: Tensor, expected: Tensor) -> bool:
    return found.dtype == expected.dtype and torch.equal(found.nan_to_num(), expected.nan_to_num())


TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
TYPES += [torch.int8, torch.uint8, torch.bool]


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Of any type and shape, whole or a view of a larger one."""
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    tensor = (torch.randn(shape, generator=generator) * 50).to(draw(st.sampled_from(TYPES)))
    if tensor.dim() > 1 and draw(st.booleans()):
        tensor = tensor.transpose(0, -1)
    if tensor.dim() and tensor.shape[0] > 1 and draw(st.booleans()):
        tensor = tensor[1:]
    if tensor.is_floating_point() and draw(st.booleans()):
        return nn.Parameter(tensor)
    return tensor


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.text("abc._", min_size=1, max_size=6), tensors(), min_size=1, max_size=5),
    st.booleans(),
    st.integers(2, 5),
)
def test_tensors_come_back_as_torch_reads_them(content, archive, protocol):
    content = collections.OrderedDict(content)
    content["tied"] = next(iter(content.values()))
    read_back = read(save(content, archive=archive, protocol=protocol)).tensors
    assert list(read_back) == list(content)
    assert all(same(read_back[name], content[name].detach()) for name in content)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.text("abc._", min_size=1, max_size=6), tensors(), min_size=1, max_size=4),
    st.lists(st.sampled_from(["state_dict", "model", "net", "params", "ema", "x"]), max_size=5),
    st.booleans(),
)
def test_nested_dictionaries_give_the_same_tensors(content, wrappers, archive):
    wrapped: dict = dict(content)
    for wrapper in reversed(wrappers):
        wrapped = {"epoch": 3, wrapper: wrapped, "lr": [0.1, 0.2], "note": None}
    found = read(save(wrapped, archive=archive)).tensors
    path = "".join(f"{wrapper}/" for wrapper in wrappers)
    assert found.keys() == {f"{path}{name}" for name in content}
    assert all(same(found[f"{path}{name}"], tensor.detach()) for name, tensor in content.items())


def test_state_of_a_compiled_module_with_hooks_and_attributes():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    model[0].weight.tag = "kept by somebody"
    found = read(save(model.state_dict(keep_vars=True))).tensors
    assert all(same(found[name], tensor) for name, tensor in model.state_dict().items())


def test_float8_and_unsigned_types_are_read():
    content = {"a": torch.arange(4).to(torch.float8_e4m3fn), "b": torch.arange(4).to(torch.uint16)}
    found = read(save(content)).tensors
    assert found["a"].dtype == torch.float8_e4m3fn
    assert found["b"].tolist() == [0, 1, 2, 3]


class Foreign:
    """Stands in a module that is gone when the file is read, as mmengine's classes are."""

    def __init__(self) -> None:
        self.history, self.maximum = np.arange(5.0), 100


class ForeignDict(dict):
    """A configuration that is also a dictionary."""


class ForeignList(list):
    """A list of a class of its own."""


@pytest.fixture
def mmengine(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module with classes to pickle, which an import would find."""
    module = types.ModuleType("mmengine.logging")
    for cls in (Foreign, ForeignDict, ForeignList):
        monkeypatch.setattr(cls, "__module__", "mmengine.logging")
        setattr(module, cls.__name__, cls)
    monkeypatch.setitem(sys.modules, "mmengine", types.ModuleType("mmengine"))
    monkeypatch.setitem(sys.modules, "mmengine.logging", module)
    return module


def message_hub() -> dict[str, object]:
    settings = ForeignDict(lr=0.1)
    settings.seen = {1, 2}
    return {
        "log_scalars": collections.OrderedDict(loss=Foreign(), grad=Foreign()),
        "runtime_info": {"seed": np.int64(3), "now": datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc)},
        "resumed_keys": collections.defaultdict(list, {"loss": [True]}),
        "arguments": argparse.Namespace(work_dir=Path("/data"), gpus=(0, 1)),
        "config": settings,
        "stages": ForeignList([ForeignDict(a=1), Foreign()]),
        "partial": functools.partial(int, base=2),
        "array": np.ones((2, 3), np.float32),
        "numbers": {np.float32(1): np.dtype("int64"), frozenset({1}): complex(1, 2), "big": 2**100, "bytes": b"\0"},
        "count": collections.Counter("aab"),
        "queue": collections.deque([1, 2]),
        "device": torch.device("cuda:1"),
        "size": torch.Size([1, 2]),
        "layout": torch.strided,
    }


@pytest.mark.parametrize("archive", FORMATS)
@pytest.mark.parametrize("protocol", range(2, 6))
def test_objects_beside_the_weights_are_stood_in_for(archive, protocol, mmengine, monkeypatch):
    data = save(
        {"message_hub": message_hub(), "state_dict": {"weight": torch.ones(2)}}, archive=archive, protocol=protocol
    )
    made: list[object] = []
    for cls in (Foreign, ForeignDict, ForeignList):
        monkeypatch.setattr(cls, "__init__", lambda self, *_: made.append(self))
        monkeypatch.setattr(cls, "__setstate__", lambda self, _: made.append(self), raising=False)
    found = read(data)
    assert found.tensors.keys() == {"state_dict/weight"}
    assert found.entries == ("message_hub", "state_dict")
    assert not made


def test_no_module_is_imported(mmengine, monkeypatch):
    data = save({"hub": message_hub(), "weight": torch.ones(2)})
    monkeypatch.delitem(sys.modules, "mmengine.logging")
    monkeypatch.delitem(sys.modules, "mmengine")
    asked: list[str] = []
    real = builtins.__import__

    def noted(name: str, *rest: object, **named: object) -> object:
        asked.append(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", noted)
    content = read_zip(data).content
    monkeypatch.undo()
    assert not [name for name in asked if name.startswith("mmengine")]
    assert isinstance(content["hub"]["log_scalars"]["loss"], StandIn)
    assert content["hub"]["log_scalars"]["loss"].origin == "mmengine.logging.Foreign"
    assert dict(content["hub"]["config"]) == {"lr": 0.1}


class Call:
    """Pickled as a call of whatever it is given."""

    def __init__(self, call: object, *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call, self.arguments


def counted(text: str) -> bytes:
    return len(text).to_bytes(4, "little") + text.encode()


def called(module: str, function: str, argument: str) -> bytes:
    """A pickle that calls a function with a text."""
    return f"\x80\x02c{module}\n{function}\n(X".encode("latin1") + counted(argument) + b"tR."


def attacks(mark: Path) -> dict[str, bytes]:
    """Pickles that make a file when a careless reader opens them, or change what reading does after them."""
    line, code = f"touch {mark}", f"open({str(mark)!r}, 'w').close()"
    system = pickle.dumps(Call(getattr, Call(__import__, "posix"), "system"), 2)[:-1]
    return {
        "posix.system": pickle.dumps(Call(os.system, line), 2),
        "os.system": called("os", "system", line),
        "mkdir": pickle.dumps(Call(os.mkdir, str(mark)), 2),
        "eval": pickle.dumps(Call(eval, code), 2),
        "exec": pickle.dumps(Call(exec, code), 5),
        "python 2": called("__builtin__", "eval", code),
        "getattr": system + b"(X" + counted(line) + b"tR.",
        "method": pickle.dumps(Call(mark.touch), 4),
        "map": pickle.dumps(Call(list, Call(map, eval, [code])), 2),
        "instance": b"(S" + repr(code).encode() + b"\ni__builtin__\neval\n.",
        "object": b"(c__builtin__\neval\nS" + repr(code).encode() + b"\no.",
        "nested": pickle.dumps(Call(pickle.loads, pickle.dumps(Call(os.mkdir, str(mark)))), 2),
        "numpy": called("numpy.testing", "measure", code),
        "torch.load": called("torch", "load", str(mark)),
        "torch.hub": called("torch.hub", "load", str(mark)),
        "any tensor": pickle.dumps(Call(torch._tensor._rebuild_from_type_v2, eval, Tensor, (code,), {}), 2),
        "any parameter": pickle.dumps(Call(torch._utils._rebuild_parameter, Call(eval, code), 1, 2), 2),
        "state of a class": b"\x80\x02ccollections\nOrderedDict\n}X" + counted("items") + b"ca\nb\nsb.",
        "slots of a class": b"\x80\x02ctorch._utils\n_rebuild_parameter\nN}X" + counted("__new__") + b"ca\nb\ns\x86b.",
        "slots of a tensor": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X"
        + counted("__init__")
        + b"ca\nb\ns\x86b.",
        "module": b"\x80\x02(X" + counted("module") + b"ca\nb\nX" + counted("a") + b"X" + counted("b") + b"tQ.",
        "extension": b"\x80\x02\x82\x07(X" + counted(line) + b"tR.",
    }


def packed(payload: bytes, *, archive: bool) -> bytes:
    """A file of ``torch.save`` whose pickle is exchanged for another."""
    if not archive:
        whole = save({}, archive=False)
        parts, stream = [], io.BytesIO(whole)
        for _ in range(3):
            start = stream.tell()
            pickle.load(stream)
            parts.append(whole[start : stream.tell()])
        return b"".join(parts) + payload + pickle.dumps([], 2)
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(save({}))) as source, zipfile.ZipFile(stream, "w") as target:
        for entry in source.infolist():
            target.writestr(entry, payload if entry.filename.endswith("data.pkl") else source.read(entry))
    return stream.getvalue()


@pytest.mark.parametrize("archive", FORMATS)
@pytest.mark.parametrize("name", attacks(Path("x")))
def test_nothing_runs(name, archive, tmp_path, monkeypatch):
    """Every file is refused in one line (an attack holds no weights), and reading is the same after it as before."""
    mark = tmp_path / "harm"
    monkeypatch.setitem(copyreg._inverted_registry, 7, ("posix", "system"))
    payload = attacks(mark)[name]
    with pytest.raises(UserError, match=r"is a pickle(, but not| that)|is no checkpoint, or a damaged") as said:
        read(packed(payload, archive=archive))
    assert "\n" not in str(said.value)
    assert not mark.exists()
    copyreg._extension_cache.clear()
    content = {"a": nn.Parameter(torch.ones(2)), "b": torch.zeros(3)}
    assert read(save(content)).tensors.keys() == {"a", "b"}


REAL = ["posix.system", "os.system", "mkdir", "eval", "exec", "python 2", "getattr", "method", "map", "instance"]
REAL += ["object", "nested", "numpy", "extension"]


@pytest.mark.parametrize("name", REAL)
def test_the_attacks_are_real(name, tmp_path, monkeypatch):
    monkeypatch.setitem(copyreg._inverted_registry, 7, ("posix", "system"))
    pickle.loads(attacks(tmp_path / "harm")[name])
    copyreg._extension_cache.clear()
    assert (tmp_path / "harm").exists()


def test_files_that_would_fill_the_memory(tmp_path):
    level: dict = {"weight": torch.ones(1)}
    for _ in range(60):
        level = {"a": level, "b": level, "c": level}
    with pytest.raises(UserError, match="is a pickle, but not of weights by name"):
        read(save(level))  # 3**60 paths
    cyclic: dict = {"weight": torch.ones(1)}
    cyclic["self"] = cyclic
    assert read(save(cyclic)).tensors.keys() == {"weight"}
    names = b"".join(b"cm\nn%d\n0" % number for number in range(5000))
    with pytest.raises(UserError, match="is no checkpoint, or a damaged one"):
        read(packed(b"\x80\x02" + names + b"N.", archive=True))
    for put in (b"r\xff\xff\xff\x7f", b"p2147483647\n"):  # Python would make room for as many objects
        with pytest.raises(UserError, match="is no checkpoint, or a damaged one"):
            read(packed(b"\x80\x02N" + put + b".", archive=True))
    huge = torch.ones(1).expand(10**9, 10**9)
    assert read(save({"weight": huge})).tensors["weight"].shape == (10**9, 10**9)


def test_one_long_name_does_not_take_for_ever():
    """Every part of a name may be the last of a prefix."""
    found = read(save({"a." * 1_000_000 + "weight": torch.ones(1)}))
    assert find_weights(found.tensors, ["fuser.0.weight"]) == []


def test_many_prefixes_do_not_take_for_ever():
    tensors = dict.fromkeys((f"x{number}.fuser.0.weight" for number in range(20_000)), torch.ones(1))
    assert find_weights(tensors, ["fuser.0.weight"])[0].prefix == "x0."


def edited(data: bytes, old: bytes, new: bytes) -> bytes:
    archive = zipfile.ZipFile(io.BytesIO(data))
    inside = next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    assert inside.count(old) == 1
    return edited_record(data, "data.pkl", inside.replace(old, new))


def test_tensors_that_reach_outside_their_storage_are_refused():
    data = save({"weight": torch.arange(7.0)})
    for change in (
        edited(data, b"K\x07\x85", b"K\x08\x85"),
        edited_record(data, "data/0", b"\0" * 8),
        edited_record(data, "data/0", b"\0" * 27),
    ):
        with pytest.raises(UserError, match="is no checkpoint, or a damaged one"):
            read(change)


@settings(max_examples=150, deadline=None)
@given(st.booleans(), st.data())
def test_damaged_files_are_refused_or_read(archive, data):
    """Bytes that are exchanged or cut give an error of one line, or a file that is still one."""
    whole = bytearray(save({"state_dict": {"weight": torch.arange(40.0)}, "epoch": 3}, archive=archive))
    if data.draw(st.booleans()):
        whole = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        for place in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4)):
            whole[place] = data.draw(st.integers(0, 255))
    found = None
    with suppress(UserError):
        found = read(bytes(whole))
    assert found is None or set(map(type, found.tensors.values())) == {Tensor}


@pytest.mark.parametrize("archive", FORMATS)
def test_names_that_would_break_a_line_are_escaped(archive):
    payload = b"\x80\x02ca\x1b[2J\x07\nb\n)\x81."
    with pytest.raises(UserError, match=r"class a\\x1b\[2J\\x07\.b; save"):
        read(packed(payload, archive=archive))

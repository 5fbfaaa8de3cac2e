"""Files that hold no weights of a BEVFusion: each is refused in one line, and nothing in a file is executed."""

from __future__ import annotations

import io
import os
import pickle

import pytest
import torch

from altermoma_ray.errors import UserError
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.models.weights.load import load_weights

TOY = configuration("bevfusion-mit-toy")


class Payload:
    """Runs a command where a pickle is trusted."""

    def __reduce__(self):
        return os.mkdir, ("owned",)


def _saved(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no checkpoint, or a damaged one"),
        (b"not a checkpoint at all\n" * 20, "is no checkpoint, or a damaged one"),
        (_saved({"weight": torch.zeros(5000)})[:9000], "is no checkpoint, or a damaged one"),
        (pickle.dumps(Payload()), "is a pickle that torch.save did not write, which is not read for safety"),
        (_saved({"state_dict": {"weight": torch.zeros(1)}, "meta": Payload()}), r"more than weights \(\w+\.mkdir\)"),
        (_saved([1, 2, 3]), "is a pickle, but not of weights by name: it holds a list of 3 items; save the weights"),
        (_saved({"state_dict": {"weight": "heavy"}}), "is a pickle, but not of weights by name: it holds a dictionary"),
        (_saved({"resnet.conv.weight": torch.zeros(1)}), r"no BEVFusion weights \(its tensors: resnet.conv.weight\)"),
    ],
)
def test_other_files_are_refused_and_never_executed(data, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file.pth"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        load_weights(path, TOY)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "owned").exists()


def test_folders_say_what_is_in_them(tmp_path):
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    message = r"a .safetensors or .pth file, such as model.safetensors.index.json, model-00001\S+ in this folder$"
    with pytest.raises(UserError, match=message):
        load_weights(tmp_path, TOY)
    (tmp_path / ".metadata").write_bytes(b"")
    with pytest.raises(UserError, match=r"is a folder of torch.distributed.checkpoint; make one file of it with"):
        load_weights(tmp_path, TOY)


def test_a_null_character_in_a_path():
    for path in ("a\0b.pth", "file:///tmp/a%00b.pth"):
        with pytest.raises(UserError, match=r"cannot open '.*': it holds a null character; give a local path"):
            load_weights(path, TOY)


def test_missing_file_is_named(tmp_path):
    for path in (tmp_path / "nothing.pth", tmp_path):
        with pytest.raises(UserError, match=f"no checkpoint at {path}; give the path"):
            load_weights(path, TOY)

"""What is no file of weights is told apart, and what to do is said in one line."""

from __future__ import annotations

import collections
import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from altermoma_ray.errors import UserError
from altermoma_ray.models.weights.state_files import read_state
from altermoma_ray.storage import Location
from tests.archives import edited_record


def save(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def compressed() -> bytes:
    stream = io.BytesIO()
    source = zipfile.ZipFile(io.BytesIO(save({"weight": torch.ones(3)})))
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return stream.getvalue()


def plain_zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        target.writestr("weights/model.pth", save({"weight": torch.ones(3)}))
    return stream.getvalue()


def scripted() -> bytes:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), stream)
    return stream.getvalue()


OTHERS = {
    "empty": (lambda: b"", "is no checkpoint, or a damaged one; copy it again"),
    "text": (lambda: b"not a checkpoint at all\n" * 20, "is no checkpoint, or a damaged one; copy it again"),
    "compressed": (compressed, r"is a compressed archive, as torch.save writes none; pack it again without"),
    "zip": (plain_zip, "is a zip archive that torch.save did not write; unpack it and give the file inside"),
    "script": (scripted, "is a TorchScript archive, which holds a program; save its state_dict"),
    "gzip": (lambda: b"\x1f\x8b\x08" + bytes(30), "is a gzip file; unpack it and give the file inside"),
    "tar": (lambda: bytes(257) + b"ustar" + bytes(300), "is a tar archive; unpack it and give the file inside"),
    "big-endian": (
        lambda: edited_record(save({"weight": torch.ones(3)}), "byteorder", b"big"),
        "is written on a big-endian machine, which is not read; save it again on another",
    ),
    "web page": (
        lambda: b"\n<!DOCTYPE html><html>Sign in</html>",
        "is a web page and not the file itself; download",
    ),
    "Git LFS": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n",
        "is a pointer of Git LFS and not the file itself; run `git lfs pull` there",
    ),
    "json": (lambda: b'{"weights": 3}', "is no checkpoint: neither weights nor an index of shards with a `weight_map`"),
    "plain pickle": (
        lambda: pickle.dumps({"weight": [1.0]}),
        "is a pickle that torch.save did not write, which is not read for safety; if you trust it",
    ),
    "tensor": (lambda: save(torch.ones(3)), "not of weights by name: it holds one tensor without a name; save the"),
    "list": (lambda: save([1, 2, 3]), "it holds a list of 3 items; save the weights alone with torch.save"),
    "tensors": (lambda: save(list(nn.Linear(2, 2).state_dict().values())), "it holds a list of 2 items; save the"),
    "number": (lambda: save(3), "it holds one int; save the weights"),
    "nothing": (lambda: save({}), "it holds an empty dictionary; save the weights"),
    "ordered": (lambda: save(collections.OrderedDict()), "it holds an empty dictionary; save the weights"),
    "text values": (lambda: save({"state_dict": {"weight": "heavy"}}), r"a dictionary without weights \(state_dict\)"),
    "module": (
        lambda: save(nn.Sequential(nn.Linear(2, 2))),
        r"it holds a whole object of class torch.nn.modules.container.Sequential; save the weights alone with "
        r"torch.save\(model.state_dict\(\), FILE\) and give that file",
    ),
    "module inside": (
        lambda: save({"epoch": 3, "model": nn.Linear(2, 2)}),
        "it holds a whole object of class torch.nn.modules.linear.Linear under 'model'; save the weights",
    ),
    "numpy": (lambda: save({"weight": np.ones(3)}), r"it holds a dictionary without weights \(weight\); save the"),
}


def stepped() -> torch.optim.Optimizer:
    layer = nn.Linear(2, 2)
    optimiser = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    return optimiser


OTHERS["optimiser"] = (lambda: save(stepped().state_dict()), "it holds an optimizer's state; save the weights")
OTHERS["optimisers"] = (
    lambda: save({"optimizer": stepped().state_dict(), "epoch": 1, "a": 1, "b": 2, "c": 3, "d": 4}),
    r"it holds a dictionary without weights \(optimizer, epoch, a, b, c, …\); save the weights",
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_told_apart(name):
    make, message = OTHERS[name]
    with pytest.raises(UserError, match=message) as said:
        read_state(make(), Location.parse("/nowhere/file.pth"))
    assert str(said.value).startswith("/nowhere/file.pth is ")
    assert "\n" not in str(said.value)

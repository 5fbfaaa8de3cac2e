"""Checkpoints that are missing, cut, of something else, or meant to do harm."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Callable

import torch
from safetensors.torch import load_file, save_file

from altermoma_ray.models.checkpoint import read_header, save_checkpoint
from altermoma_ray.models.configurations.avod_fpn import avod_configuration
from altermoma_ray.storage import Location


class Payload:
    """Runs a command where it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def test_no_checkpoint_for_ones_own_data(bench, check):
    check(
        "no checkpoint for one's own data",
        ["search", "nusc", *bench.stored("--dataroot", str(bench.dataroot))],
        r"no weights for bevfusion-mit: give --checkpoint FILE .*, or train one with",
    )


def test_checkpoint_of_another_data_sets_model(bench, check, complaint):
    torch.manual_seed(0)
    save_checkpoint(Location.parse(bench.folder / "avod.safetensors"), avod_configuration("avod-fpn-toy").build(), {})
    check(
        "checkpoint of a model for KITTI",
        bench.search("--checkpoint", f"{bench.folder}/avod.safetensors"),
        r"avod.safetensors is of model 'avod-fpn-toy'; choose that model, or give another checkpoint$",
    )
    theirs = "the checkpoint is of model 'bevfusion-mit-toy'; choose that model, or give another checkpoint"
    assert complaint(["search", "kitti", *bench.stored("--checkpoint", str(bench.checkpoint))]) == f"error: {theirs}"
    line = ["search", "kitti", "--model", "avod-fpn-cars", "--checkpoint", f"{bench.folder}/avod.safetensors"]
    assert "is of model 'avod-fpn-toy', not 'avod-fpn-cars'; choose that model" in complaint([*line, *bench.stored()])


def test_checkpoint_with_missing_tensors(bench, check):
    kept = {name: tensor for name, tensor in load_file(bench.checkpoint).items() if "encoders" not in name}
    save_file(kept, bench.folder / "fewer.safetensors", metadata=read_header(bench.checkpoint.read_bytes()))
    check(
        "checkpoint with missing tensors",
        bench.search("--checkpoint", f"{bench.folder}/fewer.safetensors"),
        r"does not fit the model: no encoders\S+; no .* and \d+ more; check",
    )


def test_truncated_checkpoint(bench, check):
    check(
        "truncated checkpoint",
        bench.search("--checkpoint", bench.file("cut.safetensors", bench.checkpoint.read_bytes()[:-1000])),
        r"cut.safetensors is no safetensors file or is damaged \(.*\); give a checkpoint that",
    )


def test_truncated_pth(bench, check):
    torch.save({"state_dict": {"weight": torch.zeros(1000)}}, bench.folder / "whole.pth")
    check(
        "truncated .pth",
        bench.search("--checkpoint", bench.file("cut.pth", (bench.folder / "whole.pth").read_bytes()[:-1000])),
        r"cut.pth is no checkpoint, or a damaged one; copy it again, or give another file$",
    )


def test_pickle_instead_of_weights(bench, check):
    check(
        "pickle instead of weights",
        bench.search("--checkpoint", bench.file("model.pth", pickle.dumps(Payload(f"touch {bench.folder}/harm"), 2))),
        r"is a pickle that holds more than weights \(posix.system\), which is not",
    )


def test_pickle_of_pythons_own(bench, check):
    check(
        "pickle of Python's own",
        bench.search("--checkpoint", bench.file("model.pkl", pickle.dumps(Payload(f"touch {bench.folder}/harm")))),
        r"model.pkl is a pickle that torch.save did not write, which is not read for safety;",
    )


def test_whole_model_instead_of_weights(bench, check):
    torch.save({"epoch": 3, "model": torch.nn.Linear(2, 2)}, bench.folder / "whole.pth")
    check(
        "whole model instead of weights",
        bench.search("--checkpoint", f"{bench.folder}/whole.pth"),
        r"it holds a whole object of class \S+ under 'model'; save the weights alone with torch.save\(model.state",
    )


def test_weights_that_are_no_numbers(bench, check):
    tensors = load_file(bench.checkpoint)
    tensors["fuser.1.bias"] *= math.nan
    save_file(tensors, bench.folder / "nan.safetensors", metadata=read_header(bench.checkpoint.read_bytes()))
    check(
        "weights that are no numbers",
        bench.search("--checkpoint", f"{bench.folder}/nan.safetensors"),
        r"that are no numbers, in 1 of \d+ tensors \(fuser.1.bias has 48 NaN of 48\); its training had diverged: give",
    )


def test_checkpoint_of_another_version(bench, check):
    header = read_header(bench.checkpoint.read_bytes()) | {"format": "altermoma_ray/2"}
    save_file(load_file(bench.checkpoint), bench.folder / "later.safetensors", metadata=header)
    check(
        "checkpoint of another version",
        bench.search("--checkpoint", f"{bench.folder}/later.safetensors"),
        r"was written by another version of altermoma_ray \(altermoma_ray/2; this one reads altermoma_ray/1\); use",
    )


def test_folder_as_checkpoint(bench, check):
    (bench.folder / "run").mkdir()
    (bench.folder / "run" / "last.pth").touch()
    check(
        "folder as checkpoint",
        bench.search("--checkpoint", f"{bench.folder}/run"),
        r"no checkpoint at \S+/run; give the path of a .safetensors or .pth file, such as last.pth in this folder$",
    )


def test_web_page_as_checkpoint(bench, check):
    check(
        "web page as checkpoint",
        bench.search("--checkpoint", bench.file("page.pth", "<!DOCTYPE html><html>Sign in</html>")),
        r"page.pth is a web page and not the file itself; download it again$",
    )


def test_weights_of_something_else(bench, check):
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, bench.folder / "other.pth")
    check(
        "weights of something else",
        bench.search("--checkpoint", f"{bench.folder}/other.pth"),
        r"other.pth holds no BEVFusion weights \(its tensors: weight\); give a checkpoint",
    )

"""Checkpoints that are missing, cut, of something else, or meant to do harm."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable

import torch
from safetensors.torch import load_file, save_file

from altermoma_ray.models.checkpoint import read_header


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


def test_weights_of_something_else(bench, check):
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, bench.folder / "other.pth")
    check(
        "weights of something else",
        bench.search("--checkpoint", f"{bench.folder}/other.pth"),
        r"other.pth holds no BEVFusion weights \(its tensors: weight\); give a checkpoint",
    )

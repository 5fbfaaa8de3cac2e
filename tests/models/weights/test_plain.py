"""Weights of a model of a user's own, as training code leaves them."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from torch import nn

from altermoma_ray.errors import UserError
from altermoma_ray.models.checkpoint import save_checkpoint
from altermoma_ray.models.weights.plain import load_plain
from altermoma_ray.storage import Location
from tests.workloads.two_branch import WORKLOAD, TwoBranch


def trained():
    model = TwoBranch()
    nn.init.normal_(model.head[1].weight, generator=torch.Generator().manual_seed(7))
    return model


def ours(model, file):
    save_checkpoint(Location.parse(file), model, {})


WAYS = {
    "state_dict": lambda model, file: torch.save(model.state_dict(), file),
    "in a dictionary": lambda model, file: torch.save({"epoch": 3, "model": model.state_dict()}, file),
    "under a prefix": lambda model, file: torch.save(
        {"state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}}, file
    ),
    "safetensors": lambda model, file: safetensors.torch.save_file(model.state_dict(), file),
    "ours": ours,
}


@pytest.mark.parametrize("save", WAYS.values(), ids=WAYS)
def test_weights_are_found_wherever_they_lie(save, tmp_path):
    model, file = trained(), tmp_path / "weights.bin"
    save(model, file)
    found = WORKLOAD.unpruned(str(file)).state_dict()
    assert all(found[name].equal(value) for name, value in model.state_dict().items())


def test_weights_that_do_not_fit_are_told(tmp_path):
    file = tmp_path / "weights.pt"
    torch.save(nn.Linear(2, 1).state_dict(), file)
    with pytest.raises(
        UserError, match=r"does not fit the model: no radar\.0\.weight; .*; give a checkpoint of this model"
    ):
        load_plain(TwoBranch(), Location.parse(file))


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    model, file = trained(), tmp_path / "weights.pt"
    model.head[1].bias.data.fill_(torch.nan)
    torch.save(model.state_dict(), file)
    with pytest.raises(
        UserError, match=r"holds weights that are no numbers, in 1 of 10 tensors \(head\.1\.bias has 1 NaN"
    ):
        load_plain(TwoBranch(), Location.parse(file))


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint at .*nothing\.pt; give the path"):
        WORKLOAD.unpruned(str(tmp_path / "nothing.pt"))

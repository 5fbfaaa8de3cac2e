from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import safetensors.torch
import torch

from altermoma_ray import __version__
from altermoma_ray.errors import UserError
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.checkpoint import fill, load_checkpoint, read_header, save_checkpoint
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.pruning.granularity import GRANULARITIES, Granularity
from altermoma_ray.storage import Location


@pytest.fixture(scope="module")
def model() -> FusionModel:
    return FusionModel(configuration("bevfusion-mit-toy"))


@pytest.fixture
def location(tmp_path) -> Location:
    return Location.parse(tmp_path / "model.safetensors")


def test_weights_configuration_and_metadata_come_back(model, location, batch):
    model(batch)  # moves the running statistics away from their initial values
    save_checkpoint(location, model, {"seed": 7, "map": 0.5, "command": ["train", "nusc"]})
    loaded, metadata = load_checkpoint(location)
    assert metadata == {"seed": 7, "map": 0.5, "command": ["train", "nusc"]}
    assert loaded.config == model.config
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert location.size() < 5_000_000


def write(location: Location, model: FusionModel, change) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    change(tensors)
    header = {"format": "altermoma_ray/1", "config": model.config.model_dump_json(), "metadata": "{}"}
    location.write_bytes(safetensors.torch.save(tensors, metadata=header))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("fuser.0.weight"), r"does not fit the model: no fuser\.0\.weight; "),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "does not fit the model: unknown extra; "),
        (
            lambda tensors: tensors.update({"fuser.1.bias": torch.zeros(3)}),
            r"fuser\.1\.bias is \[3\] instead of \[48\]",
        ),
        (lambda tensors: tensors.clear(), "and 3.. more; "),
    ],
)
def test_tensors_that_do_not_fit_are_named(model, location, change, message):
    write(location, model, change)
    with pytest.raises(UserError, match=message) as caught:
        load_checkpoint(location)
    assert str(location) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_misfit_leaves_the_model_as_it_was():
    layer = torch.nn.Linear(2, 2)
    before = layer.weight.clone()
    with pytest.raises(UserError, match="no bias"):
        fill(layer, {"weight": torch.zeros(2, 2)}, "file")
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("keep", [0, 5, 3000, -10])
def test_truncated_file(model, location, keep):
    save_checkpoint(location, model, {})
    location.write_bytes(location.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"is no safetensors file or is damaged .*; give a checkpoint"):
        load_checkpoint(location)


def test_pickle_is_not_read(model, location, tmp_path):
    torch.save(model.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="is no safetensors file or is damaged"):
        load_checkpoint(location)


def test_safetensors_of_another_project(location):
    location.write_bytes(safetensors.torch.save({"weight": torch.zeros(2)}))
    with pytest.raises(UserError, match=r"was not written by altermoma_ray: .*; give a checkpoint that `train` wrote"):
        load_checkpoint(location)


def changed(**fields: object) -> dict[str, str]:
    """A header whose configuration has other fields in its camera section."""
    config = json.loads(configuration("bevfusion-mit-toy").model_dump_json())
    config["camera"] |= fields
    return {"format": "altermoma_ray/1", "config": json.dumps(config)}


NO_MODEL = r"has a header that no model can be built from \(.*\); it was edited or damaged: copy it again, or give"


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            {"format": "altermoma_ray/2", "config": "{}"},
            r"written by another version of altermoma_ray \(altermoma_ray/2; this one reads altermoma_ray/1\); use",
        ),
        ({"format": "altermoma_ray/1"}, "its header holds no configuration; give a checkpoint that `train` wrote"),
        (
            {"format": "altermoma_ray/1", "config": "{"},
            "no valid model configuration: model: Invalid JSON: .*; it was",
        ),
        (
            {"format": "altermoma_ray/1", "config": "null"},
            "configuration: model: Input should be an object; it was",
        ),
        (
            changed(later=3),
            "configuration: camera.later: Extra inputs are not permitted; it was written by another version of "
            "altermoma_ray or edited: use that version, or another checkpoint",
        ),
        (changed(embed=-1), NO_MODEL),
        (changed(embed=0), NO_MODEL),
        (changed(depth_bins=[1, 37, 0]), NO_MODEL),
        (changed(depth_bins=[1, 37, 1e-12]), NO_MODEL),
        (changed(neck=10**12), NO_MODEL),
        (changed(neck=32), r"does not fit the model: encoders\S+ is \[64, .*\] instead of \[32, .*; check `--model`"),
        (changed() | {"metadata": "{"}, NO_MODEL),
        (changed() | {"channel_plan": "{"}, NO_MODEL),
        (changed() | {"channel_plan": "7"}, NO_MODEL),
        (
            changed() | {"channel_plan": '{"granularity": "later", "channels": {}}', "version": "7.1"},
            r"a pruned model of version 7\.1 that this version, \S+, cannot rebuild \(no granularity 'later' is known, "
            r"only weight, channel, n_of_m\); use altermoma_ray 7\.1, or give another checkpoint",
        ),
        (
            changed() | {"channel_plan": '{"granularity": "weight", "channels": {}}', "version": "7.1"},
            "Weight changes no architecture, but got a plan with granularity, channels",
        ),
    ],
)
def test_headers_of_other_versions_and_edited_ones(header, message, location, model):
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    location.write_bytes(safetensors.torch.save(tensors, metadata=header))
    with pytest.raises(UserError, match=message) as said:
        load_checkpoint(location)
    assert "\n" not in str(said.value)


def test_integers_are_no_weights(model, location):
    write(location, model, lambda tensors: tensors.update({"fuser.1.bias": torch.zeros(48, dtype=torch.int64)}))
    with pytest.raises(UserError, match=r"fuser.1.bias holds torch.int64 instead of torch.float32; check `--model`"):
        load_checkpoint(location)


def test_a_model_of_unchanged_architecture_is_written_as_ever(model, location):
    """Files of earlier versions hold no plan, and files that need none can be read by those versions."""
    save_checkpoint(location, model, {}, plan={})
    assert set(read_header(location.read_bytes())) == {"format", "config", "metadata"}


def test_an_empty_plan_changes_nothing(model, location):
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    location.write_bytes(safetensors.torch.save(tensors, metadata=changed() | {"channel_plan": "{}"}))
    loaded, _ = load_checkpoint(location)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


@dataclass(frozen=True)
class HalfOfTheNeck(Granularity):
    """Halves the width of one layer: a stand-in for granularities that change the architecture."""

    def select(self, scores, target, earlier=None):
        return target.masks(scores)

    def plan(self, masks):
        return {"granularity": "half", "layer": "fuser.1"}

    def replay(self, model, plan):
        half = model.get_submodule(plan["layer"]).num_features // 2
        model.set_submodule(plan["layer"], torch.nn.BatchNorm2d(half))
        return model


def test_the_architecture_is_replayed_before_the_weights_are_read(location, monkeypatch):
    monkeypatch.setitem(GRANULARITIES, "half", HalfOfTheNeck())
    plan = HalfOfTheNeck().plan(None)
    pruned = HalfOfTheNeck().replay(FusionModel(configuration("bevfusion-mit-toy")), plan)
    torch.nn.init.uniform_(pruned.get_parameter("fuser.1.weight"))
    save_checkpoint(location, pruned, {}, plan=plan)
    loaded, _ = load_checkpoint(location)
    assert loaded.get_parameter("fuser.1.weight").shape == (24,)
    assert torch.equal(loaded.get_parameter("fuser.1.weight"), pruned.get_parameter("fuser.1.weight"))
    assert read_header(location.read_bytes())["version"] == __version__


def test_missing_file(location):
    with pytest.raises(UserError, match=r"no checkpoint at .*model\.safetensors; check the path"):
        load_checkpoint(location)

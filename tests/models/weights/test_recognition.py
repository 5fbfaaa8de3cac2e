"""Weights as training code leaves them: under prefixes, in dictionaries, twice, rounded, without counters."""

from __future__ import annotations

import json
import math
import os
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from altermoma_ray.errors import UserError
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.checkpoint import save_checkpoint
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.models.releases.bevfusion import MIT, MMDET3D, NAMINGS, OURS, Release, is_constant
from altermoma_ray.models.weights.load import load_weights
from altermoma_ray.models.weights.recognition import find_weights
from altermoma_ray.storage import Location

TOY = configuration("bevfusion-mit-toy")
CONSTANT = "encoders.camera.view_transform.frustum"


@pytest.fixture(scope="module")
def ours() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return FusionModel(TOY).state_dict()


def named(ours: dict[str, Tensor], release: Release, seed: int = 0) -> OrderedDict[str, Tensor]:
    """Random weights as a release names and lays them out, with the model's own constants."""
    generator = torch.Generator().manual_seed(seed)
    tensors = OrderedDict()
    for name, tensor in ours.items():
        shape = release.shapes(name, tensor)[-1]
        if is_constant(name):
            tensors[release.name(name)] = tensor.reshape(shape)
        elif tensor.is_floating_point():
            tensors[release.name(name)] = torch.rand(shape, generator=generator)
        else:
            tensors[release.name(name)] = tensor.reshape(shape) + seed
    return tensors


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[[object], dict[str, Tensor]]:
    """Saves anything and gives what the model takes of it."""

    def load(content: object) -> dict[str, Tensor]:
        torch.save(content, tmp_path / "weights.pth")
        return load_weights(tmp_path / "weights.pth", TOY).state_dict()

    return load


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


PREFIXES = ["", "module.", "model.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.module.", "net."]
PREFIXES += ["ema_model.", "ema_model.module.", "detector.model.", "student.0."]


@pytest.mark.parametrize("release", NAMINGS)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_are_found(release, prefix, ours):
    tensors = {f"state_dict/{prefix}{name}": tensor for name, tensor in named(ours, release).items()}
    found = find_weights(tensors, ours)
    assert [weights.release for weights in found] == [release]
    assert found[0].tensors.keys() == {release.name(name) for name in ours}
    assert found[0].left_out == 0


KEYS = ["state_dict", "model_state_dict", "model_state", "model", "net", "params", "weights", "checkpoint", "my run"]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(KEYS), max_size=4),
    st.lists(st.sampled_from(["module", "model", "_orig_mod", "net", "ema_model", "x1"]), max_size=4),
    st.sampled_from(NAMINGS),
    st.lists(st.sampled_from(["epoch", "optimizer_loss", "n_averaged"]), unique=True),
)
def test_any_nesting_gives_the_same_tensors(ours, path, prefix, release, beside):
    where, before = "".join(f"{key}/" for key in path), "".join(f"{part}." for part in prefix)
    expected = named(ours, release)
    tensors = {f"{where}{name}": torch.zeros(1) for name in beside if before.replace("_orig_mod.", "")}
    tensors |= {f"{where}{before}{name}": tensor for name, tensor in expected.items()}
    tensors |= {"a/other/weight": torch.zeros(1)}
    found = find_weights(tensors, ours)
    assert [weights.release for weights in found] == [release]
    assert found[0].tensors.keys() == expected.keys()
    assert all(found[0].tensors[name] is tensor for name, tensor in expected.items())


@pytest.mark.parametrize("release", NAMINGS)
def test_wrappers_inside_names_are_taken_out(release, ours):
    """Of modules that were compiled, sharded or recomputed one by one."""
    expected = named(ours, release)
    cut = {name: len(name.split(".")) // 2 for name in expected}
    tensors = {}
    for name, tensor in expected.items():
        parts = name.split(".")
        parts.insert(cut[name], "_orig_mod" if len(parts) % 2 else "_checkpoint_wrapped_module")
        tensors[".".join(parts)] = tensor
    assert find_weights(tensors, ours)[0].tensors.keys() == expected.keys()


def lightning(ours: dict[str, Tensor], prefix: str) -> dict[str, object]:
    state = {f"{prefix}{name}": tensor for name, tensor in named(ours, MIT).items()}
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {**state, "loss.weights": torch.ones(3), "val_map.scores": torch.ones(2)},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 3}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'map'}": {"best_model_score": torch.tensor(0.3), "best": Path("/a")}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}],
        "lr_schedulers": [{"last_epoch": 3}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1, "root": Path("/data")},
    }


@pytest.mark.parametrize("prefix", ["model.", "net."])
def test_lightning(prefix, ours, loaded, capsys):
    assert same(loaded(lightning(ours, prefix)), loaded(named(ours, MIT)))
    said = capsys.readouterr().err.splitlines()[0]
    assert re.search(rf"weights.pth: \d+ tensors of mit-han-lab's BEVFusion under 'state_dict/{prefix}'; 2 other", said)


@pytest.mark.parametrize("release", NAMINGS)
def test_a_bare_state_dict_needs_no_header(release, ours, loaded, tmp_path):
    """Safetensors of others, whole and in shards."""
    tensors = {f"module.{name}": tensor.contiguous() for name, tensor in named(ours, release).items()}
    expected = loaded(named(ours, release))
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    assert same(load_weights(tmp_path / "a.safetensors", TOY).state_dict(), expected)
    safetensors.torch.save_file(tensors, tmp_path / "b.pth")
    assert same(load_weights(tmp_path / "b.pth", TOY).state_dict(), expected)
    index: dict[str, str] = {}
    for number, names in enumerate((list(tensors)[::2], list(tensors)[1::2])):
        file = f"model-{number}.safetensors"
        safetensors.torch.save_file({name: tensors[name] for name in names}, tmp_path / file)
        index |= dict.fromkeys(names, file)
    (tmp_path / "index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": index}))
    assert same(load_weights(tmp_path / "index.json", TOY).state_dict(), expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"weight_map": {"a": "gone.safetensors"}},
            r"names shard .*/gone.safetensors, which is missing; copy all",
        ),
        ({"weight_map": {"a": "../secret"}}, r"file name '../secret' leaves its folder .*; use names inside it"),
        ({"weight_map": {"a": "index.json"}}, r"names shard .*/index.json, which is an index itself; copy the shards"),
        ({"weight_map": {}}, "names no shards; copy it again, or give another file"),
        ({"weight_map": [1]}, "is no checkpoint: neither weights nor an index of shards with a `weight_map`; give a"),
        ({"weight_map": {"a": 3}}, "is no checkpoint: neither weights nor an index of shards with a `weight_map`"),
    ],
)
def test_an_index_that_leads_nowhere(content, message, tmp_path):
    (tmp_path / "index.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_weights(tmp_path / "index.json", TOY)


def averaged(raw: dict[str, Tensor], mean: dict[str, Tensor]) -> dict[str, tuple[dict[str, object], str]]:
    """Files with raw and averaged weights, as training code writes them, and where the averaged ones lie."""
    module = {f"module.{name}": tensor for name, tensor in mean.items()}
    swapped = {f"module.{name}": tensor for name, tensor in raw.items()}
    copies = {f"ema_{name.replace('.', '_')}": tensor for name, tensor in raw.items()}
    count = torch.ones(1)
    return {
        "model_ema": ({"model": raw, "model_ema": module, "epoch": 3}, "model_ema/module."),
        "ema first": ({"ema": {"module": mean, "updates": 3}, "model": raw}, "ema/module/"),
        "state_dict_ema": ({"state_dict": raw, "state_dict_ema": mean}, "state_dict_ema/"),
        "ema_state_dict": (
            {"state_dict": raw, "ema_state_dict": {**module, "n_averaged": count}},
            "ema_state_dict/module.",
        ),
        "prefixes": (
            {"state_dict": {f"model.{k}": v for k, v in raw.items()} | {f"ema_model.{k}": v for k, v in mean.items()}},
            "state_dict/ema_model.",
        ),
        "beside": ({**raw, **{f"ema_model.{k}": v for k, v in mean.items()}, "step": torch.ones(1)}, "ema_model."),
        "mmengine": (
            {"meta": {"cfg": "a"}, "message_hub": {}, "state_dict": mean, "ema_state_dict": swapped},
            "state_dict/",
        ),
        "mmengine without hub": (
            {"state_dict": mean, "ema_state_dict": {"steps": count, **swapped}},
            "state_dict/",
        ),
        "mmcv": ({"state_dict": {**mean, **copies}}, "state_dict/"),
        "lightning": (
            {"state_dict": mean, "current_model_state": raw, "averaging_state": {"n_averaged": count}},
            "state_dict/",
        ),
    }


@pytest.mark.parametrize("case", averaged({}, {}))
def test_averaged_weights_are_taken(case, ours, loaded, capsys):
    raw, mean = named(ours, MIT, seed=1), named(ours, MIT, seed=2)
    expected = loaded(mean)
    capsys.readouterr()
    content, prefix = averaged(raw, mean)[case]
    assert same(loaded(content), expected)
    (said,) = capsys.readouterr().err.splitlines()
    assert f"tensors of mit-han-lab's BEVFusion under '{prefix}', the averaged weights" in said
    assert case in ("mmcv", "beside") or "; also there: '" in said


def test_incomplete_averages_are_not_taken(ours, loaded):
    """Some training code averages learned weights alone, without the running statistics."""
    raw, mean = named(ours, MIT, seed=1), named(ours, MIT, seed=2)
    some = {name: tensor for name, tensor in mean.items() if "running" not in name}
    assert same(loaded({"ema": some, "model": raw}), loaded(raw))


def test_two_sets_of_one_kind_are_told(ours, loaded, capsys):
    first, second = named(ours, MIT, seed=1), named(ours, MIT, seed=2)
    assert same(loaded({"best": first, "last": second}), loaded(first))
    assert "under 'best/', the first in the file; also there: 'last/'" in capsys.readouterr().err.splitlines()[0]


@pytest.mark.parametrize("release", NAMINGS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_keep_our_constants(release, dtype, ours, loaded, caplog):
    """Integers are cast too where somebody casts every tensor of a file."""
    cast = {name: tensor.to(dtype) for name, tensor in named(ours, release).items()}
    found, exact = loaded(cast), loaded(named(ours, release))
    for name, tensor in found.items():
        assert tensor.dtype == ours[name].dtype
        if is_constant(name):
            assert torch.equal(tensor, ours[name]), name
        else:
            torch.testing.assert_close(tensor, exact[name], rtol=1e-2, atol=1e-2)
    back = {name: tensor.to(ours_.dtype) for (name, tensor), ours_ in zip(cast.items(), ours.values(), strict=True)}
    found = loaded(back)
    assert all(torch.equal(found[name], ours[name]) for name in ours if is_constant(name))
    assert not caplog.records


def test_counters_and_constants_may_be_missing(ours, loaded):
    tensors = named(ours, MIT)
    kept = {
        name: tensor
        for name, tensor in tensors.items()
        if not name.endswith(("num_batches_tracked", "relative_position_index", "frustum"))
    }
    found, whole = loaded(kept), loaded(tensors)
    assert all(torch.equal(found[name], whole[name]) for name in ours if not name.endswith("num_batches_tracked"))


def broken(tensors: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    kernel, bias = "encoders.camera.backbone.patch_embed.projection.weight", "fuser.1.bias"
    if how == "all":
        return {name: tensor * math.nan if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    if how == "some":
        tensors[kernel][0, 0, 0, 0] = math.nan
        tensors[bias][:2] = math.inf
        tensors[bias][2] = math.nan
    if how == "overflow":
        tensors[bias] = tensors[bias].double() * 1e300
    return tensors


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            "all",
            r"that are no numbers, in \d{3} of \d{3} tensors \(\S+ has ([\d,]+) NaN of \1, .*, …\); its",
        ),
        (
            "some",
            r"in 2 of \d{3} tensors \(encoders.camera.backbone.patch_embed.projection.weight has 1 NaN of 1,536, "
            r"fuser.1.bias has 1 NaN and 2 infinite of 48\); its training had diverged: give a checkpoint",
        ),
        ("overflow", r"in 1 of \d{3} tensors \(fuser.1.bias has 48 infinite of 48\); its training had diverged"),
    ],
)
@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_weights_that_are_no_numbers_are_refused(how, message, dtype, ours, loaded):
    tensors = broken(named(ours, MIT), how)
    with pytest.raises(UserError, match=message) as said:
        loaded({name: tensor.to(dtype or tensor.dtype) for name, tensor in tensors.items()})
    assert "\n" not in str(said.value)


def test_an_own_checkpoint_that_is_no_numbers_is_refused(tmp_path):
    model = FusionModel(TOY)
    torch.nn.init.constant_(model.fuser[1].bias, math.nan)
    save_checkpoint(Location.parse(tmp_path / "own.safetensors"), model, {})
    with pytest.raises(
        UserError, match=r"own.safetensors holds .* in 1 of \d+ tensors \(fuser.1.bias has 48 NaN of 48"
    ):
        load_weights(tmp_path / "own.safetensors", TOY)


@pytest.mark.parametrize(
    ("dtype", "shown"),
    [
        (torch.int8, "int8"),
        (torch.complex64, "complex64"),
        (torch.float8_e4m3fn, "float8_e4m3fn"),
        (torch.bool, "bool"),
    ],
)
def test_numbers_of_another_kind_are_refused(dtype, shown, ours, loaded):
    tensors = named(ours, MMDET3D)
    tensors["fusion_layer.0.weight"] = tensors["fusion_layer.0.weight"].to(dtype)
    with pytest.raises(UserError, match=rf"fusion_layer.0.weight holds torch.{shown} instead of torch.float32"):
        loaded({"module": tensors})


def test_tensors_that_do_not_fit_are_named_without_their_prefix(ours, loaded):
    tensors = {f"module.{name}": tensor for name, tensor in named(ours, MIT).items()}
    del tensors["module.fuser.0.weight"]
    tensors["module.heads.map.weight"] = torch.zeros(1)
    with pytest.raises(UserError, match=r"2 tensors do not \(fuser.0.weight is missing, heads.map.weight is unknown\)"):
        loaded({"model": tensors})


@pytest.mark.parametrize(("release", "file"), [(MIT, "mit_keys.json"), (MMDET3D, "mmdet3d_keys.json")])
def test_the_released_names_are_found_under_prefixes(release, file):
    folder = os.environ.get("ALTERMOMA_REFERENCE", "")
    if not folder:
        pytest.skip("ALTERMOMA_REFERENCE is not set: it names a folder with bevfusion-keys/")
    listed = [name for name, _, _ in json.loads((Path(folder) / "bevfusion-keys" / file).read_text())]
    with torch.device("meta"):
        ours = FusionModel(configuration("bevfusion-mit")).state_dict()
    (found,) = find_weights({f"model/module._orig_mod.{name}": torch.zeros(()) for name in listed}, ours)
    assert (found.release, found.prefix, len(found.tensors)) == (release, "model/module.", 582)
    assert OURS.name("fuser.0.weight") == "fuser.0.weight"

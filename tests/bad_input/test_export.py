"""Models that cannot be exported, and names under which there is none."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.checkpoint import read_header, save_checkpoint
from altermoma_ray.models.configurations.avod_fpn import avod_configuration
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.storage import Location


@pytest.fixture
def line(bench):
    """The command line of an export of a model, to the runtime that takes least."""

    def of(run, target="cuda-bevfusion", out="exported"):
        return ["export", str(run), *bench.stored("--target", target, "--out", f"{bench.folder}/{out}")]

    return of


@pytest.fixture(autouse=True)
def nothing_written(bench):
    yield
    assert not (bench.folder / "exported").exists()


def test_no_model_to_export(check, line):
    check("no model to export", line("/nowhere"), r"no model at /nowhere; give the folder or file of a pruned model")


def test_folder_without_a_model(bench, check, line):
    words = r"holds no model.safetensors; give a folder that prune or a finished trial wrote, or the file$"
    check("folder without a model", line(bench.folder), words)


def test_searches_without_a_model(bench, empty_store, check, line):
    shutil.copytree(empty_store, bench.storage)
    bench.begin()
    check("model of an unknown search", line("second"), r"no search 'second' in \S+; known: first$", ("mlflow.db",))
    check("search without a champion", line("first"), r"has no champion yet; name a trial: first/0$", ("mlflow.db",))


def test_unknown_format_of_an_export(bench, check, line):
    words = r"argument --target: invalid choice: 'tensorrt' \(choose from .*\); see --help$"
    check("unknown format of an export", line(bench.checkpoint, "tensorrt"), words)


def test_export_to_where_nothing_can_be(bench, check):
    command = ["export", str(bench.checkpoint), *bench.stored("--target", "onnx", "--out", "/proc/a")]
    check("export to a folder that cannot be", command, r"cannot write to folder /proc/a: .*; choose a folder that you")


def test_figures_that_the_runtime_fixes_otherwise(bench, check, line):
    words = r"bevfusion-mit-toy does not fit CUDA-BEVFusion, whose C\+\+ code fixes its figures: voxel grid .*\d+ more"
    check("model of other figures than the runtime's", line(bench.checkpoint), words)


@pytest.fixture
def saved(bench):
    """Saves a new model of a configuration."""

    def save(config):
        place = Location.parse(bench.folder / "other.safetensors")
        save_checkpoint(place, FusionModel(config), {})
        return place

    return save


def test_map_segmentation_for_a_runtime_of_boxes(saved, check, line):
    words = r"bevfusion-mit-seg-toy has a map segmentation head, but CUDA-BEVFusion reads boxes of a TransFusion head"
    check("map segmentation for a runtime of boxes", line(saved(configuration("bevfusion-mit-seg-toy"))), words)


def test_part_that_mmdetection3d_lacks(saved, check, line):
    words = r"bevfusion-mit-seg-toy has a part that mmdetection3d's BEVFusion lacks .*; take --target onnx$"
    place = saved(configuration("bevfusion-mit-seg-toy"))
    check("part that mmdetection3d lacks", line(place, "mmdetection3d"), words)


def test_boxes_told_by_another_point(saved, check, line):
    config = configuration("bevfusion-mit-toy")
    config = config.model_copy(update={"head": config.head.model_copy(update={"height": "top"})})
    words = r"the head learned the z of a box's top, but mmdetection3d reads the z of its centre"
    check("boxes told by another point", line(saved(config), "mmdetection3d"), words)


@pytest.mark.parametrize("name", ["bevfusion-r-toy", "bevfusion-trio-toy"])
@pytest.mark.parametrize("target", ["onnx", "cuda-bevfusion", "mmdetection3d"])
def test_sensors_that_an_export_does_not_take(saved, complaint, documented, line, name, target):
    words = (
        "but files are made for a camera and a LiDAR alone; export the model yourself with torch.export or torch.onnx"
    )
    found = complaint(line(saved(configuration(name)), target))
    assert words in found
    assert f"{name} has camera, " in found
    assert words in documented["sensors that an export does not take"]


def test_width_that_the_runtime_does_not_take(saved, check, line):
    config = configuration("bevfusion-mit")
    # As pruning leaves it; the other widths are small, as the model is built for the test.
    camera = {"channels": 72, "embed": 8, "depths": (1, 1, 1), "heads": (1, 1, 1), "neck": 8}
    config = config.model_copy(update={"camera": config.camera.model_copy(update=camera)})
    words = r"context has 72 channels, but CUDA-BEVFusion's splat takes multiples of 10; prune with --target cuda-"
    check("width that the runtime does not take", line(saved(config)), words)


def test_export_of_a_model_for_kitti(bench, check, line):
    torch.manual_seed(0)
    file = bench.folder / "avod.safetensors"
    save_checkpoint(Location.parse(file), avod_configuration("avod-fpn-toy").build(), {})
    words = (
        r"avod.safetensors is of model 'avod-fpn-toy', but files are made for BEVFusion models alone; export the mod"
    )
    check("export of a model for KITTI", line(file), words)


def test_export_of_ones_own_model(bench, check, line):
    save_checkpoint(Location.parse(bench.folder / "own.safetensors"), torch.nn.Linear(2, 2), {})
    words = (
        r"own.safetensors is of a model of your own, whose parts this command does not know; export the model yourself"
    )
    check("export of a model of one's own", line(bench.folder / "own.safetensors"), words)


def test_weights_that_are_no_numbers_are_not_exported(bench, complaint, line):
    tensors = load_file(bench.checkpoint)
    tensors["fuser.1.bias"] *= torch.nan
    save_file(tensors, bench.folder / "nan.safetensors", metadata=read_header(bench.checkpoint.read_bytes()))
    assert "holds weights that are no numbers" in complaint(line(bench.folder / "nan.safetensors", "onnx"))


def test_a_broken_header_is_told_apart_from_a_model_of_ones_own(bench, complaint, line):
    header = read_header(bench.checkpoint.read_bytes())
    config = json.loads(header["config"]) | {"name": 3}
    save_file(
        load_file(bench.checkpoint), bench.folder / "bad.safetensors", metadata=header | {"config": json.dumps(config)}
    )
    assert "holds no valid model configuration: name:" in complaint(line(bench.folder / "bad.safetensors", "onnx"))

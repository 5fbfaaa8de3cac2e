"""Data sets that are missing, cut, mixed up or broken."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
import torch

from altermoma_ray.data.loader import Loader
from altermoma_ray.data.nuscenes.dataset import NuScenesDataset, collate
from altermoma_ray.data.synthetic import generate
from altermoma_ray.errors import UserError
from altermoma_ray.models.checkpoint import save_checkpoint
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.storage import Location
from tests.plans import toy_workload

TRACKED = ("checkpoints", "mlflow.db")


def test_missing_table(bench, check):
    (bench.dataroot / bench.version / "ego_pose.json").unlink()
    check("missing table", bench.search(), r"v1.0-trainval lacks ego_pose.json; copy all 13 tables of nuScenes there$")


@pytest.fixture
def map_search(bench):
    """A search with a map segmentation model, and the file of the map expansion it needs."""
    torch.manual_seed(0)
    checkpoint = bench.folder / "seg.safetensors"
    save_checkpoint(Location.parse(checkpoint), configuration("bevfusion-mit-seg-toy").build(), {})
    line = bench.search("--model", "bevfusion-mit-seg-toy", "--checkpoint", str(checkpoint))
    return line, bench.first("maps/expansion/*.json")


def test_missing_map_expansion(map_search, check):
    line, expansion = map_search
    expansion.unlink()
    check(
        "missing map expansion",
        line,
        r"the map expansion .*/maps/expansion/boston-seaport\.json is missing; download 'Map expansion v1\.3' of "
        r"nuScenes into .*/maps/expansion$",
        (*TRACKED, "index"),
    )


def test_one_keyframe_a_scene_for_tracking(bench, check):
    root = bench.folder / "stills"
    small = {"width": 64, "cameras": 1, "azimuths": 90}
    generate(root, scenes=2, keyframes=1, sweeps=0, processes=1, progress=False, **small)
    check(
        "one keyframe a scene for tracking",
        bench.search("--model", "bevfusion-mit-track-toy", "--dataroot", str(root)),
        r"has one keyframe a scene, but tracking follows objects from keyframe to keyframe; give a data set whose "
        r"validation scenes have two or more$",
        (*TRACKED, "index"),
    )


def test_map_expansion_of_another_version(map_search, check):
    line, expansion = map_search
    expansion.write_text(expansion.read_text().replace('"version":"1.3"', '"version":"1.2"', 1))
    check(
        "map expansion of another version",
        line,
        r"boston-seaport\.json has version 1\.2, but 1\.3 is needed; download 'Map expansion v1\.3' of nuScenes into ",
        (*TRACKED, "index"),
    )


@pytest.fixture
def radar_search(bench):
    """A search with a model that reads radars."""
    torch.manual_seed(0)
    checkpoint = bench.folder / "radar.safetensors"
    save_checkpoint(Location.parse(checkpoint), configuration("bevfusion-r-toy").build(), {})
    return bench.search("--model", "bevfusion-r-toy", "--checkpoint", str(checkpoint))


def test_radar_files_absent(bench, radar_search, check):
    for file in (bench.dataroot / "samples").glob("RADAR_*/*"):
        file.unlink()
    check(
        "radar files absent",
        radar_search,
        r"the model reads radars, but dataroot .* lacks 60 of the 60 radar files that its tables name, "
        r"samples/RADAR_BACK_LEFT/.*\.pcd for one; copy them there, or choose a model without radars$",
        (*TRACKED, "index"),
    )


def test_data_set_without_radars(bench, radar_search, check):
    bench.edit("sensor", lambda records: [one.update(modality="sonar") for one in records if "RADAR" in one["channel"]])
    check(
        "data set without radars",
        radar_search,
        r"the model reads radars, but the tables of .* name none; give a data set with radars, or choose a model "
        r"without$",
        (*TRACKED, "index"),
    )


def test_broken_radar_file(bench, radar_search, check):
    file = bench.first("samples/RADAR_FRONT/*")
    os.truncate(file, file.stat().st_size - 60)
    check(
        "broken radar file",
        radar_search,
        r"radar file .*\.pcd is cut short: \d+ returns need \d+ bytes, but \d+ are left; copy it from nuScenes again$",
        (*TRACKED, "index"),
    )


def test_table_cut_in_the_middle(bench, check):
    file = bench.dataroot / bench.version / "sample_data.json"
    os.truncate(file, file.stat().st_size // 2)
    check(
        "table cut in the middle", bench.index(), r"sample_data.json is not valid JSON \(.*\); copy the tables again$"
    )


def test_tables_of_two_data_sets(bench, check):
    bench.edit("ego_pose", lambda records: records.clear())
    check(
        "tables of two data sets",
        bench.index(),
        r"ego_pose_token of sample_data \w+ is '\w+', but must be the token of a record in table ego_pose "
        r"\(\d+ more records like it\) in .*; copy the tables again$",
    )


def test_table_with_other_values(bench, check):
    bench.edit("ego_pose", lambda records: [record.update(translation="north") for record in records])
    check(
        "table with other values",
        bench.index(),
        r"translation of ego_pose \w+ is 'north', but must be three finite numbers within 1e.08 m \(\d+ more"
        r" records like it\) in "
        r".*v1.0-trainval; mend them, or leave such records out with --skip-invalid$",
    )


def test_file_name_that_leaves_the_dataroot(bench, check):
    bench.edit("sample_data", lambda records: [record.update(filename="../../etc/passwd") for record in records])
    check(
        "file name that leaves the dataroot",
        bench.index(),
        r"name '../../etc/passwd' leaves its folder .*; use names",
        ("index",),
    )


def test_truncated_lidar_file(bench, check):
    file = bench.first("samples/LIDAR_TOP/*")
    os.truncate(file, file.stat().st_size - 7)
    check(
        "truncated LiDAR file",
        bench.search(),
        r"file .*pcd.bin has \d+ bytes, no whole number of 20-byte points",
        (*TRACKED, "index"),
    )


def test_lidar_file_of_four_columns(bench, check):
    file = bench.first("samples/LIDAR_TOP/*")
    points = np.fromfile(file, "<f4").reshape(-1, 5)
    points[: len(points) // 5 * 5, :4].tofile(file)
    check(
        "LiDAR file of four columns",
        bench.index(),
        r"does not hold x,y,z,intensity,ring: column 5 \(ring\) holds .* 4 columns: --lidar-columns x,y,z,intensity$",
        ("index",),
    )


def test_lidar_columns_without_z(bench, check):
    check(
        "LiDAR columns without z",
        [*bench.index(), "--lidar-columns", "x,y,intensity"],
        r"--lidar-columns: LiDAR columns need x, y and z, but z is missing; name all columns; see --help$",
    )


def test_keyframe_that_lacks_a_camera(bench, check):
    def take_out(rows: list[dict]) -> None:
        gone = next(row for row in rows if "/CAM_BACK/" in row["filename"])
        rows.remove(gone)
        for row in rows:  # its neighbours in time end there
            row.update({way: "" for way in ("prev", "next") if row[way] == gone["token"]})

    bench.edit("sample_data", take_out)
    check(
        "keyframe that lacks a camera",
        bench.index(),
        r"1 of 12 keyframes of .* lack pictures of CAM_FRONT, .* has no CAM_BACK; add them, or take the keyframe out",
        ("index",),
    )


def test_link_deep_below_the_dataroot(bench, check):
    (bench.dataroot / "samples" / "CAM_BACK").rename(bench.folder / "elsewhere")
    (bench.dataroot / "samples" / "CAM_BACK").symlink_to(bench.folder / "elsewhere")
    check(
        "link deep below the dataroot",
        bench.index(),
        r"samples/CAM_BACK is a link out of dataroot .*, or give --follow-links if the link is yours$",
        ("index",),
    )


def test_missing_picture(bench, check):
    bench.first("samples/CAM_BACK/*").unlink()
    check(
        "missing picture",
        bench.index(),
        r"lacks 1 of the \d+ pictures and LiDAR files .* samples/CAM_BACK/.*jpg for one;",
        ("index",),
    )


def test_empty_picture(bench, check):
    os.truncate(bench.first("samples/CAM_BACK/*"), 0)
    check("empty picture", bench.index(), r"picture .*jpg is empty; copy it from nuScenes again$", ("index",))


def test_no_validation_scenes(bench, check):
    bench.edit("scene", lambda scenes: [scene.update(name="scene-9999") for scene in scenes[-2:]])
    check(
        "no validation scenes",
        bench.search(),
        r"has no keyframe of split 'val'; it has: other, train; choose a",
        (*TRACKED, "index"),
    )


def test_a_box_of_no_size(bench, check):
    bench.edit("sample_annotation", lambda records: [one.update(size=[0.0, 4.1, 1.6]) for one in records[:3]])
    check(
        "a box of no size",
        bench.index(),
        r"size of sample_annotation \w+ is \[0.0, 4.1, 1.6\], but must be three numbers above 0 and up to 1000 m "
        r"\(2 more records like it\) in .*; mend them, or leave such records out with --skip-invalid$",
    )


def test_keyframe_that_follows_itself(bench, check):
    bench.edit("sample", lambda records: records[1].update(next=records[1]["token"]))
    check(
        "keyframe that follows itself",
        bench.index(),
        r"next of sample (\w+) is '\1', but must be the token of a later record in table sample in .*; copy the tables",
    )


def test_a_scene_to_train_and_to_validate_on(bench, check):
    splits = '{"train": ["scene-0001", "scene-0002"], "val": ["scene-0001"]}'
    (bench.dataroot / bench.version / "splits.json").write_text(splits)
    check(
        "scene to train and to validate on",
        bench.index(),
        r"splits.json names 1 scenes both in 'train' and in 'val', the first is 'scene-0001'; leave each scene",
    )


def test_splits_that_are_no_lists(bench, check):
    (bench.dataroot / bench.version / "splits.json").write_text('{"train": "scene-0001"}')
    check(
        "splits that are no lists", bench.index(), r"splits.json does not name lists of scenes by split; write {split:"
    )


def test_unknown_data_set(bench, check):
    check(
        "unknown data set",
        ["search", "waymo", *bench.stored()],
        r"unknown data set 'waymo'; choose nusc, kitti, or name a workload of your own: ",
    )


def test_version_without_a_dataroot(bench, check):
    check(
        "version without a dataroot",
        ["search", "nusc", *bench.stored("--version", "v1.0-mini")],
        r"the synthetic nuScenes has no version 'v1.0-mini'; give --dataroot or leave it",
    )


def test_a_broken_picture_is_one_line_out_of_a_loading_process_too(bench):
    picture = bench.first("samples/CAM_FRONT/*")
    os.truncate(picture, picture.stat().st_size // 2)
    index = toy_workload(bench.storage, bench.dataroot).load().data.index()
    dataset = NuScenesDataset(index, [0], configuration("bevfusion-mit-toy").inputs, augment=False)
    with pytest.raises(UserError, match=r"^picture .*jpg is broken \(.*\); copy it from nuScenes again$"):
        list(Loader(dataset, collate, processes=1).load([[0]]))


@pytest.mark.parametrize(
    ("split", "scored"),
    [(slice(-2), False), (slice(-2, None), True)],
    ids=["while scoring", "in a trial"],
)
@pytest.mark.slow
def test_a_broken_picture_ends_the_search_from_inside_ray(split, scored, bench, complaint):
    """A picture of a training scene is met by a Ray Train worker, one of a validation scene by a Tune trial."""
    pictures = sorted(bench.dataroot.glob("samples/CAM_FRONT/*"))[split]  # all: which are drawn is the seed's choice
    for picture in pictures:
        os.truncate(picture, picture.stat().st_size // 2)
    small = "SearchSpace(scoring_batches=1, reactivation_steps=(1,), reactivation_learning_rates=(1e-4,), rungs=())"
    space = bench.file("small.py", f"from altermoma_ray.engine.space import SearchSpace\nSPACE = {small}\n")
    line = bench.search("--space", space, "--trials", "3", "--name", "first")
    found = complaint(line)
    named = re.search(r"picture .*/(\S+) is broken \(.*\); copy it from nuScenes again$", found)
    assert named, found
    assert named[1] in {picture.name for picture in pictures}
    assert bool(list(bench.storage.glob("indicators/*/reri*"))) == scored
    assert not list(bench.storage.glob("searches/first/trials/*/result.json"))  # so that --resume runs every trial

"""Attacks through what a user is handed: data sets, checkpoints, YAML, addresses. ``docs/access.md`` is their table."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from altermoma_ray.data.nuscenes.dataroot import check_files, read_picture, read_points
from altermoma_ray.data.nuscenes.reading import Reading
from altermoma_ray.errors import UserError
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.models.weights.load import load_weights
from altermoma_ray.storage import Location
from altermoma_ray.workloads.nusc import SHIPPED

VERSION = "v1.0-trainval"
CHECKOUT = Path(__file__).parents[1]


# --- file names of a data set -----------------------------------------------------------------------------------------

NAMES = [
    "../../etc/passwd",
    "samples/../../../etc/passwd",
    "samples/../samples/CAM_FRONT/a.jpg",
    "/etc/passwd",
    "",
    "s3://another-bucket/a.jpg",
    "file:///etc/passwd",
    "samples/CAM_FRONT/a\0.jpg",
    "samples/CAM_FRONT/\x1b[2J.jpg",
    "samples/CAM_FRONT/a.jpg\nerror: all is well",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_name_does_not_leave_the_dataroot(name, dataroot):
    root = Location.parse(dataroot)
    attempts = (
        lambda: read_picture(root, name, 400, 225),
        lambda: read_points(root, name),
        lambda: check_files(root, [name], []),
        lambda: check_files(root, [], [name]),
    )
    for attempt in attempts:
        with pytest.raises(UserError) as refused:
            attempt()
        assert str(refused.value) == f"file name {name!r} leaves its folder {root}; use names inside it"
        assert str(refused.value).isprintable()


def test_a_traversal_in_the_tables_ends_the_command(dataroot, answer):
    table = dataroot / VERSION / "sample_data.json"
    records = json.loads(table.read_text())
    for record in records:
        record["filename"] = "../../../../../../etc/passwd"
    table.write_text(json.dumps(records))
    said = answer("index", "nusc", "--dataroot", dataroot)
    assert (
        said == f"error: file name '../../../../../../etc/passwd' leaves its folder {dataroot}; use names inside it\n"
    )


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_a_link_does_not_leave_the_dataroot(linked, dataroot, tmp_path):
    picture = min(dataroot.glob("samples/CAM_FRONT/*"))
    name = picture.relative_to(dataroot).as_posix()
    target = {"file": picture, "folder": picture.parent}[linked]
    target.rename(tmp_path / "outside")
    target.symlink_to(tmp_path / "outside")
    root = Location.parse(dataroot)
    for attempt in (lambda: read_picture(root, name, 400, 225), lambda: check_files(root, [name], [])):
        with pytest.raises(UserError, match=r"samples.* is a link out of dataroot .*, or give --follow-links if"):
            attempt()
    follow = Reading(follow_links=True)
    check_files(root, [name], [], follow)
    assert read_picture(root, name, 400, 225, follow).size == (400, 225)
    with pytest.raises(UserError, match=r"name '\.\./a\.jpg' leaves its folder"):
        read_picture(root, "../a.jpg", 400, 225, follow)


def test_a_folder_directly_below_the_dataroot_may_be_a_link_and_is_not_left_by_a_deeper_one(dataroot, tmp_path):
    picture = min(dataroot.glob("samples/CAM_FRONT/*"))
    name = picture.relative_to(dataroot).as_posix()
    (dataroot / "samples").rename(tmp_path / "disk")
    (dataroot / "samples").symlink_to(tmp_path / "disk")
    root = Location.parse(dataroot)
    check_files(root, [name], [])
    assert read_picture(root, name, 400, 225).size == (400, 225)
    (tmp_path / "disk" / "CAM_FRONT").rename(tmp_path / "elsewhere")
    (tmp_path / "disk" / "CAM_FRONT").symlink_to(tmp_path / "elsewhere")
    for attempt in (lambda: read_picture(root, name, 400, 225), lambda: check_files(root, [name], [])):
        with pytest.raises(UserError, match=r"samples/CAM_FRONT.* is a link out of dataroot .* --follow-links"):
            attempt()


def test_links_inside_the_dataroot_and_to_it_are_fine(dataroot, tmp_path):
    (dataroot / "samples" / "CAM_FRONT").rename(dataroot / "front")
    (dataroot / "samples" / "CAM_FRONT").symlink_to(dataroot / "front")
    first, second = sorted((dataroot / "front").iterdir())[:2]
    second.unlink()
    second.symlink_to(first)
    (tmp_path / "link").symlink_to(dataroot)
    root, names = Location.parse(tmp_path / "link"), [f"samples/CAM_FRONT/{file.name}" for file in (first, second)]
    check_files(root, names, [])
    assert read_picture(root, names[1], 400, 225).size == (400, 225)


def test_a_picture_that_is_postscript_starts_no_ghostscript(tmp_path, monkeypatch):
    harm = tmp_path / "harm"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {harm}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n"
    (tmp_path / "a.jpg").write_bytes(script)
    with pytest.raises(UserError, match=r"picture .*a.jpg is broken \(neither JPEG nor PNG\); copy it from"):
        read_picture(Location.parse(tmp_path), "a.jpg", 16, 16)
    assert not harm.exists()
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    with pytest.raises(OSError):
        Image.open(io.BytesIO(script)).convert("RGB")  # what a careless reader does
    assert harm.exists()


def test_a_picture_of_another_size_is_not_decoded(tmp_path):
    header = struct.pack(">IIBBBBB", 12000, 12000, 8, 2, 0, 0, 0)  # 144 megapixels, which Pillow only warns of
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1 << 20))), (b"IEND", b"")]
    data = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    (tmp_path / "a.jpg").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    with pytest.raises(UserError, match=r"has 12000x12000 pixels, but the tables say 400x225; copy it from nuScenes"):
        read_picture(Location.parse(tmp_path), "a.jpg", 400, 225)


# --- files that would run something -----------------------------------------------------------------------------------


class Payload:
    """Runs a command where it is unpickled."""

    def __init__(self, line: str) -> None:
        self.line = line

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.line,)


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("wrap", [lambda payload: payload, lambda payload: {"state_dict": payload}])
def test_a_pickled_checkpoint_is_not_run(protocol, wrap, tmp_path):
    file = tmp_path / "model.pth"
    file.write_bytes(pickle.dumps(wrap(Payload(f"touch {tmp_path}/harm")), protocol))
    with pytest.raises(UserError, match=r"model.pth is a pickle that .*, which is not read for safety; if you trust"):
        load_weights(file, configuration("bevfusion-mit-toy"))
    assert not (tmp_path / "harm").exists()
    pickle.loads(file.read_bytes())  # what a careless reader does
    assert (tmp_path / "harm").exists()


def test_a_yaml_tag_is_not_run(tmp_path, monkeypatch, dataroot, answer):
    text = f'!!python/object/apply:os.system ["touch {tmp_path}/harm"]\n'
    (tmp_path / "evil.yaml").write_text(text)
    options = ["nusc", "--dataroot", dataroot, "--model", "bevfusion-mit-toy"]
    said = answer("search", *options, "--checkpoint", SHIPPED, "--space", tmp_path / "evil.yaml")
    assert "evil.yaml; give the path of a Python file that defines SPACE or suggest" in said
    said = answer("search", *options, "--checkpoint", tmp_path / "evil.yaml")
    assert "evil.yaml is no checkpoint, or a damaged one; copy it again" in said
    definitions = pytest.importorskip("jobs.definitions")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "runtime_env.yaml").write_text(text)
    monkeypatch.setattr(definitions, "CHECKOUT", tmp_path)
    with pytest.raises(yaml.YAMLError, match="could not determine a constructor for the tag"):
        definitions.runtime_env()
    assert not (tmp_path / "harm").exists()
    yaml.unsafe_load(text)  # what a careless reader does
    assert (tmp_path / "harm").exists()


CALLS = {"eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load"}
CALLS |= {"yaml.full_load", "marshal.loads", "shelve.open", "joblib.load", "cloudpickle.loads", "shutil.unpack_archive"}


def test_no_code_of_ours_runs_what_it_reads():
    found = []
    folders = ["altermoma_ray", "benchmarks", "cluster", "jobs", "search_spaces"]
    for file in [file for folder in folders for file in (CHECKOUT / folder).rglob("*.py")]:
        for call in (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)):
            name, given = ast.unparse(call.func), {word.arg: ast.unparse(word.value) for word in call.keywords}
            careless = name in CALLS or name.endswith(".extractall") or given.get("shell") == "True"
            careless |= name == "torch.load" and given.get("weights_only") != "True"
            careless |= name in ("pickle.Unpickler", "super().find_class")  # these look names up in modules
            if name == "pickle.loads" and file.parent.name == "testing" and "pickle.dumps" in ast.unparse(call):
                careless = False  # a contract suite's own object, there and back
            careless |= name in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False"
            if careless:
                found.append(f"{file}:{call.lineno} {name}")
    assert not found

"""``python -m altermoma_ray.tasks.metrics.kitti`` on folders, good and bad."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from altermoma_ray import cli
from altermoma_ray.tasks.metrics.kitti.__main__ import main

CAR = "Car 0 0 -10 100 100 200 160 1.5 1.6 3.9 0 1.6 20 0"


class Folders:
    """Labels and detections of 41 frames, found perfectly."""

    def __init__(self, root: Path) -> None:
        self.labels, self.detections, self.frames = root / "label_2", root / "found", root / "val.txt"
        self.labels.mkdir()
        self.detections.mkdir()
        names = [f"{n:06d}" for n in range(41)]
        self.frames.write_text("\r\n".join(names) + "\r\n\r\n")
        for name in names:
            (self.labels / f"{name}.txt").write_text(f"{CAR}\n")
            (self.detections / f"{name}.txt").write_text(f"{CAR} 0.5\n")

    def options(self) -> list[str]:
        return ["--labels", str(self.labels), "--detections", str(self.detections), "--frames", str(self.frames)]


@pytest.fixture
def folders(tmp_path):
    return Folders(tmp_path)


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the command and gives its exit code, its output and its errors."""

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["kitti", *map(str, options)])
        try:
            cli.run(main)
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


def test_all_figures_are_printed(folders, call):
    code, out, err = call(*folders.options())
    figures = json.loads(out)
    assert (code, err) == (0, "")
    assert figures["car"]["3d"]["r11"] == {"easy": 100, "moderate": 100, "hard": 100}
    assert figures["cyclist"]["bev"]["r40"] == {"easy": 0, "moderate": 0, "hard": 0}


def test_listed_frames_alone_count_and_empty_files_are_misses(folders, call):
    (folders.detections / "000000.txt").write_text("")
    (folders.detections / "999999.txt").write_text("not listed")
    code, out, _ = call(*folders.options())
    assert code == 0
    assert 90 < json.loads(out)["car"]["3d"]["r40"]["easy"] < 100


def test_folders_may_be_addresses(folders, call):
    folders.labels, folders.detections, folders.frames = (
        f"file://{place}" for place in (folders.labels, folders.detections, folders.frames)
    )
    assert call(*folders.options())[0] == 0


def spoil_frames(text):
    return lambda folders: folders.frames.write_text(text)


def spoil(folder, name, text):
    return lambda folders: (getattr(folders, folder) / f"{name}.txt").write_text(text)


def remove(folder, name):
    return lambda folders: (getattr(folders, folder) / f"{name}.txt").unlink()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            lambda folders: folders.labels.rename(folders.labels.parent / "x"),
            "labels {root}/label_2 is no folder; give",
        ),
        (
            lambda folders: folders.detections.rename(folders.labels.parent / "x"),
            "detections {root}/found is no folder",
        ),
        (lambda folders: folders.frames.unlink(), "frames {root}/val.txt is missing; give a file with"),
        (spoil_frames("\n"), "{root}/val.txt names no frame; give"),
        (spoil_frames("000001\n000002 000003\n"), "{root}/val.txt, line 2 is '000002 000003'; give one frame a line"),
        (spoil_frames("000001\n\n000001\n"), "{root}/val.txt, line 3 names frame 000001 again, after line 1"),
        (spoil_frames("../000001\n"), "file name '../000001.txt' leaves its folder {root}/label_2"),
        (remove("labels", "000007"), "frame 000007 has no labels: {root}/label_2/000007.txt is missing; give"),
        (remove("detections", "000007"), "frame 000007 has no detections: {root}/found/000007.txt is missing; write"),
        (spoil("labels", "000003", f"{CAR}\n{CAR} 1\n"), "{root}/label_2/000003.txt, line 2 has 16 values"),
        (spoil("labels", "000003", CAR.replace(" 20 ", " inf ")), "{root}/label_2/000003.txt, line 1 has z 'inf'"),
        (spoil("detections", "000003", CAR), "{root}/found/000003.txt, line 1 has no score"),
        (spoil("detections", "000003", f"{CAR} nan"), "{root}/found/000003.txt, line 1 has score 'nan'"),
        (spoil("detections", "000003", f"{CAR} high"), "{root}/found/000003.txt, line 1 has score 'high'"),
        (
            lambda folders: (folders.detections / "000003.txt").write_bytes(b"\xff\xfe\x00"),
            "{root}/found/000003.txt is no text file in UTF-8",
        ),
    ],
)
def test_bad_input_is_one_line(folders, call, tmp_path, fault, message):
    fault(folders)
    code, out, err = call(*folders.options())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {message.format(root=tmp_path)}"), err


def test_options_are_needed(call):
    code, _, err = call("--labels", "x")
    assert (code, err) == (2, "error: the following arguments are required: --detections, --frames; see --help\n")

"""The example that draws a frame."""

from __future__ import annotations

import sys

import pytest
from PIL import Image

from altermoma_ray.errors import UserError
from altermoma_ray.workloads.kitti import SHIPPED
from examples import kitti_picture


@pytest.fixture
def draw(kitti, monkeypatch, tmp_path):
    def run(*options):
        line = ["--dataroot", kitti.dataroot, "--model", "avod-fpn-toy", "--checkpoint", SHIPPED, "--storage", tmp_path]
        line += ["--out", tmp_path / "frame.png", *options]
        monkeypatch.setattr(sys, "argv", ["kitti_picture.py", *map(str, line)])
        kitti_picture.main()
        return Image.open(tmp_path / "frame.png")

    return run


def test_detections_are_drawn_in_their_colours(draw):
    # The toy finds objects of this set; a threshold of 1 leaves their boxes out, and nothing else.
    drawn, without = (draw("--least-score", least).convert("RGB").getcolors(1 << 24) for least in (0.1, 1))
    orange = {count for count, colour in drawn if colour == (255, 127, 14)}
    assert sum(orange) > 100
    assert (255, 127, 14) not in {colour for _, colour in without}


def test_an_absent_frame_is_refused(draw):
    with pytest.raises(UserError, match=r"no frame 000777 in .*; there are 00000\d and others"):
        draw("--frame", "000777")

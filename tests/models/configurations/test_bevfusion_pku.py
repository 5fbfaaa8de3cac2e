from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from altermoma_ray.data.transforms import ImageView
from altermoma_ray.models.configurations.config import ModelConfig, parse_configuration
from altermoma_ray.models.configurations.lidar import LidarConfig
from altermoma_ray.models.configurations.named import configuration

PKU = "bevfusion-pku"


def test_published_figures_derive_the_published_grids():
    config = configuration(PKU)
    assert config.camera.stage_channels == (96, 192, 384, 768)
    assert config.camera.feature_size == (112, 200)
    assert config.camera.bev_size == config.head.bev_size == (180, 180)
    assert config.camera.channels * config.camera.heights == 832
    assert config.decoder is None


def test_pictures_keep_their_shape_and_are_padded_on_the_right():
    config = configuration(PKU)
    view = ImageView.draw(config.inputs, 1600, 900, None)
    assert view.resized == config.camera.shown_size[::-1] == (796, 448)
    assert view.size == (800, 448)
    assert view.corner == (0, 0)
    # The frustum's pixels are the original picture's: one scale turns one into the other.
    (height, width), (shown_height, shown_width) = config.camera.original_size, config.camera.shown_size
    np.testing.assert_allclose(view.matrix(), np.diag([shown_width / width, shown_height / height, 1]))


def test_a_second_swin_transformer_is_an_option_that_changes_nothing_else():
    one, two = configuration(PKU), configuration(f"{PKU}-dual")
    assert two.camera.dual
    single = two.camera.model_copy(update={"dual": False})
    assert two.model_copy(update={"name": PKU, "camera": single}) == one


def test_an_absent_decoder_of_the_lidar_is_not_written():
    assert "decoder" not in LidarConfig().model_dump()
    config = configuration(PKU)
    assert parse_configuration(config.model_dump_json(), "test") == config


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("camera", {"original_size": (900, 1608)}, r"4 pixels for each of the camera's \(112, 201\) feature cells"),
        ("camera", {"shown_size": (448, 801)}, r"`camera.shown_size` must fit into the picture \(448, 800\)"),
        ("camera", {"shown_size": (0, 796)}, r"`shown_size` must be a height and a width of 8 pixels or more"),
        ("camera", {"downsample": 2}, r"camera\.height-swin\.downsample\n +Extra inputs are not permitted"),
        ("camera", {"grid_x": (-54.0, 53.4, 0.6)}, "upper edges of the camera grid must be"),
        ("fuser", {"gate": "cell"}, "Input should be 'channel'"),
        ("lidar", {"decoder": {"strides": (1, 7)}}, "must divide by the LiDAR decoder's total stride 7"),
    ],
)
def test_figures_that_do_not_fit_are_refused(section, fields, message):
    plain = configuration(PKU).model_dump()
    plain[section].update(fields)
    with pytest.raises(ValidationError, match=message):
        ModelConfig.model_validate(plain)


def test_a_gated_fuser_takes_a_camera_map_on_a_coarser_grid():
    plain = configuration(PKU).model_dump()
    plain["camera"].update(grid_x=(-54.0, 54.0, 1.35), grid_y=(-54.0, 54.0, 1.35))
    assert ModelConfig.model_validate(plain).camera.bev_size == (80, 80)
    plain["fuser"] = {"channels": 512}
    with pytest.raises(ValidationError, match="camera grid's `bev_size` must be"):
        ModelConfig.model_validate(plain)

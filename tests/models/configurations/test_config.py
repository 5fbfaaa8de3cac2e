from __future__ import annotations

import hashlib

import pytest
from pydantic import ValidationError

from altermoma_ray.errors import UserError
from altermoma_ray.models.configurations.config import ModelConfig, parse_configuration
from altermoma_ray.models.configurations.named import CONFIGURATIONS, adopted, configuration


def changed(section: str, *, of: str = "bevfusion-mit", **fields) -> dict:
    plain = configuration(of).model_dump()
    plain[section].update(fields)
    return plain


def test_published_figures_derive_the_published_grids():
    config = configuration("bevfusion-mit")
    assert config.voxel_grid == (1440, 1440, 40)
    assert config.lidar.stride == 8
    assert config.lidar.output_height(40) == 2
    assert config.camera.stage_channels == (192, 384, 768)
    assert config.camera.bev_size == config.head.bev_size == (180, 180)


def test_sensors_follow_the_sections():
    config = configuration("bevfusion-mit-toy")
    assert config.sensors == ("camera", "lidar")
    assert config.modalities == config.build().modalities == ("lidar", "camera")
    alone = {name: value for name, value in config.model_dump().items() if name != "camera"}
    with pytest.raises(
        ValidationError, match=r"fusion needs two of the sections camera, lidar.*, but got \('lidar',\)"
    ):
        ModelConfig.model_validate(alone)


def test_a_head_may_read_the_fused_map_itself():
    config = configuration("bevfusion-mit-toy").model_copy(update={"decoder": None})
    assert '"decoder"' not in config.model_dump_json()
    assert parse_configuration(config.model_dump_json(), "test") == config
    model = config.build()
    assert model.head.shared_conv.in_channels == config.fuser.channels
    assert not list(model.decoder.parameters())


def test_a_resnet_s_stages_have_the_widths_of_the_public_variant_with_a_resnet():
    config = configuration("bevfusion-mit-r101-second")
    assert config.camera.stage_channels == (512, 1024, 2048)
    assert config.camera.bev_size == (180, 180)
    published = configuration("bevfusion-mit")
    assert config.model_copy(update={"name": published.name, "camera": published.camera}) == published


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"blocks": (3, 4)}, r"camera\.resnet\.blocks\n +Tuple should have at least 3 items"),
        ({"blocks": (3, 0, 23, 3)}, r"camera\.resnet\.blocks\.1\n +Input should be greater than or equal to 1"),
        ({"width": 0}, "Input should be greater than or equal to 1"),
        ({"embed": 96}, r"camera\.resnet\.embed\n +Extra inputs are not permitted"),
    ],
)
def test_figures_of_a_resnet_are_checked(fields, message):
    with pytest.raises(ValidationError, match=message):
        ModelConfig.model_validate(changed("camera", of="bevfusion-mit-r101-second", **fields))


def test_pillars_derive_the_published_grids():
    config = configuration("bevfusion-mit-pointpillars")
    assert config.voxel_grid == (512, 512, 1)
    assert config.map_size("lidar") == (512, 512)
    assert config.map_size("camera") == config.head.bev_size == (128, 128)
    assert config.decoder.block_strides == (2, 4, 8)
    assert config.lidar.in_channels == 10


def test_a_decoder_behind_the_pillars_sets_the_cells():
    config = configuration("bevfusion-pku-r101-pointpillars")
    assert config.voxel_grid == (400, 400, 1)
    assert config.fused_size == config.map_size("camera") == config.head.bev_size == (200, 200)
    assert config.lidar.in_channels == 10


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("head", {"bev_size": (512, 512)}, r"`head.bev_size` must be \(128, 128\)"),
        ("head", {"cell_size": (0.2, 0.2)}, r"`head.cell_size` must be \(0.8, 0.8\)"),
        ("camera", {"grid_x": (-51.2, 51.2, 0.3)}, r"camera grid's `bev_size` must be \(512, 512\)"),
        ("decoder", {"output_stride": 3}, r"\(2, 4, 8\), must be multiples or divisors of `output_stride`, 3"),
        ("decoder", {"output_stride": 1}, "must start with 1"),
        ("lidar", {"voxel_size": (0.2, 0.2, 4.0)}, r"a pillar must be as high as .*, but .* is \(0.2, 0.2, 4.0\)"),
        ("lidar", {"units": ()}, "should have at least 1 item"),
        ("lidar", {"point_values": 3}, "Input should be 4 or 5"),
        ("lidar", {"stages": ((16,),)}, r"lidar\.pillars\.stages\n +Extra inputs are not permitted"),
    ],
)
def test_figures_of_pillars_that_do_not_fit_are_refused(section, fields, message):
    with pytest.raises(ValidationError, match=message):
        ModelConfig.model_validate(changed(section, of="bevfusion-mit-pointpillars", **fields))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_configurations_survive_json(name):
    config = configuration(name)
    assert config.name == name
    assert parse_configuration(config.model_dump_json(), "file") == config


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match="unknown model 'yolo'; choose one of: bevfusion-mit, bevfusion-mit-toy"):
        configuration("yolo")


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("head", {"bev_size": (128, 180)}, r"`head.bev_size` must be \(180, 180\)"),
        ("head", {"cell_size": (0.5, 0.6)}, "`head.cell_size` must be"),
        ("head", {"origin": (-54.0, -50.0)}, "`head.origin` must be"),
        ("head", {"heads": 7}, r"got \(hidden=128, heads=7\)"),
        ("camera", {"downsample": 1}, "camera grid's `bev_size` must be"),
        ("camera", {"grid_x": (-50.0, 58.0, 0.3)}, "lower edges of the camera grid must be"),
        ("camera", {"heads": (3, 6, 12)}, "need the same length"),
        ("camera", {"heads": (5, 6, 12, 24)}, "must divide by its 5 heads"),
        ("lidar", {"stages": ((16, 32, 32), (32, 64), (64, 128), (128,))}, "of stage 0 must keep its 16 channels"),
        ("lidar", {"voxel_size": (0.075, 0.075, 2.0)}, "4 voxels along z are too few"),
        ("decoder", {"strides": (2, 2)}, "must start with 1"),
        ("decoder", {"layers": (5,)}, "one entry for each block"),
        ("inputs", {"image_size": (250, 704)}, "must divide by 8"),
        ("fuser", {"chanels": 3}, "Extra inputs are not permitted"),
    ],
)
def test_figures_that_do_not_fit_are_refused(section, fields, message):
    with pytest.raises(ValidationError, match=message):
        ModelConfig.model_validate(changed(section, **fields))


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("inputs", {"radar": None}, "`radar` and `inputs.radar` must both be given or both be absent"),
        ("inputs", {"radar": {"sweeps": 7}}, "less than or equal to 6"),
        ("radar", {"pillar_size": (0.8, 0.8)}, "`head.bev_size` must be .64, 64. to fit the voxels"),
        ("radar", {"channels": ()}, "at least 1 item"),
        ("camera", {"depth_net": (8, 16, 32)}, "`camera.depth_net` reads LiDAR points: it must be None"),
        ("decoder", {"strides": (2, 2)}, "one entry for each stage"),
    ],
)
def test_figures_of_a_radar_that_do_not_fit_are_refused(section, fields, message):
    with pytest.raises(ValidationError, match=message):
        ModelConfig.model_validate(changed(section, of="bevfusion-r-toy", **fields))


def test_a_radar_beside_a_lidar_keeps_to_its_cells():
    with pytest.raises(ValidationError, match=r"`radar\.pillar_size` must be"):
        ModelConfig.model_validate(changed("radar", of="bevfusion-trio-toy", pillar_size=(0.8, 0.8)))


def test_broken_configuration_of_a_file_is_a_user_error():
    text = configuration("bevfusion-mit").model_dump_json().replace('"embed":96', '"embed":"wide"')
    with pytest.raises(UserError, match=r"model\.safetensors holds no valid model configuration: camera\.embed: "):
        parse_configuration(text, "model.safetensors")
    with pytest.raises(UserError, match="holds no valid model configuration: model: Invalid JSON"):
        parse_configuration("{", "model.safetensors")
    text = configuration("bevfusion-mit-r101-second").model_dump_json().replace('"width":64', '"width":"wide"')
    with pytest.raises(UserError, match=r"model\.safetensors holds no valid model configuration: camera\.width: "):
        parse_configuration(text, "model.safetensors")


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("bevfusion-mit", "fc85db3457e19976"),
        ("bevfusion-mit-seg", "90376d69c2901f9c"),
        ("bevfusion-mit-seg-toy", "5cda80f3e1ed5c56"),
    ],
)
def test_configurations_are_written_as_ever_so_that_hashes_of_checkpoints_stay(name, digest):
    assert hashlib.sha256(configuration(name).model_dump_json().encode()).hexdigest()[:16] == digest


def test_the_usual_height_is_not_written_so_that_hashes_of_checkpoints_stay():
    toy = configuration("bevfusion-mit-toy")
    text = toy.model_dump_json()
    assert '"height"' not in text
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "7213168f6c06f181"
    assert parse_configuration(text, "test").head.height == "centre"
    other = toy.model_copy(update={"head": toy.head.model_copy(update={"height": "top"})})
    assert parse_configuration(other.model_dump_json(), "test") == other
    with pytest.raises(UserError, match=r"no valid model configuration: head\.height: Input should be 'bottom'"):
        parse_configuration(other.model_dump_json().replace('"top"', '"middle"'), "test")


def test_a_tracker_follows_detections_alone():
    fields = configuration("bevfusion-mit-seg").model_dump() | {"tracker": {}}
    with pytest.raises(ValidationError, match="`tracker` follows detections, and a map segmentation head gives none"):
        ModelConfig.model_validate(fields)


def test_a_checkpoint_is_adopted_by_a_model_of_the_same_weights_alone():
    detector, tracker = configuration("bevfusion-mit"), configuration("bevfusion-mit-track")
    assert adopted(detector, tracker) == tracker
    assert adopted(tracker, detector) == detector
    # Released weights bring a height of their own, which stays.
    released = detector.model_copy(update={"head": detector.head.model_copy(update={"height": "bottom"})})
    assert adopted(released, tracker).head.height == "bottom"
    for other in ("bevfusion-mit-track-toy", "bevfusion-mit-r101-second", "bevfusion-mit-seg"):
        assert adopted(configuration(other), tracker) == configuration(other)

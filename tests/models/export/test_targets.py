"""The files of a pruned model: whole, static, and equal to the model."""

from __future__ import annotations

import json

import onnx
import pytest
import torch

from altermoma_ray import export
from altermoma_ray.errors import UserError
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.models.export import targets
from altermoma_ray.models.export.checks import Check, aligned, difference
from altermoma_ray.models.export.onnx_file import onnx_bytes, run_onnx
from altermoma_ray.models.export.parts import RuntimeBoxPart, dense_parts
from altermoma_ray.models.export.program_file import program_bytes, run_program
from altermoma_ray.models.export.runtime_limits import check_limits
from altermoma_ray.models.export.sample import drawn_sample
from altermoma_ray.tasks.detection.boxes import BevGrid, decode_boxes, output_codes
from tests.models.export.conftest import unsettle

FILES = ["camera.backbone.onnx", "camera.vtransform.onnx", "fuser.onnx", "head.bbox.onnx"]
COMPUTED = {"Shape", "ConstantOfShape", "Range", "EyeLike", "NonZero", "If", "Loop"}
"""Operations whose results depend on sizes or values: none may be left in a file of static shapes."""


def test_the_command_names_the_targets():
    assert tuple(targets.TARGETS) == export.TARGETS


@pytest.fixture(scope="module")
def made(model):
    told = []
    found = targets.to_onnx(model, told.append)
    assert told == [*(f"making {name}" for name in FILES), "checking all"]
    return found


def test_onnx_files_have_the_names_and_static_shapes_of_the_runtime(made, model):
    shapes = {}
    for name, data in made.files.items():
        graph = onnx.load_from_string(data).graph
        for value in (*graph.input, *graph.output):
            shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert {node.domain for node in graph.node} == {""}
        assert not COMPUTED & {node.op_type for node in graph.node}, name
    assert list(made.files) == FILES
    context, fused = model.encoders["camera"].view_transform.channels, model.encoders["camera"].out_channels
    middle = sum(deblock[0].out_channels for deblock in model.decoder.neck.deblocks)
    assert shapes == {
        "img": [1, 6, 3, 48, 128],
        "depth": [1, 6, 1, 48, 128],
        "camera_feature": [6, 6, 16, context],
        "camera_depth_weights": [6, 24, 6, 16],
        "feat_in": [1, context, 96, 96],
        "feat_out": [1, fused, 48, 48],
        "camera": [1, fused, 48, 48],
        "lidar": [1, model.encoders["lidar"].out_channels, 48, 48],
        "middle": [1, middle, 48, 48],
        "score": [1, 10, 60],
        "rot": [1, 2, 60],
        "dim": [1, 3, 60],
        "reg": [1, 2, 60],
        "height": [1, 1, 60],
        "vel": [1, 2, 60],
    }
    assert context == 16


def test_every_file_and_their_chain_equal_the_model(made, model, sample):
    assert [check.file for check in made.checks] == [*FILES, "all as a chain"]
    assert all(0 < check.largest <= 1e-4 for check in made.checks)
    record = json.loads(made.record(model, "onnx"))
    assert record["checks"][0]["notes"] == ["not run on TensorRT"]
    assert record["checks"][0]["opset"] == targets.OPSET
    # By hand, on other pictures than those of the example: the file has kept no value of its example.
    part = dense_parts(model, sample)[0]
    other = {**part.inputs, "img": part.inputs["img"].flip(1)}
    with torch.no_grad():
        feature, _ = part.module(*other.values())
    assert difference(run_onnx(made.files["camera.backbone.onnx"], other)["camera_feature"], feature) < 1e-4


def test_a_file_of_other_weights_is_refused(model, sample):
    def run(_data, part, inputs):
        with torch.no_grad():
            outputs = part.module(*inputs.values())
        found = dict(zip(part.outputs, outputs if isinstance(outputs, tuple) else (outputs,), strict=True))
        return {name: tensor + 1e-2 * (name == "feat_out") for name, tensor in found.items()}

    parts = dense_parts(model, sample)
    made = targets.Export(files={f"{part.name}.pt2": b"" for part in parts})
    with pytest.raises(
        UserError, match=r"camera.vtransform.pt2, run by hand, differs from .* in feat_out, more than 1e-04"
    ):
        targets._check_parts(made, model, sample, parts, run, "hand")


def test_the_margin_of_proposals_is_that_of_the_last_one(model, sample):
    part = dense_parts(model, sample)[-1]
    heats = []
    head = model.head
    head.strongest = lambda heat, count: heats.append(heat) or heat.topk(count, dim=1).indices
    try:
        with torch.no_grad():
            head(part.inputs["middle"])
    finally:
        del head.strongest
    ranked = heats[0][0].sort(descending=True).values
    last, left_out = ranked[head.config.proposals - 1], ranked[head.config.proposals]
    assert part.module.margin(part.inputs["middle"]) == pytest.approx(float((last - left_out) / last))


def test_no_number_is_no_agreement():
    with pytest.raises(UserError, match="differs from the model by nan in middle"):
        Check(file="fuser.onnx", by="hand", differences={"score": 0.0, "middle": float("nan")}).enforce()


def test_queries_that_changed_places_are_compared_with_their_partners():
    expected = {"score": torch.rand(1, 10, 30), "reg": 100 * torch.rand(1, 2, 30)}
    order = torch.randperm(30)
    moved = aligned({name: tensor[:, :, order] for name, tensor in expected.items()}, expected)
    assert all(torch.equal(moved[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("height", ["bottom", "centre", "top"])
def test_the_runtime_decodes_the_boxes_of_this_project(height):
    """Its arithmetic by hand; its boxes are those of mmdetection3d before 1.0 (see models/releases/bevfusion.py)."""
    config = configuration("bevfusion-mit-toy")
    head = config.head.model_copy(update={"height": height})
    torch.manual_seed(0)
    model = FusionModel(config.model_copy(update={"head": head})).eval()
    with torch.no_grad():
        outputs = model.head(torch.randn(1, model.decoder.out_channels, *head.bev_size))
        score, rot, dim, reg, top, vel = RuntimeBoxPart(model.head).described(outputs)
    grid = BevGrid(origin=head.origin, cell=head.cell_size, shape=head.bev_size)
    boxes = decode_boxes(output_codes(outputs), grid, height)[0]
    x, y = (reg[0, axis] * grid.cell[axis] + grid.origin[axis] for axis in (0, 1))
    width, length, tall = dim[0].exp()
    yaw = torch.atan2(rot[0, 0], rot[0, 1])
    decoded = torch.stack([x, y, top[0, 0] - tall / 2, length, width, tall], dim=1)
    torch.testing.assert_close(decoded, boxes[:, :6])
    turned = -yaw - torch.pi / 2
    torch.testing.assert_close(
        torch.stack([turned.sin(), turned.cos()]), torch.stack([boxes[:, 6].sin(), boxes[:, 6].cos()])
    )
    torch.testing.assert_close(vel[0].T, boxes[:, 7:])
    assert torch.equal((score[0] > 0).sum(0), torch.ones(score.shape[2], dtype=torch.int64))


def test_a_program_of_pytorch_equals_its_part(model, sample):
    part = dense_parts(model, sample)[2]
    found = run_program(program_bytes(part), part.inputs, ["middle"])
    assert difference(found["middle"], part.outputs["middle"]) < 1e-6


def test_the_runtime_s_older_operations_write_attention(model, sample):
    head = dense_parts(model, sample, runtime_boxes=True)[3]
    found = aligned(run_onnx(onnx_bytes(head, targets.RUNTIME_OPSET), head.inputs), head.outputs)
    assert max(difference(found[name], output) for name, output in head.outputs.items()) < 1e-4


def test_a_coarser_camera_map_and_a_centerpoint_head_are_written(whole):
    toy, pillars = configuration("bevfusion-mit-centerpoint-toy"), configuration("bevfusion-mit-pointpillars-toy")
    parts = {"lidar": pillars.lidar, "fuser": pillars.fuser, "decoder": pillars.decoder, "head": toy.head}
    torch.manual_seed(0)
    model = unsettle(FusionModel(whole.config.model_copy(update=parts)).eval())
    _, _, fuser, head = dense_parts(model, drawn_sample(model.config))
    assert [tuple(one.shape[2:]) for one in fuser.inputs.values()] == [(48, 48), (96, 96)]
    assert (head.name, list(head.outputs)) == ("head.cells", ["dense_heatmap", "reg", "height", "dim", "rot", "vel"])
    for part in (fuser, head):
        data = onnx_bytes(part, targets.OPSET)
        assert not COMPUTED & {node.op_type for node in onnx.load_from_string(data).graph.node}
        found = run_onnx(data, part.inputs)
        assert max(difference(found[name], output) for name, output in part.outputs.items()) < 1e-4


@pytest.mark.slow
def test_programs_of_all_parts_equal_the_model(model):
    made = targets.to_torch(model, lambda _: None)
    assert list(made.files) == [name.replace(".onnx", ".pt2") for name in FILES]
    assert all(check.largest <= 1e-4 for check in made.checks)


def test_the_published_figures_fit_the_runtime():
    config = configuration("bevfusion-mit")
    camera = {"channels": 40, "embed": 8, "depths": (1, 1, 1), "heads": (1, 1, 1), "neck": 8}
    check_limits(FusionModel(config.model_copy(update={"camera": config.camera.model_copy(update=camera)})))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "bevfusion-mit-toy",
            "fixes its figures: voxel grid is 192 × 192 × 14 instead of 1440 × 1440 × 40 and 10 more",
        ),
        ("bevfusion-mit-seg-toy", "has a map segmentation head"),
        ("bevfusion-mit-centerpoint-toy", "has a CenterPoint head, but CUDA-BEVFusion reads boxes of a TransFusion"),
        ("bevfusion-mit-pointpillars-toy", "fixes its figures: voxel grid is 96 × 96 × 1 instead of 1440 × 1440 × 40"),
    ],
)
def test_models_that_the_runtime_refuses(name, words):
    with pytest.raises(UserError, match=words):
        targets.to_cuda_bevfusion(FusionModel(configuration(name)), lambda _: pytest.fail("began"))

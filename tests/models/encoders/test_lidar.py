from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from altermoma_ray.models.configurations.lidar import LidarConfig
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.models.encoders.lidar import LidarEncoder, SparseEncoder
from altermoma_ray.models.layers.voxelise import voxelise

SMALL = LidarConfig(input_channels=4, stages=((4, 4, 6), (6, 6, 8), (8, 8)), channels=5)
GRID = (16, 12, 20)


def random_points(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 5, generator=generator) * torch.tensor([6.0, 5, 3, 1, 1]) - torch.tensor([1.0, 1, 1, 0, 0])


def voxelise_by_hand(points, lower, size, grid, max_points, max_voxels):
    voxels = {}
    for point in points:
        voxel = tuple(((point[:3] - torch.tensor(lower)) / torch.tensor(size)).floor().int().tolist())
        if not all(0 <= index < cells for index, cells in zip(voxel, grid, strict=True)):
            continue
        if voxel not in voxels:
            if len(voxels) == max_voxels:
                continue
            voxels[voxel] = []
        if len(voxels[voxel]) < max_points:
            voxels[voxel].append(point)
    return list(voxels), [torch.stack(members).mean(0) for members in voxels.values()]


@pytest.mark.parametrize(("max_points", "max_voxels"), [(10, 1000), (2, 1000), (3, 17)])
def test_voxels_equal_a_loop_over_the_points(max_points, max_voxels):
    settings = {"lower": (0.0, 0.0, 0.0), "size": (1.0, 0.8, 0.5), "grid": (4, 5, 3)}
    clouds = [random_points(300), random_points(0), random_points(200, seed=1)]
    voxels = voxelise(clouds, **settings, max_points=max_points, max_voxels=max_voxels)
    coordinates, features = [], []
    for sample, cloud in enumerate(clouds):
        found, means = voxelise_by_hand(cloud, **settings, max_points=max_points, max_voxels=max_voxels)
        coordinates += [[sample, *voxel] for voxel in found]
        features += means
    assert voxels.coordinates.dtype == torch.int32
    assert voxels.coordinates.tolist() == coordinates
    torch.testing.assert_close(voxels.features, torch.stack(features))


def random_voxels(count: int = 60, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randperm(GRID[0] * GRID[1] * GRID[2], generator=generator)[:count]
    x, rest = cells // (GRID[1] * GRID[2]), cells % (GRID[1] * GRID[2])
    coordinates = torch.stack([torch.zeros_like(x), x, rest // GRID[2], rest % GRID[2]], 1).int()
    return torch.randn(count, 5, generator=generator), coordinates


def encode_densely(encoder: SparseEncoder, features: torch.Tensor, coordinates: torch.Tensor) -> torch.Tensor:
    """The same network by dense 3D convolutions and a mask of occupied voxels."""
    index = coordinates.long().unbind(1)
    volume = features.new_zeros(1, *encoder.spatial_shape, 5)
    volume[index] = features
    volume = volume.permute(0, 4, 1, 2, 3)
    mask = features.new_zeros(1, 1, *encoder.spatial_shape)
    mask[index[0], 0, index[1], index[2], index[3]] = 1

    def norm(layer, x):
        shape = (1, -1, 1, 1, 1)
        scale = layer.weight / (layer.running_var + 1e-3).sqrt()
        return x * scale.view(shape) + (layer.bias - layer.running_mean * scale).view(shape)

    def convolve(layer, x, mask):
        weight = layer.weight.permute(0, 4, 1, 2, 3)
        if not layer.subm:
            kernel, stride, padding = tuple(layer.kernel_size), tuple(layer.stride), tuple(layer.padding)
            return F.conv3d(x, weight, stride=stride, padding=padding), F.max_pool3d(mask, kernel, stride, padding)
        return F.conv3d(x, weight, padding=1) * mask, mask

    def activated(block, x, mask):
        x, mask = convolve(block[0], x, mask)
        return norm(block[1], x).relu() * mask, mask

    volume, mask = activated(encoder.input_conv, volume, mask)
    for stage in encoder.stages:
        for layer in stage:
            if hasattr(layer, "conv1"):
                hidden = norm(layer.norm1, convolve(layer.conv1, volume, mask)[0]).relu() * mask
                hidden = norm(layer.norm2, convolve(layer.conv2, hidden, mask)[0])
                volume = (hidden + volume).relu() * mask
            else:
                volume, mask = activated(layer, volume, mask)
    volume, _ = activated(encoder.output_conv, volume, mask)
    heights = [volume[:, channel, :, :, z] for channel in range(volume.shape[1]) for z in range(volume.shape[4])]
    return torch.stack(heights, dim=1)  # channel · Z + z


def perturbed(encoder: SparseEncoder) -> SparseEncoder:
    """Normalisation layers as after training."""
    for name, tensor in encoder.state_dict().items():
        if "running_mean" in name or name.endswith("bias"):
            torch.nn.init.normal_(tensor, std=0.3)
        elif "running_var" in name:
            torch.nn.init.uniform_(tensor, 0.5, 2)
    return encoder


def test_sparse_encoder_equals_dense_convolutions_with_a_mask():
    torch.manual_seed(0)
    encoder = perturbed(SparseEncoder(SMALL, GRID)).eval()
    features, coordinates = random_voxels()
    bev = encoder(features, coordinates, 1)
    assert bev.shape == (1, 10, 4, 3)
    assert encoder.out_channels == 10
    torch.testing.assert_close(bev, encode_densely(encoder, features, coordinates), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_gradients_flow_in_training_and_in_evaluation(training):
    encoder = SparseEncoder(SMALL, GRID).train(training)
    features, coordinates = random_voxels()
    encoder(features, coordinates, 1).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in encoder.parameters() if parameter.dim() > 1)


def test_samples_do_not_see_each_other_and_may_be_empty():
    torch.manual_seed(0)
    encoder = perturbed(SparseEncoder(SMALL, GRID)).eval()
    (first, first_at), (second, second_at) = random_voxels(), random_voxels(40, seed=1)
    second_at[:, 0] = 2
    together = encoder(torch.cat([first, second]), torch.cat([first_at, second_at]), 3)
    second_at[:, 0] = 0
    torch.testing.assert_close(together[0], encoder(first, first_at, 1)[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together[2], encoder(second, second_at, 1)[0], atol=1e-5, rtol=1e-4)
    assert together[1].abs().sum() == 0


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_batches_with_hardly_any_voxel(batch, training, count):
    config = configuration("bevfusion-mit-toy")
    encoder = LidarEncoder(config.lidar, config.inputs.point_range[:3], config.voxel_grid).train(training)
    batch.points = [batch.points[0][:count], batch.points[1][:0]]
    bev = encoder(batch)
    assert bev.shape == (2, encoder.out_channels, *config.head.bev_size)
    assert bev.isfinite().all()
    assert bev[1].abs().sum() == 0


def test_a_point_appears_in_its_bev_cell(batch):
    config = configuration("bevfusion-mit-toy")
    encoder = LidarEncoder(config.lidar, config.inputs.point_range[:3], config.voxel_grid).eval()
    batch.points = [torch.tensor([[10.0, -20.0, -1.0, 255.0, 0.0]]), torch.tensor([[30.0, 0.0, 0.0, 255.0, 0.0]])]
    bev = encoder(batch)
    lit = bev[0].abs().sum(0).nonzero()
    cell = (torch.tensor([10.0, -20.0]) + 25.6) / (51.2 / 48)
    assert ((lit - cell.floor()).abs() <= 1).all()
    assert len(lit) > 0
    assert bev[1].abs().sum() == 0  # outside of the grid


def test_voxel_limit_depends_on_the_mode(batch):
    config = configuration("bevfusion-mit-toy")
    limited = config.lidar.model_copy(update={"max_voxels_train": 5, "max_voxels_test": 50})
    encoder = LidarEncoder(limited, config.inputs.point_range[:3], config.voxel_grid)
    seen = []
    encoder.backbone.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    encoder.train()(batch)
    encoder.eval()(batch)
    assert seen == [10, 100]

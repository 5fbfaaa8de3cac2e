"""Frames of KITTI's shape with sound geometry: random views, and points and boxes that stand on a tilted ground."""

from __future__ import annotations

import torch

from altermoma_ray.data.kitti.batch import KittiBatch
from altermoma_ray.data.kitti.inputs import KittiInputs

SIZES = {"Car": (3.9, 1.6, 1.5), "Pedestrian": (0.8, 0.6, 1.8), "Cyclist": (1.8, 0.6, 1.7)}
ORIGINAL = (375, 1242)
PLANE = torch.nn.functional.normalize(torch.tensor([0.01, -1.0, -0.02]), dim=0)
HEIGHT = 1.65


def plane_of(frame: int) -> torch.Tensor:
    """A ground whose height differs from frame to frame."""
    return torch.cat((PLANE, torch.tensor([HEIGHT + 0.05 * frame])))


def ground(x: torch.Tensor, z: torch.Tensor, plane: torch.Tensor) -> torch.Tensor:
    return -(plane[0] * x + plane[2] * z + plane[3]) / plane[1]


def boxes_on(plane: torch.Tensor, inputs: KittiInputs, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes [count, 7] apart from each other in front of the camera, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.linspace(9, inputs.z_range[1] - 8, count)
    x = (torch.rand(count, generator=generator) - 0.5) * z * 0.9
    labels = torch.arange(count) % len(inputs.types)
    sizes = torch.tensor([SIZES[inputs.types[label]] for label in labels.tolist()]).reshape(count, 3)
    heading = torch.rand(count, generator=generator) * 6.28 - 3.14
    return torch.cat((torch.stack((x, ground(x, z, plane), z), 1), sizes, heading[:, None]), 1), labels


def make_batch(inputs: KittiInputs, counts: tuple[int, ...] = (3, 2), points: int = 300, seed: int = 0) -> KittiBatch:
    """A frame for each count of boxes; half of the points are at the boxes."""
    generator = torch.Generator().manual_seed(seed)
    frames, (height, width) = range(len(counts)), inputs.image_size
    planes = [plane_of(frame) for frame in frames]
    found = [
        boxes_on(plane, inputs, count, seed + frame)
        for frame, (plane, count) in enumerate(zip(planes, counts, strict=True))
    ]
    clouds = []
    for plane, (boxes, _) in zip(planes, found, strict=True):
        low, high = torch.tensor([inputs.x_range, inputs.z_range]).T
        place = low + (high - low) * torch.rand(points, 2, generator=generator)
        if len(boxes):
            near = boxes[torch.arange(points // 2) % len(boxes)][:, [0, 2]]
            place[: points // 2] = near + 0.4 * torch.randn(points // 2, 2, generator=generator)
        place = place[((place > low) & (place < high)).all(1)]
        up = 0.1 + 1.2 * torch.rand(len(place), generator=generator)
        x, z = place.unbind(1)
        clouds.append(torch.stack((x, ground(x, z, plane) - up, z, torch.rand(len(place), generator=generator)), 1))
    original = torch.tensor([[721.5, 0, 609.6, 44.9], [0, 721.5, 172.9, 0.2], [0, 0, 1, 0.003]])
    scale = torch.tensor([[width / ORIGINAL[1]], [height / ORIGINAL[0]], [1.0]])
    return KittiBatch(
        frames=[f"{frame:06d}" for frame in frames],
        images=40 * torch.randn(len(counts), 3, height, width, generator=generator),
        bev=torch.rand(len(counts), inputs.bev_channels, *inputs.bev_size, generator=generator),
        points=clouds,
        planes=torch.stack(planes),
        projection=(scale * original).expand(len(counts), 3, 4).clone(),
        image_sizes=torch.tensor([ORIGINAL] * len(counts)),
        projection_original=original.expand(len(counts), 3, 4).clone(),
        boxes=[boxes for boxes, _ in found],
        labels=[labels for _, labels in found],
    )

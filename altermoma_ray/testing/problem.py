"""A small fusion network with its loss and data: the problem solved by criteria and granularities in their tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from altermoma_ray.pruning import Problem, Reduce, group_weights, prunable_weights, single_worker

BATCH_SIZE = 6
WHOLE = (slice(None),)


class TwoBranch(nn.Module):
    """A camera branch with batch norm and dropout, a lidar branch with layer norm, and a fusion with two layers.

    The branches hold the usual traps of pruning: running statistics, random activations and the weights of norms.

    Example:
        >>> TwoBranch().eval()(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5)).shape
        torch.Size([2, 2])
    """

    def __init__(self) -> None:
        super().__init__()
        self.camera = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 6)
        )
        self.lidar = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 6))
        self.fusion = nn.Sequential(nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 2))

    def forward(self, image: Tensor, points: Tensor, masked: frozenset[str] = frozenset()) -> Tensor:
        """Two numbers for each sample, [N, 2].

        Args:
            image: camera images, [N, 3, 4, 4].
            points: lidar points, [N, 5].
            masked: modalities whose features are replaced by zeros.
        """
        # A masked branch is not computed at all: zeros times its features would still pass on NaN and gradients.
        camera = image.new_zeros(len(image), 6) if "camera" in masked else self.camera(image)
        lidar = points.new_zeros(len(points), 6) if "lidar" in masked else self.lidar(points)
        return self.fusion(torch.cat([camera, lidar], dim=1))


def small_model(dtype: torch.dtype = torch.float64) -> TwoBranch:
    """The same network in every call; its norms are away from their initial values."""
    # PyTorch initialises from the global generator; the fork gives the caller's generator its state back.
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(3)
        model = TwoBranch()
        # A fresh norm multiplies by 1 and adds 0: a criterion which skips or resets norms would go unnoticed.
        norm = model.camera[1]
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
        nn.init.uniform_(model.lidar[1].weight, -1.5, 1.5)
        norm.running_mean.uniform_(-0.3, 0.3)
        norm.running_var.uniform_(0.5, 2)
    return model.to(dtype)


def small_batches(count: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Batches of images, points and targets; the same for the same seed, in any precision.

    Args:
        count: number of batches.
        dtype: precision of all tensors.
        seed: of the random numbers.

    Example:
        >>> [tuple(part.shape) for part in small_batches(1)[0]]
        [(6, 3, 4, 4), (6, 5), (6, 2)]
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        # Drawn in double precision and rounded: the generator gives other numbers for other types.
        return torch.randn(BATCH_SIZE, *size, generator=generator, dtype=torch.float64).to(dtype)

    return [(draw(3, 4, 4), draw(5), draw(2)) for _ in range(count)]


def flow(model: nn.Module) -> Tensor:
    """The sum of a model's outputs for an input of ones, as SynFlow's objective."""
    parameter = next(model.parameters())
    return model(parameter.new_ones(1, 3, 4, 4), parameter.new_ones(1, 5)).sum()


def small_problem(
    dtype: torch.dtype = torch.float64,
    parts: Sequence[slice] = WHOLE,
    reduce: Reduce = single_worker,
    seed: int = 0,
) -> Problem:
    """The problem, made anew.

    Args:
        dtype: of the model and the data.
        parts: this worker's samples of every batch, as one slice for each micro-batch.
        reduce: sums over the workers.
        seed: of the criteria which draw at random.

    Example:
        >>> sizes_of(small_problem())
        {'camera': 492, 'lidar': 77, 'fusion': 126}
    """
    model = small_model(dtype)

    def loss(batch: tuple[Tensor, Tensor, Tensor], masked: frozenset[str]) -> Iterator[Tensor]:
        for samples in parts:
            image, points, target = (value[samples] for value in batch)
            # Divided by the whole batch, not by the micro-batch: the sum over all parts is then the batch's mean.
            yield (model(image, points, masked) - target).square().mean(dim=1).sum() / BATCH_SIZE

    return Problem(
        model=model,
        groups=group_weights(prunable_weights(model), lambda name: name.split(".")[0]),
        loss=loss,
        batches=small_batches(3, dtype, seed=0),
        modalities=("lidar", "camera"),
        training_batches=small_batches(4, dtype, seed=1),
        flow=flow,
        reduce=reduce,
        seed=seed,
    )


def sizes_of(problem: Problem) -> dict[str, int]:
    """Number of prunable weights in each group."""
    return {
        group: sum(problem.model.get_parameter(name).numel() for name in names)
        for group, names in problem.groups.items()
    }

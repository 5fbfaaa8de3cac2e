"""The one training loop: pre-training of a branch, fusion training, and fine-tuning under masks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn

from altermoma_ray.data.sampling import epoch_order, global_batches, load_batches, shard
from altermoma_ray.engine.ray.workers import rank_and_world
from altermoma_ray.engine.training.batches import LazyBatches
from altermoma_ray.errors import UserError
from altermoma_ray.pruning import MaskHolder
from altermoma_ray.workloads.protocols import DataSource, Task
from altermoma_ray.workloads.recipe import Recipe


def training_batches(data: DataSource, recipe: Recipe, *, steps: int, seed: int, augment: bool) -> Iterator[Any]:
    """This worker's share of ``steps`` consecutive batches, epoch after epoch; one seed, one order.

    Raises:
        UserError: a batch has fewer samples than there are workers.
    """
    rank, world = rank_and_world()
    rows = _epoch_rows(data, recipe, seed)
    dataset = data.dataset(rows, augment=augment, seed=seed)
    for epoch, batches in enumerate(_epochs(len(rows), recipe, steps, seed)):
        if hasattr(dataset, "set_epoch"):
            dataset.set_epoch(epoch)
        processes = recipe.loader_processes
        for batch in load_batches(dataset, data.collate, batches, rank=rank, world=world, processes=processes):
            assert batch is not None
            yield batch


class FineTuningBatches:
    """The batches of one trial after another, without augmentation.

    Kept by a reused process, it decodes what comes again once: trials of one seed see the same batches. Where a recipe
    loads ahead in processes of its own, data are too large to keep and are loaded for every trial.
    """

    def __init__(self, data: DataSource, recipe: Recipe) -> None:
        self._data, self._recipe = data, recipe
        self._kept: tuple[int, int, LazyBatches] | None = None

    def __call__(self, steps: int, seed: int) -> Iterable[Any]:
        """This worker's share of ``steps`` consecutive batches, as :func:`training_batches` gives them."""
        if self._recipe.loader_processes:
            return training_batches(self._data, self._recipe, steps=steps, seed=seed, augment=False)
        if self._kept is None or self._kept[0] != seed or self._kept[1] < steps:
            rank, world = rank_and_world()
            rows = _epoch_rows(self._data, self._recipe, seed)
            dataset = self._data.dataset(rows, augment=False, seed=seed)
            epochs = _epochs(len(rows), self._recipe, steps, seed)
            positions = [shard(batch, rank, world) for batches in epochs for batch in batches]
            self._kept = seed, steps, LazyBatches(dataset, self._data.collate, positions)
        return itertools.islice(self._kept[2], steps)


def _epochs(length: int, recipe: Recipe, steps: int, seed: int) -> Iterator[list[list[int]]]:
    """Global batches of positions, epoch after epoch, ``steps`` in all."""
    _, world = rank_and_world()
    if recipe.batch_size < world:
        raise UserError(f"{world} workers cannot share a batch of {recipe.batch_size} samples; take fewer --workers")
    done = epoch = 0
    while done < steps:
        order = epoch_order(length, seed=seed, epoch=epoch)
        batches = global_batches(order, recipe.batch_size, drop_last=length >= recipe.batch_size)[: steps - done]
        yield batches
        done += len(batches)
        epoch += 1


def steps_per_epoch(data: DataSource, recipe: Recipe) -> int:
    """Optimiser steps that one epoch takes."""
    return max(1, len(_epoch_rows(data, recipe, seed=0)) // recipe.batch_size)


def _epoch_rows(data: DataSource, recipe: Recipe, seed: int) -> list[int]:
    rows = data.rows("train")
    if not rows:
        raise UserError("the data source has no samples of split 'train'; training and scoring need some")
    if not recipe.class_balanced:
        return rows
    balanced = getattr(data, "balanced_rows", None)
    if balanced is None:
        raise UserError("`class_balanced` needs a data source with `balanced_rows(rows, seed)`; set it to False")
    return list(balanced(rows, seed))


def one_cycle(
    optimizer: torch.optim.Optimizer, steps: int, *, warmup: float = 0.1, done: int = 0
) -> torch.optim.lr_scheduler.LRScheduler:
    """Linear warm-up over a fraction of the steps, then a cosine down to 1 % of the peak; ``done`` steps are behind."""

    def factor(step: int) -> float:
        rising = max(1, round(warmup * steps))
        if step < rising:
            return (step + 1) / rising
        progress = (step - rising) / max(1, steps - rising)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor, last_epoch=done - 1)


def data_parallel(model: nn.Module, *, unused: bool = False) -> nn.Module:
    """The model itself, or wrapped so that gradients are averaged over the workers of a job.

    Args:
        model: the network, on its device.
        unused: some of its parameters get no gradient (a masked branch).
    """
    if rank_and_world()[1] == 1:
        return model
    return nn.parallel.DistributedDataParallel(model, find_unused_parameters=unused)


def train_steps(
    model: nn.Module,
    task: Task,
    batches: Iterable[Any],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    *,
    clip_norm: float,
    masked: frozenset[str] = frozenset(),
    holder: MaskHolder | None = None,
    extra_loss: Callable[[Any], Tensor] | None = None,
    on_step: Callable[[float], None] = lambda loss: None,
) -> float:
    """Train on the batches; masks, if any, hold through every step.

    Returns:
        The mean loss over the batches.

    Raises:
        FloatingPointError: the loss of a step is not finite.
    """
    device = next(model.parameters()).device
    parameters: Sequence[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
    model.train()
    losses: list[float] = []
    for step, batch in enumerate(batches):
        moved = batch.to(device)
        total = task.loss(model(moved, masked), moved)["total"]
        if extra_loss is not None:
            total = total + extra_loss(moved)
        loss = total.mean()
        value = _mean_over_workers(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value} at step {step}; lower the learning rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, clip_norm)
        optimizer.step()
        scheduler.step()
        if holder is not None:
            holder.after_step()
        losses.append(value)
        on_step(value)
    return sum(losses) / max(1, len(losses))


def _mean_over_workers(loss: Tensor) -> float:
    """The loss of the whole batch, so that all workers see a loss that is not finite at the same step."""
    _, world = rank_and_world()
    if world > 1:
        loss = loss.clone()
        distributed.all_reduce(loss)
        loss /= world
    return float(loss)


def synchronise_buffers(model: nn.Module) -> None:
    """Take over rank 0's buffers (running statistics differ a little between the workers of a job)."""
    if rank_and_world()[1] > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, src=0)

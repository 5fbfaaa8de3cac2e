"""The one training loop: pre-training of a branch, fusion training, and fine-tuning under masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn

from altermoma_ray.data.loader import Loader
from altermoma_ray.data.sampling import epoch_order, global_batches, shard
from altermoma_ray.engine.ray.workers import rank_and_world
from altermoma_ray.engine.training.batches import LazyBatches, RowLoader
from altermoma_ray.errors import UserError
from altermoma_ray.pruning import MaskHolder
from altermoma_ray.workloads.protocols import DataSource, Task
from altermoma_ray.workloads.recipe import Recipe

ExtraLoss = Callable[[Any, Any], Tensor]
"""A loss beside the task's: from the outputs of a forward pass and their batch to a value for each sample, [N]."""


def training_batches(data: DataSource, recipe: Recipe, *, steps: int, seed: int, augment: bool) -> Iterator[Any]:
    """This worker's share of ``steps`` consecutive batches, epoch after epoch; one seed, one order.

    Example:
        The first hundred batches of a recipe::

            for batch in training_batches(data, recipe, steps=100, seed=0, augment=True):
                ...

    Args:
        data: gives the samples of split ``train``.
        recipe: gives the batch size, class balancing and loader processes.
        steps: number of batches.
        seed: of the order, of class balancing and of augmentation.
        augment: whether samples are augmented.

    Raises:
        UserError: a batch has fewer samples than there are workers.
    """
    rank, world = rank_and_world()
    rows = _epoch_rows(data, recipe, seed)
    dataset = data.dataset(rows, augment=augment, seed=seed)
    loader = Loader(dataset, data.collate, processes=recipe.loader_processes)
    try:
        for epoch, batches in enumerate(_epochs(len(rows), recipe, steps, seed)):
            for batch in loader.load([shard(batch, rank, world) for batch in batches], epoch=epoch):
                # An empty part is None. `_epochs` lets no batch through with fewer samples than workers.
                assert batch is not None
                yield batch
    finally:
        loader.close()


class FineTuningBatches:
    """The batches of one trial after another, without augmentation.

    Trials of one seed see the same batches, and a reused process decodes them once. Where a recipe loads ahead in
    processes of its own, data are too large to keep and are loaded for every trial::

        batches = FineTuningBatches(data, recipe)
        first = list(batches(100, seed=0))
        second = list(batches(50, seed=0))    # the beginning of the first, already decoded

    Args:
        data: gives the samples of split ``train``.
        recipe: gives the batch size and class balancing, and the loader processes where no loader is given.
        loader: loads the samples; other loops may share it.
    """

    def __init__(self, data: DataSource, recipe: Recipe, loader: RowLoader | None = None) -> None:
        self._data, self._recipe = data, recipe
        self._loader = loader or RowLoader(data, data.rows("train"), processes=recipe.loader_processes)
        self._kept: tuple[int, int, LazyBatches] | None = None

    def __call__(self, steps: int, seed: int, *, done: int = 0, end: int | None = None) -> Iterable[Any]:
        """This worker's share of ``steps`` consecutive batches, as :func:`training_batches` gives them.

        Args:
            steps: number of batches.
            seed: of their order.
            done: number of batches at the beginning that are left out, and not loaded.
            end: number of the batch before which to end; None gives all.
        """
        end = steps if end is None else end
        if self._loader.processes:
            return self._loader.load(self._shares(steps, seed)[done:end])
        # Fewer steps are a beginning of more, so one kept list serves all lengths. Only one seed is kept: with several,
        # the limit on kept bytes would hold for each of them.
        if self._kept is None or self._kept[0] != seed or self._kept[1] < steps:
            self._kept = seed, steps, LazyBatches(self._loader, self._shares(steps, seed))
        kept = self._kept[2]
        return (kept[number] for number in range(done, end))

    def _shares(self, steps: int, seed: int) -> list[list[int]]:
        """The rows of this worker's part of each batch."""
        rank, world = rank_and_world()
        rows = _epoch_rows(self._data, self._recipe, seed)
        epochs = _epochs(len(rows), self._recipe, steps, seed)
        return [[rows[position] for position in shard(batch, rank, world)] for batches in epochs for batch in batches]


def _epochs(length: int, recipe: Recipe, steps: int, seed: int) -> Iterator[list[list[int]]]:
    """Global batches of positions, epoch after epoch, ``steps`` in all.

    Args:
        length: number of samples in an epoch.
        recipe: gives the batch size.
        steps: number of batches.
        seed: of the order.

    Raises:
        UserError: a batch has fewer samples than there are workers.
    """
    _, world = rank_and_world()
    if recipe.batch_size < world:
        raise UserError(f"{world} workers cannot share a batch of {recipe.batch_size} samples; take fewer --workers")
    done = epoch = 0
    while done < steps:
        # A batch smaller than the rest would weigh its samples more, and leave some workers without any: it is dropped,
        # except where the whole data set is smaller than a batch.
        order = epoch_order(length, seed=seed, epoch=epoch)
        batches = global_batches(order, recipe.batch_size, drop_last=length >= recipe.batch_size)[: steps - done]
        yield batches
        done += len(batches)
        epoch += 1


def steps_per_epoch(data: DataSource, recipe: Recipe) -> int:
    """Number of optimiser steps in one epoch."""
    # Any seed will do: class balancing draws as many rows with every seed.
    return max(1, len(_epoch_rows(data, recipe, seed=0)) // recipe.batch_size)


def _epoch_rows(data: DataSource, recipe: Recipe, seed: int) -> list[int]:
    rows = data.rows("train")
    if not rows:
        raise UserError("the data source has no samples of split 'train'; training and scoring need some")
    # Balanced once and not anew for each epoch: the number of steps in an epoch stays the same.
    if not recipe.class_balanced:
        return rows
    balanced = getattr(data, "balanced_rows", None)
    if balanced is None:
        raise UserError("`class_balanced` needs a data source with `balanced_rows(rows, seed)`; set it to False")
    return list(balanced(rows, seed))


def one_cycle(
    optimizer: torch.optim.Optimizer, steps: int, *, warmup: float = 0.1, done: int = 0
) -> torch.optim.lr_scheduler.LRScheduler:
    """Linear warm-up over a fraction of the steps, then a cosine down to 1 % of the peak (arXiv:1608.03983, Eq. 5).

    >>> optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    >>> one_cycle(optimizer, 10, warmup=0.2).get_last_lr()
    [0.5]

    Args:
        optimizer: its present learning rates are the peaks.
        steps: length of the whole training.
        warmup: share of the steps with a rising rate.
        done: steps of a resumed training which are already behind.
    """

    def factor(step: int) -> float:
        rising = max(1, round(warmup * steps))
        # (step + 1): a first step at a rate of 0 would pay for a forward and a backward pass and move nothing.
        if step < rising:
            return (step + 1) / rising
        progress = (step - rising) / max(1, steps - rising)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    # PyTorch writes `initial_lr` only for a schedule from the beginning, and refuses one from a later step without it.
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor, last_epoch=done - 1)


def data_parallel(model: nn.Module, *, unused: bool = False) -> nn.Module:
    """The model itself, or wrapped to average gradients over the workers of a job.

    Args:
        model: the network, on its device.
        unused: whether some of its parameters get no gradient, for example in a masked branch.
    """
    # With one worker there is nothing to average, and a wrapper would only copy gradients into its buckets. The search
    # for unused parameters walks the graph at every step: it is left off unless asked for.
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
    extra_loss: ExtraLoss | None = None,
    on_step: Callable[[float], None] = lambda loss: None,
) -> float:
    """Train on the batches; masks, if any, hold through every step.

    Args:
        model: the network, wrapped by :func:`data_parallel` in a job of several workers; left in training mode.
        task: gives the loss.
        batches: this worker's share of each batch; one step each.
        optimizer: of the trained parameters.
        scheduler: advances by one with every step.
        clip_norm: upper bound of the gradient's norm.
        masked: modalities to mask.
        holder: keeps pruned weights at zero.
        extra_loss: a further loss [N], from outputs and their batch, added to the task's.
        on_step: called with the loss after every step.

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
        outputs = model(moved, masked)
        total = task.loss(outputs, moved)["total"]
        if extra_loss is not None:
            total = total + extra_loss(outputs, moved)
        loss = total.mean()
        # Checked before the backward pass: afterwards weights and Adam's moments would hold the NaN.
        value = _mean_over_workers(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value} at step {step}; lower the learning rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        # After the backward pass the gradients are already averaged: all workers clip by the same norm.
        nn.utils.clip_grad_norm_(parameters, clip_norm)
        optimizer.step()
        scheduler.step()
        # Zeros in the gradient are not enough: Adam's momentum and weight decay move a pruned weight without one.
        if holder is not None:
            holder.after_step()
        losses.append(value)
        on_step(value)
    return sum(losses) / max(1, len(losses))


def _mean_over_workers(loss: Tensor) -> float:
    """The loss of the whole batch: all workers see a loss which is not finite at the same step."""
    # A worker raising alone would leave the others waiting in the backward pass's reduction.
    _, world = rank_and_world()
    if world > 1:
        loss = loss.clone()
        distributed.all_reduce(loss)
        loss /= world
    return float(loss)


def synchronise_buffers(model: nn.Module) -> None:
    """Take over rank 0's buffers: running statistics differ a little between the workers of a job."""
    # DistributedDataParallel itself does so before each forward pass of training, hence not after the last one.
    if rank_and_world()[1] > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, src=0)

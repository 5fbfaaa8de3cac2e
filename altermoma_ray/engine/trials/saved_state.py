"""The state of a trial in the middle of its fine-tuning, in storage: a trial whose process dies goes on from there.

One safetensors file per trial, written every so often and at the rung where it stops, gone when the search ends.
Together with batches and random numbers that follow from seed and step, a trial that was interrupted finds what an
undisturbed one finds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import safetensors.torch
import torch
import torch.distributed as distributed
from torch import Tensor, nn

from altermoma_ray.engine.ray.workers import rank_and_world
from altermoma_ray.models.checkpoint import fit, read_header
from altermoma_ray.storage import Location
from altermoma_ray.tracking.result import Evaluation

Item = TypeVar("Item")
_MODEL, _OPTIMIZER = "model/", "optimizer/"


class SavedState:
    """The state of one trial in storage; rank 0 writes it, every worker reads it.

    Args:
        file: where it is kept.
        identity: text that tells this trial from another of the same number; a state of another is not taken up.
        every: least seconds between two states: what dies loses no more than this, and a short trial writes none.
    """

    def __init__(self, file: Location, identity: str, *, every: float) -> None:
        self._file, self._identity, self._every = file, identity, every
        self._saved = time.monotonic()

    def save(
        self,
        step: int,
        history: Sequence[Evaluation],
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        now: bool = False,
    ) -> None:
        """Keep the state after ``step`` steps, if it is time to or has to be ``now``."""
        if rank_and_world()[0] != 0 or not (now or time.monotonic() - self._saved >= self._every):
            return
        tensors = {f"{_MODEL}{name}": tensor for name, tensor in model.state_dict().items()}
        for number, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{_OPTIMIZER}{number}/{key}": value for key, value in state.items()}
        header = {
            "identity": self._identity,
            "step": str(step),
            "history": json.dumps([evaluation.model_dump() for evaluation in history]),
        }
        content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        self._file.write_bytes(safetensors.torch.save(content, metadata=header))
        self._saved = time.monotonic()

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, list[Evaluation]]:
        """Take up the state that is there: steps done and evaluations made; ``(0, [])`` where there is none."""
        data = self._file.read_bytes() if self._file.exists() else b""
        header = read_header(data) if data else {}
        step = int(header["step"]) if header.get("identity") == self._identity else 0
        if not all_agree(step) or step == 0:
            return 0, []
        tensors = safetensors.torch.load(data)
        fit(model, _below(tensors, _MODEL), str(self._file))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _below(tensors, _OPTIMIZER).items():
            number, key = name.split("/")
            state.setdefault(int(number), {})[key] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        return step, [Evaluation.model_validate(entry) for entry in json.loads(header["history"])]


def seeded(items: Iterable[Item], seed: int, first: int) -> Iterator[Item]:
    """The items of step ``first`` and on, each with torch's random numbers as seed, step and rank have it."""
    rank, _ = rank_and_world()
    for step, item in enumerate(items, first):
        torch.manual_seed(int(np.random.SeedSequence((seed, rank, step)).generate_state(1)[0]))
        yield item


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def all_agree(read: int) -> bool:
    """Whether every worker of a job read the same from storage.

    Args:
        read: what this worker read, as a number.
    """
    if rank_and_world()[1] == 1:
        return True
    both = torch.tensor([read, -read])
    distributed.all_reduce(both, op=distributed.ReduceOp.MAX)
    return bool(both[0] == -both[1])

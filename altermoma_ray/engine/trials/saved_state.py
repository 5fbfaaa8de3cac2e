"""The state of a trial in the middle of its fine-tuning, in storage: a trial whose process dies goes on from there.

A trial has one safetensors file, written every so often and at the rung where the trial stops; the search deletes the
file at its end. Batches and random numbers follow from seed and step. An interrupted trial therefore ends with the same
model as an undisturbed one.
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
from altermoma_ray.models.checkpoint import fill, read_header
from altermoma_ray.storage import Location
from altermoma_ray.tracking.result import Evaluation

Item = TypeVar("Item")
_MODEL, _OPTIMIZER = "model/", "optimizer/"


class SavedState:
    """The state of one trial in storage; written by rank 0, read by every worker.

    >>> saved = SavedState(file, trial.model_dump_json(), every=60.0)    # doctest: +SKIP
    >>> done, history = saved.restore(model, optimizer)                  # doctest: +SKIP
    >>> saved.save(done + 100, history, model, optimizer)                # doctest: +SKIP

    Args:
        file: the place of the state.
        identity: text which tells this trial from another of the same number; the other's state is ignored.
        every: least seconds between two states. A dying trial loses about as much; a short trial writes no state.
    """

    def __init__(self, file: Location, identity: str, *, every: float) -> None:
        self._file, self._identity, self._every = file, identity, every
        # Counted from now, as if a state had just been written: a short trial is then done before its first write.
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
        """Keep the state after ``step`` steps, if the last state is old enough.

        Args:
            step: fine-tuning steps done.
            history: evaluations made.
            model: the network itself; the names in a wrapper would not fit another number of workers.
            optimizer: of the network's parameters.
            now: whether to keep the state in any case.
        """
        # The workers' copies are equal: gradients are averaged, and buffers only matter after rank 0's are taken over.
        if rank_and_world()[0] != 0 or not (now or time.monotonic() - self._saved >= self._every):
            return
        tensors = {f"{_MODEL}{name}": tensor for name, tensor in model.state_dict().items()}
        # The optimiser's groups are left out: learning rates follow from the step, by the schedule.
        for number, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{_OPTIMIZER}{number}/{key}": value for key, value in state.items()}
        header = {
            "identity": self._identity,
            "step": str(step),
            "history": json.dumps([evaluation.model_dump() for evaluation in history]),
        }
        # One write of one file, and storage replaces files as a whole: a death in here leaves the state before.
        content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        self._file.write_bytes(safetensors.torch.save(content, metadata=header))
        self._saved = time.monotonic()

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, list[Evaluation]]:
        """Take up the stored state.

        Args:
            model: receives parameters and buffers.
            optimizer: receives its moments.

        Returns:
            The steps done and the evaluations made; ``(0, [])`` where there is no state of this trial.

        Raises:
            UserError: the state does not fit the model.
        """
        data = self._file.read_bytes() if self._file.exists() else b""
        header = read_header(data) if data else {}
        step = int(header["step"]) if header.get("identity") == self._identity else 0
        # `all_agree` comes first: it waits for all workers, and a worker with step 0 must take part as well. Workers at
        # different steps would wait for each other in their last reductions; then all begin anew.
        if not all_agree(step) or step == 0:
            return 0, []
        tensors = safetensors.torch.load(data)
        fill(model, _below(tensors, _MODEL), str(self._file))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _below(tensors, _OPTIMIZER).items():
            # safetensors has flat names of text; AdamW's state is keyed by the parameter's number, then by name.
            number, key = name.split("/")
            state.setdefault(int(number), {})[key] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        return step, [Evaluation.model_validate(entry) for entry in json.loads(header["history"])]


def seeded(items: Iterable[Item], seed: int, first: int) -> Iterator[Item]:
    """Items from step ``first`` on; before each, torch's random numbers are set by seed, rank and step.

    >>> draws = {item: int(torch.randint(1000, ())) for item in seeded("ab", 0, first=5)}
    >>> next(int(torch.randint(1000, ())) for _ in seeded("b", 0, first=6)) == draws["b"]
    True

    Args:
        items: batches, as a rule.
        seed: of the trial.
        first: step of the first item.
    """
    rank, _ = rank_and_world()
    for step, item in enumerate(items, first):
        # A step's dropout is the same whether or not the trial was interrupted. SeedSequence mixes the three numbers:
        # their sum would repeat the draws of seed 0 at step 1 for seed 1 at step 0.
        torch.manual_seed(int(np.random.SeedSequence((seed, rank, step)).generate_state(1)[0]))
        yield item


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def all_agree(read: int) -> bool:
    """Whether every worker of a job read the same from storage.

    Args:
        read: this worker's finding, as a number.
    """
    if rank_and_world()[1] == 1:
        return True
    # One reduction in place of two: the largest of x and of -x give the maximum and the minimum.
    both = torch.tensor([read, -read])
    distributed.all_reduce(both, op=distributed.ReduceOp.MAX)
    return bool(both[0] == -both[1])

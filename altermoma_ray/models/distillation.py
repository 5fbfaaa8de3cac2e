"""Bird's-eye-view (BEV) maps of a fusion model's last forward pass, from which a pruned copy can learn.

Maps of each sensor and their fusion as targets: Zhou et al., *UniDistill: A Universal Cross-Modality Knowledge
Distillation Framework for 3D Object Detection in Bird's-Eye View*, CVPR 2023. Deviation: all cells count alike, there
only the cells at objects do; teacher and student see the same sensors here, and empty cells are to stay empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class MapListener:
    """Listens to modules while a model runs, and gives the outputs of its last forward pass.

    >>> import torch
    >>> first, second = nn.Linear(2, 3), nn.Linear(3, 1)
    >>> with MapListener({"hidden": first}) as listener:
    ...     output = second(first(torch.ones(4, 2)))
    ...     listener.take()["hidden"].shape
    torch.Size([4, 3])

    Args:
        modules: each gives one tensor; by the name under which the tensor is handed out.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = modules
        self._heard: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> MapListener:
        self._handles = [
            module.register_forward_hook(partial(self._keep, name)) for name, module in self._modules.items()
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._heard.clear()

    def take(self) -> dict[str, Tensor]:
        """The outputs by name, once for each forward pass; modules which did not run are missing."""
        # Handed over, not kept: the graph behind them must not outlive the loss.
        heard, self._heard = self._heard, {}
        return heard

    def _keep(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._heard[name] = output

"""Holding masks through training."""

from __future__ import annotations

from functools import partial
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from altermoma_ray.errors import UserError
from altermoma_ray.pruning.coverage import gain_of
from altermoma_ray.pruning.masks import Masks
from altermoma_ray.pruning.model import check_values


class MaskHolder:
    """Keeps pruned weights at zero while a model is trained.

    Gradients of pruned weights become zero at once: clipping does not see them and no
    momentum builds up. :meth:`after_step` sets pruned weights and their optimiser state to zero, whatever the optimiser
    did or loaded. Build the holder where the weights are, on their final device, and :meth:`release` the model (or use
    the holder as a context) before the model is copied or pickled.

    Under ``weight_norm`` a weight is ``g v/‖v‖``, which is NaN where a whole slice of v is zero. There g is held at
    zero instead, and v stays.

    Args:
        model: the network; its pruned weights become zero at once.
        masks: the weights to keep, for any of the network's parameters.
        optimizer: the network's optimiser, whose state is then held too. Steps and loading may follow at any time.

    Raises:
        UserError: a mask has no parameter of its name and shape.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    >>> with MaskHolder(layer, Masks({"weight": torch.tensor([[True, False]])}), optimizer) as holder:
    ...     layer(torch.ones(2)).sum().backward()
    ...     optimizer.step()
    ...     holder.after_step()
    >>> layer.weight.ne(0).tolist()
    [[True, False]]
    """

    def __init__(self, model: nn.Module, masks: Masks, optimizer: torch.optim.Optimizer | None = None) -> None:
        check_values(model)
        self._parameters = dict(model.named_parameters())
        self._model = model
        self._optimizer = optimizer
        self._pruned: dict[str, Tensor] = {}
        self._hooks: dict[str, RemovableHandle] = {}
        self.update(masks)

    def update(self, masks: Masks) -> None:
        """Hold other masks from now on. Returning weights start from zero."""
        for name, mask in masks.items():
            if name not in self._parameters or self._parameters[name].shape != mask.shape:
                found = tuple(self._parameters[name].shape) if name in self._parameters else "none"
                raise UserError(f"mask '{name}' has shape {tuple(mask.shape)}, but the model's parameter has {found}")
        # Check first, release later: bad masks must leave the old ones in force.
        self.release()
        self.masks = masks
        self._pruned = {name: ~mask.to(self._parameters[name].device) for name, mask in masks.items()}
        self._spare_norms()
        for name in self._pruned:
            parameter = self._parameters[name]
            # A hook on a frozen parameter is an error in torch; its zeros need no hook, since nothing moves them.
            if parameter.requires_grad:
                self._hooks[name] = parameter.register_hook(  # type: ignore[no-untyped-call]
                    # A partial, not a closure over the loop's name: a closure would apply the last mask everywhere.
                    partial(torch.masked_fill, mask=self._pruned[name], value=0)
                )
        self.apply()

    def _spare_norms(self) -> None:
        """Hold the gain, in place of the direction, of every slice pruned as a whole."""
        for name, pruned in list(self._pruned.items()):
            gain = gain_of(self._model, name)
            if gain is not None:
                kept = (~pruned).float().sum_to_size(self._parameters[gain].shape)
                # The gain has size 1 along a slice: the sum counts the weights left of each slice.
                self._pruned[gain] = kept == 0
                self._pruned[name] = pruned & (kept > 0)

    @torch.no_grad()
    def apply(self) -> None:
        """Set pruned weights to zero, with their elements of gradients and of the optimiser's state."""
        for name, pruned in self._pruned.items():
            parameter = self._parameters[name]
            parameter.masked_fill_(pruned, 0)
            if parameter.grad is not None:
                parameter.grad.masked_fill_(pruned, 0)
            # By get, not by index: the state is a defaultdict, and a look would create an empty entry.
            state = {} if self._optimizer is None else self._optimizer.state.get(parameter, {})
            for value in state.values():
                # Moments have the weight's shape; step counters and the like have not, and must go on counting.
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    value.masked_fill_(pruned, 0)

    def after_step(self) -> None:
        """Call after every ``optimizer.step()`` and after loading an optimiser's state."""
        self.apply()

    def release(self) -> None:
        """Let go of the model: no hooks are left on it. The weights stay as they are."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()

    def __enter__(self) -> MaskHolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

"""Which weights may be pruned, and which parameter group each belongs to.

>>> fusion = nn.ModuleDict({"camera": nn.Conv2d(3, 8, 3), "lidar": nn.Linear(4, 8), "norm": nn.BatchNorm1d(8)})
>>> group_weights(prunable_weights(fusion), lambda name: name.split(".")[0])
{'camera': ['camera.weight'], 'lidar': ['lidar.weight']}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import nn

from altermoma_ray.errors import UserError
from altermoma_ray.pruning.coverage import coverage


def prunable_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of convolutions (spconv's too), deconvolutions, linear, bilinear and recurrent layers, and attention.

    Weights are recognised by their attribute name and by two dimensions or more, in any module but a
    normalisation or an embedding. A weight under ``weight_norm``, ``spectral_norm``, ``torch.nn.utils.prune`` or a
    parametrisation of one's own which keeps zeros stands under the name of its source parameter
    (``weight_v``, ``weight_orig``, ``parametrizations.weight.original``). Biases, norms, embeddings, position tables,
    parameters outside layers and frozen parts are left out; :func:`altermoma_ray.pruning.coverage` says which. A
    parameter shared by several modules appears once, under the name it has in ``model.named_parameters()``, and not at
    all if one of them is an embedding.

    Args:
        model: any network.

    Returns:
        The parameters by name, in the model's order.

    Raises:
        UserError: the model has no such weight, or a parameter without values.
    """
    weights = coverage(model).weights
    if not weights:
        raise UserError(f"{type(model).__name__} has no prunable weight: it needs a convolution or a linear layer")
    return weights


def group_weights(names: Iterable[str], group_of: Callable[[str], str]) -> dict[str, list[str]]:
    """Sort weight names into parameter groups, for example ``camera``, ``lidar`` and ``fusion``.

    Args:
        names: weight names.
        group_of: the group of a parameter name.

    Returns:
        The names of each group, in the order given.

    Raises:
        UserError: there are no names.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(group_of(name), []).append(name)
    if not groups:
        raise UserError("there are no weights to sort into groups: give the names of prunable_weights(model)")
    return groups


def check_groups(groups: Mapping[str, Sequence[str]], available: Iterable[str]) -> None:
    """Check the groups: none may be empty, none may overlap, and all must hold exactly the ``available`` weights.

    Raises:
        UserError: a group is empty, or a weight is in no group, in two, or unknown; the message names it.
    """
    members: dict[str, str] = {}
    for group, names in groups.items():
        if not names:
            raise UserError(f"parameter group '{group}' has no prunable weight: leave it out or mend group_of")
        for name in names:
            if name in members:
                raise UserError(f"weight '{name}' is in the groups '{members[name]}' and '{group}': it must be in one")
            members[name] = group
    # Sorted, so that every worker and every run names the same weight first.
    known = set(available)
    if unknown := sorted(members.keys() - known):
        raise UserError(f"weight '{unknown[0]}' of group '{members[unknown[0]]}' has no score")
    if ungrouped := sorted(known - members.keys()):
        raise UserError(f"weight '{ungrouped[0]}' is in no parameter group: mend group_of")

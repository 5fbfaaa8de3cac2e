"""Search for the model's tensors in a file: their prefix, their naming, and the best set among several.

Training code puts weights into dictionaries (``state_dict``, ``model``, ``net``, one in another) and prefixes before
their names (``module.`` for DataParallel, ``model.`` for Lightning, ``_orig_mod.`` for ``torch.compile``). No list of
these is kept: any text before the names of a release's tensors is a prefix.

Training code evaluates and publishes averaged weights (EMA, SWA); they are taken where a file holds averaged and raw
weights. Most files name the averaged ones (``ema_model``, ``state_dict_ema``). mmengine's EMAHook and Lightning's
WeightAveraging swap the two when they save: ``state_dict`` is averaged, ``ema_state_dict`` and ``current_model_state``
are raw.

Example: weights saved by DataParallel, in the entry ``state_dict`` of the file::

    (found,) = find_weights(file.tensors, model.state_dict(), file.entries)
    found.prefix  # "state_dict/module."
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from altermoma_ray.models.releases.bevfusion import NAMINGS, Release, current_names, is_optional

_AVERAGED = re.compile(r"(^|[./_-])(ema|swa|avg|averaged?)([./_-]|$)|(^|[./_-])shadow", re.IGNORECASE)
_WRAPPERS = re.compile(r"(?<![^./])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts put by PyTorch into the middle of a name: compiled, sharded or recomputed submodules."""

_MOST_SETS = 8
"""Most prefixes to look at; prefixes with many names come first."""
_MOST_PARTS = 16
"""Most parts, between dots, of a model's own name."""


@dataclass(frozen=True)
class WeightSet:
    """Tensors of a file, named as a release names the model's tensors."""

    release: Release
    prefix: str
    """The text before their names in the file."""
    tensors: dict[str, Tensor]
    """By released name."""
    left_out: int
    """Number of other tensors beside them in the same dictionary."""
    averaged: bool
    """Whether they are known to be averaged over training steps."""
    matches: int
    """Number of the model's indispensable tensors found."""


def find_weights(tensors: Mapping[str, Tensor], ours: Iterable[str], entries: Collection[str] = ()) -> list[WeightSet]:
    """The sets with most of a model's tensors, the best one first; empty where the file has none of the tensors.

    Args:
        tensors: by name, from :class:`altermoma_ray.models.weights.state_files.StateFile`.
        ours: the model's own names.
        entries: names in the file's outermost dictionary.
    """
    tensors, ours = _unwrapped(tensors), list(ours)
    found = []
    for release in NAMINGS:
        names = {release.name(name): name for name in ours}
        needed = {theirs for theirs, name in names.items() if not is_optional(name)}
        prefixes = _prefixes(tensors, names)
        # A hostile file may hold a prefix for each tensor; only the most frequent ones are worth a look.
        likely = {prefix for prefix, _ in prefixes.most_common(_MOST_SETS)}
        for prefix in filter(likely.__contains__, prefixes):
            found.append(_weight_set(tensors, release, prefix, needed, entries))
    best = max((weights.matches for weights in found), default=0)
    found = [weights for weights in found if weights.matches == best > 0]
    # Averaged first; the sort is stable and keeps the file's order otherwise.
    return sorted(found, key=lambda weights: not weights.averaged)


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the wrappers in their names, unless two names would become one."""
    clean = {_WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
    return clean if len(clean) == len(tensors) else dict(tensors)


def _prefixes(tensors: Mapping[str, Tensor], names: Collection[str]) -> Counter[str]:
    """The number of names behind each prefix, in the file's order."""
    found: Counter[str] = Counter()
    for name in tensors:
        # Each boundary between parts may end a prefix; long names are tried at their last boundaries only.
        starts = [0, *(match.end() for match in re.finditer(r"[./]", name))]
        for start in starts[-_MOST_PARTS:]:
            if name[start:] in names:
                found[name[:start]] += 1
    return found


def _weight_set(
    tensors: Mapping[str, Tensor], release: Release, prefix: str, needed: set[str], entries: Collection[str]
) -> WeightSet:
    dictionary = prefix[: prefix.rfind("/") + 1]
    beside = [name for name in tensors if name.startswith(dictionary) and "/" not in name[len(dictionary) :]]
    inside = {name[len(prefix) :]: tensors[name] for name in beside if name.startswith(prefix)}
    copies = {f"ema_{name.replace('.', '_')}" for name in inside}  # mmcv's EMAHook keeps the raw weights as buffers
    own = current_names({name: tensor for name, tensor in inside.items() if name not in copies})
    return WeightSet(
        release=release,
        prefix=prefix,
        tensors=own,
        left_out=len(beside) - len(own),
        # Raw copies beside the weights mean an EMAHook, whose weights proper are the averaged ones.
        averaged=len(inside) > len(own) or _is_averaged(prefix, tensors, entries),
        matches=len(needed & own.keys()),
    )


def _is_averaged(prefix: str, tensors: Mapping[str, Tensor], entries: Collection[str]) -> bool:
    # Marks of mmengine's EMAHook, then of Lightning's WeightAveraging; see the module's text.
    swapped = "ema_state_dict/steps" in tensors or ("message_hub" in entries and "ema_state_dict" in entries)
    if swapped or {"current_model_state", "averaging_state"} <= {*entries}:
        return prefix.startswith("state_dict/")
    return bool(_AVERAGED.search(prefix))

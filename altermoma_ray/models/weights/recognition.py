"""Which tensors of a file are the model's: under what prefix, by whose names, and which set where there are several.

Training code puts weights into dictionaries (``state_dict``, ``model``, ``net``, one in another) and prefixes before
their names (``module.`` for DataParallel, ``model.`` for Lightning, ``_orig_mod.`` for ``torch.compile``). No list of
these is kept: a prefix is whatever stands before the names that the model's tensors have in a release.

Averaged weights (EMA, SWA) are what training code evaluates and publishes, so that they are taken where a file holds
both. Most files name them (``ema_model``, ``state_dict_ema``). mmengine's EMAHook and Lightning's WeightAveraging
swap the two when they save: ``state_dict`` is the averaged one, ``ema_state_dict`` and ``current_model_state`` are not.
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
"""Parts of a name that PyTorch puts in its middle: compiled, sharded or recomputed submodules."""

_MOST_SETS = 8
"""Prefixes that are looked at, those with most names first."""
_MOST_PARTS = 16
"""Parts, between dots, that a model's own names have at most."""


@dataclass(frozen=True)
class WeightSet:
    """Tensors of a file that are named as a release names the model's."""

    release: Release
    prefix: str
    """What stands before their names in the file."""
    tensors: dict[str, Tensor]
    """By released name."""
    left_out: int
    """Tensors beside them in the same dictionary, which are none of the model's."""
    averaged: bool
    """Whether they are known to be averaged over training steps."""
    matches: int
    """Tensors of the model, of those that every file must hold, that are there."""


def find_weights(tensors: Mapping[str, Tensor], ours: Iterable[str], entries: Collection[str] = ()) -> list[WeightSet]:
    """The sets that hold most of a model's tensors, the one to take first; empty when none holds any.

    Args:
        tensors: by name, as :class:`altermoma_ray.models.weights.state_files.StateFile` has them.
        ours: the model's own names.
        entries: names in the file's outermost dictionary.
    """
    tensors, ours = _unwrapped(tensors), list(ours)
    found = []
    for release in NAMINGS:
        names = {release.name(name): name for name in ours}
        needed = {theirs for theirs, name in names.items() if not is_optional(name)}
        prefixes = _prefixes(tensors, names)
        likely = {prefix for prefix, _ in prefixes.most_common(_MOST_SETS)}
        for prefix in filter(likely.__contains__, prefixes):
            found.append(_weight_set(tensors, release, prefix, needed, entries))
    best = max((weights.matches for weights in found), default=0)
    found = [weights for weights in found if weights.matches == best > 0]
    return sorted(found, key=lambda weights: not weights.averaged)


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the wrappers in their names, unless two names would become one."""
    clean = {_WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
    return clean if len(clean) == len(tensors) else dict(tensors)


def _prefixes(tensors: Mapping[str, Tensor], names: Collection[str]) -> Counter[str]:
    """How many of the names stand behind each prefix, in the file's order."""
    found: Counter[str] = Counter()
    for name in tensors:
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
        averaged=len(inside) > len(own) or _is_averaged(prefix, tensors, entries),
        matches=len(needed & own.keys()),
    )


def _is_averaged(prefix: str, tensors: Mapping[str, Tensor], entries: Collection[str]) -> bool:
    swapped = "ema_state_dict/steps" in tensors or ("message_hub" in entries and "ema_state_dict" in entries)
    if swapped or {"current_model_state", "averaging_state"} <= {*entries}:
        return prefix.startswith("state_dict/")
    return bool(_AVERAGED.search(prefix))

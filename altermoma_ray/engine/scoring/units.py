"""The units of pruning of a trial: a granularity, its bounds, and the channels of the trial's model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from typing import Annotated, Any

from pydantic import BeforeValidator
from torch import nn

from altermoma_ray.pruning.channels import Bounds
from altermoma_ray.pruning.granularity import GRANULARITIES, Channel, Granularity
from altermoma_ray.workloads.protocols import DataSource
from altermoma_ray.workloads.workload import modalities_of

SINGLE_WEIGHTS = "weight"
"""The default granularity of settings and requests."""


def _known_fields(given: Any) -> Any:
    """Refuse misspelled fields, which pydantic ignores in a plain dataclass."""
    known = [field.name for field in fields(Bounds)]
    if isinstance(given, Mapping) and not given.keys() <= set(known):
        raise ValueError(f"channel bounds have {', '.join(known)}, but got {', '.join(map(str, given))}")
    return given


ChannelBounds = Annotated[Bounds, BeforeValidator(_known_fields)]
"""Bounds as a field of a pydantic model."""


def units_of(granularity: str, bounds: Bounds) -> Granularity:
    """A registered granularity with bounds.

    >>> units_of("channel", Bounds(multiple=8)).bounds.multiple
    8

    Args:
        granularity: a key of :data:`altermoma_ray.pruning.granularity.GRANULARITIES`.
        bounds: of channels; other granularities have none.
    """
    registered = GRANULARITIES[granularity]
    return replace(registered, bounds=bounds) if isinstance(registered, Channel) else registered


def bound_units(units: Granularity, model: nn.Module, data: DataSource) -> Granularity:
    """A granularity that knows the units of a model; finding channels takes a while.

    Example::

        channels = bound_units(units_of("channel", Bounds()), model, data)
        masks = channels.select(scores, target)

    Args:
        units: the granularity.
        model: stays unchanged.
        data: one training sample is run through the model where the model is traced.

    Raises:
        UserError: the model has no units of this kind, or cannot be traced.
    """
    dataset = data.dataset(data.rows("train", limit=1), augment=False, seed=0)
    batch = data.collate([dataset[0]])
    masks = [frozenset[str](), *(frozenset({modality}) for modality in modalities_of(model))]
    # Masked runs too: a width written as a number in `forward` shows only there.
    return units.bound_to(model, *(partial(_run, batch=batch, masked=masked) for masked in masks))


def _run(model: nn.Module, *, batch: Any, masked: frozenset[str]) -> Any:
    return model(batch, masked)

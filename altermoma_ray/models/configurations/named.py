"""The named models: ``configuration("bevfusion-mit")`` is the published one.

A new one is a file of this folder with a ``CONFIGURATION``, and its line in :data:`CONFIGURATIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from altermoma_ray.models.configurations import (
    bevfusion_mit,
    bevfusion_mit_centerpoint,
    bevfusion_mit_centerpoint_toy,
    bevfusion_mit_pointpillars,
    bevfusion_mit_pointpillars_toy,
    bevfusion_mit_r101_second,
    bevfusion_mit_r101_second_toy,
    bevfusion_mit_seg,
    bevfusion_mit_seg_toy,
    bevfusion_mit_toy,
    bevfusion_mit_track,
    bevfusion_mit_track_toy,
    bevfusion_pku,
    bevfusion_pku_dual,
    bevfusion_pku_r101_pointpillars,
    bevfusion_pku_r101_pointpillars_toy,
    bevfusion_pku_toy,
    bevfusion_r,
    bevfusion_r_toy,
    bevfusion_trio_toy,
)
from altermoma_ray.models.configurations.config import ModelConfig
from altermoma_ray.models.configurations.section import find_named

CONFIGURATIONS: Mapping[str, ModelConfig] = MappingProxyType(
    {
        module.CONFIGURATION.name: module.CONFIGURATION
        for module in (
            bevfusion_mit,
            bevfusion_mit_toy,
            bevfusion_mit_r101_second,
            bevfusion_mit_r101_second_toy,
            bevfusion_mit_seg,
            bevfusion_mit_seg_toy,
            bevfusion_r,
            bevfusion_r_toy,
            bevfusion_trio_toy,
            bevfusion_mit_track,
            bevfusion_mit_track_toy,
            bevfusion_pku,
            bevfusion_pku_dual,
            bevfusion_pku_toy,
            bevfusion_pku_r101_pointpillars,
            bevfusion_pku_r101_pointpillars_toy,
            bevfusion_mit_centerpoint,
            bevfusion_mit_centerpoint_toy,
            bevfusion_mit_pointpillars,
            bevfusion_mit_pointpillars_toy,
        )
    }
)
"""By name."""


def configuration(name: str) -> ModelConfig:
    """The named configuration.

    Raises:
        UserError: there is none of that name.
    """
    return find_named(name, CONFIGURATIONS)


def adopted(found: ModelConfig, wanted: ModelConfig) -> ModelConfig:
    """The configuration of a checkpoint, as a model of another name with the same weights has it.

    >>> adopted(configuration("bevfusion-mit"), configuration("bevfusion-mit-track")).name
    'bevfusion-mit-track'
    >>> adopted(configuration("bevfusion-mit"), configuration("bevfusion-mit-seg")).name
    'bevfusion-mit'

    Args:
        found: of the checkpoint.
        wanted: of the named model that shall take the weights.

    Returns:
        ``found`` under the name and with the tracker of ``wanted``; ``found`` itself where the weights differ.
    """
    # The named configuration stands for the checkpoint's: released weights bring a box height of their own.
    named = CONFIGURATIONS.get(found.name)
    if found.name == wanted.name or named is None or not named.is_but_for_task(wanted):
        return found
    return found.model_copy(update={"name": wanted.name, "tracker": wanted.tracker})

"""Two Swin transformers in composite as the camera's backbone.

Notation as in :mod:`altermoma_ray.models.encoders.swin`. The *assisting* backbone runs first. The *lead* backbone
starts from the same embedded pictures, and the input of its stage s is increased by the assisting maps of stage s and
of all later stages. Source: Liang et al., *CBNet: A Composite Backbone Network Architecture for Object Detection*, IEEE
TIP 2022, dense higher-level composition, as in the published BEVFusion of another Liang et al., NeurIPS 2022.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from altermoma_ray.models.configurations.camera import HeightSwinCameraConfig
from altermoma_ray.models.encoders.swin import SwinBackbone


class DualSwinBackbone(nn.Module):
    """Pictures [M, 3, H, W] to the lead backbone's maps of all stages, finest first.

    >>> import torch
    >>> config = HeightSwinCameraConfig(embed=8, depths=(1, 1, 1), heads=(1, 1, 1), window=4, dual=True)
    >>> [tuple(features.shape) for features in DualSwinBackbone(config)(torch.zeros(1, 3, 32, 64))]
    [(1, 8, 8, 16), (1, 16, 4, 8), (1, 32, 2, 4)]
    """

    def __init__(self, config: HeightSwinCameraConfig) -> None:
        super().__init__()
        self.assisting, self.lead = SwinBackbone(config), SwinBackbone(config)
        # The lead backbone has no embedding of its own: it reads the assisting one's tokens.
        self.lead.features[0] = nn.Identity()
        widths = config.stage_channels
        self.composition = nn.ModuleList(
            # A stage's own map is added as it is; the wider maps of later stages are projected to its width first.
            nn.ModuleList(nn.Identity() if later == own else nn.Conv2d(later, own, 1) for later in widths[stage:])
            for stage, own in enumerate(widths)
        )
        for projection in self.composition.modules():
            if isinstance(projection, nn.Conv2d):
                # As published: in the beginning, only maps of the same stage are passed on.
                nn.init.zeros_(projection.weight)
                nn.init.zeros_(projection.bias)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Pictures [M, 3, H, W] to maps, finest first."""
        tokens = self.assisting.features[0](images)
        maps = self.assisting.stages(tokens)
        return self.lead.stages(tokens, [self._composed(stage, maps) for stage in range(len(maps))])

    def _composed(self, stage: int, maps: list[Tensor]) -> Tensor:
        """The sum of the assisting maps from a stage on, as a token map of the stage."""
        size = maps[stage].shape[-2:]
        projected = (project(features) for project, features in zip(self.composition[stage], maps[stage:], strict=True))
        own, *later = (functional.interpolate(features, size=size, mode="nearest") for features in projected)
        return sum(later, own).permute(0, 2, 3, 1)

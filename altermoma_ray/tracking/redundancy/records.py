"""The records of a redundancy report: written to storage by a worker, read for drawing the page.

Notation::

    d_l   DeCI share: a layer's DeCI, summed over its weights, over its group's sum
    r_l   ReRI share: the same of ReRI; for the fusion the mean over the two masking passes, as in AlterEva (Eq. 13)
    w_l   weight share: a layer's weights over its group's
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

REDUNDANT_RATIO = 1.5
"""A layer is called fusion-redundant when its ReRI share is at least this many times its DeCI share, ..."""
REDUNDANT_SHARE = 0.01
"""... and at least this much of its group's ReRI: layers with next to nothing of either are left out."""

UNPRUNED, REACTIVATED, PRUNED, FINE_TUNED = "unpruned", "reactivated", "pruned", "fine-tuned"
"""The evaluated states."""
BEFORE, MASKED = "before masking", "masked"
"""States of features, beside the last three."""
OCCUPIED = "occupied"
"""Name of the tensor of the cells under an object, beside the feature pictures."""
INTACT = "none"
"""No sensor is lost."""
THIS_MODEL = "this pruned model"


class _Record(BaseModel):
    # Contrasts and metrics may be NaN, which JSON does not have: they travel as strings. Unknown fields are refused, so
    # a report of another release is not read in part.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class LayerFigures(_Record):
    """One weight tensor; shares are of its group's sums."""

    name: str
    group: str
    weights: int
    weight_share: float
    deci_share: float
    reri_share: float
    reri_by_pass: dict[str, float]
    """ReRI share by masked modality."""
    spearman: float | None
    """Rank correlation of DeCI and ReRI over the layer's weights; None where one of them is constant."""

    @property
    def ratio(self) -> float:
        """r_l / d_l; infinite for a layer with ReRI and no DeCI, 0 for one with neither."""
        # A layer unused by the intact model has no DeCI at all, and may still take over from a masked sensor.
        if self.deci_share > 0:
            return self.reri_share / self.deci_share
        return float("inf") if self.reri_share > 0 else 0.0

    @property
    def redundant(self) -> bool:
        """Whether the layer is fusion-redundant, as :data:`REDUNDANT_RATIO` and :data:`REDUNDANT_SHARE` say."""
        # The ratio alone would name layers where both shares are close to nothing, and their ratio is noise.
        return self.ratio >= REDUNDANT_RATIO and self.reri_share >= REDUNDANT_SHARE


class GroupFigures(_Record):
    """One parameter group: a modality or the fusion."""

    name: str
    weights: int
    deci: float
    """Sum of DeCI before normalisation."""
    reri: dict[str, float]
    """Sum of ReRI by masked modality."""
    spearman: float | None
    """Rank correlation of DeCI and ReRI over all weights of the group."""
    pass_spearman: float | None
    """Rank correlation of the ReRI of two masking passes; None in a group scored by one pass only."""
    overlap: float
    """Jaccard index of the highest weights by DeCI and by ReRI, as many of each as the group keeps."""
    overlap_by_chance: float
    shift: float
    """½ Σ |r_l − d_l|: the part of ReRI in other layers than DeCI; 0 for equal shares."""
    ranks: list[list[float]]
    """How dense the weights lie by rank: rows ReRI, columns DeCI, both from low to high; 1 is an even spread."""


class Removal(_Record):
    """The weights removed by one criterion at the report's sparsity."""

    criterion: str
    sparsity: dict[str, float]
    """``total``, and one entry a group."""
    layers: dict[str, float]
    """Sparsity by layer."""
    overlap: dict[str, float]
    """Jaccard index with the weights kept by each criterion."""
    overlap_removed: dict[str, float]
    """The same of the weights removed."""


class SensorFigures(_Record):
    """One evaluation on the validation samples."""

    state: str
    lost: str
    """The sensor switched off, or ``none``."""
    figures: dict[str, float]
    """By the names of the report's metrics."""


class FeatureFigures(_Record):
    """One BEV map in one state, over the report's feature samples."""

    map: str
    """A modality, or ``fused``."""
    masked: str
    """The masked modality in the states ``masked`` and ``reactivated`` of this row."""
    state: str
    contrast: float
    """Mean norm over channels of the cells under an object, over the mean of all others."""
    likeness: float
    """Cosine similarity with the same map before masking, all samples together."""

    @property
    def row(self) -> str:
        return row_name(self.map, self.masked)


def row_name(name: str, masked: str) -> str:
    """Name of a row of feature pictures.

    >>> row_name("camera", "lidar")
    'camera (lidar masked)'
    """
    return f"{name} ({masked} masked)"


class RedundancyReport(_Record):
    """Everything measured for one checkpoint and one pruned model."""

    dataset: str
    model: str
    checkpoint: str
    dataroot: str
    criterion: str
    """The criterion of the pruned model, or its folder."""
    sparsity: float
    seed: int
    reactivation_steps: int
    reactivation_learning_rate: float
    scoring_batches: int
    fine_tune_steps: int | None
    """None for a pruned model from a folder without this information."""
    validation_samples: int
    feature_samples: int
    sample: str
    """Token of the keyframe in the pictures."""
    titles: dict[str, str]
    """Titles of the measured metrics by name; the first one is told in sentences."""
    sign: int
    """1 where a greater value of the first metric is better, else -1."""
    groups: list[GroupFigures]
    layers: list[LayerFigures]
    removals: list[Removal]
    sensors: list[SensorFigures]
    features: list[FeatureFigures]
    seconds: dict[str, float] = {}

    def layers_of(self, group: str) -> list[LayerFigures]:
        """A group's layers, the highest ReRI share first."""
        # Sorted by each reader and not once: the records stay in the order of the model.
        return sorted((layer for layer in self.layers if layer.group == group), key=lambda layer: -layer.reri_share)

    def sensor(self, state: str, lost: str) -> SensorFigures | None:
        """The evaluation of one state with one sensor lost, if there is one."""
        return next((entry for entry in self.sensors if (entry.state, entry.lost) == (state, lost)), None)

    @property
    def title(self) -> str:
        """Title of the first metric."""
        return next(iter(self.titles.values()))

    def first(self, state: str, lost: str) -> float:
        """The first metric of one state with one sensor lost; NaN where not measured."""
        entry = self.sensor(state, lost)
        # The figures come in the order of the titles. NaN, as a missing figure then spoils no picture.
        return float("nan") if entry is None else next(iter(entry.figures.values()))

    def feature(self, row: str, state: str) -> FeatureFigures:
        """One entry of a row of feature pictures."""
        return next(entry for entry in self.features if (entry.row, entry.state) == (row, state))

    def states(self) -> list[str]:
        """The evaluated states, in their order."""
        # In the order of measurement: unpruned, reactivated, pruned, fine-tuned.
        return list(dict.fromkeys(entry.state for entry in self.sensors))

    def metrics(self) -> dict[str, float]:
        """The report's main figures by name, for a tracking store."""
        found = {}
        for entry in self.sensors:
            # The metric comes first: MLflow's page groups charts by the text before the first slash.
            key = f"{entry.state.replace(' ', '_')}/{entry.lost}_lost"
            found |= {f"{name}/{key}": value for name, value in entry.figures.items()}
        for group in self.groups:
            found |= {f"overlap/{group.name}": group.overlap, f"shift/{group.name}": group.shift}
            # MLflow takes numbers only; an undefined correlation is None.
            if group.spearman is not None:
                found[f"spearman/{group.name}"] = group.spearman
        for removal in self.removals:
            key = f"sparsity/{removal.criterion.replace(' ', '_')}"
            found |= {f"{key}/{name}": share for name, share in removal.sparsity.items()}
        return found

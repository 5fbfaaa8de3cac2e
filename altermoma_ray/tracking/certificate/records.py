"""The records of a certificate: both models' figures by scene and by object, and the conclusions from these."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from altermoma_ray.metrics import Direction, Metric


class Record(BaseModel):
    """A frozen record in JSON; NaN and infinity, which JSON does not have, travel as strings."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Pair(Record):
    """One figure of both models.

    >>> Pair(unpruned=0.75, champion=0.5).difference
    -0.25
    """

    unpruned: float
    champion: float

    @property
    def difference(self) -> float:
        """The champion's figure less the unpruned model's."""
        return self.champion - self.unpruned


class SceneFigures(Record):
    """One scene."""

    name: str
    samples: int
    metric: Pair
    """The compared metric; NaN where the scene has none."""
    false_alarms: Pair | None = None
    """Numbers of predictions without an object, at each model's threshold."""


class ObjectFigures(Record):
    """One annotated object."""

    name: str
    row: int
    """The data source's row of its sample."""
    scene: int
    """Number of its scene, in the order of the certificate's scenes."""
    slices: dict[str, str]
    """Properties, such as ``{"class": "car"}``."""
    scores: Pair
    """The confidences at which it is found; 0 where it is not."""


class Compared(Record):
    """What is compared with what, on which samples and by which metric."""

    search: str
    trial: int
    """Number of the champion."""
    dataset: str
    model: str
    """Name of the workload's model."""
    validation_part: str
    """The validation samples: ``all``, ``tuning`` or ``reporting``."""
    chosen_on_them: bool
    """Whether the search chose its champion on these samples."""
    metric: str
    title: str
    direction: Direction
    whole: Pair
    """The metric over all samples together."""
    thresholds: Pair | None = None
    """Least confidence of a prediction that counts; None where the task does not tell objects."""


class Measured(Compared):
    """Both models on the same samples."""

    scenes: list[SceneFigures]
    objects: list[ObjectFigures] = []

    def is_found(self, one: ObjectFigures) -> tuple[bool, bool]:
        """Whether the unpruned model finds an object, and whether the champion does, at their thresholds."""
        assert self.thresholds is not None
        unpruned, champion = one.scores.unpruned, one.scores.champion
        return (
            unpruned > 0 and unpruned >= self.thresholds.unpruned,
            champion > 0 and champion >= self.thresholds.champion,
        )

    @property
    def sign(self) -> int:
        """1 where a greater metric is better, else -1."""
        return Metric(self.metric, self.title, self.direction).sign


class Interval(Record):
    """A mean with its limits.

    ``bound`` is the one-sided limit: with 95 % confidence the true mean is not below it.
    """

    mean: float
    low: float
    high: float
    bound: float


class SliceFigures(Record):
    """The objects that share one property."""

    kind: str
    """``all``, or the property's name, such as ``class``."""
    value: str
    objects: int
    scenes: int
    """Scenes that have such an object."""
    recall: Pair
    low: float
    high: float
    """95 % limits of the recalls' difference."""
    p: float
    """Probability of a loss as great by chance alone, corrected for the number of slices (Holm)."""
    is_worse: bool


class Certificate(Compared):
    """The conclusions, with all that is needed to read them."""

    samples: int
    scenes: int
    left_out: int
    """Scenes without a figure in either model."""
    margin: float
    difference: Interval | None
    """Of the metric, the mean over scenes, above 0 where the champion is better; None for fewer than two scenes."""
    no_worse: bool
    """Whether ``difference.bound`` lies above −``margin``."""
    worst_scenes: list[SceneFigures]
    """The scenes of the greatest losses, at most five."""
    false_alarms: Pair | None
    """Predictions without an object in a scene, the mean."""
    slices: list[SliceFigures]
    """The greatest loss first."""
    lost: list[ObjectFigures]
    """Objects found by the unpruned model alone, the surest first, at most twelve."""
    lost_in_all: int
    gained_in_all: int
    """Objects found by the champion alone."""

    def metrics(self) -> dict[str, float]:
        """The main figures, under names for MLflow.

        A certificate without scenes to compare has the margin and the verdict alone.
        """
        found = {"certificate/no_worse": float(self.no_worse), "certificate/margin": self.margin}
        if self.difference is not None:
            found |= {f"certificate/difference/{key}": value for key, value in self.difference.model_dump().items()}
        return found

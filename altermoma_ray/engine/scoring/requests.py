"""Requests to the scoring job: indicators, scores and masks of criteria with any parameters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from altermoma_ray.engine.scoring.units import SINGLE_WEIGHTS, ChannelBounds, units_of
from altermoma_ray.pruning import Reactivation
from altermoma_ray.pruning.channels import Bounds
from altermoma_ray.pruning.criteria import CRITERIA, Criterion
from altermoma_ray.pruning.granularity import Granularity

Value = str | float | int | bool
"""Value of a parameter which a search may vary."""


class ScoreRequest(BaseModel):
    """Scores of a criterion, for any target.

    The name of a criterion stands for the criterion as registered:

    >>> ScoreRequest.model_validate("snip") == ScoreRequest(criterion="snip")
    True
    >>> ScoreRequest(criterion="prospr", parameters={"steps": 1}).build()
    ProsPr(steps=1, learning_rate=0.01)

    Two requests are equal if their scores are kept in one file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    criterion: str
    """A key of :data:`altermoma_ray.pruning.criteria.CRITERIA`."""
    parameters: dict[str, Value] = Field(default_factory=dict)
    """Parameters with other values than the registered ones."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, given: Any) -> Any:
        # Also the form in plans of earlier releases, whose criteria had no parameters.
        return {"criterion": given} if isinstance(given, str) else given

    @model_serializer(mode="wrap")
    def _to_name(self, handler: SerializerFunctionWrapHandler) -> Any:
        # The short form keeps plans readable, and a plan written today is the same text as in earlier releases.
        return handler(self) if self.parameters else self.criterion

    @model_validator(mode="after")
    def _check(self) -> ScoreRequest:
        # Caught here and not in a worker: a request for scores of masks would fail only after minutes of scoring.
        if CRITERIA[self.criterion].needs != "scores":
            raise ValueError(
                f"of {self.criterion} {CRITERIA[self.criterion].needs} are kept, not scores; ask for these"
            )
        return self

    def __hash__(self) -> int:
        # pydantic hashes the fields, and a dictionary of parameters has no hash. The file's name stands for all.
        return hash(self.file)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ScoreRequest) and self.file == other.file

    def build(self) -> Criterion:
        """The criterion with these parameters."""
        return build(self.criterion, self.parameters)

    @property
    def file(self) -> str:
        """Name of the file with the scores."""
        return f"scores-{self.criterion}-{self.build().key()}.safetensors"


class MaskRequest(BaseModel):
    """Masks of a criterion which prunes in rounds, for one target and granularity.

    >>> MaskRequest(criterion="imp", sparsity=0.9, parameters={"rounds": 2}).build().rounds
    2
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    criterion: str
    sparsity: float
    ratios: dict[str, float] | None = None
    parameters: dict[str, Value] = Field(default_factory=dict)
    """Parameters with other values than the registered ones."""
    granularity: str = SINGLE_WEIGHTS
    """A key of :data:`altermoma_ray.pruning.granularity.GRANULARITIES`: the units to prune as a whole."""
    bounds: ChannelBounds = Field(default_factory=Bounds)
    """How narrow a layer may become; only with the granularity ``channel``."""

    def __hash__(self) -> int:
        # As above: neither the ratios nor the parameters have a hash.
        return hash(self.file)

    def build(self) -> Criterion:
        """The criterion with these parameters."""
        return build(self.criterion, self.parameters)

    @property
    def units(self) -> Granularity:
        """The granularity, with the bounds."""
        return units_of(self.granularity, self.bounds)

    @property
    def file(self) -> str:
        """Name of the file with the masks."""
        # Unlike scores, masks of rounds belong to one target: the weights left by a round decide the next round.
        identity: list[object] = [self.build().key(), self.sparsity, self.ratios]
        # Single weights add nothing: files from before there was a choice are still found.
        identity += [] if self.granularity == SINGLE_WEIGHTS else [self.granularity, asdict(self.bounds)]
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        return f"masks-{self.criterion}-{key}.safetensors"


class Wanted(BaseModel):
    """The indicators, scores and masks to compute; by default none.

    >>> Wanted(contribution=True, criteria=("snip",)).masks
    ()
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    contribution: bool = False
    """Whether DeCI is wanted for itself; DeCI is always computed with a reactivation."""
    settings: tuple[Reactivation, ...] = ()
    """Reactivations whose ReRI, and with it DeCI, is wanted."""
    criteria: tuple[ScoreRequest, ...] = ()
    """The wanted scores; a name stands for a criterion as registered."""
    masks: tuple[MaskRequest, ...] = ()
    """The wanted masks."""

    def __len__(self) -> int:
        """Number of wanted files, without the DeCI of a reactivation."""
        return self.contribution + len(self.settings) + len(self.criteria) + len(self.masks)

    @property
    def wants_contribution(self) -> bool:
        """Whether DeCI is wanted, for itself or beside a ReRI."""
        return bool(self.settings) or self.contribution


def build(criterion: str, parameters: Mapping[str, Any]) -> Criterion:
    """A registered criterion with some parameters replaced."""
    registered = CRITERIA[criterion]
    # A criterion need not be a dataclass, and `replace` takes nothing else: without parameters it is not called.
    return replace(registered, **parameters) if parameters else registered  # type: ignore[type-var]

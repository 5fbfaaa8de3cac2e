"""Search spaces as functions, in the way of Optuna's own users.

A space file may define ``suggest(trial, workload)`` in place of ``SPACE``::

    def suggest(trial, workload):
        camera = trial.suggest_float("camera", 0.8, 0.95)
        return {
            "ratios": workload.ratios({"lidar": 0.0, "fusion": 0.5}, fixed={"camera": camera}),
            "criterion": trial.suggest_categorical("criterion", ("snip", "taylor")),
            "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-3, log=True),
        }

``trial`` is Optuna's, ``workload`` a :class:`SuggestContext`. The function returns a
:class:`~altermoma_ray.engine.space.PruningSetting`, or a dictionary of its fields, of which ``scope`` and ``sparsity``
may be left out. The function must draw by ``trial`` alone: a resumed search calls the function again, and must get the
same settings.

``SPACE`` may stand beside the function, with fields common to all trials (length of fine-tuning, rungs, scoring data).
The criteria and reactivations named in ``SPACE`` are scored before the first trial, all others by the trials drawing
them. Trial 0 is the paper's own configuration, unless ``SPACE`` has ``published_first=False``.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import optuna
from pydantic import PrivateAttr

from altermoma_ray.engine.scoring.requests import Wanted
from altermoma_ray.engine.space.distinct import EndlessError
from altermoma_ray.engine.space.setting import PruningSetting, reason
from altermoma_ray.engine.space.space import SearchSpace
from altermoma_ray.errors import UserError
from altermoma_ray.pruning import solve_ratios

TRIED = 16
"""Number of settings drawn to find a mistake before anything is scored."""


@dataclass(frozen=True, kw_only=True)
class SuggestContext:
    """A suggest function's knowledge of the model and of the search's target.

    >>> workload = SuggestContext(sizes={"camera": 800, "lidar": 100, "fusion": 100}, sparsity=0.8)
    >>> workload.ratios({"lidar": 0.0, "fusion": 0.0}, fixed={"camera": 0.9})
    {'camera': 0.9, 'lidar': 0.4, 'fusion': 0.4}

    Attributes:
        sizes: prunable weights by parameter group.
        sparsity: the total sparsity asked for by the search; None where each trial chooses its own.
    """

    sizes: Mapping[str, int]
    sparsity: float | None

    def ratios(
        self,
        preferences: Mapping[str, float],
        *,
        fixed: Mapping[str, float] = MappingProxyType({}),
        sparsity: float | None = None,
    ) -> dict[str, float]:
        """Ratios of all groups, which together reach the total sparsity.

        Args:
            preferences: for each free group a number; the group keeps a share proportional to ``exp(preference)``.
            fixed: ratios of the other groups.
            sparsity: the total sparsity; needed where the search asks for none.

        Raises:
            UserError: there is no total sparsity, or no ratios reach the total.
        """
        total = self.sparsity if sparsity is None else sparsity
        if total is None:
            raise UserError("ratios need a total sparsity, but the search asks for none; give `sparsity`")
        return solve_ratios(self.sizes, total, preferences, fixed)


Suggest = Callable[[optuna.Trial, SuggestContext], "PruningSetting | Mapping[str, Any]"]


class SuggestedSpace(SearchSpace):
    """A space whose settings are drawn by a user's function.

    All fields are taken from the ``SPACE`` beside the function. Two spaces are equal only with the same function.

    >>> space = SuggestedSpace.of(lambda trial, workload: {"criterion": "snip", "learning_rate": 1e-3})
    >>> space.suggest(optuna.trial.FixedTrial({}), {"camera": 100}, 0.8).sparsity
    0.8
    """

    # A private attribute: pydantic compares, but neither saves nor validates the function.
    _function: Suggest = PrivateAttr()

    @classmethod
    def of(cls, function: Suggest, space: SearchSpace | None = None) -> SuggestedSpace:
        """The space of a function.

        >>> SuggestedSpace.of(lambda trial, workload: {"criterion": "snip"}, SearchSpace(rungs=())).rungs
        ()

        Args:
            function: called with Optuna's trial and a :class:`SuggestContext`.
            space: the fields common to all trials; None takes the defaults.

        Raises:
            UserError: the function does not take two arguments, or the space has a ``suggest`` of its own.
        """
        # Tried on two arguments, in place of counting parameters: defaults and ``*args`` are all right.
        try:
            inspect.signature(function).bind(None, None)
        except TypeError as error:
            raise UserError(f"suggest must take (trial, workload), but {error}; mend its arguments") from None
        if space is not None and type(space).suggest is not SearchSpace.suggest:
            raise UserError("both SPACE and the file have a suggest; leave one out")
        # Only the fields set by the user, for ``wanted``, which reads ``model_fields_set`` to tell them from defaults.
        given = {} if space is None else {name: getattr(space, name) for name in space.model_fields_set}
        made = cls.model_validate({name: value for name, value in given.items() if name in SearchSpace.model_fields})
        made._function = function
        return made

    def suggest(self, trial: optuna.Trial, sizes: Mapping[str, int], sparsity: float | None) -> PruningSetting:
        """Draw one setting by the function.

        Args:
            trial: Optuna's trial, which remembers the draws.
            sizes: number of prunable weights in each group.
            sparsity: the total sparsity asked for by the search; None where each trial chooses its own.

        Raises:
            UserError: the function fails, or the search cannot run the returned setting.
        """
        try:
            # A copy of the sizes: a function writing into them must not change the next trials.
            returned = self._function(trial, SuggestContext(sizes=dict(sizes), sparsity=sparsity))
        except EndlessError:  # of a sampler of ours, which the function passes on
            raise
        except Exception as error:
            raise UserError(f"{self._place(error)}: {_told(error)}") from error
        try:
            setting = _setting(returned, sparsity)
            _check_totals(setting, sizes, sparsity)
        except ValueError as error:
            raise UserError(f"{self._place(None)}: what suggest returns is no setting: {reason(error)}") from None
        return setting

    def holds(self, draws: Mapping[str, Any]) -> bool:
        """Never: the function's way from draws to settings is unknown."""
        return False

    def wanted(self) -> Wanted:
        """The criteria and reactivations named in ``SPACE``, and the paper's own."""
        # Defaults of a space are no promise of the function: scoring all default criteria could be hours for nothing.
        wanted, named = super().wanted(), self.model_fields_set
        if "criteria" not in named:
            wanted = wanted.model_copy(update={"contribution": False, "criteria": ()})
        if not named & {"criteria", "reactivation_steps", "reactivation_learning_rates"}:
            published = self.setting(self.published(0.5), {}, 0.5).reactivation
            found = (published,) if self.published_first and published is not None else ()
            wanted = wanted.model_copy(update={"settings": found})
        return wanted

    def check(self, sizes: Mapping[str, int], sparsity: float | None) -> None:
        """Draw some settings, to show a mistake in the function before anything is scored."""
        super().check(sizes, sparsity)
        # Fixed seeds: a mistake found once is found again after the next edit.
        for seed in range(TRIED):
            study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
            self.suggest(study.ask(), sizes, sparsity)

    def _place(self, error: Exception | None) -> str:
        """The file of the function, with the innermost of its lines in an error's traceback."""
        file, line = self._function.__code__.co_filename, self._function.__code__.co_firstlineno
        frames = [] if error is None else traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == file]
        return f"search space {file}, line {lines[-1] if lines else line}"


def _told(error: Exception) -> str:
    """An exception in one line."""
    if isinstance(error, UserError):  # its text names a remedy
        return f"suggest: {error}"
    said = reason(error) if isinstance(error, ValueError) else str(error)
    return f"suggest raised {type(error).__name__}: {' '.join(said.split())}; mend the file"


def _setting(returned: Any, sparsity: float | None) -> PruningSetting:
    if isinstance(returned, PruningSetting):
        return returned
    if not isinstance(returned, Mapping):
        raise ValueError(f"it is {returned!r}; return a PruningSetting or a dictionary of its fields")
    defaults: dict[str, Any] = {"scope": "group" if returned.get("ratios") else "global"}
    if sparsity is not None:
        defaults["sparsity"] = sparsity
    return PruningSetting.model_validate({**defaults, **returned})


def _check_totals(setting: PruningSetting, sizes: Mapping[str, int], sparsity: float | None) -> None:
    """Check the sparsity of a setting against the search's, and the ratios against the sparsity.

    Args:
        setting: a setting made by the user's function.
        sizes: number of prunable weights in each group.
        sparsity: the total sparsity asked for by the search, or None.

    Raises:
        ValueError: the sparsity is another one, or the ratios remove another fraction of all weights.
    """
    if sparsity is not None and abs(setting.sparsity - sparsity) > 1e-9:
        raise ValueError(
            f"its sparsity is {setting.sparsity}, but the search asks for {sparsity}; take workload.sparsity"
        )
    if setting.ratios is None:
        return
    if setting.ratios.keys() != sizes.keys():
        raise ValueError(f"its ratios are of {', '.join(setting.ratios)}, but the groups are {', '.join(sizes)}")
    removed = sum(setting.ratios[group] * size for group, size in sizes.items()) / sum(sizes.values())
    if abs(removed - setting.sparsity) > 1e-3:
        raise ValueError(
            f"its ratios remove {removed:.4g} of all weights, but its sparsity is {setting.sparsity}; "
            "workload.ratios(...) finds ratios that fit"
        )

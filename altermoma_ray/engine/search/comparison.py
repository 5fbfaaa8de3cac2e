"""The trials of a comparison of criteria, or of an ablation of one criterion.

A comparison is a search whose trials are settled beforehand. The checkpoint, the data and their order, the fine-tuning
and the single global threshold are the same in all trials; only the compared part differs. A seed draws both the
scoring data and the order of fine-tuning, so trials of one seed are pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from altermoma_ray.engine.search.plan import Ablation, SearchPlan
from altermoma_ray.engine.space import PruningSetting, SearchSpace
from altermoma_ray.engine.space.setting import CHANNELS, SINGLE_WEIGHTS, parameter_names
from altermoma_ray.engine.trials.job import TrialTask
from altermoma_ray.errors import UserError
from altermoma_ray.pruning import ReactivationGradient
from altermoma_ray.pruning.criteria import CRITERIA
from altermoma_ray.tracking.comparison.statistics import UNPRUNED
from altermoma_ray.workloads.reference import WorkloadReference

BETAS = tuple(0.25 * step for step in range(9))
"""β with α = 1 (AlterMOMA Fig. 4)."""
RESIDUAL_BETAS = (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0)
"""β of :class:`altermoma_ray.pruning.criteria.ResidualAlterMOMA` with α = 1; values below 0 are a control."""
STEPS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Values of B, the number of reactivation steps."""
LEARNING_RATES = (1e-5, 1e-4, 1e-3, 1e-2)
"""Learning rates of the reactivation."""
SCORING_BATCHES = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of batches in D, the scoring data."""
DISTILLATIONS = (0.0, 0.3, 1.0, 3.0)
"""Weights of distillation while fine-tuning; 0 trains on the task alone, for as many steps."""
_REACTIVATION = ("reactivation_steps", "reactivation_learning_rate", "reactivation_gradient")
_SEARCH_LABEL = "search "


def criteria_settings(space: SearchSpace, criteria: Sequence[str], sparsities: Sequence[float]) -> list[PruningSetting]:
    """The settings of every criterion at every sparsity, and of the unpruned model, which comes first.

    Example:
        >>> [setting.criterion for setting in criteria_settings(SearchSpace(), ["snip", "deci"], [0.9])]
        ['unpruned', 'snip', 'deci']

    Args:
        space: gives the learning rate, the number of scoring batches, the granularity and the paper's reactivation.
        criteria: names of the criteria to compare.
        sparsities: total sparsities.

    Raises:
        UserError: a criterion is unknown.
    """
    for name in criteria:
        if name not in CRITERIA:
            raise UserError(f"unknown criterion {name!r}; choose out of {', '.join(CRITERIA)}")
    compared = [
        _setting(space, criterion=name, sparsity=sparsity, **_fields(space, name))
        for sparsity in sparsities
        for name in criteria
    ]
    return [_setting(space, criterion=UNPRUNED, sparsity=0.0), *compared]


def ablation_settings(
    space: SearchSpace, ablation: Ablation, sparsities: Sequence[float], criteria: Sequence[str] = ("altermoma",)
) -> list[PruningSetting]:
    """The settings of AlterMOMA with one part varied and the others as published; each distinct setting once.

    Distillation is varied for any criteria, since each is fine-tuned alike.

    Example:
        >>> len(ablation_settings(SearchSpace(), "beta", [0.9])) == 1 + len(BETAS)
        True

    Args:
        space: gives the learning rate, the number of scoring batches, the granularity and the paper's reactivation.
        ablation: the part to vary.
        sparsities: total sparsities.
        criteria: names of the criteria; other than AlterMOMA only where distillation is varied.

    Raises:
        UserError: a criterion is unknown.
    """
    assert ablation in get_args(Ablation)
    if ablation == "distillation":
        unpruned, *plain = criteria_settings(space, criteria, sparsities)
        weights = [{"distillation": weight} for weight in DISTILLATIONS]
        return [unpruned, *(setting.model_copy(update=weight) for setting in plain for weight in weights)]
    published = _fields(space, "altermoma")
    if ablation == "beta":
        varied: list[dict[str, Any]] = [{"beta": beta} for beta in BETAS]
    elif ablation == "residual":
        varied = [{"criterion": "altermoma-residual", "beta": beta} for beta in RESIDUAL_BETAS]
    else:
        varied = [{"reactivation_steps": steps} for steps in STEPS]
        varied += [{"reactivation_learning_rate": rate} for rate in LEARNING_RATES]
        # Learning rates twice: a rate too low for the published B may well do for the longest reactivation.
        varied += [{"reactivation_steps": max(STEPS), "reactivation_learning_rate": rate} for rate in LEARNING_RATES]
        varied += [{"reactivation_gradient": gradient} for gradient in get_args(ReactivationGradient)]
        varied += [{"scoring_batches": batches} for batches in SCORING_BATCHES]
        varied += [{"norms": "batch"}, {"normalisation": "layer"}, {}]
    settings = [
        _setting(space, **{"criterion": "altermoma", "sparsity": sparsity, **published, **change})
        for sparsity in sparsities
        for change in varied
    ]
    unpruned = _setting(space, criterion=UNPRUNED, sparsity=0.0)
    # The published value of a part is in each list of values: the setting of all published parts comes up repeatedly.
    return list({setting.model_dump_json(): setting for setting in (unpruned, *settings)}.values())


def published_parts(space: SearchSpace, ablation: Ablation) -> dict[str, str | float | int | bool | None]:
    """The published value of each part varied by an ablation.

    >>> published_parts(SearchSpace(), "beta")["beta"]
    1.0
    """
    if ablation == "distillation":  # of several criteria, which differ in all other parts
        return {"distillation": 0.0}
    setting = _setting(space, criterion="altermoma", sparsity=0.0, **_fields(space, "altermoma"))
    names = ("beta", "scoring_batches", "norms", "normalisation", *_REACTIVATION)
    return {name: getattr(setting, name) for name in names}


def champion_setting(plan: SearchPlan) -> PruningSetting:
    """The setting of a search's best trial.

    Raises:
        UserError: no trial has run to its end, or no finished trial has a finite objective.
    """
    objective = plan.optimised
    finished = {result.number: result for result in plan.results() if result.status == "finished"}
    if not finished:
        raise UserError(f"search {plan.name!r} has no finished trial to compare; --resume it first")
    # Trials which stopped at a rung are left out: their metrics are of other samples and a shorter fine-tuning.
    best = objective.best({number: objective.values(result) for number, result in finished.items()})
    if best is None:
        raise UserError(
            f"search {plan.name!r} has no best trial to compare: none of its {len(finished)} finished trials has a "
            f"finite {plan.objective}; leave it out of --search"
        )
    return PruningSetting.model_validate(finished[best].configuration["setting"])


def search_label(name: str) -> str:
    """The label for the best trial of a search in a comparison.

    >>> search_label("nusc-1")
    'search nusc-1'
    """
    return f"{_SEARCH_LABEL}{name}"


def compared(plan: SearchPlan) -> dict[str, Any]:
    """The options of a comparison's command which are no field of its plan, as read from the trials of the plan."""
    # Dictionaries in place of sets: they keep the order of the command, in which a refusal names the values.
    own = [task for task in plan.grid if task.label is None and task.setting.criterion != UNPRUNED]
    labels = dict.fromkeys(task.label for task in plan.grid if task.label is not None)
    return {
        "criteria": list(dict.fromkeys(task.setting.criterion for task in own)),
        "sparsities": list(dict.fromkeys(task.setting.sparsity for task in own)),
        "seeds": len({task.seed for task in plan.grid}),
        "budget": list(dict.fromkeys(task.fine_tune_epochs for task in plan.grid)),
        "ablate": plan.ablation,
        "search": [label.removeprefix(_SEARCH_LABEL) for label in labels],
    }


def offered_criteria(workload: WorkloadReference) -> list[str]:
    """The names of all criteria able to score a workload's model."""
    # Only a built model tells of a method ``flow``; the weights do not matter, and none are loaded.
    has_flow = hasattr(workload.load().build(), "flow")
    return [name for name, criterion in CRITERIA.items() if has_flow or not criterion.needs_flow]


def grid(
    settings: Mapping[str, Sequence[PruningSetting]], *, seeds: Sequence[int], budgets: Sequence[float]
) -> list[TrialTask]:
    """One trial for every setting, seed and length of fine-tuning; trials of one seed follow each other.

    Args:
        settings: by label; the label ``""`` stands for each setting's own criterion.
        seeds: seeds of the trials.
        budgets: lengths of fine-tuning in epochs.
    """
    # Seeds are the outermost loop: a comparison stopped early has all settings of its first seeds, which are pairs.
    wanted = [
        {"setting": setting, "seed": seed, "fine_tune_epochs": epochs, "label": label or None}
        for seed in seeds
        for epochs in budgets
        for label, group in settings.items()
        for setting in group
    ]
    return [TrialTask(number=number, **fields) for number, fields in enumerate(wanted)]


def _fields(space: SearchSpace, criterion: str) -> dict[str, Any]:
    """The fields of a criterion which reads a reactivation: its β, and the paper's reactivation.

    A criterion registered with a reactivation of its own keeps its own.
    """
    # The sparsity is of no importance here: it only completes the draws.
    registered, published = CRITERIA[criterion], space.published(0.5)
    if registered.needs != "indicators" or registered.reads is None:
        return {}
    fields: dict[str, Any] = {name: getattr(registered, name) for name in parameter_names(registered) if name == "beta"}
    if "reactivation" not in registered.own():
        fields |= {name: published[name] for name in _REACTIVATION}
    return fields if registered.own() else {"scoring_batches": space.scoring_batches, **fields}


def _setting(space: SearchSpace, **fields: Any) -> PruningSetting:
    # The unpruned model keeps its text whatever the units: all comparisons share its meaning.
    granularity = SINGLE_WEIGHTS if fields["criterion"] == UNPRUNED else space.granularity
    bounds = {"bounds": space.bounds} if granularity == CHANNELS else {}
    learning_rate = space.published(0.5)["learning_rate"]
    return PruningSetting(scope="global", learning_rate=learning_rate, granularity=granularity, **bounds, **fields)

"""A table of whole trials to replay: what early stopping could have known of each trial, and how each trial ended.

    python -m benchmarks.trial_table --sparsity 0.85 [--trials 48] [--workload nusc] [--model bevfusion-mit-toy]

The settings are drawn at random from the workload's search space, and every trial runs to its end. A trial is evaluated
on 75 validation samples (one of each scene) before fine-tuning, with the unpruned model's normalisation statistics and
with statistics taken anew, and after 1, 2, 4, 8, 15 and 30 of 60 steps; on all samples at the end. On 40 samples it is
evaluated after 4, 8 and 15 steps with statistics taken anew, and after a sprint: a fine-tuning of 4 steps alone, whose
learning rate falls to 0 within them and is the same for all trials. An evaluation before the last pruning of an
iterative schedule measures the model under the last masks; training then goes on with the masks of its schedule.

At last one fine-tuning of ``--shared`` steps is shared by all trials: each step prunes the weights by the last masks of
a trial drawn at random, and learns under these masks alone. Every trial is evaluated with the shared weights under its
own masks, with statistics of its own.

An evaluation gives the objective of its samples, of as few of them as a search might take for a rung, and of each scene
alone. The table is ``results/trials-<model>-<sparsity>.parquet``, one row an evaluation; ``benchmarks.replay``
reads it. Ended trials are kept in ``--storage``, and the trials of a table that is there already stay in it, so that a
run which was stopped goes on, on another machine too.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from altermoma_ray.cli import positive_int, ratio, run
from altermoma_ray.console import console
from altermoma_ray.data.sampling import spread
from altermoma_ray.engine.certificate.measure import scenes_of
from altermoma_ray.engine.search.planning import SearchRequest, plan_search
from altermoma_ray.engine.space.files import load_space
from altermoma_ray.engine.training.evaluation import Evaluator
from altermoma_ray.engine.training.loop import one_cycle, train_steps, training_batches
from altermoma_ray.engine.training.norms import exchange_statistics, retake_statistics
from altermoma_ray.engine.trials.ending import Found
from altermoma_ray.engine.trials.job import TrialJob, TrialTask
from altermoma_ray.engine.trials.results import read_result
from altermoma_ray.engine.trials.trial import TrialRunner
from altermoma_ray.pruning import MaskHolder, Masks
from altermoma_ray.storage import Location
from altermoma_ray.tracking.result import Evaluation, TrialResult
from altermoma_ray.workloads.reference import find_workload
from benchmarks.report import options_parser

STEPS = (1, 2, 4, 8, 15, 30)
"""Evaluations on the way, in steps of a fine-tuning of 60; a longer one is evaluated at the same shares."""
ON_THE_WAY = 75
"""Validation samples of an evaluation before the end."""
SUBSETS = (10, 20, 40)
"""Numbers of samples of which a rung could take the objective, beside all that are evaluated."""
SPRINT = 4
"""Length of the short fine-tuning, in steps."""
RENEWED = (4, 8, 15)
"""Steps after which a trial is evaluated with new statistics too."""
RENEWED_SAMPLES = 40
"""Validation samples of evaluations with new statistics, but for the one before fine-tuning."""
STATISTICS_BATCHES = 4
"""Training batches for new statistics."""
COMMON_RATE = 6e-4
"""Learning rate of fine-tunings that are not a trial's own: the middle of the search space's range."""


class TableRunner(TrialRunner):
    """Runs trials as a search does, and evaluates them more often and scene by scene."""

    def __init__(self, job: TrialJob, objective: str) -> None:
        super().__init__(job)
        self._objective = objective
        self.rows = self._data.rows("validation", job.validation_part)
        on_the_way = self._data.rows("validation", job.validation_part, ON_THE_WAY)
        self._subsets = {f"first/{size}": spread(on_the_way, size) for size in SUBSETS if size < len(on_the_way)}
        self._some = Evaluator.of(self._data, spread(on_the_way, RENEWED_SAMPLES), self._recipe)
        self._last: dict[str, Tensor] = {}
        self._left: list[int] = []

    def _metrics(self, found: Found, evaluator: Evaluator) -> dict[str, float]:
        evaluate = self._task.evaluate
        evaluate_scene = getattr(self._task, "evaluate_scene", evaluate)
        predicted = set(evaluator.rows)
        subsets = {name: rows for name, rows in self._subsets.items() if predicted.issuperset(rows)}
        figures = {name: evaluate(found[""], self._data, rows) for name, rows in subsets.items()}
        figures[f"first/{len(predicted)}"] = evaluate(found[""], self._data, evaluator.rows)
        for number, rows in enumerate(scenes_of(self._data, evaluator.rows).values()):
            figures[f"scene/{number:04d}"] = evaluate_scene(found[""], self._data, rows)
        told = {name: float(of_rows[self._objective]) for name, of_rows in figures.items()}
        if "renewed" in found:
            renewed = self._metrics({"": found["renewed"]}, self._some)
            told |= {f"renewed/{name}": value for name, value in renewed.items()}
        return told

    def _evaluate(self, evaluator: Evaluator, prefix: str = "") -> dict[str, float]:
        figures = self._metrics(self._found(evaluator), evaluator)
        return {f"{prefix}{name}": value for name, value in figures.items()}

    def _fine_tune(self, run: Any, plan: Sequence[tuple[int, Masks]]) -> Iterator[Evaluation]:
        self._last = self._units(run.trial).held(plan[-1][1])
        yield Evaluation(step=0, metrics=self._untrained(run.trial))
        # In evaluations, since those of a fine-tuning of more steps lie elsewhere.
        self._left = [*STEPS, 60]
        yield from super()._fine_tune(run, plan)

    @torch.no_grad()
    def _untrained(self, trial: TrialTask) -> dict[str, float]:
        """The figures before fine-tuning and after a sprint; names begin with the kind of all but the first."""
        self._model.load_state_dict(self._initial)
        self._prune()
        figures = self._evaluate(self._rung_evaluator)
        self._retake(trial)
        figures |= self._evaluate(self._rung_evaluator, "renewed/")
        self._model.load_state_dict(self._initial)
        self._sprint()
        self._retake(trial)
        return figures | self._evaluate(self._some, f"sprint {SPRINT}/")

    def _retake(self, trial: TrialTask) -> None:
        retake_statistics(self._model, self._batches(STATISTICS_BATCHES, self._job.seed_of(trial)))

    @torch.enable_grad()
    def _sprint(self) -> None:
        """Fine-tune under the last masks for a few steps, at one learning rate for all trials, which falls to 0."""
        optimizer = torch.optim.AdamW(self._model.parameters(), lr=COMMON_RATE, weight_decay=self._recipe.weight_decay)
        with MaskHolder(self._model, self._last, optimizer) as holder:
            batches, schedule = self._batches(SPRINT, self._job.seed), one_cycle(optimizer, SPRINT)
            clip = self._recipe.clip_norm
            train_steps(self._model, self._task, batches, optimizer, schedule, clip_norm=clip, holder=holder)

    @torch.no_grad()
    def _predictions(self, trial: TrialTask, evaluator: Evaluator) -> Found:
        found = self._found(evaluator)
        self._told = exchange_statistics(self._model)
        if self._left.pop(0) in RENEWED:
            self._retake(trial)
            found["renewed"] = self._found(self._some)[""]
            exchange_statistics(self._model, self._told)
        return found

    def shared(self, trials: Sequence[TrialTask], steps: int) -> dict[int, dict[str, float]]:
        """The figures of each trial with weights which all trials have trained together."""
        masks = {trial.number: self._units(trial).held(self.decide(trial)[1]) for trial in trials}
        self._model.load_state_dict(self._initial)
        optimizer = torch.optim.AdamW(self._model.parameters(), lr=COMMON_RATE, weight_decay=self._recipe.weight_decay)
        scheduler, rng = one_cycle(optimizer, steps), np.random.default_rng(self._job.seed)
        weights = dict(self._model.named_parameters())
        for batch in training_batches(self._data, self._recipe, steps=steps, seed=self._job.seed, augment=False):
            mask = masks[int(rng.choice(list(masks)))]
            whole = {name: weight.detach().clone() for name, weight in weights.items()}
            _multiply(weights, mask)
            self._model.train()
            optimizer.zero_grad(set_to_none=True)
            self._task.loss(self._model(batch, frozenset()), batch)["total"].mean().backward()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._recipe.clip_norm)
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.copy_(whole[name])
                    if weight.grad is not None and name in mask:
                        weight.grad.mul_(mask[name])
            optimizer.step()
            scheduler.step()
        trained = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
        found = {}
        for trial in trials:
            self._model.load_state_dict(trained)
            _multiply(weights, masks[trial.number])
            retake_statistics(self._model, self._batches(STATISTICS_BATCHES, self._job.seed))
            found[trial.number] = self._evaluate(self._rung_evaluator)
        return found

    def _prune(self) -> None:
        _multiply(dict(self._model.named_parameters()), self._last)


@torch.no_grad()
def _multiply(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        weights[name].mul_(mask.to(weights[name].device))


def drawn(space: Any, sizes: dict[str, int], sparsity: float, trials: int, seed: int) -> list[TrialTask]:
    """Trials with settings drawn at random; a trial has a sampler of its own, and does not depend on the others."""
    tasks = []
    for number in range(trials):
        words = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=words))
        tasks.append(TrialTask(number=number, setting=space.suggest(study.ask(), sizes, sparsity)))
    return tasks


def rows_of(result: TrialResult) -> list[dict[str, Any]]:
    """One row an evaluation: the trial and its setting, the step, and the objective of subsets and of each scene.

    The column ``kind`` tells the weights and statistics evaluated: ``own`` of the trial, ``renewed`` for its own
    weights with statistics taken anew, ``sprint`` for the weights after a sprint with statistics taken anew, ``shared``
    for the weights of the fine-tuning shared by all trials, with statistics taken anew.
    """
    rows = []
    for evaluation in result.history:
        kinds: dict[str, dict[str, float]] = {}
        for name, value in evaluation.metrics.items():
            kind, figure = name.split("/", 1) if name.count("/") > 1 else ("own", name)
            kinds.setdefault(kind, {})[figure] = value
        for kind, figures in kinds.items():
            name, _, steps = kind.partition(" ")
            rows.append(row_of(result.number, result.params, int(steps or evaluation.step), name, figures))
    return rows


def row_of(
    trial: int, setting: Mapping[str, Any], step: int, kind: str, figures: Mapping[str, float]
) -> dict[str, Any]:
    """One row of the table, see :func:`rows_of`."""
    scenes = [figures[name] for name in sorted(figures) if name.startswith("scene/")]
    subsets = {int(name.partition("/")[2]): value for name, value in figures.items() if name.startswith("first/")}
    return {
        "trial": trial,
        "setting": json.dumps(setting),
        "step": step,
        "kind": kind,
        "subset_sizes": sorted(subsets),
        "subset_values": np.float32([subsets[size] for size in sorted(subsets)]).tolist(),
        "scene_values": np.float32(scenes).tolist(),
    }


def main() -> None:
    """Run what is left of the trials and write the table."""
    options = _options()
    asked = {name: getattr(options, name) for name in ("dataroot", "model") if getattr(options, name)}
    workload = find_workload(options.workload, options.storage, **asked)
    workload.load().source().prepare()
    space = load_space(options.workload, options.space)
    request = SearchRequest(
        workload=workload,
        checkpoint=options.checkpoint,
        space=space,
        sparsity=options.sparsity,
        trials=options.trials,
        repeat=True,
        seed=options.seed,
    )
    plan = plan_search(request)
    model = workload.load().name
    name = f"trials-{model}-{options.sparsity:g}"
    folder = Location.parse(options.storage).join("tables", name)
    job = plan.trial_job().model_copy(
        update={
            "folder": str(folder),
            "rungs": tuple(step / 60 for step in STEPS),
            "rung_samples": ON_THE_WAY,
            "rung_statistics": STATISTICS_BATCHES,  # rungs show the last masks
            "save_every": 1e9,
        }
    )
    runner = TableRunner(job, plan.optimised.names[0])
    tasks = drawn(space, plan.sizes, options.sparsity, options.trials, options.seed)
    target = Path(options.results) / f"{name}.parquet"
    kept = rows_kept(target, tasks)
    for task in tasks:
        if any(row["trial"] == task.number for row in kept):
            continue
        result = run_trial(runner, job, task)
        value = result.metrics.get(f"first/{len(runner.rows)}", math.nan)
        console.print(f"  trial {task.number}: {result.status}, {value:.3f} ({result.ended - result.started:.0f} s)")
        kept += rows_of(result)
        write_table(kept, target)
    if options.shared and all(row["kind"] != "shared" for row in kept):
        length = max(row["step"] for row in kept)
        whole = [task for task in tasks if any((row["trial"], row["step"]) == (task.number, length) for row in kept)]
        figures = runner.shared(whole, options.shared)
        kept += [row_of(task.number, job.params_of(task), 0, "shared", figures[task.number]) for task in whole]
        write_table(kept, target)
    console.print(f"{len({row['trial'] for row in kept})} trials in {target.name}")


def run_trial(runner: TableRunner, job: TrialJob, task: TrialTask) -> TrialResult:
    """Run a trial to its end, or take the result that an earlier run has left in the storage."""
    if read_result(job, task.number) is None:
        for _ in runner.run(task):
            pass
    result = read_result(job, task.number)
    assert result is not None
    return result


def rows_kept(file: Path, tasks: Sequence[TrialTask]) -> list[dict[str, Any]]:
    """The rows of a table for trials that are to be in it: the same number and, drawn from a range, learning rate."""
    if not file.exists():
        return []
    rates = {task.number: task.setting.learning_rate for task in tasks}
    rows = pq.read_table(file).to_pylist()
    return [row for row in rows if rates.get(row["trial"]) == json.loads(row["setting"])["learning_rate"]]


def write_table(rows: list[dict[str, Any]], file: Path) -> None:
    """Write all rows at once; a reader sees the table as it was, or as it is now."""
    new = file.with_suffix(".new")
    pq.write_table(pa.Table.from_pylist(rows), new, compression="zstd")
    new.replace(file)


def _options() -> argparse.Namespace:
    parser = options_parser(__doc__)
    parser.add_argument("--workload", default="nusc", help="name or reference (default: nusc)")
    parser.add_argument("--model", help="the workload's model (default: its own)")
    parser.add_argument("--space", type=Path, help="Python file that defines SPACE (default: the workload's)")
    parser.add_argument("--sparsity", type=ratio, default=0.85, help="of every trial (default: 0.85)")
    parser.add_argument("--trials", type=positive_int, default=48, help="to draw (default: 48)")
    parser.add_argument("--shared", type=int, default=240, help="steps shared by all trials; 0 for none (default: 240)")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

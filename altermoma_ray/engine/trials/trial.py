"""One trial: indicators, scores, masks, fine-tuning, evaluation, and its result in storage.

A trial writes its folder piece by piece, and ``result.json`` last: the run to a rung or to the end is over exactly when
``result.json`` says so (:func:`has_ended`).
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache, partial

import torch
from safetensors.torch import save as save_tensors

from altermoma_ray.engine.ray.workers import rank_and_world, worker_device
from altermoma_ray.engine.scoring.indicators import (
    load_indicators,
    load_masks,
    load_scores,
    seconds_to_score,
)
from altermoma_ray.engine.scoring.score import score_missing
from altermoma_ray.engine.scoring.units import SINGLE_WEIGHTS, bound_units
from altermoma_ray.engine.training.batches import RowLoader
from altermoma_ray.engine.training.distillation import Distillation
from altermoma_ray.engine.training.evaluation import Evaluator, on_first_worker
from altermoma_ray.engine.training.loop import (
    FineTuningBatches,
    data_parallel,
    one_cycle,
    steps_per_epoch,
    synchronise_buffers,
    train_steps,
)
from altermoma_ray.engine.training.norms import BATCHES, Statistics, exchange_statistics, retake_statistics
from altermoma_ray.engine.trials.budget import costs_of, within_budget
from altermoma_ray.engine.trials.clock import Clock
from altermoma_ray.engine.trials.ending import Ending, Found, TakeEnding, metrics_of, write_result
from altermoma_ray.engine.trials.events import ChooseMasks, events_of, step_of
from altermoma_ray.engine.trials.histograms import score_histograms
from altermoma_ray.engine.trials.job import TrialJob, TrialTask
from altermoma_ray.engine.trials.results import (
    configuration_of,
    has_ended,
    read_result,
    record_failure,
    state_file,
)
from altermoma_ray.engine.trials.run import Run
from altermoma_ray.engine.trials.saved_state import SavedState, all_agree, seeded
from altermoma_ray.models.checkpoint import save_checkpoint
from altermoma_ray.pruning import MaskHolder, Masks, Schedule, Weights, coverage, prunable_weights
from altermoma_ray.pruning.criteria import IndicatorCriterion
from altermoma_ray.pruning.granularity import Granularity
from altermoma_ray.pruning.targets import OutOfReach, Target
from altermoma_ray.storage import Location
from altermoma_ray.tracking.result import Evaluation, Histogram, TrialResult
from altermoma_ray.workloads.workload import groups_of


class TrialRunner:
    """Runs trials one after another; their model, data and indicators are loaded once.

    >>> runner = TrialRunner(job)                                    # doctest: +SKIP
    >>> for report in runner.run(TrialTask(number=0, setting=s)):    # doctest: +SKIP
    ...     print(report["step"], report["map"])
    """

    def __init__(self, job: TrialJob) -> None:
        self._job = job
        workload = job.workload.load()
        self._data, self._recipe = workload.source(), workload.recipe
        self._model, _ = workload.load(Location.parse(job.scoring.checkpoint))
        self._model.to(worker_device())
        # Cloned: state_dict() gives views of the parameters, which training would change.
        self._initial = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
        self._task = workload.task_for(self._model)
        # Of the norms, at the last evaluation of the running trial; None where this process made none yet.
        self._told: Statistics | None = None
        self._names = list(prunable_weights(self._model))
        self._groups = groups_of(self._model, self._names)
        self._coverage = coverage(self._model)
        rows = self._data.rows("validation", job.validation_part)
        rung_rows = self._data.rows("validation", job.validation_part, job.rung_size(len(rows)))
        # One for all: its processes hold the data source each, and stay from trial to trial.
        samples = [*self._data.rows("train"), *rows]
        loader = RowLoader(self._data, samples, processes=self._recipe.loader_processes)
        self._evaluator = Evaluator.of(self._data, rows, self._recipe, loader)
        self._rung_evaluator = Evaluator.of(self._data, rung_rows, self._recipe, loader)
        # Bounded, since each entry has the size of the model. The caches belong to this runner, not to the class, whose
        # cache would keep every runner alive.
        self._indicators = lru_cache(maxsize=4)(load_indicators)
        self._scored = lru_cache(maxsize=4)(load_scores)
        self._batches = FineTuningBatches(self._data, self._recipe, loader)
        self._bound: dict[str, Granularity] = {}
        self._distillation = Distillation(self._model, self._initial, self._data)

    def reference(self) -> dict[str, float]:
        """Metrics of the unpruned model."""
        self._model.load_state_dict(self._initial)
        return self._metrics(self._found(self._evaluator), self._evaluator)

    def _found(self, evaluator: Evaluator) -> Found:
        """Predictions of the whole model, and of the model without each modality named by the objective."""
        masks = {"": frozenset[str](), **{modality: frozenset({modality}) for modality in self._job.without}}
        return {name: evaluator.predictions(self._model, self._task, masked=masked) for name, masked in masks.items()}

    def _metrics(self, found: Found, evaluator: Evaluator) -> dict[str, float]:
        """The task's metrics of predictions; the same on every worker."""
        return on_first_worker(lambda: metrics_of(found, self._task, self._data, evaluator.rows))

    def run(self, trial: TrialTask, beside: TakeEnding | None = None) -> Iterator[dict[str, float]]:
        """Run a trial, yielding the metrics of every evaluation with ``step``; the result is in storage at the end.

        A loss which is not finite, or a sparsity or budget beyond the reach of whole units, ends the trial as
        ``failed``, with its reason. A trial with a result in storage does not run again: its process had died after
        the result, before its last report.

        Args:
            trial: its setting, and how far to run.
            beside: takes over the end of the run: the metrics of the last evaluation, and the result in storage.

        Yields:
            The metrics of an evaluation, and its ``step``; of metrics computed beside the ``step`` alone.
        """
        earlier = read_result(self._job, trial.number)
        is_there = earlier is not None and earlier.status != "failed" and has_ended(earlier, trial.until)
        # `all_agree` first: every worker must take part, whatever the worker itself has read.
        if all_agree(is_there) and is_there:
            return
        self._told = None
        steps = self._steps(trial)
        end = steps if trial.until is None else step_of(self._job.rungs[trial.until], steps)
        run = Run(trial=trial, steps=steps, end=end, earlier=earlier, clock=Clock(earlier), defers=beside is not None)
        clock, history = run.clock, run.history
        try:
            score_missing(self._job.scoring_of(trial))
            clock.lap("criterion")
            scores = self._scores(trial)
            plan = self._plan(scores, trial, steps, end)
            masks = plan[-1][1]()
            costs = costs_of(self._job.costs, self._units(trial), masks)
            clock.lap("score")
            for evaluation in self._fine_tune(run, plan):
                evaluation = Evaluation(step=evaluation.step, metrics={**evaluation.metrics, **costs})
                # `_fine_tune` shares this list, and keeps it with the state when asked for the next evaluation.
                history.append(evaluation)
                yield {"step": float(evaluation.step), **evaluation.metrics}
            # The model is kept as it was evaluated: with its last masks, even where the trial stops before its last
            # pruning, and with the statistics with which its figures were told.
            MaskHolder(self._model, self._units(trial).held(masks)).release()
            if self._told is None:
                self._renew_statistics(trial, batches=self._job.rung_statistics if end < steps else 0)
            else:
                exchange_statistics(self._model, self._told)
            if rank_and_world()[0] == 0:
                result = self._write(run, scores, masks)
                if beside is not None and run.unscored is not None:
                    beside(Ending(result, *run.unscored))
                else:
                    write_result(self._job, result)
        except (FloatingPointError, OutOfReach) as error:
            # Raised on all workers alike, so none is left in a reduction, and one record is enough.
            if rank_and_world()[0] == 0:
                record_failure(self._job, trial, str(error), history=history, seconds=clock.seconds)

    def decide(self, trial: TrialTask) -> tuple[Granularity, Masks]:
        """The units of a trial, bound to the model, and the trial's last masks; nothing is trained."""
        return self._units(trial), self._plan(self._scores(trial), trial, steps=0, end=0)[-1][1]()

    def _units(self, trial: TrialTask) -> Granularity:
        """The granularity of a trial, bound to this model; kept, since finding a model's channels takes a while."""
        units = trial.setting.units
        key = repr(units)  # the bounds too
        if key not in self._bound:
            self._bound[key] = bound_units(units, self._model, self._data)
        return self._bound[key]

    def _steps(self, trial: TrialTask) -> int:
        # A positive length is at least one step: a short fine-tuning on few data must not become none.
        epochs = self._job.epochs_of(trial)
        return max(1, round(epochs * steps_per_epoch(self._data, self._recipe))) if epochs > 0 else 0

    def _scores(self, trial: TrialTask) -> Weights:
        """Scores of all weights; empty for a criterion which prunes in rounds and left masks."""
        criterion, job = trial.setting.build(), self._job.scoring_of(trial)
        # The unpruned model has scores as well, all equal: at sparsity 0 they keep every weight by the usual way.
        if criterion is None:
            return {name: torch.ones_like(self._initial[name]) for name in self._names}
        if isinstance(criterion, IndicatorCriterion):
            return criterion.combine(self._indicators(job, criterion.reads), self._groups)
        return self._scored(job, job.criteria[0]) if criterion.needs == "scores" else {}

    def _plan(self, scores: Weights, trial: TrialTask, steps: int, end: int) -> list[tuple[int, ChooseMasks]]:
        """The fine-tuning steps at which to prune, and what gives the masks of each; the last masks meet the target.

        Args:
            scores: of all weights; empty for a criterion which left masks.
            trial: gives sparsity, ratios, schedule and granularity.
            steps: length of the whole fine-tuning.
            end: step at which the run ends.
        """
        setting = trial.setting
        if not scores:
            job = self._job.scoring_of(trial)
            return [(0, cache(partial(load_masks, job, job.masks[0])))]
        rounds = 1 if setting.schedule == "one-shot" else self._job.iterative_rounds
        schedule = Schedule(kind=setting.schedule, rounds=rounds)
        target = Target(groups=self._groups, sparsity=setting.sparsity, ratios=setting.ratios)
        # A phase has at least as many steps as rounds. In a fine-tuning of fewer steps the last rounds act at its end,
        # where the masks of the target go before the others.
        when = [min(step, steps) for step in schedule.steps(max(rounds, round(self._job.pruning_phase * steps)))]
        units = self._units(trial)
        target = within_budget(target, self._job.budget, self._job.costs, units, scores)
        goals = list(zip(when, target.rounds(schedule), strict=True))
        if end == 0 < steps:
            goals = [(0, target)]  # the rung before training shows the last masks, and nothing is trained under others
        return [(step, cache(partial(units.select, scores, goal))) for step, goal in goals]

    def _fine_tune(self, run: Run, plan: Sequence[tuple[int, ChooseMasks]]) -> Iterator[Evaluation]:
        """Prune θ_init by the plan, train up to the run's end, and evaluate at every rung and at the end.

        A trial which stopped at a rung, or died, goes on from its saved state. The run's history then begins with the
        evaluations made before. Its clock receives the time spent.
        """
        trial, steps, end, clock = run.trial, run.steps, run.end, run.clock
        self._model.load_state_dict(self._initial)
        optimizer = torch.optim.AdamW(
            self._model.parameters(), lr=trial.setting.learning_rate, weight_decay=self._recipe.weight_decay
        )
        saved = self._saved_state(trial)
        done, kept = saved.restore(self._model, optimizer)
        run.take_up(kept, done)
        # Over all steps, not to the rung: a promoted trial goes on along the curve of an uninterrupted one.
        scheduler = one_cycle(optimizer, steps, done=done)
        seed = self._job.seed_of(trial)
        # Batches of other steps are left out: a resumed trial sees the same ones as an undisturbed trial.
        batches = seeded(self._batches(steps, seed, done=done, end=end), seed, done)
        # The masks of a resumed trial are found again from the plan: scores in storage give the same masks every time.
        events = events_of(plan, self._job.rungs, steps)
        masks = next(event.masks for event in reversed(events) if event.step <= done and event.masks is not None)
        units = self._units(trial)
        held, weight = units.held(masks()), trial.setting.distillation
        with self._distillation.loss(weight) as extra_loss, MaskHolder(self._model, held, optimizer) as holder:
            if steps == 0:
                # Nothing else brings the norms' statistics up to date; those of whole units are taken anew in any case.
                if trial.setting.granularity == SINGLE_WEIGHTS:
                    retake_statistics(self._model, self._batches(BATCHES, seed))
                yield Evaluation(step=0, metrics=self._measured(run, self._evaluator))
                return
            trained, clip_norm = data_parallel(self._model), self._recipe.clip_norm
            train = partial(train_steps, trained, self._task, clip_norm=clip_norm, holder=holder, extra_loss=extra_loss)
            step = done
            for event in (event for event in events if run.has_to_do(event, done)):
                train(itertools.islice(batches, event.step - step), optimizer, scheduler)
                step = event.step
                clock.lap("fine_tune")
                # Pruned before evaluated: the figures are of the masks from here on.
                if event.masks is not None:
                    holder.update(units.held(event.masks()))
                if event.is_evaluated:
                    synchronise_buffers(self._model)
                    is_last = step == end
                    if step == steps:
                        metrics = self._measured(run, self._evaluator, is_last=is_last)
                    else:
                        with self._previewed(trial, units.held(plan[-1][1]())):
                            metrics = self._measured(run, self._rung_evaluator, is_last=is_last)
                    yield Evaluation(step=step, metrics=metrics)
                # Behind the yield: by now the caller has put the evaluation into the history. Nothing is trained at
                # step 0 that could be kept.
                if 0 < step < steps:
                    saved.save(step, run.scored, self._model, optimizer, now=step == end)

    @contextmanager
    def _previewed(self, trial: TrialTask, last: Masks) -> Iterator[None]:
        """The model as its last masks and new normalisation statistics make it, where a job asks for that at rungs.

        Training goes on afterwards with the weights and the statistics of before.
        """
        if not self._job.rung_statistics:
            yield
            return
        weights = {name: weight.detach().clone() for name, weight in self._model.named_parameters()}
        # Without the optimiser: its moments go on with the weights.
        MaskHolder(self._model, last).release()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in self._model.named_parameters():
                    weight.copy_(weights[name])

    def _measured(self, run: Run, evaluator: Evaluator, *, is_last: bool = True) -> dict[str, float]:
        """The metrics of a trial's model; none where the run leaves its last ones to another process."""
        found = self._predictions(run.trial, evaluator)
        run.clock.lap("evaluate")
        if is_last and run.defers:
            run.unscored = evaluator.rows, found
            return {}
        metrics = self._metrics(found, evaluator)
        run.clock.lap("metric")
        return metrics

    def _predictions(self, trial: TrialTask, evaluator: Evaluator) -> Found:
        """Predictions of a trial's model, with statistics taken anew; training goes on with its own."""
        trained = exchange_statistics(self._model)
        at_rung = evaluator is self._rung_evaluator
        self._renew_statistics(trial, batches=self._job.rung_statistics if at_rung else 0)
        found = self._found(evaluator)
        self._told = exchange_statistics(self._model, trained)
        return found

    def _renew_statistics(self, trial: TrialTask, *, batches: int = 0) -> None:
        """Take the norms' statistics anew where whole units are pruned, or where a number of batches is given.

        Otherwise single weights keep the statistics of training.
        """
        if trial.setting.granularity != SINGLE_WEIGHTS or batches:
            retake_statistics(self._model, self._batches(batches or BATCHES, self._job.seed_of(trial)))
            # Each worker has seen its own share of the batches.
            synchronise_buffers(self._model)

    def _write(self, run: Run, scores: Weights, masks: Masks) -> TrialResult:
        """Write the trial's files but for ``result.json``, which is written last of all, of what this returns.

        A trial that dies in here runs again, and overwrites the files.
        """
        trial, history, clock = run.trial, run.history, run.clock
        folder = self._job.trial_folder(trial.number)
        configuration = configuration_of(self._job, trial) | {
            "fine_tune_steps": history[-1].step,  # the steps done, which early stopping cuts short
            "floored_layers": list(masks.floored),
            "process": f"{socket.gethostname()}:{os.getpid()}",
        }
        # The model may be cut to smaller tensors; the plan tells a reader of the file how to rebuild the architecture.
        units = self._units(trial)
        model, cost = units.finalise(self._model, masks), units.cost(masks)
        # Single weights of a model without some channels leave its architecture as the model came.
        plan = units.plan(masks) or getattr(self._model, "channel_plan", {})
        save_checkpoint(folder.join("model.safetensors"), model, {"trial": configuration}, plan=plan)
        folder.join("masks.safetensors").write_bytes(save_tensors(masks.to_tensors()))
        sparsity = {"total": masks.sparsity(), **masks.sparsity_by_group(self._groups)}
        # Beside the sparsity of the prunable weights: a user may count layers that no criterion reaches.
        if self._coverage.unusual:
            sparsity["all_parameters"] = self._coverage.sparsity_of_all(sparsity["total"])
        clock.lap("write")
        # The time of scoring as spent by the trial which paid for it: this one may have read the scores from storage.
        seconds = clock.seconds | {"criterion": seconds_to_score(self._job.scoring_of(trial))}
        return TrialResult(
            number=trial.number,
            status="finished" if run.end == run.steps else "stopped",
            params={**self._job.params_of(trial), **{f"ratio_{group}": sparsity[group] for group in self._groups}},
            metrics=history[-1].metrics,
            history=list(history),
            sparsity=sparsity,
            layer_sparsity=masks.sparsity_by_layer(),
            params_left=cost.weights_left,
            params_total=cost.weights_total,
            configuration=configuration,
            histogram=self._histogram(run, scores, masks),
            seconds=seconds,
            started=clock.started,
            ended=time.time(),
        )

    def _histogram(self, run: Run, scores: Weights, masks: Masks) -> dict[str, Histogram]:
        # An earlier run of the trial, to a rung, had the same scores and the same last masks.
        if run.earlier is not None and run.earlier.histogram:
            return run.earlier.histogram
        return score_histograms(scores, masks, self._groups) if scores else {}

    def _saved_state(self, trial: TrialTask) -> SavedState:
        # Without the rung: a promoted trial is the same one, and takes up its own state.
        identity = trial.model_dump_json(exclude={"until"})
        return SavedState(state_file(self._job, trial.number), identity, every=self._job.save_every)

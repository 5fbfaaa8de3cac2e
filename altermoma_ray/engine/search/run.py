"""A pruning search from plan to leaderboard: indicators, reference, trials, MLflow.

Every result of a search is in storage as soon as known. A search can therefore stop at any moment and go on::

    searches/<name>/search.json              the plan: all decisions made at the start
    searches/<name>/driver.json              the process running the search
    searches/<name>/trials/<number>/...      the files of each trial, its result.json last
    references/<key>.json                    metrics of the unpruned model
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any

import ray
from ray import tune

from altermoma_ray.console import console
from altermoma_ray.engine.ray.trainer import scratch_folder
from altermoma_ray.engine.ray.workers import (
    check_room,
    check_shared,
    driver_resources,
    ray_session,
    result_of,
    worker_slots,
)
from altermoma_ray.engine.scoring.score import score
from altermoma_ray.engine.search.costs import unpruned_costs
from altermoma_ray.engine.search.driver import sole_driver
from altermoma_ray.engine.search.logbook import Logbook
from altermoma_ray.engine.search.plan import SearchPlan
from altermoma_ray.engine.search.planning import begin_search
from altermoma_ray.engine.search.resuming import on_same_data
from altermoma_ray.engine.search.searcher import CollectMetrics, ForgiveNodes, ProposalSearcher, StopOnMistake
from altermoma_ray.engine.trials.job import TrialJob
from altermoma_ray.engine.trials.results import forget_state
from altermoma_ray.engine.trials.trainable import GroupActor, TrialActor
from altermoma_ray.engine.trials.trial import TrialRunner
from altermoma_ray.errors import UserError
from altermoma_ray.metrics import COSTS, SPARSITY
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.tracker import Tracker
from altermoma_ray.tracking.result import TrialResult


def run_search(plan: SearchPlan, tracker: Tracker, *, resume: bool, numbered: bool = False) -> SearchPlan:
    """Run a search or a comparison to its end, from its beginning or from its last result::

        plan = run_search(plan_search(request), tracker, resume=False)

    Args:
        plan: the plan of the search.
        tracker: MLflow's side of the search.
        resume: whether to go on with an earlier search.
        numbered: whether a new search may get the next free number in its name, see :func:`begin_search`.

    Returns:
        The plan as carried out.

    Raises:
        UserError: the name of a new search is taken, or the data of a resumed search have changed.
    """
    # Before Ray starts: changed data are found in seconds, a cluster takes longer.
    plan = on_same_data(plan)
    with ray_session():
        check_room(plan.workers, plan.gpus_per_worker)
        check_shared(plan.storage)
        slots = worker_slots(plan.gpus_per_worker)
        # Saved for good: proposals depend on the lookahead, so a resumed search keeps its own on any cluster.
        # Twice the trials side by side: a slow trial then leaves the other slots with work.
        if plan.lookahead == 0:
            plan = plan.model_copy(update={"lookahead": 2 * max(1, slots // plan.workers)})
        if not resume:
            plan = begin_search(plan, numbered=numbered, is_free=tracker.is_free)
        with sole_driver(plan.folder):
            if resume:
                plan.save()  # in the format of this release
            console.print(f"[bold]search[/] {plan.name}")
            plan.folder.join("ray").delete()  # left over by a killed driver
            _run_stages(plan, tracker, slots, resume=resume)
    return plan


def _run_stages(plan: SearchPlan, tracker: Tracker, slots: int, *, resume: bool) -> None:
    with Logbook(plan, tracker, resume=resume) as logbook:
        job, wanted = plan.trial_job(), plan.scoring_jobs()
        things = sum(map(len, wanted))
        console.print(f"[bold]scoring[/] {things} indicators, scores and masks")
        computed = score(wanted, workers=min(slots, 8), gpus_per_worker=plan.gpus_per_worker, scratch=plan.folder)
        console.print(f"  {computed} computed, {things - computed} from storage")
        # Ray evaluates the unpruned model beside the trials; only the end of the search waits for the metrics.
        reference = _reference(plan, job)
        results = _run_trials(plan, job, logbook)
        logbook.close(results, result_of(reference) | unpruned_costs(plan))


def _run_trials(plan: SearchPlan, job: TrialJob, logbook: Logbook) -> list[TrialResult]:
    searcher = ProposalSearcher(plan.proposer(), job, logbook.trial_ended)
    known = plan.results()
    # Earlier results go in first: the replayed proposals then run through the ended trials without starting them.
    for result in known:
        searcher.tell(result)
    logbook.start(known)
    if searcher.has_more():
        if plan.workers == 1:
            trainable: Any = tune.with_resources(
                tune.with_parameters(TrialActor, job=job), {"CPU": 1, "GPU": plan.gpus_per_worker}
            )
        else:
            trainable = tune.with_resources(
                tune.with_parameters(GroupActor, job=job, workers=plan.workers, gpus_per_worker=plan.gpus_per_worker),
                driver_resources(),  # the actor only waits for its workers, which have places of their own
            )
        tune_trials(plan, searcher, trainable)
        if searcher.mistake is not None:
            raise UserError(searcher.mistake)
    results = plan.results()
    for result in results:
        forget_state(job, result.number)  # trials at a rung kept their state for a promotion
    return results


def tune_trials(plan: SearchPlan, searcher: ProposalSearcher, trainable: Any) -> None:
    """Let Ray Tune run the proposals of a searcher, until nothing more is proposed.

    Args:
        plan: the plan of the search.
        searcher: proposes segments of trials and takes in their results.
        trainable: runs one segment, with its parameters and resources.
    """
    with scratch_folder(plan.folder) as scratch, contextlib.closing(searcher):
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,  # the searcher ends the search; a number here would count segments, not trials
                reuse_actors=True,
                max_concurrent_trials=max(1, plan.lookahead // 2),  # even while a node is away
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name=plan.name,
                storage_path=scratch.path,
                storage_filesystem=scratch.filesystem,
                verbose=0,
                stop=StopOnMistake(searcher),
                callbacks=[ForgiveNodes(), CollectMetrics(searcher)],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # trials save their state themselves
                failure_config=tune.FailureConfig(max_failures=3),
            ),
        ).fit()
    # Tune gives its actors a few seconds to end: workers of a killed one may have left files of their own.
    plan.folder.join("ray").delete()


def _reference(plan: SearchPlan, job: TrialJob) -> Any:
    """A Ray reference to the unpruned model's metrics, measured once for a checkpoint and a data set."""
    file = reference_file(plan)
    known: dict[str, float] = json.loads(file.read_bytes()) if file.exists() else {}
    wanted = {metric.name for metric in plan.optimised.metrics if metric not in (SPARSITY, *COSTS)}
    if known and wanted <= known.keys():
        return ray.put(known)
    return _evaluate_reference.options(num_cpus=1, num_gpus=plan.gpus_per_worker).remote(job, str(file))


def reference_file(plan: SearchPlan) -> Location:
    """The file with the unpruned model's metrics, common to all searches on one checkpoint and data set."""
    fingerprint = plan.workload.load().source().fingerprint("validation")
    identity = [plan.checkpoint_hash, *fingerprint.split("/"), plan.validation_part]  # as earlier releases wrote keys
    # The metrics of a user's file are its own code: an edited file is measured anew.
    identity += [plan.workload.sha256] if plan.workload.sha256 else []
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    return plan.storage.join("references", f"{key}.json")


# Any number of retries: the task may be on a node which goes away, and its result is needed at the end only.
@ray.remote(max_retries=-1)
def _evaluate_reference(job: TrialJob, file: str) -> dict[str, float]:
    metrics = TrialRunner(job).reference()
    place = Location.parse(file)
    earlier = json.loads(place.read_bytes()) if place.exists() else {}  # measured for another objective
    place.write_text(json.dumps({**earlier, **metrics}))
    return metrics

"""Repeated small searches amid faults at random moments; each must find what an undisturbed one finds."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from altermoma_ray.workloads.nusc import SHIPPED
from tests.cluster.chaos import FAULTS, KINDS, Chaos, Search
from tests.cluster.processes import Cluster
from tests.processes import Server, wait_for

KILLS = int(os.environ.get("ALTERMOMA_CHAOS_KILLS", "50"))
SEED = int(os.environ.get("ALTERMOMA_CHAOS_SEED", "0"))
LEAST_OF_EACH = 5
MOST_SEARCHES = 20
SPACE = """
from altermoma_ray.engine.space import SearchSpace

SPACE = SearchSpace(
    scoring_batches=1, reactivation_steps=(1, 2), reactivation_learning_rates=(1e-3,), fine_tune_epochs=6.0,
    iterative_rounds=2, pruning_phase=0.5, rungs=(0.5,), rung_samples=2,
)
"""
TRIALS = {1: 6, 2: 4}
"""Of a search, by the workers of a trial."""
FOUND = ("status", "params", "metrics", "history", "sparsity", "layer_sparsity", "params_left")


@pytest.fixture
def place(tmp_path):
    """Where the ledger goes and drivers log, and a folder with a short name for sockets."""
    short = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
    folder = Path(os.environ.get("ALTERMOMA_CHAOS_FOLDER", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    yield folder, short
    shutil.rmtree(short, ignore_errors=True)


@pytest.fixture
def cluster(place):
    cluster = Cluster(place[1])
    try:
        for count in (1, 2):
            cluster.add_node()
            wait_for(lambda count=count: len(cluster.raylets()) == count, cluster.nodes[-1])
        yield cluster
    finally:
        cluster.kill()


@pytest.fixture
def server(place):
    server = Server(place[0])
    try:
        yield server
    finally:
        server.kill()


@pytest.mark.slow
def test_nothing_that_finished_is_lost_whatever_fails(place, cluster, server, synthetic_root, request):
    folder, _ = place
    space = folder / "space.py"
    space.write_text(SPACE)
    options = ["nusc", "--dataroot", synthetic_root, "--model", "bevfusion-mit-toy", "--checkpoint", SHIPPED]
    options += ["--space", space, "--sparsity", 0.8, "--seed", 1, "--save-every", 0]
    chaos = Chaos(cluster, server, seed=SEED)

    def search_of(name, workers):
        search = Search(name, [*options, "--trials", TRIALS[workers]], workers, folder, cluster, server)
        request.addfinalizer(search.disk.close)
        return search

    truths = {}
    for workers in TRIALS:
        truth = truths[workers] = search_of(f"truth-{workers}", workers)
        chaos.run(truth, disturb=False)
        assert not truth.surprises
        assert sorted(truth.results()) == list(range(TRIALS[workers]))

    least = min(LEAST_OF_EACH, KILLS // len(KINDS))
    searches, watched, synced, greatest = 0, 0, 0, 0.0
    lost, twice, surprises, different = [], [], [], []
    counts = chaos.ledger.counts()
    while sum(counts[kind] for kind in KINDS) < KILLS or min(counts[kind] for kind in KINDS) < least:
        assert searches < MOST_SEARCHES, counts
        workers = list(TRIALS)[searches % len(TRIALS)]
        truth, search = truths[workers], search_of(f"chaos-{searches}", workers)
        chaos.run(search)
        searches, counts = searches + 1, chaos.ledger.counts()
        watched, synced = watched + len(search.seen), synced + search.synced
        lost += search.changed
        twice += [f"{search.name}: {entry}" for entry in logged_otherwise(server.address, search)]
        surprises += search.surprises
        try:
            greatest = max(greatest, difference(found(truth), found(search)))
            greatest = max(greatest, difference(board(truth), board(search)))
        except Different as error:
            different.append(f"{search.name}: {error}")
        (folder / "ledger.md").write_text(chaos.ledger.table() + "\n")
        print(f"{search.name}: {workers} workers, {search.starts} starts", flush=True)
        print(f"  {lost=} {twice=} {different=} {surprises=} {greatest=}", flush=True)

    kinds, faults = (", ".join(f"{kind} {counts[kind]}" for kind in names) for names in (KINDS, FAULTS))
    kills = sum(counts[kind] for kind in KINDS)
    summary = f"""seed {SEED}: {kills} kills ({kinds}) and other faults ({faults}) in {searches} searches
trials of a search by the workers of a trial: {TRIALS}
finished trials lost: {len(lost)} of {watched}
logged twice or not at all: {len(twice)}
leaderboards unlike the undisturbed one: {len(different)}
drivers that ended by themselves: {len(surprises)}; syncs after MLflow was away: {synced}
greatest difference of a metric: {greatest:.3g}
"""
    (folder / "summary.txt").write_text(summary)
    print(summary)
    assert not lost
    assert not twice
    assert not different
    assert not surprises
    assert greatest <= 1e-6


def found(search):
    """What each trial found, without when and where."""
    return {number: {key: result[key] for key in FOUND} for number, result in search.results().items()}


def board(search):
    """The leaderboard by trial, without what names a run."""
    rows = search.leaderboard()
    return {row["trial"]: {key: value for key, value in row.items() if key != "run_id"} for row in rows}


def logged_otherwise(address, search):
    """Trials that MLflow does not have exactly once and complete."""
    from mlflow import MlflowClient

    client = MlflowClient(address)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    parents = client.search_runs(experiments, f"tags.`altermoma.search` = '{search.name}'")
    if len(parents) != 1:
        return [f"{len(parents)} runs of the search"]
    condition = f"tags.`mlflow.parentRunId` = '{parents[0].info.run_id}'"
    runs = client.search_runs(experiments, condition, max_results=1000)
    times = Counter(int(run.data.tags["altermoma.trial"]) for run in runs if run.info.status in ("FINISHED", "FAILED"))
    wrong = [f"trial {number} logged {times[number]} times" for number in range(search.trials) if times[number] != 1]
    return wrong + [f"trial run {run.info.status}" for run in runs if run.info.status not in ("FINISHED", "FAILED")]


class Different(Exception):
    """Two searches do not agree in something that is no number, or a number is missing."""


def difference(one, other, where=""):
    """The greatest difference of two numbers at the same place; all else must be equal."""
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            raise Different(f"{where}: {sorted(one.keys() ^ other.keys())} on one side only")
        parts = [difference(one[key], other[key], f"{where}/{key}") for key in one]
        return max(parts, default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(
            (difference(*pair, f"{where}/{n}") for n, pair in enumerate(zip(one, other, strict=True))), default=0.0
        )
    if isinstance(one, float) and isinstance(other, float) and math.isfinite(one - other):
        return abs(one - other)
    if repr(one) != repr(other):  # also where both are no number
        raise Different(f"{where}: {one!r} became {other!r}")
    return 0.0

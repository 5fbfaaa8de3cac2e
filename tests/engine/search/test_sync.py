"""MLflow dies while a search is logged: nothing is lost, nothing is logged twice. With a real ``mlflow server``."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import shlex
import sys
import threading
import time
from collections import Counter

import pytest
from mlflow import MlflowClient

from altermoma_ray import cli, leaderboard
from altermoma_ray.engine.search.logbook import Logbook, OnlyInStorage
from altermoma_ray.engine.search.planning import SearchRequest, plan_search
from altermoma_ray.engine.search.run import reference_file
from altermoma_ray.engine.search.sync import sync
from altermoma_ray.engine.space import SearchSpace
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.tracker import Tracker
from altermoma_ray.tracking.result import TrialResult

REFERENCE = {"map": 0.9, "nds": 0.7}
MAP = {0: 0.4, 1: 0.5, 2: 0.6, 3: 0.3}
"""At the rung, by trial: of four trials, the best one is promoted."""


@pytest.fixture
def server(tracking_server):
    return tracking_server


@contextlib.contextmanager
def losing_answers(port, path):
    """A way to the server on which the first answer to each request to ``path`` is lost, but not the request."""
    lost = set()

    class Way(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            if self.path.endswith(path) and body not in lost:
                lost.add(body)
                self.close_connection = True
                return
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.getheader("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Way) as way:
        threading.Thread(target=way.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{way.server_address[1]}", lost
        finally:
            way.shutdown()


@pytest.fixture
def make_plan(workload, checkpoint):
    """Plans a search of four trials, and keeps the unpruned model's metrics as a search would."""

    def make(name, tracking_uri=None):
        request = SearchRequest(
            workload=workload,
            name=name,
            checkpoint=str(checkpoint),
            space=SearchSpace(rungs=(0.5,), reduction=3),
            sparsity=0.8,
            trials=4,
            tracking_uri=tracking_uri,
        )
        plan = plan_search(request).model_copy(update={"lookahead": 8})
        plan.save()
        reference_file(plan).write_text(json.dumps(REFERENCE))
        return plan

    return make


def leave(plan, number, status):
    """Leave in storage what a trial does, and give its result."""
    folder = plan.trial_job().trial_folder(number)
    score = MAP[number] + 0.1 * (status == "finished")
    metrics = {"map": score, "nds": score}
    history = [{"step": 10, "metrics": {"map": MAP[number]}}, {"step": 20, "metrics": metrics}]
    result = TrialResult(
        number=number,
        status=status,
        metrics=metrics,
        history=history if status == "finished" else history[:1],
        sparsity={"total": 0.8},
        started=100 + number,
        ended=200 + number,
    )
    folder.join("model.safetensors").write_bytes(Location.parse(plan.checkpoint).read_bytes())
    folder.join("masks.safetensors").write_bytes(b"masks")
    folder.join("result.json").write_text(result.to_json())
    return result


def logged(uri, name):
    """The search's runs in MLflow: its own, and those of its trials by number."""
    client = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    [parent] = client.search_runs(experiments, f"tags.`altermoma.search` = '{name}'")
    runs = client.search_runs(experiments, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert max(Counter(run.data.tags["altermoma.trial"] for run in runs).values(), default=1) == 1
    return parent, {int(run.data.tags["altermoma.trial"]): run for run in runs}


def test_a_server_that_dies_costs_nothing(make_plan, server, monkeypatch, capsys):
    plan = make_plan("dies", server.address)
    tracker = Tracker.open(server.address, plan.storage)

    def search():
        with Logbook(plan, tracker, resume=False) as logbook:
            logbook.start([])
            logbook.trial_ended(leave(plan, 0, "finished"))
            while [run.info.status for run in logged(server.address, "dies")[1].values()] != ["FINISHED"]:
                time.sleep(0.2)
            server.kill()
            for number in (1, 2, 3):
                logbook.trial_ended(leave(plan, number, "stopped"))
            logbook.trial_ended(leave(plan, 2, "finished"))
            logbook.close(plan.results(), REFERENCE)

    with pytest.raises(OnlyInStorage) as missed:
        search()
    storage = plan.storage
    line = f"python -m altermoma_ray.leaderboard dies --sync --storage {storage} --tracking-uri {server.address}"
    assert str(missed.value) == (
        f"3 trials of search 'dies' are only in storage (tracking server {server.address} does not answer; start it or "
        f"correct --tracking-uri); when MLflow works again, run: {line}"
    )
    assert "trial 2 (4 of 4) finished" in capsys.readouterr().err

    monkeypatch.setattr(sys, "argv", [*shlex.split(line)[2:], "--format", "json"])
    with pytest.raises(SystemExit) as stop:
        cli.run(leaderboard.main)
    assert stop.value.code == 2
    server.up()
    capsys.readouterr()
    cli.run(leaderboard.main)
    printed = capsys.readouterr()
    rows = json.loads(printed.out)
    assert "logged 3 trials of dies" in printed.err
    assert [(row["trial"], row["status"]) for row in rows] == [
        (2, "finished"),
        (0, "finished"),
        (1, "stopped"),
        (3, "stopped"),
    ]
    parent, runs = logged(server.address, "dies")
    assert parent.info.status == "FINISHED"
    assert {key: parent.data.metrics[f"reference/{key}"] for key in REFERENCE} == REFERENCE
    assert parent.data.tags["altermoma.champion"] == runs[2].info.run_id
    assert sync(plan, tracker) == 0
    again, same = logged(server.address, "dies")
    assert again.info.run_id == parent.info.run_id
    assert {run.info.run_id for run in same.values()} == {run.info.run_id for run in runs.values()}
    assert len(MlflowClient(server.address).search_model_versions(f"run_id = '{runs[2].info.run_id}'")) == 1


def test_what_mlflow_never_saw_is_brought_in_step_by_step(make_plan):
    plan = make_plan("unseen")
    tracker = Tracker.open(None, plan.storage)
    uri = tracker.store.uri
    for number, status in ((0, "finished"), (1, "stopped"), (2, "stopped")):
        leave(plan, number, status)
    assert sync(plan, tracker) == 3
    parent, runs = logged(uri, "unseen")
    assert (parent.info.status, parent.data.params["trials"]) == ("KILLED", "4")

    leave(plan, 3, "stopped")  # all have ended once, but trial 2 is to be promoted
    assert sync(plan, tracker) == 1
    parent, _ = logged(uri, "unseen")
    assert parent.info.status == "KILLED"
    assert "altermoma.champion" not in parent.data.tags

    leave(plan, 2, "finished")
    assert sync(plan, tracker) == 1
    parent, after = logged(uri, "unseen")
    assert parent.info.status == "FINISHED"
    assert after[2].info.run_id != runs[2].info.run_id
    assert (after[2].data.tags["altermoma.status"], after[2].data.metrics["map"]) == ("finished", 0.7)
    assert parent.data.tags["altermoma.champion"] == after[2].info.run_id
    for number in (0, 1):
        assert after[number].info.run_id == runs[number].info.run_id


@pytest.mark.parametrize("path", ["/runs/create", "/model-versions/create"])
def test_an_answer_that_is_lost_leaves_nothing_twice(path, make_plan, server):
    name = path.split("/")[1]
    with losing_answers(server.port, path) as (uri, lost):
        plan = make_plan(name, uri)
        with Logbook(plan, Tracker.open(uri, plan.storage), resume=False) as logbook:
            logbook.start([])
            for number in MAP:
                logbook.trial_ended(leave(plan, number, "finished" if number in (0, 2) else "stopped"))
            assert logbook.close(plan.results(), REFERENCE) >= 2
    assert lost
    parent, runs = logged(server.address, name)
    assert parent.info.run_id == logbook.run_id
    assert sorted(runs) == list(MAP)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert len(MlflowClient(server.address).search_model_versions(f"run_id = '{runs[2].info.run_id}'")) == 1


def test_a_search_begins_and_ends_without_a_server(make_plan, server, capsys):
    plan = make_plan("alone", server.address)
    tracker = Tracker.open(server.address, plan.storage)
    server.kill()  # between the first look and the start

    def search():
        with Logbook(plan, tracker, resume=False) as logbook:
            logbook.start([])
            for number in MAP:
                logbook.trial_ended(leave(plan, number, "finished"))
            logbook.close(plan.results(), REFERENCE)

    with pytest.raises(OnlyInStorage, match="4 trials of search 'alone' are only in storage"):
        search()
    told = capsys.readouterr().err
    assert "MLflow did not take search alone, tried again later" in told
    server.up()
    assert sync(plan, tracker) == 4
    assert logged(server.address, "alone")[0].info.status == "FINISHED"

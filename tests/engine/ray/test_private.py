"""Ray's private parts are where they were: each test fails, and says so, when a newer Ray has moved one."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import threading
import time
from importlib import import_module
from pathlib import Path

import psutil
import pytest
import ray
from ray.util import placement_group, placement_group_table

from altermoma_ray.engine.ray import private
from altermoma_ray.engine.ray.workers import ray_session

SEEN = "2.60.0"
MOVED = f"Ray {ray.__version__} has moved or renamed what private.py uses as seen in Ray {SEEN}:"


def source_of(name: str) -> str:
    try:
        return inspect.getsource(import_module(name))
    except ImportError as error:
        pytest.fail(f"{MOVED} module {name} ({error})")


def has(owner: object, name: str) -> None:
    assert hasattr(owner, name), f"{MOVED} {getattr(owner, '__name__', owner)}.{name}"


def state_of(group: str) -> str:
    return {one["placement_group_id"]: one["state"] for one in placement_group_table().values()}[group]


def wait_until(holds, seconds=60):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("name", "read_by"),
    [
        ("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "ray.tune.utils.callback"),
        ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "ray._private.utils"),
        ("RAY_AIR_NEW_OUTPUT", "ray.tune.experimental.output"),
        ("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "ray.train.v2._internal.constants"),
        ("RAY_TRAIN_METRICS_ENABLED", "ray.train.v2._internal.constants"),
    ],
)
def test_settings_of_the_python_side_are_read(name, read_by):
    assert name in {*private.QUIET, *private.BUSYWORK}
    assert name in source_of(read_by), f"{MOVED} {read_by} reads no {name}"


@pytest.mark.parametrize("name", ["RAY_enable_metrics_collection", "RAY_task_events_report_interval_ms"])
def test_settings_of_the_native_side_are_read(name):
    assert name in private.BUSYWORK
    library = Path(ray._raylet.__file__).read_bytes()
    assert name.removeprefix("RAY_").encode() in library, f"{MOVED} the native library knows no {name}"


def test_settings_of_the_user_stay(monkeypatch):
    for name in (*private.QUIET, *private.BUSYWORK):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_TRAIN_METRICS_ENABLED", "1")
    monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "1")
    private.silence()
    assert os.environ["RAY_AIR_NEW_OUTPUT"] == "1"
    assert os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] == "1"
    with private.without_busywork():
        assert os.environ["RAY_TRAIN_METRICS_ENABLED"] == "1"
        assert os.environ[private.BUSYWORK[2]] == "0"
    assert private.BUSYWORK[2] not in os.environ
    for name in private.QUIET:  # that were set for good
        monkeypatch.delenv(name)


def test_a_submitted_job_is_known_by_its_variable(monkeypatch):
    constants = import_module("ray._private.runtime_env.constants")
    assert getattr(constants, "RAY_JOB_CONFIG_JSON_ENV_VAR", None) == private.JOB, f"{MOVED} the variable of a job"
    monkeypatch.delenv(private.JOB, raising=False)
    assert not private.in_submitted_job()
    monkeypatch.setenv(private.JOB, "{}")
    assert private.in_submitted_job()


def test_ray_can_be_started_in_a_folder():
    assert private.in_folder(None) == {}
    assert private.in_folder("/tmp/ray") == {"_temp_dir": "/tmp/ray"}
    assert 'kwargs.pop("_temp_dir"' in inspect.getsource(ray.init), f"{MOVED} ray.init takes no _temp_dir"


def test_the_longest_socket_is_that_of_the_object_store(ray_of_four):
    [node] = ray.nodes()
    longest = len(private.SESSION)
    found = node["ObjectStoreSocketName"]
    session = found[found.index("/session_") :]
    assert session.endswith("/sockets/plasma_store"), f"{MOVED} the object store's socket is {found}"
    assert len("/ray" + session) <= longest, f"{MOVED} {found} is longer than {private.SESSION}"


def test_an_address_is_found_for_auto(monkeypatch):
    services = import_module("ray._private.services")
    has(services, "get_ray_address_from_environment")
    assert list(inspect.signature(services.get_ray_address_from_environment).parameters) == ["addr", "temp_dir"], MOVED
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert private.address_of_this_machine() == "head:6379"


def test_what_a_cluster_may_grow_to_is_told(ray_of_four):
    """This one does not grow; tests/cluster/test_autoscaling.py has one that does."""
    has(import_module("ray._private.state").state, "get_max_resources_from_cluster_config")
    assert private.most_resources() == {}


def test_the_trainer_s_two_methods_are_those_that_ray_calls():
    from ray.train.torch import TorchTrainer

    for name in ("_register_sigint_handler", "_create_default_callbacks"):
        has(TorchTrainer, name)
        parameters = [
            inspect.signature(getattr(kind, name)).parameters for kind in (TorchTrainer, private.quiet_trainer())
        ]
        assert list(parameters[0]) == list(parameters[1]), f"{MOVED} the arguments of TorchTrainer.{name}"
        assert f"self.{name}(" in source_of("ray.train.v2.api.data_parallel_trainer"), f"{MOVED} nothing calls {name}"


def test_the_trainer_does_without_the_one_callback_alone(ray_of_four):
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    names = [
        [
            type(one).__name__
            for one in kind(print, scaling_config=ScalingConfig(num_workers=1))._create_default_callbacks()
        ]
        for kind in (TorchTrainer, private.quiet_trainer())
    ]
    assert private.CLEANER in names[0], f"{MOVED} Train has no callback {private.CLEANER}"
    assert names[1] == [name for name in names[0] if name != private.CLEANER]


def test_places_are_freed_by_the_group_s_number(ray_of_four):
    group = placement_group([{"CPU": 1}])
    ray.get(group.ready())
    private.free_places(group.id.hex())
    assert state_of(group.id.hex()) == "REMOVED"


def test_places_of_a_dead_controller_are_freed_and_those_of_a_living_one_stay(ray_of_four):
    @ray.remote(num_cpus=0)
    class Controller:
        def reserve(self):
            return placement_group([{"CPU": 1}]).id.hex()

    living, dead = Controller.remote(), Controller.remote()
    kept, abandoned = ray.get([living.reserve.remote(), dead.reserve.remote()])
    ray.kill(dead)
    wait_until(lambda: private.free_abandoned_places() or state_of(abandoned) == "REMOVED")
    assert private.free_abandoned_places() == 0
    assert [state_of(abandoned), state_of(kept)] == ["REMOVED", "CREATED"]


def test_failures_of_a_job_are_found_in_its_error():
    from ray.train import ControllerError, WorkerGroupError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    died, own = ray.exceptions.ActorDiedError(), ValueError("no such weight")
    checked = WorkerHealthCheckFailedError("", died)
    has(checked, "health_check_failure")
    of_workers = WorkerGroupError("two failed", {0: own, 1: checked})
    assert private.failures_of_workers(of_workers) == [own, checked]
    assert private.failures_of_workers(own) == []
    assert [private.is_death(error) for error in (died, checked, own, of_workers)] == [True, True, False, False]
    assert private.is_death(ControllerError(died))
    assert not private.is_death(ControllerError(own))


def test_a_node_out_of_memory_is_told_in_one_line():
    words = "2 worker(s) were killed\nMemory on the node (IP: 10.0.0.7, ID: 72) was 21.62GB used / 23.54GB limit (0.9)"
    ended = RuntimeError("Caught unexpected exception")
    ended.__cause__ = ray.exceptions.OutOfMemoryError(words)
    assert "memory ran out on node 10.0.0.7 (21.62 of 23.54 GB in use); end" in private.told_out_of_memory(ended)
    ended.__cause__ = ray.exceptions.OutOfMemoryError("other words")
    assert "memory ran out on a node; end" in private.told_out_of_memory(ended)
    ended.__cause__ = ray.exceptions.ActorDiedError()
    assert private.told_out_of_memory(ended) == ""


@pytest.mark.slow
def test_ray_s_own_words_for_a_node_out_of_memory_are_understood(tiny_search, tmp_path):
    short_of_memory = {"RAY_memory_usage_threshold": "0.0001", "RAY_memory_monitor_refresh_ms": "50"}
    found = subprocess.run(
        [sys.executable, "-m", "altermoma_ray.search", *tiny_search, "--storage", str(tmp_path)],
        env={**os.environ, **short_of_memory},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr
    assert re.search(r"memory ran out on node [\d.]+ \([\d.]+ of [\d.]+ GB in use\)", found.stderr)


def test_a_lost_node_is_forgiven_and_a_dead_process_is_not(ray_of_four, tmp_path):
    from ray.train._internal.storage import StorageContext
    from ray.tune import TuneError
    from ray.tune.experiment import Trial

    head = Path(ray.__file__).parent / "core" / "src" / "ray" / "gcs" / "gcs_server"
    assert f"its {private.LOST_NODE}".encode() in head.read_bytes(), f"{MOVED} the words of a lost node"
    trial = Trial("any", stub=True, storage=StorageContext(str(tmp_path), "search", trial_dir_name="trial"))
    Path(trial.local_path).mkdir(parents=True)

    def forgiven(reason):
        trial.handle_error(TuneError(reason))
        assert f"Failure # {trial.run_metadata.num_failures} " in Path(trial.error_file).read_text(), MOVED
        return private.forgive_lost_node(trial), trial.run_metadata.num_failures

    assert forgiven("The actor died because its node has died.") == (True, 0)
    assert forgiven("The actor died because its process died.") == (False, 1)
    assert forgiven("The actor died because its node has died.") == (True, 1)


def test_a_worker_that_hangs_after_its_goodbye_ends_with_the_session():
    ray.shutdown()  # another test's session would be joined, and go on
    with ray_session():

        @ray.remote(num_cpus=0)
        class Lingering:
            def begin(self):
                threading.Thread(target=time.sleep, args=(600,)).start()
                return os.getpid()

        actor = Lingering.remote()
        worker = psutil.Process(ray.get(actor.begin.remote()))
        ray.wait([actor.__ray_terminate__.remote()])  # Ray knows the worker no more, and Python waits for the thread
        assert worker in private.worker_processes()
    wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)

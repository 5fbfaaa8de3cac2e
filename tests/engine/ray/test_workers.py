"""Workers and nodes that die, and storage that nodes do not share. Processes are killed for real."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import ray
import torch
import torch.distributed as distributed
from ray.train import TrainingFailedError
from ray.util import placement_group_table

from altermoma_ray.engine.ray import mailbox
from altermoma_ray.engine.ray.group import WorkerGroup
from altermoma_ray.engine.ray.workers import check_shared, run_on_workers
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location


def work(function, folder, workers):
    run_on_workers(function, str(folder), workers=workers, storage=Location.parse(folder), describe="work", total=10)


def attempts(folder):
    return len(list(folder.glob("attempt-*")))


@pytest.mark.slow  # the test of a group below covers a dying worker too
def test_a_worker_that_dies_is_started_again_with_all_others(ray_of_four, tmp_path, capsys):
    def dies_once(folder, reporter):
        rank = distributed.get_rank()
        first = not list(Path(folder).glob("attempt-*"))
        distributed.barrier()
        if rank == 0:
            Path(folder, f"attempt-{os.getpid()}").touch()
        reporter.advance()
        distributed.all_reduce(torch.ones(1))
        if first and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        distributed.all_reduce(torch.ones(1))
        Path(folder, f"done-{rank}").touch()

    work(dies_once, tmp_path, workers=2)
    assert attempts(tmp_path) == 2
    assert sorted(file.name for file in tmp_path.glob("done-*")) == ["done-0", "done-1"]
    assert "work: a worker died; all start again (1 of 3 times)" in capsys.readouterr().err
    assert list((tmp_path / "ray").iterdir()) == []  # nothing of either attempt stays


@pytest.mark.slow
def test_a_controller_that_dies_leaves_room_for_the_next(ray_of_four, tmp_path):
    def kills_its_controller(folder, reporter):
        first = not list(Path(folder).glob("attempt-*"))
        distributed.barrier()
        if distributed.get_rank() == 0:
            Path(folder, f"attempt-{os.getpid()}").touch()
            siblings = psutil.Process(os.getppid()).children()  # all of one raylet
            for process in siblings if first else ():
                if "TrainController" in " ".join(process.cmdline()):
                    process.kill()
        distributed.barrier()
        if first:
            time.sleep(600)

    work(kills_its_controller, tmp_path, workers=3)  # two such jobs do not fit
    assert attempts(tmp_path) == 2
    assert {group["state"] for group in placement_group_table().values()} <= {"REMOVED"}


@pytest.mark.slow
def test_one_that_always_dies_is_given_up(ray_of_four, tmp_path):
    def always_dies(folder, reporter):
        Path(folder, f"attempt-{os.getpid()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(TrainingFailedError):
        work(always_dies, tmp_path, workers=1)
    assert attempts(tmp_path) == 4
    assert {group["state"] for group in placement_group_table().values()} <= {"REMOVED"}  # so that others find room


def test_an_error_of_its_own_is_raised_at_once(ray_of_four, tmp_path):
    def fails(folder, reporter):
        if distributed.get_rank() == 1:
            Path(folder, f"attempt-{os.getpid()}").touch()
            raise ValueError("no such weight")
        distributed.barrier()  # that the other one never reaches

    with pytest.raises(TrainingFailedError, match="no such weight"):
        work(fails, tmp_path, workers=2)
    assert attempts(tmp_path) == 1


def load(folder):
    def run(work):
        rank = distributed.get_rank()
        first = not list(Path(folder).glob(f"{work['name']}-*"))
        distributed.barrier()
        Path(folder, f"{work['name']}-{rank}").write_text(str(os.getpid()))
        if first and rank == 1 and work.get("dies"):
            os.kill(os.getpid(), signal.SIGKILL)
        if rank == 1 and work.get("fails"):
            raise ValueError("no such weight")
        distributed.barrier()  # that the other one never reaches then

    return run


def group_of(workers, folder):
    return WorkerGroup(load, str(folder), workers=workers, gpus_per_worker=0.0, storage=Location.parse(folder))


def processes(folder, name):
    """Of the workers that did a piece of work last."""
    return {file.read_text() for file in folder.glob(f"{name}-*")}


def test_a_group_keeps_its_workers_until_one_dies_or_fails(ray_of_four, tmp_path, capsys):
    group = group_of(2, tmp_path)
    group.run({"name": "one"}, "one")
    group.run({"name": "two"}, "two")
    group.run({"name": "three", "dies": True}, "three")
    assert "three: a worker died; all start again (1 of 3 times)" in capsys.readouterr().err
    with pytest.raises(TrainingFailedError, match="no such weight"):
        group.run({"name": "four", "fails": True}, "four")
    one, two, three, four = (processes(tmp_path, name) for name in ("one", "two", "three", "four"))
    assert one == two
    assert three == four
    assert len(one | three) == 4
    assert {place["state"] for place in placement_group_table().values()} <= {"REMOVED"}
    assert list((tmp_path / "ray").iterdir()) == []
    assert group.close() is None


@pytest.mark.slow
def test_an_idle_group_leaves_room_for_another(ray_of_four, tmp_path, monkeypatch):
    monkeypatch.setattr(mailbox, "IDLE_SECONDS", 1.0)
    group, other = group_of(3, tmp_path), group_of(3, tmp_path)  # which do not fit both
    group.run({"name": "one"}, "one")
    other.run({"name": "two"}, "two")
    with pytest.raises(TrainingFailedError, match="no such weight"):
        group.run({"name": "three", "fails": True}, "three")
    group.run({"name": "four"}, "four")
    assert [each.close() for each in (group, other)] == [None, None]
    done = [processes(tmp_path, name) for name in ("one", "two", "three", "four")]
    assert len(set.union(*done)) == 12
    assert {place["state"] for place in placement_group_table().values()} <= {"REMOVED"}


def test_one_worker_computes_metrics_and_all_have_them_or_its_error(ray_of_four, tmp_path):
    @ray.remote
    def share(rank):
        from altermoma_ray.engine.training.evaluation import on_first_worker

        def fail(kind):
            raise kind("the metric says no")

        told = []
        distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=rank, world_size=2)
        try:
            told.append(on_first_worker(lambda: {"computed by": rank}))
            for kind in (UserError, FloatingPointError, KeyError):
                try:
                    on_first_worker(lambda kind=kind: fail(kind))
                except Exception as error:
                    told.append((type(error), str(error)))
        finally:
            distributed.destroy_process_group()
        return told

    first, second = ray.get([share.remote(rank) for rank in range(2)])
    says = "the metric says no"
    assert first == [{"computed by": 0}, (UserError, says), (FloatingPointError, says), (KeyError, f"'{says}'")]
    assert second == [*first[:3], (RuntimeError, f"KeyError: '{says}'")]


@pytest.fixture
def node_with_another_disk(tmp_path):
    """A folder, and a cluster whose second node has a disk of its own there: a mount that only its processes see."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "--map-root-user", "--mount", "true"]).returncode:
        pytest.skip("this machine allows no mount namespaces")
    folder = tmp_path / "storage"
    folder.mkdir()
    ray.shutdown()
    head = ray.init(
        address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000
    )
    join = [Path(sys.executable).with_name("ray"), "start", "--block", "--num-cpus", 1, "--disable-usage-stats"]
    join += ["--address", head.address_info["gcs_address"], "--object-store-memory", 100_000_000]
    join += ["--min-worker-port", 0, "--max-worker-port", 0]
    mount = f'mount --types tmpfs none "{folder}" && exec "$@"'
    node = subprocess.Popen(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh", *map(str, join)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while sum(known["Alive"] for known in ray.nodes()) < 2:
            assert node.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.3)
        yield folder
    finally:
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()
        ray.shutdown()


def test_storage_that_nodes_do_not_share_is_refused(node_with_another_disk, tmp_path):
    with pytest.raises(
        UserError, match=r"storage .*/storage is another folder on node [\d.]+; give --storage a folder"
    ):
        check_shared(Location.parse(node_with_another_disk))
    assert list(node_with_another_disk.iterdir()) == []
    check_shared(Location.parse(tmp_path / "shared"))

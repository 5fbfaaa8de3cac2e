"""Processes that load batches ahead: they stay, may die, and end with the process that made them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from altermoma_ray.data.loader import Loader
from altermoma_ray.errors import UserError


class Numbers:
    """Each sample tells its position, the epoch, and the process that loaded it; one is broken, one is deadly."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __getitem__(self, position):
        if position == 8:
            raise UserError("sample 8 is broken; leave it out")
        if position == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor([position, self.epoch, os.getpid()])


@pytest.fixture
def loader():
    made = Loader(Numbers(), torch.stack, processes=2)
    yield made
    made.close()


def told(batches):
    """Positions and epochs."""
    return [batch[:, :2].tolist() for batch in batches]


def pids(batches):
    return {int(pid) for batch in batches for pid in batch[:, 2]}


def test_a_loop_may_begin_while_another_rests(loader):
    outer = loader.load([[number] for number in range(8)], epoch=3)
    begun = [next(outer), next(outer)]
    inner = list(loader.load([[5, 4], [], [3]], epoch=1))
    assert inner.pop(1) is None
    rest = list(outer)
    assert told(inner) == [[[5, 1], [4, 1]], [[3, 1]]]
    assert told([*begun, *rest]) == [[[number, 3]] for number in range(8)]
    assert told([loader.batch([2, 6], epoch=4)]) == [[[2, 4], [6, 4]]]
    others = pids([*begun, *rest]) | pids(inner)
    assert os.getpid() not in others
    assert others <= {process.pid for process in multiprocessing.active_children()}
    assert pids(loader.load([[0], [1]])) <= others


def test_a_loop_that_is_left_stops_loading(loader):
    loop = loader.load([[number % 8] for number in range(1000)])
    next(loop)
    loop.close()
    assert told(loader.load([[1]])) == [[[1, 0]]]


def test_a_mistake_is_one_line_and_a_death_is_told(loader):
    with pytest.raises(UserError, match=r"^sample 8 is broken; leave it out$"):
        list(loader.load([[0], [8]]))
    with pytest.raises(RuntimeError, match="a process that loads samples ended without a word"):
        list(loader.load([[0], [9]]))
    assert told(loader.load([[1], [2]])) == [[[1, 0]], [[2, 0]]]


OWNER = """
import sys, time
import torch
from altermoma_ray.data.loader import Loader

if __name__ == "__main__":
    loader = Loader(torch.zeros(3, 1), torch.stack, processes=1)
    list(loader.load([[0]]))
    print("loaded", flush=True)
    time.sleep(600)
"""


def test_processes_end_with_an_owner_that_is_killed(tmp_path):
    (tmp_path / "owner.py").write_text(OWNER)
    path = f"{Path(__file__).parents[2]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    line = [sys.executable, str(tmp_path / "owner.py")]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "loaded\n"
        started = psutil.Process(owner.pid).children(recursive=True)
        assert started
        owner.kill()
    deadline = time.monotonic() + 60
    while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in started):
        assert time.monotonic() < deadline
        time.sleep(0.1)

"""One process drives a search at a time; what was killed lets go."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from altermoma_ray.engine.search.driver import FILE, Driver, sole_driver
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location


@pytest.fixture
def folder(tmp_path):
    return Location.parse(tmp_path / "searches" / "first")


@pytest.fixture
def other():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


def test_a_second_driver_is_refused_until_the_first_dies(folder, other):
    folder.join(FILE).write_text(Driver.of(psutil.Process(other.pid)).model_dump_json())
    with pytest.raises(UserError, match=f"process {other.pid} of this machine"), sole_driver(folder):
        pass
    other.kill()  # not waited for: what is left of it drives nothing
    while psutil.Process(other.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    with sole_driver(folder):
        assert Driver.model_validate_json(folder.join(FILE).read_bytes()).pid == psutil.Process().pid
    assert not folder.join(FILE).exists()


def test_a_number_that_came_again_and_another_machine_hold_nothing(folder, other):
    driver = Driver.of(psutil.Process(other.pid))
    for freed in (driver.model_copy(update={"started": 1.0}), driver.model_copy(update={"host": "elsewhere"})):
        folder.join(FILE).write_text(freed.model_dump_json())
        with sole_driver(folder):
            pass


def test_an_error_lets_go(folder):
    with pytest.raises(ZeroDivisionError), sole_driver(folder):
        raise ZeroDivisionError
    assert not folder.join(FILE).exists()

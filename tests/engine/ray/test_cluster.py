"""Where Ray works on this machine: its sockets' paths must fit, and what it is told must be a cluster's address."""

from __future__ import annotations

import os

import pytest
import ray
from ray._private.utils import validate_socket_filepath

from altermoma_ray.engine.ray.cluster import check_cluster, session_folder, short_folders
from altermoma_ray.engine.ray.workers import ray_session
from altermoma_ray.errors import UserError

SOCKET = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
LONGEST = 107 - len(SOCKET) - 1


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)


def folder_of(length):
    """A path below the system's own temporary folder, of so many bytes; it need not be there."""
    return "/tmp/" + "é" + "x" * (length - 7)


def test_the_limit_is_the_one_that_ray_checks(monkeypatch):
    fits, too_long = (folder_of(length) for length in (LONGEST, LONGEST + 1))
    validate_socket_filepath(f"{fits}/{SOCKET}")
    with pytest.raises(OSError, match="AF_UNIX path length cannot exceed"):
        validate_socket_filepath(f"{too_long}/{SOCKET}")
    monkeypatch.setenv("RAY_TMPDIR", fits)
    assert session_folder() is None
    monkeypatch.setenv("RAY_TMPDIR", too_long)
    with pytest.raises(
        UserError, match=rf"RAY_TMPDIR=/tmp/é.* has {LONGEST + 1} bytes and may have {LONGEST}; set RAY"
    ):
        check_cluster()
    monkeypatch.setenv("RAY_ADDRESS", "local")
    with pytest.raises(UserError, match="is too long for Ray, whose sockets lie in it"):
        check_cluster()


def test_a_temporary_folder_that_is_too_long_is_replaced_for_ray_alone(monkeypatch):
    given = folder_of(LONGEST + 1)
    monkeypatch.setenv("TMPDIR", given)
    check_cluster()
    with short_folders() as folder:
        assert folder == "/tmp/ray"
        assert os.environ["TMPDIR"] == "/tmp"
    assert os.environ["TMPDIR"] == given
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # then only what loads data ahead would meet it
    with short_folders() as folder:
        assert folder is None
        assert os.environ["TMPDIR"] == given
    monkeypatch.setenv("TMPDIR", folder_of(100))
    with short_folders() as folder:
        assert folder is None
        assert os.environ["TMPDIR"] == "/tmp"


@pytest.mark.slow
def test_ray_starts_whatever_the_temporary_folder_is_called(tmp_path, monkeypatch, capsys):
    long = tmp_path / ("long" * 25)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    with ray_session():
        assert ray.get(ray.remote(num_cpus=0)(lambda: os.environ["TMPDIR"]).remote()) == "/tmp"
    assert "Ray works in /tmp/ray: the name in TMPDIR is too long for its sockets" in capsys.readouterr().err
    assert os.environ["TMPDIR"] == str(long)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("https://head:8265/", r"RAY_ADDRESS=https://head:8265/ is the address of a dashboard"),
        ("ray://head:10001", r"is for Ray's client, from which no search can be driven"),
        ("redis://head:6379", r"RAY_ADDRESS=redis://head:6379 is no address of a cluster"),
        ("head", r"RAY_ADDRESS=head is no address of a cluster; set HOST:PORT"),
        ("head:", r"is no address of a cluster"),
        (":6379", r"is no address of a cluster"),
        ("head:70000", r"is no address of a cluster"),
        ("127.0.0.1:1", r"no Ray cluster answers at RAY_ADDRESS=127.0.0.1:1; start it or unset the variable"),
        ("no.such.host.invalid:6379", r"no Ray cluster answers at RAY_ADDRESS=no.such.host.invalid:6379"),
    ],
)
def test_addresses_that_are_no_cluster_s(address, message, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=message):
        check_cluster()

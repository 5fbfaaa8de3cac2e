"""Passwords and keys reach neither a line that is printed, nor a plan, nor a run: see ``docs/access.md``."""

from __future__ import annotations

import pytest

from altermoma_ray.addresses import redacted, without_credentials
from altermoma_ray.leaderboard import EARLIER as FIGURES
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.tracker import Tracker
from altermoma_ray.workloads.nusc import SHIPPED
from tests.plans import toy_plan

SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (f"http://me:{SECRET}@host:5000/mlflow", "http://host:5000/mlflow"),
        (f"https://{SECRET}@host", "https://host"),
        (f"http://me:{SECRET}/and+more@host", "http://host"),
        (f"http://me:{SECRET}@[::1]:5000", "http://[::1]:5000"),
        (f"http://me:{SECRET}", "http://..."),
        (f"s3://AKIA:{SECRET}/x/y@bucket/folder?region=eu-west-1", "s3://bucket/folder?region=eu-west-1"),
        (f"s3://bucket?secret_key={SECRET}&scheme=http", "s3://bucket?scheme=http"),
        (f"s3://bucket?endpoint_override=me%3A{SECRET}%40host", "s3://bucket"),
        (
            f"postgresql+psycopg2://me:{SECRET}@host/runs?sslmode=require",
            "postgresql+psycopg2://host/runs?sslmode=require",
        ),
        (f"postgresql://host/runs?user=me&password={SECRET}", "postgresql://host/runs"),
        (f"mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3D{SECRET}", "mssql+pyodbc:///"),
    ],
)
def test_an_address_is_shown_without_credentials(address, shown):
    assert without_credentials(address) == shown
    assert redacted(f"cannot open '{address}': no; see {address}") == f"cannot open '{shown}': no; see {shown}"


@pytest.mark.parametrize(
    "address",
    [
        "http://host:5000/mlflow",
        "http://[::1]:5000",
        "sqlite:////folder/with@sign:colon/mlflow.db",
        "s3://bucket/a@b:c/d?endpoint_override=127.0.0.1:9000&scheme=http",
        "/local/path@with:signs",
    ],
)
def test_an_address_without_credentials_stays_as_it_is(address):
    assert without_credentials(address) == address


@pytest.mark.parametrize("command", ["search", "train", "index", "leaderboard"])
@pytest.mark.parametrize("place", [f"s3://AKIAME:{SECRET}@bucket/x", f"s3://bucket/x?secret_key={SECRET}"])
def test_keys_in_a_storage_address_are_refused_unseen(command, place, answer, dataroot):
    data = ["nusc", "--dataroot", dataroot] if command != "leaderboard" else []
    assert answer(command, *data, "--storage", place) == (
        "error: s3://bucket/x was given with credentials, which would be stored and printed; set them in the "
        "environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or GOOGLE_APPLICATION_CREDENTIALS)\n"
    )


@pytest.mark.parametrize(
    "uri",
    [
        f"http://me:{SECRET}@127.0.0.1:1",
        f"http://me:{SECRET}/x@127.0.0.1:1",
        f"ftp://me:{SECRET}@127.0.0.1:1",
        f"postgresql://me:{SECRET}@127.0.0.1:1/runs",
        f"postgresql://127.0.0.1:1/runs?password={SECRET}",
        f"mysql+nonsense://me:{SECRET}@127.0.0.1:1/runs",
    ],
)
def test_a_password_in_a_tracking_uri_is_not_printed(uri, answer, dataroot):
    data = ["nusc", "--dataroot", dataroot, "--model", "bevfusion-mit-toy", "--checkpoint", SHIPPED]
    for said in (answer("leaderboard", "--tracking-uri", uri), answer("search", *data, "--tracking-uri", uri)):
        assert SECRET not in said
        assert "127.0.0.1:1" in said


def test_a_mistyped_option_does_not_repeat_a_password(answer):
    said = answer("search", "nusc", "--traking-uri", f"http://me:{SECRET}@127.0.0.1:5000")
    assert said == "error: unrecognized arguments: --traking-uri http://127.0.0.1:5000; see --help\n"


def test_credentials_reach_neither_the_plan_nor_mlflow(tracking_server, dataroot, tmp_path, monkeypatch, capfd):
    """A real server, an address with a password, keys in the environment: all that is left behind is searched."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, f"{SECRET}-{name}")
    uri, storage = f"http://me:{SECRET}@127.0.0.1:{tracking_server.port}", tmp_path / "storage"
    tracker = Tracker.open(uri, Location.parse(storage))
    plan = toy_plan(storage, dataroot, name="secret", checkpoint=SHIPPED, trials=1, tracking_uri=uri)
    plan.save()
    parent = tracker.start_search(
        "secret", dataset=plan.dataset, model=plan.model, figures=FIGURES, params=plan.params()
    )
    tracker.finish_search(parent)
    assert tracker.leaderboard("secret") == []
    assert plan.tracking_uri == f"http://127.0.0.1:{tracking_server.port}"
    printed = "".join(capfd.readouterr())
    files = [file for folder in (tmp_path, tracking_server.folder) for file in folder.rglob("*") if file.is_file()]
    left = {str(file): file.read_bytes() for file in files} | {"": printed.encode()}
    assert f"{storage}/searches/secret/search.json" in left
    assert b"altermoma-nuscenes" in left[f"{tracking_server.folder}/mlflow.db"]
    assert not [name for name, content in left.items() if SECRET.encode() in content]

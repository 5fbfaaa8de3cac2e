"""Job definitions: Ray's own validation of them, what travels with them, what they refuse."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import zipfile

import pytest
from ray._private.runtime_env.packaging import create_package
from ray._private.runtime_env.validation import parse_and_validate_env_vars, parse_and_validate_excludes
from ray.dashboard.modules.job.common import JobSubmitRequest
from ray.runtime_env import RuntimeEnv

from altermoma_ray.errors import UserError
from jobs.definitions import JOBS, check_arguments, runtime_env
from jobs.submit import split


@pytest.mark.parametrize("command", JOBS)
def test_ray_accepts_the_definition(command):
    submission = JOBS[command].submission(["nusc"])
    request = JobSubmitRequest(**submission)
    assert request.entrypoint_resources == {"driver": 0.01}
    assert request.entrypoint.startswith(f"python -m altermoma_ray.{command} nusc --storage ")
    environment = runtime_env()
    assert parse_and_validate_env_vars(environment["env_vars"]) == environment["env_vars"]
    assert parse_and_validate_excludes(environment["excludes"]) == environment["excludes"]
    RuntimeEnv(**(environment | {"working_dir": "s3://bucket/package.zip"}))


@pytest.mark.parametrize("command", JOBS)
def test_every_job_runs_a_module_of_the_package(command):
    assert importlib.util.find_spec(JOBS[command].module) is not None


@pytest.mark.parametrize(
    "line", [*(name for name in JOBS if name != "report"), "report redundancy", "report robustness"]
)
def test_commands_are_given_only_options_that_they_have(line, monkeypatch, capsys):
    command = line.split()[0]
    monkeypatch.setattr(sys, "argv", [*line.split(), "--help"])
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(JOBS[command].module).main()
    usage = capsys.readouterr().out
    assert "--storage" in usage
    assert JOBS[command].tracks == ("--tracking-uri" in usage)


def shell(entrypoint, **environment):
    """The words that the head's shell makes of an entry point; its complaint when it makes none."""
    done = subprocess.run(
        ["sh", "-c", f"python() {{ printf '%s\\n' \"$@\"; }}; {entrypoint}"],
        capture_output=True,
        text=True,
        env=environment,
    )
    return done.stdout.splitlines() if done.returncode == 0 else done.stderr


def test_the_head_fills_in_storage_and_tracking():
    line = JOBS["search"].entrypoint(["nusc", "--name", "it's mine"])
    node = {"ALTERMOMA_STORAGE": "s3://bucket/a b", "MLFLOW_TRACKING_URI": "http://mlflow:5000"}
    words = ["-m", "altermoma_ray.search", "nusc", "--name", "it's mine", "--storage", "s3://bucket/a b"]
    assert shell(line, **node) == [*words, "--tracking-uri", "http://mlflow:5000"]
    assert shell(line, ALTERMOMA_STORAGE="s3://bucket/a b") == words
    assert "ALTERMOMA_STORAGE: set it on the nodes, or give --storage" in shell(line)
    trained = shell(JOBS["train"].entrypoint(["nusc"]), **node)
    assert "--tracking-uri" not in trained


def test_what_the_user_gives_wins():
    given = ["nusc", "--storage=/shared/mine", "--tracking-uri", "http://other:5000"]
    line = JOBS["search"].entrypoint(given)
    assert shell(line, ALTERMOMA_STORAGE="s3://bucket", MLFLOW_TRACKING_URI="http://mlflow:5000")[2:] == given


@pytest.mark.parametrize("storage", [["--storage", "storage"], ["--storage=./out"], ["--storage"]])
def test_storage_that_would_go_with_the_job_is_refused(storage):
    with pytest.raises(UserError, match="lies in the job's working directory, which Ray deletes"):
        check_arguments(["nusc", *storage])


@pytest.mark.parametrize(
    "argument", ["http://me:hunter2@mlflow:5000", "--tracking-uri=postgresql://me:hunter2@host/mlflow"]
)
def test_passwords_in_arguments_are_refused(argument):
    with pytest.raises(UserError, match="MLFLOW_TRACKING_PASSWORD on the nodes") as refused:
        check_arguments(["nusc", argument])
    assert "hunter2" not in str(refused.value)


def test_arguments_of_the_command_stand_behind_the_dashes():
    assert split(["search", "--no-wait", "--", "nusc", "--", "--x"]) == (["search", "--no-wait"], ["nusc", "--", "--x"])
    assert split(["search"]) == (["search"], [])


@pytest.fixture
def travelling(tmp_path):
    """Names in the package that Ray would upload of a checkout with everything that a user leaves lying about."""
    checkout = tmp_path / "checkout"
    for name in (
        "altermoma_ray/engine/search/run.py",
        "altermoma_ray/models/checkpoints/bevfusion-mit-toy.safetensors",
        "search_spaces/nusc.py",
        "jobs/submit.py",
        "my_space.py",
        "altermoma_ray/__pycache__/search.pyc",
        "storage/mlflow.db",
        ".venv/bin/python",
        ".git/config",
        ".hypothesis/unicode",
        "tests/test_search.py",
        "altermoma_ray.egg-info/PKG-INFO",
        "secrets.env",
        ".env",
        "key.pem",
        "bevfusion-det.pth",
    ):
        file = checkout / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    package = tmp_path / "package.zip"
    create_package(str(checkout), package, include_gitignore=True, excludes=runtime_env()["excludes"])
    with zipfile.ZipFile(package) as archive:
        return {name.removeprefix("checkout/") for name in archive.namelist() if not name.endswith("/")}


def test_code_travels_and_nothing_else(travelling):
    assert travelling == {
        "altermoma_ray/engine/search/run.py",
        "altermoma_ray/models/checkpoints/bevfusion-mit-toy.safetensors",
        "search_spaces/nusc.py",
        "jobs/submit.py",
        "my_space.py",
    }

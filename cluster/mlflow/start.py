"""``python -m cluster.mlflow.start --data FOLDER``: an MLflow server with authentication, on loopback by default.

Runs and models are in a database, SQLite in ``--data`` or the one that ``MLFLOW_BACKEND_STORE_URI`` names. Artifacts
pass through the server, so that clients need no access to ``--artifacts``. Users are in a SQLite file in ``--data``.

Environment: ``MLFLOW_AUTH_ADMIN_PASSWORD`` (asked for), ``MLFLOW_AUTH_ADMIN_USERNAME`` (``admin``),
``MLFLOW_BACKEND_STORE_URI`` (an address with a password belongs here, not on a command line that every user can list).
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from altermoma_ray.cli import Parser, positive_int, run
from altermoma_ray.errors import UserError

SHORTEST_PASSWORD = 12  # characters, as MLflow asks for
KNOWN_PASSWORDS = ("password", "changeme", "change-me", "admin", "mlflow", "secret", "default", "example", "123456")
"""Beginnings of passwords that everyone tries first; MLflow's own default used to be ``password1234``."""

USERS = """\
[mlflow]
default_permission = READ
database_uri = sqlite:///{folder}/users.db
admin_username = {admin}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
"""
"""MLflow's configuration of authentication: a user reads what others logged, and changes only what is theirs.

The server remembers for a minute that a password was right: to hash it for each request took nine tenths of its time
while a search logged. The process that changes a password or deletes a user forgets the old password at once; the
server's other processes accept it for up to a minute.
"""


def main() -> None:
    """Parse, check, and become the server."""
    parser = Parser(prog="python -m cluster.mlflow.start", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the databases, made when missing")
    parser.add_argument("--host", default="127.0.0.1", help="interface to listen on (default: %(default)s)")
    parser.add_argument("--port", type=positive_int, default=5000, help="(default: %(default)s)")
    parser.add_argument("--artifacts", help="folder or s3://, gs:// address of artifacts (default: in --data)")
    parser.add_argument("--allowed-hosts", help="names that clients may use (default: localhost and private addresses)")
    parser.add_argument("--workers", type=positive_int, default=2, help="processes (default: %(default)s)")
    options = parser.parse_args()
    check_password(os.environ)
    if importlib.util.find_spec("flask_wtf") is None:
        raise UserError("MLflow's authentication needs Flask-WTF; pip install 'mlflow[auth]'")
    folder: Path = options.data.absolute()
    prepare(folder, os.environ)
    arguments = ["--app-name", "basic-auth", "--serve-artifacts", "--host", options.host, "--port", str(options.port)]
    arguments += ["--artifacts-destination", options.artifacts or str(folder / "artifacts")]
    arguments += ["--workers", str(options.workers)]
    if options.allowed_hosts:
        arguments += ["--allowed-hosts", options.allowed_hosts]
    os.chdir(folder)
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *arguments])


def check_password(environment: Mapping[str, str]) -> None:
    """Refuse to start without a password for the administrator.

    Raises:
        UserError: it is missing, short, or one that everyone tries first.
    """
    password = environment.get("MLFLOW_AUTH_ADMIN_PASSWORD", "")
    remedy = "set MLFLOW_AUTH_ADMIN_PASSWORD, for example to the output of: openssl rand -hex 16"
    if not password:
        raise UserError(f"the administrator has no password; {remedy}")
    if len(password) < SHORTEST_PASSWORD:
        raise UserError(f"the administrator's password has fewer than {SHORTEST_PASSWORD} characters; {remedy}")
    if password.lower().startswith(KNOWN_PASSWORDS):
        raise UserError(f"the administrator's password is a common default; {remedy}")


def prepare(folder: Path, environment: dict[str, str] | os._Environ[str]) -> None:
    """Make the data folder, readable by its owner alone, and point MLflow's environment to it."""
    os.umask(0o077)
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "users.ini"
    configuration.write_text(USERS.format(folder=folder, admin=environment.get("MLFLOW_AUTH_ADMIN_USERNAME", "admin")))
    environment["MLFLOW_AUTH_CONFIG_PATH"] = str(configuration)
    environment.setdefault("MLFLOW_BACKEND_STORE_URI", f"sqlite:///{folder}/mlflow.db")
    environment.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # a searching team scores no traces
    environment.setdefault("MLFLOW_FLASK_SERVER_SECRET_KEY", secrets.token_hex(32))  # signs forms; may change
    environment.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


if __name__ == "__main__":
    run(main)

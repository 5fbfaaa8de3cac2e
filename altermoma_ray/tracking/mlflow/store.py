"""Reach an MLflow store quickly and quietly, or say in one line why not.

MLflow retries for minutes while a server or database does not answer. Here one short attempt is made first, and the
later requests of this process are retried for seconds only (the environment's own ``MLFLOW_*`` settings win).
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from altermoma_ray.addresses import without_credentials
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location
from altermoma_ray.tracking.mlflow.databases import (
    TrackingError,
    check_database,
    create_sqlite,
    first_line,
    remedy,
    sqlite_file,
    sqlite_uri,
)
from altermoma_ray.tracking.mlflow.relocation import ARTIFACTS, follow, home_of, is_gone

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

_SERVER_SCHEMES = ("http", "https")
_DATABASE_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql")
EXPERIMENT_PREFIX = "altermoma-"
"""How the names of all experiments of this project begin."""
_ANSWER_SECONDS = 15
# MLflow's own defaults are seven retries with growing pauses, and 120 seconds for each answer.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class StrayFiles(UserError):
    """An experiment's files lie where they must not be added to."""


@dataclass(frozen=True, kw_only=True)
class Store:
    """An open MLflow store, which has answered once."""

    client: MlflowClient
    uri: str
    artifacts: Location | None
    """Where artifacts of new experiments go; None: the server decides and passes them on."""

    strays: Mapping[str, str] = field(default_factory=dict)
    """Experiments whose files lie out of place, see :func:`altermoma_ray.tracking.mlflow.relocation.follow`."""

    def check_place(self, experiment: Experiment) -> None:
        """Find out whether an experiment's files may be added to where they lie.

        Raises:
            StrayFiles: the files belong to another storage, or to a moved one.
        """
        name = experiment.name
        reason = self.strays.get(name)
        if reason is not None:
            raise StrayFiles(f"the files of {name} are out of place: {reason} --tracking-uri")
        home = home_of(name, experiment.artifact_location) if self.artifacts is None else None
        if home is not None and is_gone(home):  # the server was given an address without it
            raise StrayFiles(
                f"the files of {name} lay in {home}, which is not there; if that storage moved, first run "
                "python -m altermoma_ray.leaderboard --storage FOLDER on the server's machine, without --tracking-uri"
            )

    @property
    def name(self) -> str:
        """The store's address without credentials."""
        return without_credentials(self.uri)

    def trouble(self) -> str | None:
        """Reason for the store's silence, told within seconds; None for an answer."""
        try:
            _check(self.uri)
        except UserError as error:
            return str(error)
        return None

    @contextmanager
    def reported(self) -> Iterator[None]:
        """Turn any error of MLflow into one :class:`TrackingError`."""
        import sqlalchemy
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, sqlalchemy.exc.SQLAlchemyError, OSError) as error:
            # Errors of databases quote the address, password included.
            reason = first_line(error).replace(self.uri, self.name)
            advice = remedy(reason, "see that it works and try again")
            raise TrackingError(f"tracking store {self.name}: {reason}; {advice}") from error


def open_store(tracking_uri: str | None, storage: Location, *, create: bool) -> Store:
    """Open a tracking server, a database, or (``tracking_uri`` None) the SQLite file in the storage folder.

    Args:
        tracking_uri: ``http(s)://`` of a server or an SQLAlchemy URI of a database.
        storage: folder of the default database and of artifacts without a server.
        create: make a missing SQLite file.

    Raises:
        UserError: there is no store, no answer, or the credentials are refused.
    """
    if tracking_uri is None:
        if not storage.is_local:
            raise UserError(
                f"no database can live in {storage}; name an MLflow server with --tracking-uri, or a database elsewhere"
            )
        tracking_uri = default_uri(storage)
    # A driver may follow the database's name: postgresql+psycopg2.
    scheme = tracking_uri.split("://", 1)[0].split("+", 1)[0]
    if "://" not in tracking_uri or scheme not in _SERVER_SCHEMES + _DATABASE_SCHEMES:
        shown = without_credentials(tracking_uri)
        raise UserError(f"tracking URI {shown!r} is neither a server's http:// nor a database's; try sqlite:///FILE")

    # Before the import: MLflow reads some of the settings while being imported.
    _quieten()
    from mlflow import MlflowClient

    file = sqlite_file(tracking_uri) if scheme == "sqlite" else None
    if file is not None:
        # A reader must not make a database: MLflow would, and show no search in place of the mistyped folder. An empty
        # file is none, either; SQLite leaves one behind when a connection was opened and nothing written.
        if not create and not (file.is_file() and file.stat().st_size):
            raise UserError(f"no MLflow store at {file}; name the storage folder or tracking URI that the search used")
        if not file.is_file():
            create_sqlite(file)
        # With '~' and the working folder resolved, which SQLAlchemy leaves as they are. Options stay as given.
        if "?" not in tracking_uri:
            tracking_uri = sqlite_uri(file)
    _check(tracking_uri)
    # A server passes files on, so the driver needs no access to its bucket.
    artifacts = None if scheme in _SERVER_SCHEMES else _artifacts(storage)
    # The registry is named outright, or MLFLOW_REGISTRY_URI would send champions elsewhere.
    client = MlflowClient(tracking_uri, registry_uri=tracking_uri)
    store = Store(client=client, uri=tracking_uri, artifacts=artifacts)
    with store.reported():
        client.search_experiments(max_results=1)  # makes a new database's tables
        if artifacts is None:
            return store
        # After the tables are made: the experiments are read past MLflow, whose client cannot change their addresses.
        return replace(store, strays=follow(tracking_uri, storage, prefix=EXPERIMENT_PREFIX, file=file))


def default_uri(storage: Location) -> str:
    """The SQLite file in a storage folder."""
    return sqlite_uri(f"{storage.path}/mlflow.db")


def kept_uri(tracking_uri: str | None, storage: Location) -> str | None:
    """A store's address in a search's plan: good in any folder, without credentials; None for the default."""
    if tracking_uri is not None and tracking_uri.startswith("sqlite:") and "?" not in tracking_uri:
        file = sqlite_file(tracking_uri)
        # The default is kept as none at all, so the plan of a storage moved elsewhere finds the database there.
        if file is not None and storage.is_local and Location.parse(file).is_same(storage.join("mlflow.db")):
            return None
        tracking_uri = tracking_uri if file is None else sqlite_uri(file)
    return without_credentials(tracking_uri) if tracking_uri else None


def _artifacts(storage: Location) -> Location:
    """Where runs of a database keep their files; MLflow reaches a bucket with the provider's own client."""
    client = {"s3": "boto3", "gs": "google.cloud.storage", "gcs": "google.cloud.storage"}.get(storage.scheme)
    try:
        if client is not None:
            importlib.import_module(client)
    except ImportError as error:
        package = str(client).replace(".", "-")
        raise UserError(
            f"MLflow needs {package} to keep files in {storage}; pip install {package}, "
            "or name an MLflow server with --tracking-uri"
        ) from error
    # MLflow's clients read an endpoint from the environment alone, and drop the options of an address.
    if storage.query:
        raise UserError(
            f"MLflow cannot read the options in {storage}; set AWS_ENDPOINT_URL and AWS_DEFAULT_REGION in their place, "
            "or name an MLflow server with --tracking-uri"
        )
    # Addresses of artifacts pass through urllib, which cuts the path at both. Local ones are kept as plain paths.
    if {"?", "#"} & {*storage.path} and not storage.is_local:
        raise UserError(f"MLflow cannot keep files in {storage}, for its '?' or '#'; choose another folder")
    return storage.join(ARTIFACTS)


def _quieten() -> None:
    """Import MLflow, its logs and progress bars kept off the terminal."""
    for name, value in _ENVIRONMENT.items():
        # Set by default only: a user with a slow server may have more patience.
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401  (the first import sets its log levels)

    for logger in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # prints its errors, too


def _check(uri: str) -> None:
    """Ask once, with little patience.

    Raises:
        UserError: the store does not answer, or refuses the credentials.
    """
    if uri.startswith(_SERVER_SCHEMES):
        _check_server(uri)
    else:
        check_database(uri)


def _check_server(uri: str) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    shown = without_credentials(uri)
    try:
        # A request of the lowest kind: MlflowClient itself would retry. Any answer counts, so that a refusal of access
        # is told apart from silence; a search for experiments needs the login, unlike /health.
        response = http_request(
            get_default_host_creds(uri),
            "/api/2.0/mlflow/experiments/search",
            "POST",
            json={"max_results": 1},
            timeout=_ANSWER_SECONDS,
            max_retries=0,
            raise_on_status=False,
        )
    except (MlflowException, OSError) as error:
        raise TrackingError(f"tracking server {shown} does not answer; start it or correct --tracking-uri") from error
    if response.status_code in (401, 403):
        remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN)"
        raise UserError(f"tracking server {shown} refuses access ({response.status_code}); {remedy}")
    # Something else answers at this address: a proxy, or another web server.
    if response.status_code != 200:
        raise TrackingError(f"{shown} answers {response.status_code}, not as an MLflow server; correct --tracking-uri")

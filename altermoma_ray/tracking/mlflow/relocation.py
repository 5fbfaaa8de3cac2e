"""After a storage moved: MLflow keeps whole addresses of files in its database, which are brought up to date here.

Files of an experiment lie in ``<storage>/mlartifacts/<experiment>/<run>/``. A database may serve several storages, so
an experiment of another place, X, is taken for one of this storage, Y, that moved

    where files of its runs lie in Y (Y is X moved, or a copy of X), or
    where none lie in X, and the database is Y's own or knows a search that Y keeps.

Runs whose files lie in X alone stay there. Nothing in X is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location

if TYPE_CHECKING:
    from sqlalchemy import Connection

ARTIFACTS = "mlartifacts"
"""The folder in a storage for the files of its runs."""
_COLUMNS = (
    ("runs", "run_uuid", "artifact_uri"),
    ("logged_models", "model_id", "artifact_location"),
    ("model_versions", "source", "source"),
    ("model_versions", "storage_location", "storage_location"),
)
"""Table, key and column of all addresses of files below an experiment's."""


def follow(uri: str, storage: Location, *, prefix: str, file: Path | None) -> dict[str, str]:
    """Bring a database's addresses up to date after its storage moved.

    Args:
        uri: of the database.
        storage: its present place.
        prefix: how the names of our experiments begin.
        file: the database's own, for SQLite.

    Returns:
        Experiments with files elsewhere, closed to new runs, by name, with advice.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the database cannot be read or written.
    """
    import sqlalchemy

    # A connection of a pool would outlive this function, and hold SQLite's file while MLflow opens one of its own.
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool)
    with engine.connect() as connection:
        found = _experiments(connection, prefix)
    strays: dict[str, str] = {}
    for number, name, location in found:
        # Every start of a search comes by here; an experiment in its place costs no question about its files.
        home = home_of(name, location)
        if home is None or home.is_same(storage):
            continue
        # One transaction for each experiment: all of its addresses change or none, even where the process dies.
        with engine.begin() as connection:
            moved = _Moved(connection, number, name, location, home, storage)
            if moved.is_ours(file):
                moved.rewrite()
                _forget_places()
            elif (reason := moved.stray(file)) is not None:
                strays[name] = reason
    return strays


def home_of(experiment: str, location: str) -> Location | None:
    """The storage in which an experiment's files lie; None where a server or somebody else decides."""
    # An address without our own ending was not made by us; mlflow-artifacts: is a server's own way to its files.
    root = location.removesuffix(f"/{ARTIFACTS}/{experiment}")
    scheme, separator, rest = root.partition("://")
    if root == location or (separator and scheme not in ("s3", "gs", "file")):
        return None
    try:
        # MLflow writes file: addresses quoted and addresses of buckets plain; a Location is read from quoted ones only.
        return Location.parse(f"{scheme}://{quote(unquote(rest) if scheme == 'file' else rest)}" if separator else root)
    except UserError:
        return None


def is_gone(home: Location) -> bool:
    """Whether a storage folder was on this machine and is there no more."""
    # A bucket out of reach looks the same as one that is gone, so none is taken for gone.
    return home.is_local and not home.exists()


class _Moved:
    """An experiment with its files, by the database, in another storage than the open one."""

    def __init__(
        self, connection: Connection, number: str, name: str, location: str, home: Location, storage: Location
    ) -> None:
        self._connection, self._number, self._name = connection, number, name
        self._location, self._home, self._storage = location, home, storage
        # By the runs' own folders: a folder with the experiment's name may also hold runs of another database.
        runs = {entry.split("/")[0] for _, entry in self._entries("runs", "run_uuid", "artifact_uri")}
        self._here = runs & _names(storage.join(ARTIFACTS, name))
        self._there = runs & _names(home.join(ARTIFACTS, name))

    def is_ours(self, file: Path | None) -> bool:
        # The database lies in X beside files of its own: X was copied to Y and did not move. A change would take the
        # files from the original.
        if self._there and self._is_home(self._home, file):
            return False
        # Before an experiment's first file, only the database's place or the search's can show the move.
        own = self._is_home(self._storage, file)
        knows = own or any(self._storage.join("searches", name, "search.json").exists() for name in self._searches())
        return bool(self._here) or (knows and not self._there)

    def stray(self, file: Path | None) -> str | None:
        if self._here and self._is_home(self._home, file):
            return f"they lie in {self._home}, whose own database this is; copy {file} elsewhere and name the copy with"
        if is_gone(self._home):
            return f"they lay in {self._home}, which is not there; name the database of this storage with"
        return None

    def rewrite(self) -> None:
        """Write the storage's address in place of its former one, but for runs whose files are there alone."""
        import sqlalchemy

        # A run with files in both places was copied: the files at hand are taken, as X may not be reachable from here.
        target, stay = self._storage.join(ARTIFACTS, self._name).plain, self._there - self._here
        for table, key, column in _COLUMNS:
            changes = [
                {"key": value, "new": f"{target}/{rest}"}
                for value, rest in self._entries(table, key, column)
                if rest.split("/")[0] not in stay
            ]
            if changes:
                statement = f"UPDATE {table} SET {column} = :new WHERE {key} = :key"
                self._connection.execute(sqlalchemy.text(statement), changes)
        statement = "UPDATE experiments SET artifact_location = :new WHERE experiment_id = :key"
        self._connection.execute(sqlalchemy.text(statement), {"key": self._number, "new": target})

    def _entries(self, table: str, key: str, column: str) -> list[tuple[str, str]]:
        """Keys of rows with files of this experiment, and their addresses below its own."""
        import sqlalchemy

        rows = self._connection.execute(sqlalchemy.text(f"SELECT {key}, {column} FROM {table}"))
        # With the slash, or the experiment altermoma-a-b would take the files of altermoma-a-bc, too. Compared here and
        # not by LIKE, to which "_" and "%" in a folder's name stand for any text.
        start = f"{self._location}/"
        return [(name, address[len(start) :]) for name, address in rows if address and address.startswith(start)]

    def _searches(self) -> Sequence[str]:
        import sqlalchemy

        statement = (
            "SELECT tags.value FROM tags JOIN runs ON runs.run_uuid = tags.run_uuid "
            "WHERE runs.experiment_id = :number AND tags.key = 'altermoma.search'"
        )
        return [row[0] for row in self._connection.execute(sqlalchemy.text(statement), {"number": self._number})]

    @staticmethod
    def _is_home(place: Location, file: Path | None) -> bool:
        return file is not None and place.is_local and Location.parse(file.parent).is_same(place)


def _experiments(connection: Connection, prefix: str) -> Iterator[tuple[str, str, str]]:
    import sqlalchemy

    # Deleted experiments, too: a restored one shall find its files.
    rows = connection.execute(sqlalchemy.text("SELECT experiment_id, name, artifact_location FROM experiments"))
    # A list at once: the connection is closed before the experiments are gone through.
    return iter([(number, name, where) for number, name, where in rows if name.startswith(prefix) and where])


def _forget_places() -> None:
    """Let MLflow look up the places of runs' files again, remembered otherwise for the life of a process."""
    from mlflow.tracking._tracking_service import utils

    # The cache is private to MLflow; a release without one has nothing to forget.
    getattr(utils, "_artifact_repos_cache", {}).clear()


def _names(folder: Location) -> set[str]:
    try:
        return {child.name for child in folder.children()}
    except UserError:  # a bucket gone meanwhile
        return set()

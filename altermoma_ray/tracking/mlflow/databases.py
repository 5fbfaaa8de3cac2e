"""MLflow's databases: their addresses, a new SQLite file, and whether the tables are the running MLflow's.

MLflow makes tables in any database without some of its own, and so would upgrade an older one, or add to a
stranger's, without a word. Here the tables are looked at before MLflow gets to see them.
"""

from __future__ import annotations

import shlex
import uuid
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from altermoma_ray.addresses import without_credentials
from altermoma_ray.errors import UserError
from altermoma_ray.storage import Location, place_new

if TYPE_CHECKING:
    from sqlalchemy import Connection

_OWN_TABLES = {"experiments", "runs", "metrics", "params", "tags"}
"""Of MLflow, in every release."""
_REMEDIES = {
    "database is locked": "another process holds it; wait until that ends, and try again",
    "malformed": "the file is damaged: put a copy of it back, or move it away and bring the searches in again with "
    "leaderboard NAME --sync",
    "not a database": "it is another kind of file; correct the folder or --tracking-uri",
}
"""Advice for a message of SQLite, by a part of the message."""


class TrackingError(UserError):
    """The tracking store did not answer or refused; logging can be repeated later."""


def sqlite_uri(file: str | Path) -> str:
    """The address of a SQLite file for SQLAlchemy and MLflow.

    >>> sqlite_uri("/data/storage/mlflow.db"), sqlite_uri("/data/100%/mlflow.db")
    ('sqlite:////data/storage/mlflow.db', 'sqlite+pysqlite:////data/100%25/mlflow.db')

    Raises:
        UserError: no address leads there with the installed SQLAlchemy.
    """
    path = str(file)
    # SQLAlchemy reads '?' as the end of the path and, from 2.1 on, '%' as the beginning of a quoted character.
    if not {"?", "%"} & {*path}:
        return f"sqlite:///{path}"
    import sqlalchemy

    # Behind sqlite:/// itself MLflow takes the quoted path for the real one, and makes a folder of this name.
    uri = f"sqlite+pysqlite:///{quote(path)}"
    if sqlalchemy.make_url(uri).database == path:
        return uri
    if "?" in path:  # releases before 2.1 know no quotes
        raise UserError(f"SQLAlchemy {sqlalchemy.__version__} cannot open {path} for its '?'; rename that folder")
    return f"sqlite:///{path}"


def sqlite_file(uri: str) -> Path | None:
    """The file named by a ``sqlite:`` address; None for a database in memory, or one with options of SQLite's own.

    Raises:
        UserError: the address is wrong, or names another file than its text suggests.
    """
    import sqlalchemy

    shown = without_credentials(uri)
    try:
        url = sqlalchemy.make_url(uri)
    except sqlalchemy.exc.ArgumentError as error:
        raise UserError(f"tracking URI {shown!r} is no address of a database; try sqlite:///FILE") from error
    path = url.database
    # The folder 'a?b' makes the rest of its path the name of an option, with a slash; SQLAlchemy drops an option
    # without a value. Either way the database would be made in a shorter path.
    if "?" in uri and (not url.query or any("/" in name for name in url.query)):
        raise UserError(f"tracking URI {shown!r}: '?' ends the file's name in a URI; write %3F in its place")
    if not path or path == ":memory:" or path.startswith("file:"):
        return None
    # The path of a folder named '100%25' reads as '100%', where MLflow would make a new database.
    literal = uri.partition("?")[0].partition(":///")[2]
    if literal != path and Path(literal).parent.is_dir() and not Path(path).parent.is_dir():
        raise UserError(f"tracking URI {shown!r} names {path}; write %25 for '%' to name {literal}")
    return Path(path).expanduser().absolute()


def create_sqlite(file: Path) -> None:
    """Make a SQLite file with MLflow's tables, whole or not at all; a file made meanwhile by another process stays.

    Raises:
        UserError: the place cannot be written.
    """
    from mlflow import MlflowClient

    place = Location.parse(file.parent)
    place.make_folder()
    place.check_writable()
    # MLflow makes its tables one migration after the other, for seconds; another process must not see half of them.
    partial = file.with_name(f".{file.name}.{uuid.uuid4().hex}.partial")
    try:
        # The first question makes the tables.
        MlflowClient(sqlite_uri(partial)).search_experiments(max_results=1)
        place_new(partial, file)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write {file}: {reason}; choose a folder that you may write") from error
    finally:
        # SQLite's journals lie beside the file, named after it.
        for left in file.parent.glob(f"{partial.name}*"):
            left.unlink(missing_ok=True)


def check_database(uri: str) -> None:
    """Find out with little patience whether a database answers, and whether MLflow may use it.

    Raises:
        TrackingError: the database does not answer.
        UserError: the tables belong to another version of MLflow.
    """
    import sqlalchemy

    shown = without_credentials(uri)
    try:
        # Without a pool the connection ends with its block, and holds no lock while MLflow works on the file.
        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool)
        with engine.connect() as connection:
            tables = set(sqlalchemy.inspect(connection).get_table_names())
            revisions = _revisions(connection) if "alembic_version" in tables else []
    # ImportError: the database's driver is not installed.
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, OSError) as error:
        reason = first_line(error).replace(uri, shown)
        raise TrackingError(
            f"cannot open database {shown}: {reason}; {remedy(reason, 'correct the folder or --tracking-uri')}"
        ) from error
    if tables - {"alembic_version"} or revisions:  # an empty database gets its tables from MLflow
        _check_tables(shown, tables, revisions)


def _revisions(connection: Connection) -> list[str]:
    import sqlalchemy

    return [str(row[0]) for row in connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version"))]


def _check_tables(shown: str, tables: set[str], revisions: list[str]) -> None:
    import mlflow
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    if not tables >= _OWN_TABLES:
        some = ", ".join(sorted(tables - {"alembic_version"})[:3])
        raise UserError(f"database {shown} is not MLflow's (its tables: {some or 'none'}); name another --tracking-uri")
    # Alembic reads its options with configparser, to which a '%' begins a variable.
    config, migrations = Config(), Path(mlflow.__path__[0], "store", "db_migrations")
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    head, known = scripts.get_current_head(), {script.revision for script in scripts.walk_revisions()}
    if revisions == [head]:
        return
    ours = f"MLflow {mlflow.__version__}"
    # Before the advice to upgrade: this release's migrations cannot lead on from a schema unknown to them.
    if not set(revisions) <= known:
        raise UserError(
            f"database {shown} was made by a newer MLflow than this ({ours} does not know its schema "
            f"{', '.join(revisions)}); upgrade MLflow here (pip install --upgrade mlflow), or use the environment that "
            "made it"
        )
    schema = ", ".join(revisions)
    state = f"is of an older MLflow (schema {schema}, {ours} needs {head})" if schema else "is half made"
    raise UserError(f"database {shown} {state}; make a backup of it, then run: mlflow db upgrade {shlex.quote(shown)}")


def remedy(reason: str, otherwise: str) -> str:
    """Advice for an error of a database.

    >>> remedy("(sqlite3.OperationalError) database is locked", "see the server's log")
    'another process holds it; wait until that ends, and try again'
    >>> remedy("could not connect", "see the server's log")
    "see the server's log"

    Args:
        reason: the error's text.
        otherwise: advice for an error without its own.
    """
    return next((advice for part, advice in _REMEDIES.items() if part in reason), otherwise)


def first_line(error: Exception) -> str:
    """The first line of an error's text, or the error's kind where there is no text.

    >>> first_line(OSError("disk is full.\\nerrno 28")), first_line(TimeoutError())
    ('disk is full', 'TimeoutError')
    """
    # SQLAlchemy's further lines hold the statement with its values, and a link.
    return str(error).splitlines()[0].rstrip(" .") if str(error) else type(error).__name__

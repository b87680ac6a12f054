"""MLflow's and the network's errors as one line of hwbench's, and what is refused before MLflow touches it.

Owns which of them mean that a store is away. Imports no other module of this package.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from hwbench_mlflow.errors import StoreAway, StoreError, UsageError


@contextlib.contextmanager
def store_errors(missing: str | None = None) -> Iterator[None]:
    """Raise MLflow's and the network's errors as one line of hwbench's. ``missing`` is said instead
    where what was asked for does not exist."""
    try:
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise StoreError(
            "mlflow is not installed here", remedy="Write the result to a file with --out, and push it elsewhere"
        ) from error
    try:
        yield
    except _database_errors() as error:  # MLflow lets them through while it opens a store
        said = one_line(getattr(error, "orig", None) or error)
        raise StoreError(f"the tracking store cannot be used: {said}") from error
    except MlflowException as error:
        if missing is not None and error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise UsageError(missing) from error
        if _AWAY.match(str(error)) or error.error_code == "TEMPORARILY_UNAVAILABLE":
            raise StoreAway(f"the tracking store cannot be reached: {one_line(error)}") from error
        raise StoreError(f"the tracking store refused: {one_line(error)}") from error
    except OSError as error:  # requests' errors are some; so is a full disk
        raise _network_error(error) from error


_AWAY = re.compile(r"API request to \S+ failed with (exception|timeout exception) |.* failed with error code 50[234] ")
"""How MLflow says that a server does not answer (``mlflow.utils.rest_utils``), or that a proxy before it does."""


def _network_error(error: OSError) -> StoreError:
    """Away, or a refusal: only the first is worth waiting for."""
    answer = getattr(error, "response", None)
    if answer is not None:  # requests.HTTPError: somebody answered
        said = f"the tracking store refused: {one_line(error)}"
        return StoreAway(said) if answer.status_code in {502, 503, 504} else StoreError(said)
    said = f"the tracking store cannot be reached: {one_line(error)}"
    return StoreAway(said) if type(error).__module__.startswith(("requests.", "urllib3.")) else StoreError(said)


def _database_errors() -> tuple[type[Exception], ...]:
    """The base of SQLAlchemy's errors; nothing where MLflow came without it (mlflow-skinny)."""
    try:
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError:
        return ()
    return (SQLAlchemyError,)


def check_sqlite(uri: str) -> None:
    """Refuse what is no MLflow store before MLflow touches it.

    MLflow would put its tables into any SQLite database, and tries for minutes to open what it cannot.
    """
    if not uri.startswith("sqlite:///"):
        return
    path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    remedy = "Check --tracking-uri: it names a file that MLflow made, or one that does not exist yet"
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        return
    if path.is_dir():
        raise StoreError(f"the tracking store {path} is a folder", remedy=remedy)
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            remedy = "Another program holds it: try again when that is done"
        raise StoreError(f"the tracking store {path} cannot be used: {error}", remedy=remedy) from error
    if tables and "alembic_version" not in tables:
        raise StoreError(f"{path} is a SQLite database of something else than MLflow", remedy=remedy)


def whole_uri(tracking_uri: str | None = None) -> str:
    """The address of the store that :class:`.store.Store` would open: complete, wherever this process was started."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with store_errors():
        from mlflow.tracking import get_tracking_uri

        uri = tracking_uri or str(get_tracking_uri())
    scheme, separator, path = uri.partition(":///")
    if scheme == "sqlite" and separator and path and not path.startswith("/"):
        return f"sqlite:///{Path.cwd() / path}"
    return uri


def one_line(error: Exception) -> str:
    """An error's text without its line breaks."""
    return " ".join(str(error).split())[:500]

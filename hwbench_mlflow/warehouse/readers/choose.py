"""Which reader a tracking URI needs. Knows URIs; opens nothing but what the reader's constructor checks.

``--via`` only says out loud what the URI already says, and refuses when the two disagree: a database cannot be read
over REST without a server in front of it, and a server does not give its database away.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from hwbench_mlflow.errors import UsageError

if TYPE_CHECKING:
    from hwbench_mlflow.warehouse.readers import Reader


class Via(StrEnum):
    """How the store is read."""

    SQL = "sql"
    REST = "rest"


FORMS = "sqlite:///FILE, postgresql://USER@HOST/DATABASE, mysql://USER@HOST/DATABASE, http://HOST:PORT or https://HOST"


def open_reader(uri: str, via: Via | None = None) -> Reader:
    """The reader for ``uri``. Raises UsageError for a URI that no reader serves, StoreError for a store not there."""
    scheme, separator, rest = uri.partition("://")
    dialect = scheme.partition("+")[0].lower()
    if not separator or not rest:
        raise UsageError(f"{shown(uri)!r} is not a tracking URI", remedy=f"give --tracking-uri as {FORMS}")
    if dialect in {"http", "https"}:
        if via is Via.SQL:
            raise UsageError(
                f"{shown(uri)} is a server, --via sql reads a database",
                remedy="give the URI of its backend store, or leave --via out",
            )
        from hwbench_mlflow.warehouse.readers.rest import RestReader

        if not urlsplit(uri).hostname:
            raise UsageError(f"{shown(uri)!r} names no host", remedy=f"give --tracking-uri as {FORMS}")
        return RestReader(uri)
    if dialect not in {"sqlite", "postgresql", "mysql", "mariadb"}:
        raise UsageError(
            f"hwbench cannot read {dialect}:// stores directly",
            remedy=f"start `mlflow server` on it and sync from its URL, or give --tracking-uri as {FORMS}",
        )
    if via is Via.REST:
        raise UsageError(
            f"{shown(uri)} is a database, --via rest reads a server",
            remedy=f"start `mlflow server --backend-store-uri {shown(uri)}` and give its URL as --tracking-uri",
        )
    if dialect == "sqlite":
        from hwbench_mlflow.warehouse.readers.sqlite import SqliteReader

        return SqliteReader(_sqlite_path(uri))
    if dialect in {"mysql", "mariadb"}:
        from hwbench_mlflow.warehouse.readers.mysql import MysqlReader

        return MysqlReader(uri)
    from hwbench_mlflow.warehouse.readers.postgresql import PostgresqlReader

    return PostgresqlReader(uri)


def _sqlite_path(uri: str) -> Path:
    """The file of ``sqlite:///relative`` or ``sqlite:////absolute``."""
    _, found, path = uri.partition(":///")
    path = path.partition("?")[0]
    if not found or not path or path == ":memory:":
        raise UsageError(f"{uri!r} names no file", remedy="give --tracking-uri sqlite:///FILE")
    return Path(path)


def shown(uri: str) -> str:
    """The URI without its password, for people."""
    scheme, separator, rest = uri.partition("://")
    user, at, where = rest.partition("?")[0].rpartition("@")
    return f"{scheme}{separator}{user.partition(':')[0]}{at}{where}"

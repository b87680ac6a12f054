"""MLflow's PostgreSQL store, read through ADBC in one READ ONLY REPEATABLE READ transaction.

Readers and MLflow's writers do not block each other there. What makes a later sync cheap, and what it rests on:

* No byte was added to the cluster's write-ahead log since the last snapshot: nothing to do. That position is
  remembered only if no transaction was under way, because a commit is in the log a moment before it is visible. On a
  standby there is no such position, and every sync reads.
* Everything else is as :mod:`.snapshot` says.

A params or metrics row changed *in place* by foreign SQL is seen by ``--full`` and ``verify --store`` only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from hwbench_mlflow.errors import StoreError, UsageError
from hwbench_mlflow.warehouse.readers import Mode, Request, StoreState, check_revision
from hwbench_mlflow.warehouse.readers.snapshot import load_tables, usable
from hwbench_mlflow.warehouse.readers.tables import rows

if TYPE_CHECKING:
    from hwbench_mlflow.warehouse.stage import Stage

CONNECT_TIMEOUT_S = 15
LOCK_TIMEOUT_S = 20.0
"""How long to wait for a table that a migration of MLflow's holds."""

_POSITION = """
    SELECT system_identifier::BIGINT, (SELECT oid::BIGINT FROM pg_database WHERE datname = current_database()),
           (SELECT timeline_id::BIGINT FROM pg_control_checkpoint()),
           CASE WHEN pg_is_in_recovery() THEN NULL ELSE (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::BIGINT END
    FROM pg_control_system()"""
_UNDER_WAY = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock')"
"""A transaction locks its own id before it writes, and lets go only when its commit is visible to snapshots."""


class PostgresqlReader:
    """Reads the database that an SQLAlchemy or libpq URI names; connected only while a method runs."""

    kind = "postgresql"
    snapshot = True

    def __init__(self, uri: str) -> None:
        self._uri = "postgresql" + uri[uri.index("://") :]
        self._secrets = _secrets(self._uri)
        self.store = _identity(self._uri)
        _require_driver()

    def written_since(self, moment_ns: int) -> bool:  # noqa: ARG002 -- the contract's name
        """A server's database has no such time."""
        return False

    def unchanged(self, previous: StoreState) -> bool:
        """True if nothing at all was written to the cluster since the last snapshot."""
        with self._connected() as cursor:
            return bool(previous.file) and previous.file == _position(cursor)

    def confirm_gone(self, run_ids: Sequence[str]) -> set[str]:
        """The snapshot is the store's whole word."""
        return set(run_ids)

    def read(self, stage: Stage, request: Request) -> StoreState:
        """See :class:`~hwbench_mlflow.warehouse.readers.Reader`."""
        with self._connected() as cursor:
            # In this order: what is written after the position moves it; what was committed before it and is not under
            # way any more is visible to the snapshot that comes last.
            position = _position(cursor)
            under_way = bool(rows(cursor, _UNDER_WAY)[0][0])
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            revision = check_revision(self.store, _revision(cursor))
            columns = rows(cursor, "SELECT attname FROM pg_attribute WHERE attrelid = 'experiments'::regclass")
            load_tables(
                cursor, stage, request, {str(r[0]) for r in columns},
                relied_on=usable(request, self.kind, revision), null_text="NULL::TEXT",
            )  # fmt: skip
            cursor.execute("COMMIT")
        return StoreState(
            kind=self.kind, revision=revision, file=() if under_way else position, fast=request.mode is Mode.FAST
        )

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """A cursor outside any transaction. Every failure of the server is one line without the password."""
        import adbc_driver_manager
        import duckdb
        from adbc_driver_postgresql import dbapi

        options = f"connect_timeout={CONNECT_TIMEOUT_S}"
        uri = self._uri
        if "connect_timeout=" not in uri:
            uri += ("&" if "?" in uri else "?") + options
        try:
            with dbapi.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
                cursor.execute(f"SET lock_timeout = {int(LOCK_TIMEOUT_S * 1000)}")
                yield cursor
        except adbc_driver_manager.Error as error:
            raise self._explained(error) from None  # the driver's own words may quote the password
        except duckdb.Error as error:
            # A stream that breaks while DuckDB drinks from it arrives as DuckDB's error.
            if "libpq" not in str(error):
                raise
            raise self._explained(error) from None

    def _explained(self, error: Exception) -> StoreError:
        text = str(error)
        said = re.search(r"(?:FATAL|ERROR): +(.*)", text)
        line = said[1] if said else text.rsplit("[libpq]", maxsplit=1)[-1].strip().splitlines()[0]
        for secret in self._secrets:
            line = line.replace(secret, "***")
        remedy = None
        if "password authentication failed" in text or "no password supplied" in text:
            remedy = "check the user and the password in --tracking-uri"
        elif "lock timeout" in text:
            remedy = "a migration of MLflow's may be under way; try again when it is done"
        elif "Connection refused" in text or "could not translate host" in text or "timeout expired" in text:
            remedy = "check that the server runs and that --tracking-uri names it"
        return StoreError(f"cannot read {self.store}: {line}", remedy=remedy)


def _require_driver() -> None:
    try:
        import adbc_driver_postgresql.dbapi  # noqa: F401
    except ImportError as error:
        raise StoreError(
            "reading a PostgreSQL store needs the package adbc-driver-postgresql",
            remedy="pip install 'hwbench-mlflow[postgresql]'",
        ) from error


def _identity(uri: str) -> str:
    """Where the store is, without who reads it: another role or password does not make another store."""
    parts = urlsplit(uri)
    if "@" in parts.path:
        raise UsageError("the password in --tracking-uri has a '/' in it", remedy="write it as %2F")
    query = parse_qs(parts.query)
    host = query.get("host", [parts.netloc.rpartition("@")[2].rpartition(":")[0] or parts.hostname or "localhost"])[0]
    try:
        port = parts.port
    except ValueError:
        port = None
    options = "".join(f"?options={value}" for value in query.get("options", []))
    return f"postgresql://{host}:{query.get('port', [port or 5432])[0]}{parts.path}{options}"


def _secrets(uri: str) -> list[str]:
    """Passwords in a URI, as written and as meant, longest first."""
    parts = urlsplit(uri)
    written = [parts.netloc.rpartition("@")[0].partition(":")[2], *re.findall(r"password=([^&]*)", parts.query)]
    return sorted({s for w in written if w for s in (w, unquote(w))}, key=len, reverse=True)


def _position(cursor: Any) -> tuple[int, ...]:
    """Where the cluster's write-ahead log ends; empty on a standby."""
    found = rows(cursor, _POSITION)[0]
    return () if None in found else tuple(int(v) for v in found)


def _revision(cursor: Any) -> str | None:
    tables = rows(cursor, "SELECT to_regclass('alembic_version')::TEXT, to_regclass('runs')::TEXT")[0]
    if None in tables:
        return None
    found = rows(cursor, "SELECT version_num FROM alembic_version")
    return str(found[0][0]) if found else None

"""MLflow's MySQL or MariaDB store, read through SQLAlchemy and PyMySQL in one READ ONLY consistent snapshot.

Rows come from a server-side cursor and go to the stage as Arrow, a few thousand at a time. What a later sync rests on
is :mod:`.snapshot`'s. There is no cheap sign that nothing was written, so every sync looks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hwbench_mlflow.errors import StoreError, UsageError
from hwbench_mlflow.warehouse.readers import Mode, Request, StoreState, check_revision
from hwbench_mlflow.warehouse.readers.snapshot import load_tables, usable
from hwbench_mlflow.warehouse.readers.tables import rows

if TYPE_CHECKING:
    from hwbench_mlflow.warehouse.stage import Stage

CONNECT_TIMEOUT_S = 15
LOCK_TIMEOUT_S = 20
"""How long to wait for a table that a migration of MLflow's holds."""
BATCH_ROWS = 10_000


class MysqlReader:
    """Reads the database that an SQLAlchemy URI names; connected only while :meth:`read` runs."""

    kind = "mysql"
    snapshot = True

    def __init__(self, uri: str) -> None:
        try:
            import pymysql  # noqa: F401
            import sqlalchemy
        except ImportError as error:
            raise StoreError(
                "reading a MySQL store needs the package PyMySQL", remedy="pip install 'hwbench-mlflow[mysql]'"
            ) from error
        try:
            url = sqlalchemy.make_url("mysql+pymysql" + uri[uri.index("://") :])
        except (sqlalchemy.exc.ArgumentError, ValueError) as error:
            # The words of the error would show the URI, and its password.
            raise UsageError("the tracking URI is not one of MySQL's", remedy="mysql://USER@HOST/DATABASE") from error
        if not url.database:
            raise UsageError("the tracking URI names no database", remedy="mysql://USER@HOST/DATABASE")
        self._url = url
        where = url.query.get("unix_socket") or f"{url.host or 'localhost'}:{url.port or 3306}"
        self.store = f"mysql://{where}/{url.database}"

    def written_since(self, moment_ns: int) -> bool:  # noqa: ARG002 -- the contract's name
        """A server's database has no such time."""
        return False

    def unchanged(self, previous: StoreState) -> bool:  # noqa: ARG002 -- the contract's name
        """The server has no position that every user may read."""
        return False

    def confirm_gone(self, run_ids: Sequence[str]) -> set[str]:
        """The snapshot is the store's whole word."""
        return set(run_ids)

    def read(self, stage: Stage, request: Request) -> StoreState:
        """See :class:`~hwbench_mlflow.warehouse.readers.Reader`."""
        with self._connected() as cursor:
            revision = check_revision(self.store, _revision(cursor))
            columns = rows(
                cursor,
                "SELECT column_name FROM information_schema.columns "
                "WHERE table_schema = database() AND table_name = 'experiments'",
            )
            load_tables(
                cursor, stage, request, {str(r[0]) for r in columns},
                relied_on=usable(request, self.kind, revision), null_text="CAST(NULL AS CHAR)",
            )  # fmt: skip
        return StoreState(kind=self.kind, revision=revision, fast=request.mode is Mode.FAST)

    @contextmanager
    def _connected(self) -> Iterator[_Cursor]:
        """A cursor in the snapshot. Every failure of the server is one line without the password."""
        import duckdb
        import sqlalchemy

        engine = sqlalchemy.create_engine(
            self._url, poolclass=sqlalchemy.NullPool, connect_args={"connect_timeout": CONNECT_TIMEOUT_S}
        )
        cursor: _Cursor | None = None
        try:
            with engine.connect() as connection:
                for statement in (
                    "SET SESSION sql_mode = CONCAT(@@sql_mode, ',ANSI_QUOTES')",
                    f"SET SESSION lock_wait_timeout = {LOCK_TIMEOUT_S}",
                    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
                    "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
                ):
                    connection.exec_driver_sql(statement)
                cursor = _Cursor(connection)
                yield cursor
                cursor.close()
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise self._explained(error) from None
        except duckdb.Error:
            # A stream that breaks while DuckDB drinks from it arrives as DuckDB's error.
            if cursor is None or cursor.failure is None:
                raise
            raise self._explained(cursor.failure) from None

    def _explained(self, error: Exception) -> StoreError:
        cause = getattr(error, "orig", None) or error
        said = str(cause.args[-1] if cause.args else cause).splitlines()
        code = cause.args[0] if cause.args else None
        remedy = {
            1045: "check the user and the password in --tracking-uri",
            1205: "a migration of MLflow's may be under way; try again when it is done",
            2003: "check that the server runs and that --tracking-uri names it",
        }.get(code if isinstance(code, int) else 0)
        line = said[0] if said else "no reason given"
        if self._url.password:
            line = line.replace(str(self._url.password), "***")
        return StoreError(f"cannot read {self.store}: {line}", remedy=remedy)


class _Cursor:
    """As much of ADBC's cursor as the readers use."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection.execution_options(stream_results=True, max_row_buffer=BATCH_ROWS)
        self._result: Any = None
        self.failure: Exception | None = None

    def execute(self, sql: str) -> None:
        """Run a statement. PyMySQL reads a percent sign as its own only where there are parameters."""
        self.close()
        self._result = self._connection.exec_driver_sql(sql)

    def fetchall(self) -> list[Any]:
        """What is left of the rows."""
        return list(self._result.fetchall())

    def fetch_record_batch(self) -> Any:
        """The rows as Arrow, typed as the server says."""
        import pyarrow as pa
        from pymysql.constants import FIELD_TYPE as F

        kinds = dict.fromkeys((F.TINY, F.SHORT, F.INT24, F.LONG, F.LONGLONG), pa.int64())
        kinds |= dict.fromkeys((F.FLOAT, F.DOUBLE), pa.float64())
        raw = self._result.cursor
        schema = pa.schema([(d[0], kinds.get(d[1], pa.string())) for d in self._result.cursor.description])

        def batches() -> Iterator[pa.RecordBatch]:
            import sqlalchemy

            try:
                for part in self._result.partitions(BATCH_ROWS):
                    columns = zip(*part, strict=True)
                    yield pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema)
            except sqlalchemy.exc.SQLAlchemyError as error:
                self.failure = error
                # Else PyMySQL reads on, where nothing comes any more, and says so on stderr when it is collected.
                raw._result.unbuffered_active = False
                raise

        return pa.RecordBatchReader.from_batches(schema, batches())

    def close(self) -> None:
        """Let go of a result that was not read to its end."""
        if self._result is not None:
            self._result.close()
            self._result = None


def _revision(cursor: _Cursor) -> str | None:
    tables = rows(
        cursor,
        "SELECT table_name FROM information_schema.tables WHERE table_schema = database() "
        "AND table_name IN ('alembic_version', 'runs')",
    )
    if len(tables) < 2:
        return None
    found = rows(cursor, "SELECT version_num FROM alembic_version")
    return str(found[0][0]) if found else None

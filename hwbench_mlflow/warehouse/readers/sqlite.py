"""MLflow's SQLite store, read through ADBC in one read-only transaction.

What makes a later sync cheap here, and what it rests on:

* The file's change counter (header bytes 24-27) moves with every committed write in rollback-journal mode (byte 18
  is 1). Same file, same counter: nothing to do.
* ``runs`` and ``tags`` are always compared by content: MLflow edits and deletes there.
* ``params``, ``metrics`` and ``latest_metrics`` only gain rows while their run lives (``latest_metrics`` is updated
  in place, but never without a new row in ``metrics``). New rows have a rowid above the highest known one. Because
  SQLite re-uses the highest rowids after ``mlflow gc``, and VACUUM renumbers, the number of rows at or below the mark
  must also be what we mirrored less what the vanished runs had; otherwise the table is read whole.

A params or metrics row changed *in place* by foreign SQL is seen by ``--full`` and ``verify --store`` only.
"""

# ruff: noqa: S608 -- names come from our own tables of columns, run ids are quoted; values are bound

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from hwbench_mlflow.errors import StoreError
from hwbench_mlflow.warehouse.readers import Mode, Request, StoreState, check_revision
from hwbench_mlflow.warehouse.readers.tables import FEW, SOURCES, experiment_ids, name_lists, rows
from hwbench_mlflow.warehouse.stage import CHILDREN, MIRROR

if TYPE_CHECKING:
    from hwbench_mlflow.warehouse.stage import Stage

BUSY_TIMEOUT_S = 20.0
_TEXT = "''"
_DUMMY = {
    "experiment_id": "0", "creation_time": "0", "last_update_time": "0", "start_time": "0", "end_time": "0",
    "deleted_time": "0", "timestamp": "0", "step": "0", "is_nan": "0",
}  # fmt: skip


class SqliteReader:
    """Reads ``path``; opens it only while :meth:`read` runs."""

    kind = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.store = f"sqlite:///{self.path}"
        if not self.path.is_file():
            raise StoreError(f"no MLflow store at {path}", remedy="check --tracking-uri; `hwbench run` creates one")

    def unchanged(self, previous: StoreState) -> bool:
        """Same file, same change counter, rollback-journal mode, and no journal waiting to be rolled back."""
        now = self._file()
        return bool(now) and previous.file == now and not Path(f"{self.path}-journal").exists()

    def confirm_gone(self, run_ids: Sequence[str]) -> set[str]:
        """The snapshot is the store's whole word."""
        return set(run_ids)

    def _file(self) -> tuple[int, ...]:
        """Identity and content mark of the file; empty when the change counter means nothing (WAL)."""
        with self.path.open("rb") as handle:
            header = handle.read(100)
            status = os.fstat(handle.fileno())
        if len(header) < 100 or header[:15] != b"SQLite format 3" or header[18] != 1:
            return ()
        counter = int.from_bytes(header[24:28], "big")
        return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, counter)

    def read(self, stage: Stage, request: Request) -> StoreState:
        """See :class:`~hwbench_mlflow.warehouse.readers.Reader`."""
        with self._snapshot() as cursor:
            revision = check_revision(self.store, _revision(cursor, self.store))
            # The shared lock is held since that first read: the counter belongs to this snapshot.
            file = self._file()
            scope = _load_experiments(cursor, stage, request.experiments)
            _load(cursor, stage, "runs", where=scope)
            marks = _marks(cursor)
            changed = None
            if request.mode is not Mode.FULL and not request.experiments:
                changed = _changed(cursor, stage, request, revision, marks)
            if changed is None or len(changed) > FEW * max(stage.run_count(), 1):
                self._load_all(cursor, stage, scope)
            else:
                _load_runs(cursor, stage, sorted(changed))
        return StoreState(kind=self.kind, revision=revision, file=file, marks=marks, fast=request.mode is Mode.FAST)

    def _load_all(self, cursor: Any, stage: Stage, scope: str) -> None:
        where = f"run_uuid IN (SELECT run_uuid FROM runs WHERE {scope})" if scope else ""
        for table in CHILDREN:
            _load(cursor, stage, table, where=where)
        stage.all_are_candidates()

    @contextmanager
    def _snapshot(self) -> Iterator[Any]:
        """A cursor inside one read transaction. MLflow's writers wait while it is open, and no longer."""
        import adbc_driver_manager
        from adbc_driver_sqlite import dbapi

        try:
            with dbapi.connect(f"file:{quote(str(self.path))}?mode=ro") as connection, connection.cursor() as cursor:
                cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
                cursor.fetchall()
                yield cursor
        except adbc_driver_manager.Error as error:
            raise StoreError(f"cannot read {self.store}: {str(error).splitlines()[0]}") from error


def _revision(cursor: Any, store: str) -> str | None:
    import adbc_driver_manager

    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            tables = {r[0] for r in rows(cursor, "SELECT name FROM sqlite_master WHERE type = 'table'")}
            break
        except adbc_driver_manager.Error as error:
            text = str(error)
            if "locked" in text or "busy" in text.lower():
                if time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                raise StoreError(f"{store} stayed locked by a writer for {BUSY_TIMEOUT_S:g} s") from error
            raise StoreError(f"{store} is not an SQLite database, or it is damaged: {text.splitlines()[0]}") from error
    if "alembic_version" not in tables or "runs" not in tables:
        return None
    found = rows(cursor, "SELECT version_num FROM alembic_version")
    return str(found[0][0]) if found else None


def _select(table: str, where: str = "", *, columns: tuple[str, ...] | None = None) -> str:
    """SELECT in the mirror's names, behind one typed dummy row.

    The driver infers a column's type from its first rows, so a column that begins with a thousand NULLs would be
    taken for integers; the dummy (dropped by :func:`_typed`) settles the types.
    """
    names = columns or MIRROR[table]
    dummy = ", ".join(
        f'{"0.5" if c == "value" and table in {"latest_metrics", "metric_history"} else _DUMMY.get(c, _TEXT)} AS "{c}"'
        for c in names
    )
    picked = ", ".join(f'"{c}"' for c in names)
    tail = f" WHERE {where}" if where else ""
    return f"SELECT {dummy} UNION ALL SELECT {picked} FROM {SOURCES.get(table, table)}{tail}"


def _typed(cursor: Any, sql: str) -> Any:
    """The rows of ``sql`` as a record batch reader, without the first one."""
    import pyarrow as pa

    cursor.execute(sql)
    reader = cursor.fetch_record_batch()

    def batches() -> Iterator[pa.RecordBatch]:
        first = True
        for batch in reader:
            yield batch.slice(1) if first else batch
            first = False

    return pa.RecordBatchReader.from_batches(reader.schema, batches())


def _load(cursor: Any, stage: Stage, table: str, *, where: str = "") -> None:
    stage.load(table, _typed(cursor, _select(table, where)))


def _load_experiments(cursor: Any, stage: Stage, names: tuple[str, ...]) -> str:
    """Stage the experiments in scope; return the SQL condition on ``runs`` (empty for all)."""
    columns = {r[1] for r in rows(cursor, "PRAGMA table_info(experiments)")}
    sql = _select("experiments")
    if "workspace" not in columns:
        sql = sql.replace('"workspace" FROM', 'NULL AS "workspace" FROM')
    if not names:
        stage.load("experiments", _typed(cursor, sql))
        _load(cursor, stage, "experiment_tags")
        return ""
    ids = experiment_ids(cursor, names)
    stage.load("experiments", _typed(cursor, f"{sql} WHERE experiment_id IN ({ids})"))
    _load(cursor, stage, "experiment_tags", where=f"experiment_id IN ({ids})")
    return f"experiment_id IN ({ids})"


def _marks(cursor: Any) -> dict[str, tuple[int, int]]:
    marks = {}
    for table in CHILDREN:
        source = SOURCES.get(table, table)
        # Two statements: each alone is answered from an index's edge or from page headers.
        high = rows(cursor, f"SELECT max(rowid) FROM {source}")[0][0]
        count = rows(cursor, f"SELECT count(*) FROM {source}")[0][0]
        marks[table] = (int(high or 0), int(count))
    return marks


def _changed(
    cursor: Any, stage: Stage, request: Request, revision: str, marks: dict[str, tuple[int, int]]
) -> set[str] | None:
    """Runs to read again, or None when the marks do not hold and everything must be."""
    previous = request.previous
    if previous is None or previous.kind != "sqlite" or previous.revision != revision:
        return None
    changed = set(stage.changed_run_rows())
    gone = stage.mirrored_rows_of_missing_runs()
    for table in CHILDREN:
        if table == "tags" and request.mode is Mode.DEFAULT:
            continue
        if table not in previous.marks:
            return None
        fresh = _appended(cursor, table, previous.marks[table], marks[table], gone[table])
        if fresh is None:
            return None
        changed |= fresh
    if request.mode is Mode.DEFAULT:
        changed |= set(stage.changed_tags(_typed(cursor, _select("tags"))))
    return changed


def _appended(cursor: Any, table: str, before: tuple[int, int], now: tuple[int, int], gone: int) -> set[str] | None:
    """Runs with rows above the old mark; None if the rows below it are not the ones we mirrored."""
    source = SOURCES.get(table, table)
    above = rows(cursor, f"SELECT run_uuid, count(*) FROM {source} WHERE rowid > {before[0]} GROUP BY run_uuid")
    below = now[1] - sum(int(r[1]) for r in above)
    if below != before[1] - gone:
        return None
    return {str(r[0]) for r in above}


def _load_runs(cursor: Any, stage: Stage, run_ids: list[str]) -> None:
    for names in name_lists(run_ids):
        for table in CHILDREN:
            _load(cursor, stage, table, where=f"run_uuid IN ({names})")
    stage.add_candidates(run_ids)

"""MLflow's SQLite store, read through ADBC in one read-only transaction.

What makes a later sync cheap here, and what it rests on:

* The file's change counter (header bytes 24-27) moves with every committed write in rollback-journal mode (byte 18
  is 1). Same file, same counter: nothing to do.
* ``runs`` and ``tags`` are always compared by content, but only those on pages of the file that the last sync did not
  see (:mod:`.pages`): MLflow edits and deletes in both. Where pages cannot be told (write-ahead log, another sync in
  between), every run and tag is compared.
* ``params`` and ``metrics`` only gain rows while their run lives. New rows have a rowid above the highest known one.
  Because SQLite re-uses the highest rowids after ``mlflow gc``, and VACUUM renumbers, the number of rows at or below
  the mark must also be what we mirrored less what the vanished runs had; otherwise everything is read.
  ``latest_metrics`` is updated in place, but never without a new row in ``metrics``.

A params or metrics row changed *in place* by foreign SQL is seen by ``--full`` and ``verify --store`` only.

POSIX drops a process's locks on a file when it closes *any* descriptor of it, so while a transaction of ours is open
nothing here closes one; that nobody else in this process did is checked by the change counter at the end.
"""

# ruff: noqa: S608 -- names come from our own tables of columns, run ids are quoted; values are bound

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from hwbench_mlflow.errors import StoreError
from hwbench_mlflow.warehouse.readers import Mode, Request, StoreState, check_revision
from hwbench_mlflow.warehouse.readers.ahead import load_ahead
from hwbench_mlflow.warehouse.readers.tables import FEW, SOURCES, experiment_ids, name_lists, rows
from hwbench_mlflow.warehouse.stage import CHILDREN, MIRROR

if TYPE_CHECKING:
    from hwbench_mlflow.warehouse.readers.pages import Look
    from hwbench_mlflow.warehouse.stage import Stage

BUSY_TIMEOUT_S = 20.0
BATCH_ROWS = 4_096
"""Rows that the driver hands over at a time; with the longest tags 32 MB."""
LOOK_THREADS = min(2, os.cpu_count() or 1)
"""That look at the pages of tags, where that is what a sync waits for."""
_LOOKED_AT = ("tags", "runs")
"""Tables whose pages are looked at, in the order of a :attr:`StoreState.memory`."""
_TEXT = "''"
_DUMMY = {
    "experiment_id": "0", "creation_time": "0", "last_update_time": "0", "start_time": "0", "end_time": "0",
    "deleted_time": "0", "timestamp": "0", "step": "0", "is_nan": "0",
}  # fmt: skip


class SqliteReader:
    """Reads ``path``; opens it only while :meth:`read` runs."""

    kind = "sqlite"
    snapshot = True

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.store = f"sqlite:///{self.path}"
        if not self.path.is_file():
            raise StoreError(f"no MLflow store at {path}", remedy="check --tracking-uri; `hwbench run` creates one")

    def written_since(self, moment_ns: int) -> bool:
        """By the file's own time."""
        return self.path.stat().st_mtime_ns > moment_ns

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
            return _identity(handle.fileno())

    def read(self, stage: Stage, request: Request) -> StoreState:
        """See :class:`~hwbench_mlflow.warehouse.readers.Reader`."""
        whole = not request.experiments and request.mode is not Mode.FAST
        with self._snapshot() as (cursor, fd):
            revision = check_revision(self.store, _revision(cursor, self.store))
            # The shared lock is held since that first read: the counter belongs to this snapshot.
            file = _identity(fd)
            scope = _load_experiments(cursor, stage, request.experiments)
            previous, changed = self._usable(request, revision), None
            looked: Mapping[str, Look | None] = {}
            looks = whole and (request.remember or previous is not None)
            with ThreadPoolExecutor(1, "looks at pages") as pool:
                look = _Looker(cursor, fd, previous.memory if previous is not None else None)
                # While all is loaded both cores are busy.
                looking = pool.submit(look, "tags", 1 if previous is None else LOOK_THREADS) if looks else None
                if previous is None:
                    self._load_all(cursor, stage, scope)
                counts = {table: _count(cursor, table) for table in _APPENDED}
                if looking is not None:
                    looked = {"runs": look("runs"), "tags": looking.result()}
            marks = _marks(cursor, counts, looked)
            if previous is not None:
                _load_runs_table(cursor, stage, looked.get("runs"))
                changed = _changed(cursor, stage, request.mode, previous, marks, looked.get("tags"))
                if changed is None or len(changed) > FEW * max(stage.run_count(), 1):
                    self._load_all(cursor, stage, scope, but_runs=True)
                else:
                    _load_runs(cursor, stage, sorted(changed))
            if _identity(fd)[4:] != file[4:]:
                raise StoreError(f"{self.store} was written to while it was read", remedy="sync again")
        return StoreState(
            kind=self.kind, revision=revision, file=file, marks=marks, fast=request.mode is Mode.FAST,
            memory=_memory(looked) if request.remember else None,
        )  # fmt: skip

    def _usable(self, request: Request, revision: str) -> StoreState | None:
        """What the last sync remembered, if this one may rely on it."""
        previous = request.previous
        if request.mode is Mode.FULL or request.experiments or previous is None:
            return None
        return previous if previous.kind == self.kind and previous.revision == revision else None

    def _load_all(self, cursor: Any, stage: Stage, scope: str, *, but_runs: bool = False) -> None:
        within = f"run_uuid IN (SELECT run_uuid FROM runs WHERE {scope})" if scope else ""
        tables = CHILDREN if but_runs else ("runs", *CHILDREN)
        load_ahead(stage, tables, lambda table: _typed(cursor, _select(table, scope if table == "runs" else within)))
        stage.all_are_candidates()

    @contextmanager
    def _snapshot(self) -> Iterator[tuple[Any, int]]:
        """A cursor inside one read transaction, and a descriptor of the file that lives longer than it.

        MLflow's writers wait while it is open, and no longer.
        """
        import adbc_driver_manager
        from adbc_driver_sqlite import dbapi

        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with dbapi.connect(f"file:{quote(str(self.path))}?mode=ro") as connection, connection.cursor() as cursor:
                cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
                cursor.fetchall()
                cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": str(BATCH_ROWS)})
                yield cursor, fd
        except adbc_driver_manager.Error as error:
            raise StoreError(f"cannot read {self.store}: {str(error).splitlines()[0]}") from error
        finally:
            os.close(fd)


def _identity(fd: int) -> tuple[int, ...]:
    header, status = os.pread(fd, 100, 0), os.fstat(fd)
    if len(header) < 100 or header[:15] != b"SQLite format 3" or header[18] != 1:
        return ()
    counter = int.from_bytes(header[24:28], "big")
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, counter)


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


class _Looker:
    """Looks at the pages of a table, beside what was remembered of them. Asks the cursor nothing once it is made."""

    def __init__(self, cursor: Any, fd: int, memory: bytes | None) -> None:
        sql = "SELECT name, rootpage, sql FROM sqlite_master WHERE type = 'table' AND name IN ('tags', 'runs')"
        self._trees = {str(r[0]): (int(r[1]), str(r[2])) for r in rows(cursor, sql)}
        self._fd, self._known = fd, _remembered(memory)

    def __call__(self, table: str, threads: int = 1) -> Look | None:
        from hwbench_mlflow.warehouse.readers.pages import look

        if table not in self._trees:
            return None
        return look(self._fd, *self._trees[table], self._known.get(table), threads=threads)


def _memory(looked: Mapping[str, Look | None]) -> bytes | None:
    """What to remember of the pages of all tables: each behind its length. None unless all could be seen."""
    parts = [look.memory for table in _LOOKED_AT if (look := looked.get(table)) is not None]
    if len(parts) < len(_LOOKED_AT):
        return None
    return b"".join(struct.pack(">Q", len(part)) + part for part in parts)


def _remembered(memory: bytes | None) -> dict[str, bytes]:
    """The parts of a :func:`_memory`, by table; none if it is not as that made it."""
    parts, at = list[bytes](), 0
    while memory is not None and at + 8 <= len(memory):
        size = struct.unpack_from(">Q", memory, at)[0]
        parts.append(memory[at + 8 : at + 8 + size])
        at += 8 + size
    if memory is None or at != len(memory) or len(parts) != len(_LOOKED_AT):
        return {}
    return dict(zip(_LOOKED_AT, parts, strict=True))


def _load_runs_table(cursor: Any, stage: Stage, seen: Look | None) -> None:
    """Stage ``runs``: all of them, or only those on fresh pages where the mirror is known to have the others.

    All rows on other pages were there when the mirror was exact. If it has as many runs, besides those on fresh pages,
    as there are such rows, these are they: none is gone, and none has changed.
    """
    if seen is not None and seen.known and seen.fresh_share <= FEW:
        for where in _within(seen.fresh):
            _load(cursor, stage, "runs", where=where)
        if stage.keep_others(seen.rows):
            return
        stage.clear_runs()
    _load(cursor, stage, "runs")


_APPENDED = ("params", "metric_history")
_MARKED = ("tags", *_APPENDED)


def _count(cursor: Any, table: str) -> int:
    return int(rows(cursor, f"SELECT count(*) FROM {SOURCES.get(table, table)}")[0][0])


def _marks(cursor: Any, counts: Mapping[str, int], looked: Mapping[str, Look | None]) -> dict[str, tuple[int, int]]:
    marks = {}
    for table in _MARKED:
        # Not in one statement with the count: each alone is answered from an index's edge or from page headers.
        high = rows(cursor, f"SELECT max(rowid) FROM {SOURCES.get(table, table)}")[0][0]
        seen = looked.get(table)
        count = counts[table] if table in counts else seen.rows if seen is not None else _count(cursor, table)
        marks[table] = (int(high or 0), count)
    return marks


def _changed(  # noqa: PLR0917 -- one caller
    cursor: Any, stage: Stage, mode: Mode, previous: StoreState, marks: dict[str, tuple[int, int]], seen: Look | None
) -> set[str] | None:
    """Runs to read again, or None when the marks do not hold and everything must be."""
    if not previous.marks.keys() >= set(_MARKED):
        return None
    changed = set(stage.changed_run_rows())
    missing = stage.missing_runs(())
    for table in _MARKED:
        if table == "tags" and mode is not Mode.FAST:
            continue
        fresh = _appended(cursor, table, previous.marks[table], marks[table], stage.mirrored_rows(table, missing))
        if fresh is None:
            return None
        changed |= fresh
    if mode is not Mode.FAST:
        changed |= _changed_tags(cursor, stage, seen, previous.marks["tags"][1], missing)
    return changed


def _changed_tags(cursor: Any, stage: Stage, seen: Look | None, before: int, missing: Sequence[str]) -> set[str]:
    """Runs whose tags may not be the mirror's; no other run's can differ.

    A run with no row on a fresh page has only rows that it had ``before``, when all of them together were ``before``
    rows and the mirror was exact: it lost none if it has as many as the mirror. That is asked of all such runs at
    once, by the sums, and of each only if the sums differ. (Rows of no run, which the mirror lacks, can only make them
    differ: the sum of ``before`` comes out too high.)
    """
    if seen is None or not seen.known or seen.fresh_share > FEW:
        return set(stage.changed_tags(_typed(cursor, _select("tags"))))
    fresh = _runs_of(cursor, seen.fresh)
    aside = fresh | set(missing)
    count = "SELECT count(*) FROM tags WHERE run_uuid IN ({})"
    now = seen.rows - sum(int(rows(cursor, count.format(names))[0][0]) for names in name_lists(sorted(aside)))
    if now == before - stage.mirrored_rows("tags", aside):
        return fresh
    cursor.execute("SELECT run_uuid, count(*) AS n FROM tags GROUP BY run_uuid")
    return fresh | set(stage.changed_counts("tags", cursor.fetch_record_batch()))


def _within(ranges: Sequence[tuple[int | None, int | None]]) -> Iterator[str]:
    """Conditions on rowids, a hundred ranges each."""
    for begin in range(0, len(ranges), 100):
        parts = []
        for above, upto in ranges[begin : begin + 100]:
            bounds = [f"rowid > {above}"] * (above is not None) + [f"rowid <= {upto}"] * (upto is not None)
            parts.append(f"({' AND '.join(bounds) or 'true'})")
        yield " OR ".join(parts)


def _runs_of(cursor: Any, ranges: Sequence[tuple[int | None, int | None]]) -> set[str]:
    """Runs with a tag in one of the ranges of rowids."""
    return {
        str(r[0])
        for where in _within(ranges)
        for r in rows(cursor, f"SELECT DISTINCT run_uuid FROM tags NOT INDEXED WHERE {where}")
    }


def _appended(cursor: Any, table: str, before: tuple[int, int], now: tuple[int, int], gone: int) -> set[str] | None:
    """Runs with rows above the old mark; None if the rows below it are not the ones we mirrored."""
    # Without an index, or all of one on runs would be read to group by them.
    source = f"{SOURCES.get(table, table)} NOT INDEXED"
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

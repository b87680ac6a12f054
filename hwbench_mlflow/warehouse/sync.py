"""One sync, from the lock to the log: read, close the store, plan, write in batches, remember.

Composes the reader, the stage, the mirror and the star schema; holds no SQL about any of their tables but the log.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hwbench_mlflow import __version__
from hwbench_mlflow.errors import StoreError
from hwbench_mlflow.warehouse import database, dependents, mirror
from hwbench_mlflow.warehouse.readers import Mode, Reader, Request, StoreState
from hwbench_mlflow.warehouse.stage import Stage

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from hwbench_mlflow.warehouse.star import Star

T = TypeVar("T")
SCHEMA_VERSION = 1
BATCH_RUNS = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncOptions:
    """What to compare and how. ``experiments`` empty means all of them.

    ``rebind`` lets a warehouse that mirrors one store follow another (a moved file, a new host name): runs that the
    new store lacks are then removed from the mirror. ``lock_wait_s`` is how long to wait for open readers.
    """

    mode: Mode = Mode.DEFAULT
    experiments: tuple[str, ...] = ()
    dry_run: bool = False
    rebind: bool = False
    batch_runs: int = BATCH_RUNS
    lock_wait_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncSummary:
    """What one sync saw and did; ``up_to_date`` means that it wrote nothing and left nothing to retry.

    ``verdicts`` counts those of the runs that were judged in this sync; ``unreachable`` is run -> why its evidence
    could not be fetched. Times in seconds.
    """

    store: str
    reader: str
    mode: str
    dry_run: bool
    up_to_date: bool
    runs_seen: int | None = None
    runs_added: int = 0
    runs_changed: int = 0
    runs_removed: int = 0
    events: int = 0
    results_judged: int = 0
    results_written: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """The stable object of ``hwbench sync --json``."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}


def nothing(_: str) -> None:
    """The default for hooks: say nothing, do nothing."""


def no_progress(_stage: str, _done: int, _all: int) -> None:
    """The default for ``progress``."""


def sync(
    reader: Reader,
    db: Path,
    options: SyncOptions | None = None,
    *,
    judge: Star | None = None,
    say: Callable[[str], None] = nothing,
    progress: Callable[[str, int, int], None] = no_progress,
    at_step: Callable[[str], None] = nothing,
) -> SyncSummary:
    """Make ``db`` mirror ``reader``'s store. ``say`` gets lines for people, ``progress`` a stage, done and all of it.

    ``at_step`` is called with a name after every step that a crash could follow: it exists so that tests can be one.
    ``judge`` fetches evidence and makes results; without it only the mirror is kept, and runs that changed lose
    their results until somebody judges them again.
    Raises :class:`~hwbench_mlflow.errors.StoreError` (DuckDB's own failures included).
    """
    import duckdb

    options = options or SyncOptions()
    began = time.perf_counter()
    scope = "\n".join(sorted(options.experiments))
    try:
        # Opened to read first: that disturbs no reader. It is not worth its time where there is something to write.
        written = db.exists() and reader.written_since(db.stat().st_mtime_ns)
        if not written and _unchanged(reader, db, scope, options, judge):
            return _up_to_date(reader, options, began)
        with database.writer(db, wait_s=options.lock_wait_s, say=say) as connection:
            # A clock that is behind the store's makes it look written to.
            if written and _nothing_to_do(connection, reader, scope, options, judge):
                return _up_to_date(reader, options, began)
            return _Sync(reader, connection, options, scope, judge, say, progress, at_step, began).run()
    except duckdb.Error as error:
        raise StoreError(*database.explain(db, error)) from error


def _unchanged(reader: Reader, db: Path, scope: str, options: SyncOptions, judge: Star | None) -> bool:
    """:func:`_nothing_to_do`, if the file can be read beside its readers."""
    if options.mode is Mode.FULL or not db.exists():
        return False
    try:
        with database.reader(db) as connection:
            return _nothing_to_do(connection, reader, scope, options, judge)
    except StoreError:
        # Locked, older or broken: the writer's path says so, with the right words.
        return False


def _nothing_to_do(
    connection: DuckDBPyConnection, reader: Reader, scope: str, options: SyncOptions, judge: Star | None
) -> bool:
    """True if the last finished sync of this scope saw exactly this store and left nothing to judge."""
    if options.mode is Mode.FULL:
        return False
    previous = _previous(connection, reader, scope)
    if previous is None or (previous.fast and options.mode is not Mode.FAST) or not reader.unchanged(previous):
        return False
    return judge is None or not judge.pending(connection, options.experiments)


def _up_to_date(reader: Reader, options: SyncOptions, began: float) -> SyncSummary:
    return SyncSummary(
        store=reader.store, reader=reader.kind, mode=str(options.mode), dry_run=options.dry_run, up_to_date=True,
        seconds={"total": time.perf_counter() - began},
    )  # fmt: skip


def _previous(connection: DuckDBPyConnection, reader: Reader, scope: str) -> StoreState | None:
    """What the last sync of this scope remembered; None if any sync since was killed."""
    if connection.execute("SELECT EXISTS (FROM mlflow.sync_log WHERE finished_at IS NULL)").fetchall()[0][0]:
        return None
    rows = connection.execute(
        "SELECT state, memory FROM mlflow.sync_state WHERE scope = ? AND store = ?", [scope, reader.store]
    ).fetchall()
    return StoreState.from_json(*rows[0]) if rows else None


def utc_now() -> datetime:
    """Now, as the naive UTC that the warehouse stores."""
    return datetime.now(UTC).replace(tzinfo=None)


class _Sync:
    """The steps of one sync that share a connection."""

    def __init__(  # noqa: PLR0917 -- one caller, a few lines above
        self,
        reader: Reader,
        connection: DuckDBPyConnection,
        options: SyncOptions,
        scope: str,
        judge: Star | None,
        say: Callable[[str], None],
        progress: Callable[[str, int, int], None],
        at_step: Callable[[str], None],
        began: float,
    ) -> None:
        self.reader, self.connection, self.options, self.scope = reader, connection, options, scope
        self.judge, self.say, self.progress, self.at_step, self.began = judge, say, progress, at_step, began
        self.filled = dependents.Filled()
        self.started = utc_now()
        self.seconds: dict[str, float] = {}
        self.sync_id: int | None = None

    def run(self) -> SyncSummary:
        self._refuse_other_store()
        previous = _previous(self.connection, self.reader, self.scope)
        if self.reader.snapshot and not self.options.dry_run and mirror.is_empty(self.connection):
            return self._first(previous)
        stage = Stage(self.connection)
        state = self._read(stage, previous)
        plan = self._timed("plan", lambda: self._plan(stage))
        if not self.options.dry_run:
            self._timed("write", lambda: self._write(stage, plan, state, previous))
        summary = self._summary(stage, plan)
        stage.drop()
        return summary

    def _read(self, stage: Stage, previous: StoreState | None) -> StoreState:
        self.progress("reading the store", 0, 0)
        request = Request(
            mode=self.options.mode, experiments=self.options.experiments, previous=previous,
            remember=not self.options.dry_run,
        )  # fmt: skip
        state = self._timed("read", lambda: self.reader.read(stage, request))
        self.at_step("read")
        return state

    def _first(self, previous: StoreState | None) -> SyncSummary:
        """A sync into an empty mirror: one transaction from the first row read to the fingerprints.

        The rows are written where they belong while they are read: half the work of staging them first. Killed, the
        mirror is as empty as it was.
        """
        # Through the write-ahead log most rows would be written twice: once more when the file is closed.
        self.connection.execute("SET checkpoint_threshold = '1MB'")
        with database.transaction(self.connection):
            stage = Stage(self.connection, fresh=True)
            state = self._read(stage, None)
            plan = self._timed("plan", lambda: mirror.plan_fresh(self.connection, scoped=bool(self.scope)))
            began = time.perf_counter()
            if plan.batches:
                mirror.write_fresh(self.connection, self._sync_id(), self.started)
            self.at_step("inside 0")
        self.connection.execute("RESET checkpoint_threshold")
        self.at_step("batch 0")
        self._conclude(stage, plan, state, previous)
        self.seconds["write"] = time.perf_counter() - began
        summary = self._summary(stage, plan)
        stage.drop()
        return summary

    def _plan(self, stage: Stage) -> mirror.Plan:
        scoped = bool(self.options.experiments)
        missing = stage.missing_runs(self.options.experiments)
        gone = self.reader.confirm_gone(missing) if missing else set()
        for run_id in set(missing) - gone:
            self.say(f"run {run_id} was not listed, but the store still knows it: kept as it is")
        exact = self.options.mode is Mode.FULL
        if exact:
            gone = gone | set(stage.stray_runs())
        return mirror.plan(
            self.connection, sorted(gone), batch_runs=self.options.batch_runs, scoped=scoped, exact=exact
        )

    def _write(self, stage: Stage, plan: mirror.Plan, state: StoreState, previous: StoreState | None) -> None:
        for batch in range(plan.batches):
            self.progress("mirroring", batch, plan.batches)
            with database.transaction(self.connection):
                sync_id = self._sync_id()
                mirror.write_batch(self.connection, batch, sync_id, self.started)
                # A result must not outlive the state of the run that it was judged in.
                dependents.forget_changed(self.connection, batch)
                self.at_step(f"inside {batch}")
                mirror.write_fingerprints(self.connection, batch)
            self.at_step(f"batch {batch}")
        self._conclude(stage, plan, state, previous)

    def _conclude(self, stage: Stage, plan: mirror.Plan, state: StoreState, previous: StoreState | None) -> None:
        """The mirror stands: judge, then log and remember."""
        self._timed("results", lambda: self._fill(plan))
        quiet = self.sync_id is None and not self._refused_differ() and not dependents.orphans(self.connection)
        if plan.empty and state == previous and quiet:
            return
        with database.transaction(self.connection):
            self._finish(plan, state, stage.run_count())
            self.at_step("inside finish")
        self.at_step("finish")

    def _fill(self, plan: mirror.Plan) -> None:
        if self.judge is None:
            return
        self.filled = self.judge.fill(
            self.connection,
            experiments=self.options.experiments,
            full=self.options.mode is Mode.FULL,
            without=plan.removed,
            before_write=self._sync_id,
            at_step=self.at_step,
            progress=lambda done, total: self.progress("judging", done, total),
        )
        for run_id, reason in sorted(self.filled.unreachable.items()):
            self.say(f"run {run_id} has no result yet, it is tried again at the next sync: {reason}")

    def _finish(self, plan: mirror.Plan, state: StoreState, runs_seen: int) -> None:
        connection = self.connection
        if not plan.empty or self.sync_id is not None or dependents.orphans(connection):
            sync_id = self._sync_id()
            mirror.remove_runs(connection, plan.removed, sync_id, self.started)
            dependents.forget(connection, plan.removed)
            dependents.tidy(connection)
            if plan.experiments_differ:
                mirror.write_experiments(connection, sync_id, self.started, scoped=bool(self.options.experiments))
            connection.execute(
                """UPDATE mlflow.sync_log SET finished_at = ?, runs_seen = ?,
                       runs_added = ?, runs_changed = ?, runs_removed = ?,
                       events = (SELECT count(*) FROM mlflow.run_events WHERE sync_id = ?) WHERE sync_id = ?""",
                [utc_now(), runs_seen, plan.added, plan.changed, len(plan.removed), sync_id, sync_id],
            )
        # Syncs that were killed are over too: what they left undone is done now.
        connection.execute("UPDATE mlflow.sync_log SET finished_at = ? WHERE finished_at IS NULL", [utc_now()])
        connection.execute("DELETE FROM mlflow.refused_runs WHERE run_uuid IN (SELECT run_uuid FROM s_runs)")
        connection.execute(
            "INSERT OR REPLACE INTO mlflow.refused_runs SELECT run_uuid, min(reason) FROM s_refused GROUP BY 1"
        )
        # What was remembered of another store is not of this mirror; nor is a memory that other syncs have overtaken.
        connection.execute("DELETE FROM mlflow.sync_state WHERE store <> ?", [self.reader.store])
        connection.execute("UPDATE mlflow.sync_state SET memory = NULL WHERE scope <> ?", [self.scope])
        connection.execute(
            "INSERT OR REPLACE INTO mlflow.sync_state (scope, store, state, memory) VALUES (?, ?, ?, ?)",
            [self.scope, self.reader.store, state.to_json(), state.memory],
        )

    def _refused_differ(self) -> bool:
        return bool(
            self.connection.execute(
                "SELECT EXISTS (SELECT run_uuid FROM s_refused EXCEPT SELECT run_uuid FROM mlflow.refused_runs)"
            ).fetchall()[0][0]
        )

    def _sync_id(self) -> int:
        """This sync's number; its log row is written with the first thing that it writes."""
        if self.sync_id is None:
            rows = self.connection.execute("SELECT coalesce(max(sync_id), 0) + 1 FROM mlflow.sync_log").fetchall()
            self.sync_id = int(rows[0][0])
            self.connection.execute(
                "INSERT INTO mlflow.sync_log (sync_id, started_at, store, reader, mode, scope, hwbench_version) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                [self.sync_id, self.started, self.reader.store, self.reader.kind, str(self.options.mode), self.scope,
                 __version__],
            )  # fmt: skip
        return self.sync_id

    def _refuse_other_store(self) -> None:
        rows = self.connection.execute(
            "SELECT DISTINCT store FROM mlflow.sync_log WHERE store <> ? AND sync_id = "
            "(SELECT max(sync_id) FROM mlflow.sync_log)",
            [self.reader.store],
        ).fetchall()
        if rows and not self.options.rebind:
            raise StoreError(
                f"this warehouse mirrors {rows[0][0]}, not {self.reader.store}",
                remedy="name another file with --db, or pass --rebind if it is the same store at a new place",
            )

    def _due(self) -> bool:
        """For a dry run: whether there are results to make. Any other has just made them."""
        if self.judge is None or not self.options.dry_run:
            return False
        return self.judge.pending(self.connection, self.options.experiments)

    def _timed(self, name: str, step: Callable[[], T]) -> T:
        begin = time.perf_counter()
        value = step()
        self.seconds[name] = time.perf_counter() - begin
        return value

    def _summary(self, stage: Stage, plan: mirror.Plan) -> SyncSummary:
        refused = dict(self.connection.execute("SELECT run_uuid, min(reason) FROM s_refused GROUP BY 1").fetchall())
        events = 0
        if self.sync_id is not None:
            events = self.connection.execute(
                "SELECT count(*) FROM mlflow.run_events WHERE sync_id = ?", [self.sync_id]
            ).fetchall()[0][0]
        return SyncSummary(
            store=self.reader.store,
            reader=self.reader.kind,
            mode=str(self.options.mode),
            dry_run=self.options.dry_run,
            up_to_date=plan.empty and not self._due() and not self.filled.written and not self.filled.unreachable,
            runs_seen=stage.run_count(),
            runs_added=plan.added,
            runs_changed=plan.changed,
            runs_removed=len(plan.removed),
            events=events,
            results_judged=self.filled.judged,
            results_written=self.filled.written,
            verdicts=self.filled.verdicts,
            unreachable=self.filled.unreachable,
            refused=refused,
            seconds={**self.seconds, "total": time.perf_counter() - self.began},
        )


def verify_store(reader: Reader, db: Path, judge: Star | None = None) -> list[tuple[str, int, int]]:
    """``(table, rows only in the store, rows only in the warehouse)`` for each table that differs; empty is exact.
    A function or a trigger that somebody put into the warehouse is named as a table is.

    Every row of both is compared; with ``judge`` all evidence is fetched and judged again too, and the rows that
    follow from it are compared. Nothing is written. Raises :class:`~hwbench_mlflow.errors.StoreError`.
    """
    import duckdb

    try:
        with database.reader(db) as connection:
            made = database.made_by_hand(connection)
            if made:  # a comparison made beside them says nothing
                return [(name, 0, 1) for name in made]
            stage = Stage(connection)
            reader.read(stage, Request(mode=Mode.FULL, remember=False))
            found = mirror.differences(connection)
            return found + (judge.differences(connection) if judge is not None else [])
    except duckdb.Error as error:
        raise StoreError(*database.explain(db, error)) from error

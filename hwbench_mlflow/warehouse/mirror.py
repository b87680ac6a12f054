"""What changed between the stage and the mirror, and writing it: one transaction a batch, the fingerprint last.

A run is rewritten as a whole when one of its five fingerprints differs. Killed anywhere, the mirror holds whole runs
only, and a run whose transaction did not commit still has its old fingerprint (or none), so the next sync takes it
again. Knows no store and no verdict.
"""

# ruff: noqa: S608 -- names come from our own tables of columns, run ids are quoted; values are bound

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwbench_mlflow.warehouse.database import engine
from hwbench_mlflow.warehouse.stage import CHILDREN, FINGERPRINTS, MIRROR, RUN_COLUMNS, row_hash

if TYPE_CHECKING:
    from datetime import datetime

    from duckdb import DuckDBPyConnection


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is going to be written. ``removed`` are runs that the store says are gone."""

    added: int
    changed: int
    removed: tuple[str, ...]
    batches: int
    experiments_differ: bool

    @property
    def empty(self) -> bool:
        """True if the mirror already equals the store."""
        return not (self.added or self.changed or self.removed or self.experiments_differ)


def is_empty(connection: DuckDBPyConnection) -> bool:
    """True if no table of the mirror holds a row of a run."""
    tables = ("runs", *CHILDREN, "run_state")
    found = connection.execute("SELECT " + " OR ".join(f"EXISTS (FROM mlflow.{t})" for t in tables)).fetchall()
    return not found[0][0]


def plan(
    connection: DuckDBPyConnection, removed: Sequence[str], *, batch_runs: int, scoped: bool, exact: bool = False
) -> Plan:
    """Fingerprint the candidates and list those to write in ``s_changed (run_uuid, batch, is_new, fp_*)``.

    ``exact`` also compares the rows themselves, so that what was edited in the mirror by hand is written again; every
    run in scope must then be a candidate.
    """
    _drifted(connection, exact)
    differs = " OR ".join(f"n.{c} <> o.{c}" for c in ("fp_run", *FINGERPRINTS.values()))
    _sum_hashes(connection)
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE s_changed AS
            WITH n AS MATERIALIZED (
                {_FINGERPRINTED.format(more="")} SEMI JOIN s_candidates c ON c.run_uuid = s.run_uuid
                WHERE NOT EXISTS (FROM s_refused r WHERE r.run_uuid = s.run_uuid))
            SELECT n.*, m.run_uuid IS NULL AS is_new,
                   ((row_number() OVER (ORDER BY n.start_time, n.run_uuid) - 1) // {int(batch_runs)})::INTEGER AS batch
            FROM n LEFT JOIN mlflow.run_state o ON o.run_uuid = n.run_uuid AND o.engine = ?
                   LEFT JOIN mlflow.runs m ON m.run_uuid = n.run_uuid
            WHERE o.run_uuid IS NULL OR {differs} OR n.run_uuid IN (FROM s_drifted)""",
        [engine()],
    )
    _drop_sums(connection)
    rows = connection.execute(
        "SELECT count(*) FILTER (is_new), count(*) FILTER (NOT is_new), coalesce(max(batch) + 1, 0) FROM s_changed"
    ).fetchall()
    return Plan(
        added=rows[0][0],
        changed=rows[0][1],
        removed=tuple(sorted(removed)),
        batches=rows[0][2],
        experiments_differ=_experiments_differ(connection, scoped),
    )


def plan_fresh(connection: DuckDBPyConnection, *, scoped: bool) -> Plan:
    """:func:`plan` of a fresh stage: every run is new, and its rows are in the mirror already, not yet committed.

    Rows of no run (MLflow's foreign keys are off in SQLite) are taken out again.
    """
    _sum_hashes(connection)
    for table in CHILDREN:
        stray = f"SELECT run_uuid FROM f_{table} ANTI JOIN mlflow.runs USING (run_uuid)"
        if connection.execute(f"SELECT EXISTS ({stray})").fetchall()[0][0]:
            connection.execute(f"DELETE FROM mlflow.{table} WHERE run_uuid IN ({stray})")
    connection.execute(f"CREATE OR REPLACE TEMP TABLE s_changed AS {_FINGERPRINTED.format(more=_ALL_NEW)}")
    _drop_sums(connection)
    added = connection.execute("SELECT count(*) FROM s_changed").fetchall()[0][0]
    return Plan(
        added=added, changed=0, removed=(), batches=min(added, 1),
        experiments_differ=_experiments_differ(connection, scoped),
    )  # fmt: skip


_ALL_NEW = ", true AS is_new, 0 AS batch"
_FINGERPRINTED = (
    f"SELECT s.run_uuid, s.experiment_id, s.start_time, {row_hash('runs', 's')}::HUGEINT AS fp_run, "
    + ", ".join(f"coalesce(f_{t}.fp, 0) AS {FINGERPRINTS[t]}" for t in CHILDREN)
    + "{more} FROM s_runs s "
    + " ".join(f"LEFT JOIN f_{t} ON f_{t}.run_uuid = s.run_uuid" for t in CHILDREN)
)


def _sum_hashes(connection: DuckDBPyConnection) -> None:
    for table in CHILDREN:
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE f_{table} AS SELECT run_uuid, sum({row_hash(table)}::HUGEINT) AS fp "
            f"FROM s_{table} GROUP BY run_uuid"
        )


def _drop_sums(connection: DuckDBPyConnection) -> None:
    for table in CHILDREN:
        connection.execute(f"DROP TABLE f_{table}")


def _drifted(connection: DuckDBPyConnection, exact: bool) -> None:
    """``s_drifted``: runs whose mirrored rows are not the staged ones, whatever their fingerprints say."""
    connection.execute("CREATE OR REPLACE TEMP TABLE s_drifted (run_uuid VARCHAR)")
    if not exact:
        return
    for table in ("runs", *CHILDREN):
        columns = ", ".join(f'"{c}"' for c in MIRROR[table])
        sides = f"SELECT {columns} FROM s_{table}", f"SELECT {columns} FROM mlflow.{table}"
        for one, other in (sides, sides[::-1]):
            connection.execute(f"INSERT INTO s_drifted SELECT DISTINCT run_uuid FROM ({one} EXCEPT ALL {other})")


def _experiments_differ(connection: DuckDBPyConnection, scoped: bool) -> bool:
    for table in ("experiments", "experiment_tags"):
        mine = f"(FROM mlflow.{table}" + (" SEMI JOIN s_experiments USING (experiment_id))" if scoped else ")")
        rows = connection.execute(
            f"SELECT EXISTS ((FROM s_{table} EXCEPT ALL {mine}) UNION ALL ({mine} EXCEPT ALL FROM s_{table}))"
        ).fetchall()
        if rows[0][0]:
            return True
    return False


def write_fresh(connection: DuckDBPyConnection, sync_id: int, now: datetime) -> None:
    """What is left to write of a fresh stage: the events, and last the fingerprints. Inside the same transaction."""
    _run_events(connection, 0, sync_id, now)
    fields = ", ".join(("fp_run", *FINGERPRINTS.values()))
    connection.execute(f"INSERT INTO mlflow.run_state SELECT run_uuid, {fields}, ? FROM s_changed", [engine()])


def write_batch(connection: DuckDBPyConnection, batch: int, sync_id: int, now: datetime) -> None:
    """Rewrite the runs of one batch and append what changed. Inside the caller's transaction."""
    only = f"(SELECT run_uuid FROM s_changed WHERE batch = {int(batch)})"
    old = _run_events(connection, batch, sync_id, now)
    if old:
        for table in CHILDREN:
            connection.execute(f"DELETE FROM mlflow.{table} WHERE rowid IN (SELECT place FROM s_was_{table})")
            connection.execute(f"DROP TABLE s_was_{table}")
    for table in CHILDREN:
        connection.execute(f"INSERT INTO mlflow.{table} SELECT * FROM s_{table} WHERE run_uuid IN {only}")
    verb = "INSERT OR REPLACE" if old else "INSERT"
    connection.execute(f"{verb} INTO mlflow.runs SELECT * FROM s_runs WHERE run_uuid IN {only}")


def write_fingerprints(connection: DuckDBPyConnection, batch: int) -> None:
    """The last write of a batch's transaction."""
    fields = ", ".join(("fp_run", *FINGERPRINTS.values()))
    connection.execute(
        f"INSERT OR REPLACE INTO mlflow.run_state SELECT run_uuid, {fields}, ? FROM s_changed WHERE batch = ?",
        [engine(), batch],
    )


_EVENT = "INSERT INTO mlflow.run_events"


def _run_events(connection: DuckDBPyConnection, batch: int, sync_id: int, now: datetime) -> bool:
    """Append the events of a batch. True if it has runs that the mirror has: their rows are in ``s_was_<table>`` then.

    Each table of the mirror is searched for them once; ``place`` is where a row is.
    """
    connection.execute(
        f"{_EVENT} SELECT ?, run_uuid, experiment_id, 'run_added', NULL, NULL, NULL, ? "
        "FROM s_changed WHERE batch = ? AND is_new ORDER BY start_time, run_uuid",
        [sync_id, now, batch],
    )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE s_old AS SELECT run_uuid, experiment_id FROM s_changed "
        f"WHERE batch = {int(batch)} AND NOT is_new"
    )
    if not connection.execute("SELECT EXISTS (FROM s_old)").fetchall()[0][0]:
        return False
    for table in CHILDREN:
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE s_was_{table} AS "
            f"SELECT rowid AS place, * FROM mlflow.{table} SEMI JOIN s_old USING (run_uuid)"
        )
    fields = ", ".join(f"{{'c': '{c}', 'o': m.{c}::VARCHAR, 'n': s.{c}::VARCHAR}}" for c in RUN_COLUMNS[1:])
    connection.execute(
        f"""{_EVENT}
            WITH d AS (SELECT s.run_uuid, s.experiment_id, unnest([{fields}]) AS f
                       FROM s_runs s SEMI JOIN s_old o ON o.run_uuid = s.run_uuid
                       JOIN mlflow.runs m ON m.run_uuid = s.run_uuid)
            SELECT ?, run_uuid, experiment_id, 'run_changed', f.c, f.o, f.n, ? FROM d WHERE f.o IS DISTINCT FROM f.n""",
        [sync_id, now],
    )
    for table, noun in (("tags", "tag"), ("params", "param"), ("latest_metrics", "metric")):
        _pair_events(connection, table, noun, sync_id, now)
    _point_events(connection, sync_id, now)
    return True


def _pair_events(connection: DuckDBPyConnection, table: str, noun: str, sync_id: int, now: datetime) -> None:
    """Keys that came, went or changed their value."""
    connection.execute(
        f"""{_EVENT}
            WITH o AS (FROM s_was_{table}),
                 n AS (FROM s_{table} t SEMI JOIN s_old USING (run_uuid))
            SELECT ?, run_uuid, s_old.experiment_id,
                   '{noun}_' || CASE WHEN o.key IS NULL THEN 'added'
                        WHEN n.key IS NULL THEN 'deleted' ELSE 'changed' END,
                   coalesce(n.key, o.key), o.value::VARCHAR, n.value::VARCHAR, ?
            FROM o FULL JOIN n ON o.run_uuid = n.run_uuid AND o.key = n.key
            JOIN s_old ON s_old.run_uuid = coalesce(n.run_uuid, o.run_uuid)
            WHERE o.key IS NULL OR n.key IS NULL OR o.value IS DISTINCT FROM n.value""".replace(
            "SELECT ?, run_uuid,", "SELECT ?, coalesce(n.run_uuid, o.run_uuid),"
        ),
        [sync_id, now],
    )


def _point_events(connection: DuckDBPyConnection, sync_id: int, now: datetime) -> None:
    """How many points of history came or went, a key: a late point leaves no other trace."""
    columns = ", ".join(f'"{c}"' for c in MIRROR["metric_history"])
    was = f"SELECT {columns} FROM s_was_metric_history"
    now_is = f"SELECT {columns} FROM s_metric_history SEMI JOIN s_old USING (run_uuid)"
    for kind, more, less in (("points_added", now_is, was), ("points_deleted", was, now_is)):
        connection.execute(
            f"""{_EVENT}
                SELECT ?, d.run_uuid, s_old.experiment_id, '{kind}', d.key, NULL, count(*)::VARCHAR, ?
                FROM ({more} EXCEPT ALL {less}) d
                JOIN s_old ON s_old.run_uuid = d.run_uuid
                GROUP BY d.run_uuid, s_old.experiment_id, d.key""",
            [sync_id, now],
        )


def remove_runs(connection: DuckDBPyConnection, run_ids: Sequence[str], sync_id: int, now: datetime) -> None:
    """Runs that the store says are gone (``mlflow gc``). Inside the caller's transaction."""
    if not run_ids:
        return
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE s_gone AS SELECT unnest(?::VARCHAR[]) AS run_uuid", [list(run_ids)]
    )
    connection.execute(
        f"{_EVENT} SELECT ?, run_uuid, experiment_id, 'run_removed', NULL, status, NULL, ? "
        "FROM mlflow.runs SEMI JOIN s_gone USING (run_uuid) ORDER BY run_uuid",
        [sync_id, now],
    )
    for table in (*CHILDREN, "runs", "run_state"):
        connection.execute(f"DELETE FROM mlflow.{table} WHERE run_uuid IN (FROM s_gone)")


def write_experiments(connection: DuckDBPyConnection, sync_id: int, now: datetime, *, scoped: bool) -> None:
    """Make both experiment tables equal to the stage. Inside the caller's transaction."""
    mine = "mlflow.experiments" + (" SEMI JOIN s_experiments USING (experiment_id)" if scoped else "")
    connection.execute(
        f"""{_EVENT}
            WITH o AS (FROM {mine}), n AS (FROM s_experiments)
            SELECT ?, NULL, coalesce(n.experiment_id, o.experiment_id), 'experiment_' ||
                   CASE WHEN o.experiment_id IS NULL THEN 'added' WHEN n.experiment_id IS NULL THEN 'removed'
                        ELSE 'changed' END, NULL, o.name, n.name, ?
            FROM o FULL JOIN n ON o.experiment_id = n.experiment_id
            WHERE o.experiment_id IS NULL OR n.experiment_id IS NULL OR o.name <> n.name
               OR o.lifecycle_stage IS DISTINCT FROM n.lifecycle_stage
               OR o.creation_time IS DISTINCT FROM n.creation_time""",
        [sync_id, now],
    )
    where = " WHERE experiment_id IN (SELECT experiment_id FROM s_experiments)" if scoped else ""
    gone = where or " WHERE experiment_id NOT IN (SELECT experiment_id FROM s_experiments)"
    connection.execute(f"DELETE FROM mlflow.experiment_tags{where}")
    connection.execute("INSERT INTO mlflow.experiment_tags FROM s_experiment_tags")
    if not scoped:
        connection.execute(f"DELETE FROM mlflow.experiments{gone}")
    connection.execute("INSERT OR REPLACE INTO mlflow.experiments FROM s_experiments")


def differences(connection: DuckDBPyConnection) -> list[tuple[str, int, int]]:
    """``(table, rows only in the store, rows only in the mirror)`` for every table that differs, row by row.

    The stage must hold every run of the store; runs the store refused are left out on both sides.
    """
    found = []
    for table in MIRROR:
        columns = ", ".join(f'"{c}"' for c in MIRROR[table])
        keep = "" if table.startswith("experiment") else " WHERE run_uuid NOT IN (SELECT run_uuid FROM s_refused)"
        counts = [
            connection.execute(
                f"SELECT count(*) FROM (SELECT {columns} FROM {a}{keep} EXCEPT ALL SELECT {columns} FROM {b}{keep})"
            ).fetchall()[0][0]
            for a, b in ((f"s_{table}", f"mlflow.{table}"), (f"mlflow.{table}", f"s_{table}"))
        ]
        if any(counts):
            found.append((table, counts[0], counts[1]))
    return found

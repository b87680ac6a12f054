"""The stage: temporary DuckDB tables that hold what a reader took from the store, before anything is decided.

Temporary tables live in the warehouse's connection and spill to disk past the memory limit, so the store is read
and closed before the first write. Owns their names and columns; knows no store and no verdict.
"""

# ruff: noqa: S608 -- names come from our own tables of columns, run ids are quoted; values are bound

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow
    from duckdb import DuckDBPyConnection

EXPERIMENT_COLUMNS = (
    "experiment_id", "name", "artifact_location", "lifecycle_stage", "creation_time", "last_update_time", "workspace",
)  # fmt: skip
RUN_COLUMNS = (
    "run_uuid", "name", "source_type", "source_name", "entry_point_name", "user_id", "status", "start_time", "end_time",
    "source_version", "lifecycle_stage", "artifact_uri", "experiment_id", "deleted_time",
)  # fmt: skip
PAIR = ("run_uuid", "key", "value")
POINT = ("run_uuid", "key", "value", "timestamp", "step", "is_nan")

MIRROR: dict[str, tuple[str, ...]] = {
    "experiments": EXPERIMENT_COLUMNS,
    "experiment_tags": ("experiment_id", "key", "value"),
    "runs": RUN_COLUMNS,
    "tags": PAIR,
    "params": PAIR,
    "latest_metrics": POINT,
    "metric_history": POINT,
}
"""Columns of each mirrored table, in the order of ``mlflow.*`` and ``s_*``."""

CHILDREN = ("tags", "params", "latest_metrics", "metric_history")
FINGERPRINTS = {
    "tags": "fp_tags", "params": "fp_params", "latest_metrics": "fp_latest", "metric_history": "fp_history",
}  # fmt: skip

_TYPES = {
    "experiment_id": "BIGINT", "creation_time": "BIGINT", "last_update_time": "BIGINT", "start_time": "BIGINT",
    "end_time": "BIGINT", "deleted_time": "BIGINT", "timestamp": "BIGINT", "step": "BIGINT", "is_nan": "BOOLEAN",
}  # fmt: skip


def column_type(table: str, column: str) -> str:
    """The DuckDB type of a mirrored column."""
    if column == "value" and table in {"latest_metrics", "metric_history"}:
        return "DOUBLE"
    return _TYPES.get(column, "VARCHAR")


def row_hash(table: str, alias: str = "") -> str:
    """SQL for the 64-bit hash of one row.

    Two different sets of rows give the same *sum* of hashes with odds of about 2^-64 (5e-20) a comparison, unless
    someone chooses the values to that end; `--full` rewrites nothing either then, `verify --store` compares rows.
    """
    prefix = f"{alias}." if alias else ""
    return "hash(" + ", ".join(f'{prefix}"{c}"' for c in MIRROR[table]) + ")"


class Stage:
    """Temporary tables ``s_<table>`` of one sync.

    After a read, ``s_runs`` and ``s_experiments`` list everything in scope; ``s_candidates`` names the runs whose
    four child tables are staged completely. A run in ``s_runs`` that is no candidate is known to be unchanged.
    ``s_refused`` names runs that cannot be mirrored exactly.

    ``fresh`` is for a mirror without runs, inside the caller's transaction: rows of runs go straight to the mirror's
    own tables, which ``s_<table>`` then only names. Nothing is copied twice, and nothing can be taken back but by
    rolling back.
    """

    def __init__(self, connection: DuckDBPyConnection, *, fresh: bool = False) -> None:
        self.connection = connection
        self.fresh = fresh
        self._staged_runs = "s_runs"
        self._kept_runs: int | None = None
        for table, columns in MIRROR.items():
            if self._target(table).startswith("mlflow."):
                connection.execute(f"CREATE OR REPLACE TEMP VIEW s_{table} AS FROM mlflow.{table}")
                continue
            body = ", ".join(f'"{c}" {column_type(table, c)}' for c in columns)
            connection.execute(f"CREATE OR REPLACE TEMP TABLE s_{table} ({body})")
        connection.execute("CREATE OR REPLACE TEMP TABLE s_candidates (run_uuid VARCHAR)")
        connection.execute("CREATE OR REPLACE TEMP TABLE s_refused (run_uuid VARCHAR, reason VARCHAR)")

    def _target(self, table: str) -> str:
        return f"mlflow.{table}" if self.fresh and not table.startswith("experiment") else f"s_{table}"

    def load(self, table: str, rows: pyarrow.RecordBatchReader | pyarrow.Table) -> None:
        """Append Arrow rows whose column names are the mirror's; NaN flags become NaN here and only here."""
        columns = ", ".join(f'"{c}"' for c in MIRROR[table])
        picked = ", ".join(self._source(table, c) for c in MIRROR[table])
        with self._incoming(rows):
            self.connection.execute(f"INSERT INTO {self._target(table)} ({columns}) SELECT {picked} FROM s_incoming")

    @contextmanager
    def _incoming(self, rows: Any) -> Iterator[None]:
        """Arrow rows as ``s_incoming``."""
        import duckdb

        self.connection.register("s_incoming", rows)
        try:
            yield
        except BaseException:
            # In a transaction that has failed this fails too, and would hide why.
            with suppress(duckdb.Error):
                self.connection.unregister("s_incoming")
            raise
        self.connection.unregister("s_incoming")

    @staticmethod
    def _source(table: str, column: str) -> str:
        if column == "value" and table in {"latest_metrics", "metric_history"}:
            return "CASE WHEN is_nan::BOOLEAN THEN 'nan'::DOUBLE ELSE value::DOUBLE END"
        return f'"{column}"::{column_type(table, column)}'

    def add_candidates(self, run_ids: Iterable[str]) -> None:
        """Name runs whose children the reader is going to stage completely."""
        import pyarrow as pa

        names = pa.table({"run_uuid": pa.array(list(run_ids), pa.string())})
        with self._incoming(names):
            self.connection.execute("INSERT INTO s_candidates SELECT run_uuid FROM s_incoming EXCEPT FROM s_candidates")

    def all_are_candidates(self) -> None:
        """Every run of ``s_runs`` has its children staged."""
        self.connection.execute("CREATE OR REPLACE TEMP TABLE s_candidates AS SELECT run_uuid FROM s_runs")

    def keep_others(self, rows: int) -> bool:
        """Let the mirror's runs that are not staged count as staged, if with the staged ones they are ``rows``.

        The caller knows that all runs of the store which are not staged are in the mirror, exactly; False, and nothing
        done, where the mirror has more of them, or lacks fingerprints.
        """
        from hwbench_mlflow.warehouse.database import engine

        if self._count("SELECT count(*) FROM mlflow.runs ANTI JOIN s_runs USING (run_uuid)") != (
            rows - self._count("SELECT count(*) FROM s_runs")
        ):
            return False
        if self._count("SELECT count(*) FROM mlflow.runs") != self._count(
            "SELECT count(*) FROM mlflow.run_state WHERE engine = ?", [engine()]
        ):
            return False
        self._staged_runs = "s_some_runs"
        self.connection.execute("ALTER TABLE s_runs RENAME TO s_some_runs")
        self.connection.execute(
            "CREATE TEMP VIEW s_runs AS "
            "FROM s_some_runs UNION ALL FROM mlflow.runs ANTI JOIN s_some_runs USING (run_uuid)"
        )
        self._kept_runs = rows
        return True

    def clear_runs(self) -> None:
        """Take back the runs that were loaded."""
        self.connection.execute("DELETE FROM s_runs")

    def changed_run_rows(self) -> list[str]:
        """Runs of ``s_runs`` that the mirror lacks, holds differently, or holds without a current fingerprint."""
        from hwbench_mlflow.warehouse.database import engine

        rows = self.connection.execute(
            f"""SELECT s.run_uuid FROM {self._staged_runs} s LEFT JOIN mlflow.run_state f
                    ON f.run_uuid = s.run_uuid AND f.engine = ?
                WHERE f.run_uuid IS NULL OR f.fp_run <> {row_hash("runs", "s")}::HUGEINT""",
            [engine()],
        ).fetchall()
        return [r[0] for r in rows]

    def changed_tags(self, rows: pyarrow.RecordBatchReader) -> list[str]:
        """Runs whose tags, streamed past and not kept, differ from the mirror's fingerprint."""
        with self._incoming(rows):
            found = self.connection.execute(
                f"""WITH seen AS (
                        SELECT run_uuid, sum({row_hash("tags")}::HUGEINT) AS fp FROM s_incoming GROUP BY run_uuid)
                    SELECT s.run_uuid FROM s_runs s
                    JOIN mlflow.run_state f USING (run_uuid) LEFT JOIN seen USING (run_uuid)
                    WHERE coalesce(seen.fp, 0) <> f.fp_tags"""
            ).fetchall()
        return [r[0] for r in found]

    def changed_counts(self, table: str, rows: pyarrow.RecordBatchReader) -> list[str]:
        """Runs whose number of rows ``(run_uuid, n)`` in an append-only table is not the mirror's."""
        with self._incoming(rows):
            found = self.connection.execute(
                f"""WITH seen AS (SELECT run_uuid, n FROM s_incoming),
                         mine AS (SELECT run_uuid, count(*) AS n FROM mlflow.{table} GROUP BY run_uuid)
                    SELECT s.run_uuid FROM s_runs s LEFT JOIN seen USING (run_uuid) LEFT JOIN mine USING (run_uuid)
                    WHERE coalesce(seen.n, 0) <> coalesce(mine.n, 0)"""
            ).fetchall()
        return [r[0] for r in found]

    def differing(self, tables: Sequence[str]) -> list[str]:
        """Runs of ``s_runs`` whose own row, or whose staged rows in ``tables``, are not what the mirror holds."""
        changed = set(self.changed_run_rows())
        for table in tables:
            changed |= set(self.changed_children(table))
        return sorted(changed)

    def changed_children(self, table: str) -> list[str]:
        """Runs whose completely staged rows in ``table`` differ from the mirror's fingerprint."""
        rows = self.connection.execute(
            f"""WITH seen AS (SELECT run_uuid, sum({row_hash(table)}::HUGEINT) AS fp FROM s_{table} GROUP BY run_uuid)
                SELECT s.run_uuid FROM s_runs s JOIN mlflow.run_state f USING (run_uuid) LEFT JOIN seen USING (run_uuid)
                WHERE coalesce(seen.fp, 0) <> f.{FINGERPRINTS[table]}"""
        ).fetchall()
        return [r[0] for r in rows]

    def staged_keys(self, run_ids: Sequence[str]) -> dict[str, list[str]]:
        """The metrics' keys of the named runs, from ``s_latest_metrics``."""
        self._name(run_ids)
        found = self.connection.execute(
            "SELECT run_uuid, list(key) FROM s_latest_metrics WHERE run_uuid IN (FROM s_named) GROUP BY run_uuid"
        ).fetchall()
        return {run_id: list[str]() for run_id in run_ids} | dict(found)

    def mirrored_runs(self) -> set[str]:
        """Runs that the mirror has."""
        return {r[0] for r in self.connection.execute("SELECT run_uuid FROM mlflow.runs").fetchall()}

    def torn(self, run_ids: Sequence[str]) -> list[str]:
        """Those of the named runs with a latest metric that is no point of their staged history; MLflow has none."""
        self._name(run_ids)
        columns = ", ".join(f'"{c}"' for c in MIRROR["latest_metrics"])
        rows = self.connection.execute(
            f"""SELECT DISTINCT run_uuid FROM (
                    SELECT {columns} FROM s_latest_metrics WHERE run_uuid IN (FROM s_named)
                    EXCEPT SELECT {columns} FROM s_metric_history WHERE run_uuid IN (FROM s_named))"""
        ).fetchall()
        return [r[0] for r in rows]

    def forget(self, run_ids: Sequence[str]) -> None:
        """Take runs out of the stage: they moved while they were read, or are no longer there."""
        self._name(run_ids)
        for table in ("runs", *CHILDREN):
            self.connection.execute(f"DELETE FROM s_{table} WHERE run_uuid IN (FROM s_named)")

    def _name(self, run_ids: Sequence[str]) -> None:
        self.connection.execute(
            "CREATE OR REPLACE TEMP TABLE s_named AS SELECT unnest(?::VARCHAR[]) AS run_uuid", [list(run_ids)]
        )

    def unlisted_experiments(self) -> list[int]:
        """Experiments of the mirror that ``s_experiments`` does not list."""
        rows = self.connection.execute(
            "SELECT experiment_id FROM mlflow.experiments EXCEPT SELECT experiment_id FROM s_experiments ORDER BY 1"
        ).fetchall()
        return [int(r[0]) for r in rows]

    def keep_experiment(self, experiment_id: int) -> None:
        """Stage an experiment as the mirror has it: it was not listed, but not said to be gone either."""
        for table in ("experiments", "experiment_tags"):
            self.connection.execute(
                f"INSERT INTO s_{table} FROM mlflow.{table} WHERE experiment_id = ?", [experiment_id]
            )

    def mirrored_rows(self, table: str, run_ids: Iterable[str]) -> int:
        """Rows that the mirror holds of the named runs."""
        names = sorted(run_ids)
        if not names:
            return 0
        self._name(names)
        return self._count(f"SELECT count(*) FROM mlflow.{table} WHERE run_uuid IN (FROM s_named)")

    def stray_runs(self) -> list[str]:
        """Runs that have rows in a child table of the mirror and are in neither ``runs``: a hand put them there."""
        return [
            r[0]
            for r in self.connection.execute(
                f"SELECT run_uuid FROM ({' UNION '.join(f'SELECT run_uuid FROM mlflow.{t}' for t in CHILDREN)}) "
                "WHERE run_uuid NOT IN (SELECT run_uuid FROM mlflow.runs UNION SELECT run_uuid FROM s_runs)"
            ).fetchall()
        ]

    def missing_runs(self, experiments: Sequence[str]) -> list[str]:
        """Runs of the mirror that ``s_runs`` does not list, within the scope."""
        if self._staged_runs != "s_runs":
            return []  # every run of the mirror is in s_runs, that is how it was made
        scope = ""
        if experiments:
            scope = " WHERE experiment_id IN (SELECT experiment_id FROM s_experiments)"
        return [
            r[0]
            for r in self.connection.execute(
                f"SELECT run_uuid FROM mlflow.runs{scope} EXCEPT SELECT run_uuid FROM s_runs"
            ).fetchall()
        ]

    def refuse(self, run_ids: Iterable[tuple[str, str]]) -> None:
        """Leave runs out of this sync, each with its reason."""
        rows = list(run_ids)
        if rows:
            self.connection.executemany("INSERT INTO s_refused VALUES (?, ?)", [list(r) for r in rows])

    def run_count(self) -> int:
        """Runs in scope."""
        if self._kept_runs is not None:
            return self._kept_runs
        return self._count("SELECT count(*) FROM s_runs")

    def _count(self, sql: str, values: Sequence[str] = ()) -> int:
        return int(self.connection.execute(sql, list(values)).fetchall()[0][0])

    def drop(self) -> None:
        """Give the memory back."""
        views = {t for t in MIRROR if self._target(t).startswith("mlflow.")}
        if self._staged_runs != "s_runs":
            views.add("runs")
            self.connection.execute(f"DROP TABLE {self._staged_runs}")
        for table in (*MIRROR, "candidates", "refused"):
            self.connection.execute(f"DROP {'VIEW' if table in views else 'TABLE'} IF EXISTS s_{table}")

"""The star schema, kept up with the mirror: which runs must be judged, and writing what came out.

State diff, as in the mirror: a run is judged when its row in ``benchmark_runs`` is missing or carries another
fingerprint, another keyring or another hwbench version. A run that changes loses its rows in the very transaction that
changes its mirror (:func:`forget`), and gets new ones in a later transaction: killed in between, a result is absent,
never stale. Evidence is fetched outside transactions.

What is fetched: the files of new and changed runs, of runs that could not be reached last time, and of all runs with
``full``. When only keys or hwbench's version changed, the files kept in ``evidence_files`` are judged again: the
digest of ``result.json`` is a param, which MLflow lets nobody change, and it covers the samples; size or time of a file
in the store would prove less.
"""

# ruff: noqa: S608 -- names come from our own tables, values are bound

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hwbench_mlflow import __version__
from hwbench_mlflow.attest import Keyring
from hwbench_mlflow.codec import sha256
from hwbench_mlflow.errors import StoreError
from hwbench_mlflow.evidence import DIGEST_PARAM, RESULT_ID_PARAM, ROLE_TAG, RunIndex
from hwbench_mlflow.metrics import METRICS
from hwbench_mlflow.warehouse.database import transaction
from hwbench_mlflow.warehouse.results import FILES, Case, Row, Rows, judge_name, refused, rows_of
from hwbench_mlflow.warehouse.sources import EvidenceSource, Sources

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

CHUNK_RUNS = 100
"""Runs a transaction; what is held in memory is their files and their samples."""
FETCHERS = 8

PER_RUN = ("performance_results", "latency_samples", "verdict_findings", "evidence_files", "benchmark_runs")
"""A run's rows in each are rewritten as a whole; the last one says that the others are there."""
DIMENSIONS = ("models", "hardware_platforms")
LOG = "hardware_availability_log"

_FIELDS = {
    "performance_results": "results", "verdict_findings": "findings", "evidence_files": "files",
    "models": "models", "hardware_platforms": "hardware", LOG: "probes",
}  # fmt: skip
_KEYS = {"models": "model_id", "hardware_platforms": "hardware_id"}

_FINGERPRINT = "concat_ws(' ', f.fp_run, f.fp_tags, f.fp_params, f.fp_latest, f.fp_history, f.engine)"

# Params are write-once: a run that has them is a result, whatever its tags are made to say.
RUNS_OF_OURS = f"""
    SELECT r.run_uuid AS run_id, r.experiment_id, r.lifecycle_stage IS DISTINCT FROM 'active' AS deleted,
           coalesce(r.artifact_uri, '') AS artifact_uri, coalesce(r.status, '') AS status,
           CASE WHEN p.run_uuid IS NOT NULL THEN 'result'
                WHEN t.value IN ('result', 'devices', 'failure', 'parent') THEN t.value ELSE 'unknown' END AS role,
           {_FINGERPRINT} AS fingerprint
    FROM mlflow.runs r JOIN mlflow.run_state f USING (run_uuid)
    LEFT JOIN (SELECT run_uuid, max(value) AS value FROM mlflow.tags WHERE key = '{ROLE_TAG}' GROUP BY ALL) t
        USING (run_uuid)
    LEFT JOIN (SELECT DISTINCT run_uuid FROM mlflow.params WHERE key IN ('{DIGEST_PARAM}', '{RESULT_ID_PARAM}')) p
        USING (run_uuid)
    WHERE (p.run_uuid IS NOT NULL OR t.run_uuid IS NOT NULL)"""


@dataclass(slots=True, kw_only=True)
class Filled:
    """What one sync did to the star schema."""

    judged: int = 0
    written: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Due:
    run_id: str
    fetch: bool


def forget(connection: DuckDBPyConnection, run_ids: Sequence[str]) -> None:
    """Take the rows of runs away, but not what they say of probes: that is a history. Inside the caller's
    transaction."""
    mine = connection.execute(
        "SELECT run_id FROM benchmark_runs WHERE run_id IN (SELECT unnest(?::VARCHAR[]))", [list(run_ids)]
    ).fetchall()
    if not mine:
        return
    for table in PER_RUN:
        connection.execute(f"DELETE FROM {table} WHERE run_id IN (SELECT unnest(?::VARCHAR[]))", [[r[0] for r in mine]])


def forget_changed(connection: DuckDBPyConnection, batch: int) -> None:
    """:func:`forget` the runs that a batch of the mirror rewrites."""
    rows = connection.execute("SELECT run_uuid FROM s_changed WHERE batch = ? AND NOT is_new", [batch]).fetchall()
    if rows:
        forget(connection, [r[0] for r in rows])


class Star:
    """Judges the mirror's runs by ``keyring`` and keeps their rows. ``source`` reads their files."""

    def __init__(self, keyring: Keyring, source: EvidenceSource | None = None) -> None:
        self.keyring, self.source = keyring, source or Sources()
        self.judge = judge_name(keyring, __version__)

    def pending(self, connection: DuckDBPyConnection, experiments: Sequence[str] = ()) -> bool:
        """True if there is anything to judge, to try again or to tidy away."""
        return bool(self._due(connection, experiments)) or orphans(connection)

    def fill(
        self,
        connection: DuckDBPyConnection,
        *,
        experiments: Sequence[str] = (),
        full: bool = False,
        without: Sequence[str] = (),
        before_write: Callable[[], object] = lambda: None,
        at_step: Callable[[str], None] = lambda _: None,
        progress: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> Filled:
        """Judge what is due and write what differs, ``CHUNK_RUNS`` runs a transaction.

        ``without`` are runs about to be removed. ``before_write`` is called inside the first writing transaction.
        """
        filled = Filled()
        due = self._due(connection, experiments, full=full, without=without)
        for begin in range(0, len(due), CHUNK_RUNS):
            chunk = due[begin : begin + CHUNK_RUNS]
            with staged(connection) as stage:
                self._stage(connection, stage, chunk, filled)
                differs = stage.differing()
                if any(differs.values()):
                    with transaction(connection):
                        before_write()
                        stage.write(differs)
                        at_step(f"inside results {begin}")
                    at_step(f"results {begin}")
                filled.written += len(set().union(*differs.values()))
            filled.judged += len(chunk)
            progress(filled.judged, len(due))
        return filled

    def differences(self, connection: DuckDBPyConnection) -> list[tuple[str, int, int]]:
        """``(table, rows only in the evidence, rows only in the warehouse)``: everything fetched and judged again."""
        counts = dict.fromkeys(PER_RUN, (0, 0))
        edited: dict[str, set[str]] = {table: set() for table in DIMENSIONS}
        due = self._due(connection, (), full=True)
        for begin in range(0, len(due), CHUNK_RUNS):
            with staged(connection) as stage:
                self._stage(connection, stage, due[begin : begin + CHUNK_RUNS], Filled())
                for table in PER_RUN:
                    more = stage.counts(table)
                    counts[table] = (counts[table][0] + more[0], counts[table][1] + more[1])
                for table in DIMENSIONS:
                    edited[table] |= stage.edited(table)
        ours = f"(SELECT run_id FROM ({RUNS_OF_OURS}))"
        for table in PER_RUN:
            stray = connection.execute(f"SELECT count(*) FROM {table} WHERE run_id NOT IN {ours}").fetchall()[0][0]
            counts[table] = (counts[table][0], counts[table][1] + stray)
        counts |= {table: (len(keys), len(keys)) for table, keys in edited.items()}
        return [(table, *pair) for table, pair in counts.items() if any(pair)]

    def _due(
        self,
        connection: DuckDBPyConnection,
        experiments: Sequence[str],
        *,
        full: bool = False,
        without: Sequence[str] = (),
    ) -> list[_Due]:
        rows = connection.execute(
            f"""SELECT c.run_id, b.run_id IS NULL OR b.fingerprint <> c.fingerprint OR b.evidence = 'unreachable'
                FROM ({RUNS_OF_OURS}) c LEFT JOIN benchmark_runs b USING (run_id)
                WHERE (?::BOOLEAN OR b.run_id IS NULL OR b.fingerprint <> c.fingerprint OR b.judge <> ?
                       OR b.evidence = 'unreachable')
                  AND (len(?::VARCHAR[]) = 0 OR c.experiment_id IN
                       (SELECT experiment_id FROM mlflow.experiments WHERE name IN (SELECT unnest(?::VARCHAR[]))))
                  AND c.run_id NOT IN (SELECT unnest(?::VARCHAR[]))
                ORDER BY c.run_id""",
            [full, self.judge, list(experiments), list(experiments), list(without)],
        ).fetchall()
        return [_Due(run_id=r[0], fetch=full or r[1]) for r in rows]

    def _stage(self, connection: DuckDBPyConnection, stage: StagedRows, due: Sequence[_Due], filled: Filled) -> None:
        cases = load_cases(connection, [d.run_id for d in due])
        kept = kept_files(connection, [d.run_id for d in due if not d.fetch])
        fetch = {d.run_id for d in due if d.fetch}

        def files(case: Case) -> Mapping[str, bytes] | str:
            known = None if case.run_id in fetch else kept.get(case.run_id)
            return self._files(case) if known is None else known

        # Threads wait for files; judging is Python's own work, which threads would only interleave.
        with ThreadPoolExecutor(FETCHERS, thread_name_prefix="hwbench-evidence") as pool:
            fetched = list(pool.map(files, cases))
        judged = [
            (case, rows_of(case, found, self.keyring, self.judge)) for case, found in zip(cases, fetched, strict=True)
        ]
        for row in stage.insert(judged, self.judge):
            if row["evidence"] == "unreachable":
                filled.unreachable[row["run_id"]] = row["reasons"][0]
            if row["verdict"] is not None:
                filled.verdicts[row["verdict"]] = filled.verdicts.get(row["verdict"], 0) + 1

    def _files(self, case: Case) -> Mapping[str, bytes] | str:
        names = FILES.get(case.role, ())
        if not names or case.deleted:
            return {}
        try:
            return self.source.fetch(case.run_id, case.artifact_uri, names)
        except StoreError as error:
            return str(error)


def orphans(connection: DuckDBPyConnection) -> bool:
    """True if a model or a device has no result left."""
    return any(
        connection.execute(
            f"SELECT EXISTS (SELECT 1 FROM {table} WHERE {key} NOT IN (SELECT {key} FROM performance_results))"
        ).fetchall()[0][0]
        for table, key in _KEYS.items()
    )


def tidy(connection: DuckDBPyConnection) -> None:
    """Remove models and devices without a result. Inside the caller's transaction."""
    for table, key in _KEYS.items():
        connection.execute(f"DELETE FROM {table} WHERE {key} NOT IN (SELECT {key} FROM performance_results)")


def load_cases(connection: DuckDBPyConnection, run_ids: Sequence[str]) -> list[Case]:
    """The mirror's word on runs of hwbench's, every metric point included, in the order of their ids."""
    ids = [list(run_ids)]
    only = "run_uuid IN (SELECT unnest(?::VARCHAR[]))"
    texts: dict[str, dict[str, dict[str, str]]] = {"params": {}, "tags": {}}
    for table, found in texts.items():
        rows = connection.execute(f"SELECT run_uuid, key, value FROM mlflow.{table} WHERE {only}", ids).fetchall()
        for run_id, key, value in rows:
            found.setdefault(run_id, {})[key] = value if value is not None else ""
    points: dict[str, dict[str, list[float]]] = {}
    history = connection.execute(
        f"SELECT run_uuid, key, value FROM mlflow.metric_history WHERE {only} AND key IN (SELECT unnest(?::VARCHAR[]))",
        [*ids, list(METRICS)],
    ).fetchall()
    for run_id, key, value in history:
        points.setdefault(run_id, {}).setdefault(key, []).append(value)
    runs = connection.execute(
        f"SELECT run_id, role, fingerprint, experiment_id, deleted, artifact_uri, status FROM ({RUNS_OF_OURS}) "
        "WHERE run_id IN (SELECT unnest(?::VARCHAR[])) ORDER BY run_id",
        ids,
    ).fetchall()
    return [
        Case(
            run_id=r[0], role=r[1], fingerprint=r[2], experiment_id=r[3], deleted=r[4], artifact_uri=r[5],
            index=RunIndex(
                run_id=r[0], status=r[6], params=texts["params"].get(r[0], {}), tags=texts["tags"].get(r[0], {}),
                metrics=points.get(r[0], {}),
            ),
        )
        for r in runs
    ]  # fmt: skip


def kept_files(connection: DuckDBPyConnection, run_ids: Sequence[str]) -> dict[str, dict[str, bytes]]:
    """The evidence files that the warehouse keeps of runs. A run with a file that is not what was kept is left out."""
    kept: dict[str, dict[str, bytes]] = {}
    spoilt = set()
    rows = connection.execute(
        "SELECT run_id, name, sha256, content FROM evidence_files WHERE run_id IN (SELECT unnest(?::VARCHAR[]))",
        [list(run_ids)],
    ).fetchall()
    for run_id, name, digest, content in rows:
        kept.setdefault(run_id, {})[name] = content
        if sha256(content) != digest:
            spoilt.add(run_id)
    return {run_id: files for run_id, files in kept.items() if run_id not in spoilt}


@contextmanager
def staged(connection: DuckDBPyConnection) -> Iterator[StagedRows]:
    stage = StagedRows(connection)
    yield stage
    stage.drop()


class StagedRows:
    """Temporary tables ``e_<table>`` with the very constraints of the real ones.

    A row that they refuse is its run's fault, so the run is refused and the rest goes on.
    """

    def __init__(self, connection: DuckDBPyConnection) -> None:
        self.connection = connection
        for name, sql in connection.execute(
            "SELECT table_name, sql FROM duckdb_tables() WHERE schema_name = 'main' AND NOT temporary "
            "AND table_name IN (SELECT unnest(?::VARCHAR[]))",
            [[*PER_RUN, *DIMENSIONS, LOG]],
        ).fetchall():
            connection.execute(f"CREATE OR REPLACE TEMP TABLE e_{name} {sql[sql.index('(') :]}")
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE e_nested (run_id VARCHAR, worker INTEGER, phase VARCHAR, "
            "samples_ns BIGINT[], runs_per_sample BIGINT, is_latency BOOLEAN, arrivals_ns BIGINT[], "
            "starts_ns BIGINT[], ends_ns BIGINT[])"
        )

    def drop(self) -> None:
        """Give the memory back."""
        for table in (*PER_RUN, *DIMENSIONS, LOG, "nested"):
            self.connection.execute(f"DROP TABLE IF EXISTS e_{table}")

    def insert(self, judged: Sequence[tuple[Case, Rows]], judged_by: str) -> list[Row]:
        """Insert the rows of runs; those of ``benchmark_runs`` as they came out."""
        if self._try([rows for _, rows in judged]) is None:
            return [rows.run for _, rows in judged]
        for table in (*PER_RUN, *DIMENSIONS, LOG, "nested"):
            self.connection.execute(f"DELETE FROM e_{table}")
        return [self._insert_one(case, rows, judged_by) for case, rows in judged]

    def _insert_one(self, case: Case, rows: Rows, judged_by: str) -> Row:
        reason = self._try([rows])
        if reason is None:
            return rows.run
        for table in (*PER_RUN, LOG, "nested"):
            self.connection.execute(f"DELETE FROM e_{table} WHERE run_id = ?", [case.run_id])
        instead = refused(case, judged_by, reason, rows.files)
        again = self._try([instead])
        if again is not None:
            raise StoreError(f"run {case.run_id} cannot be refused: {again}")
        return instead.run

    def _try(self, rows: Sequence[Rows]) -> str | None:
        import duckdb
        import pyarrow as pa

        try:
            for table, attribute in _FIELDS.items():
                self._load(table, [row for one in rows for row in getattr(one, attribute)])
            self._load("benchmark_runs", [one.run for one in rows])
            self._load("nested", [row for one in rows for row in one.samples])
        except (duckdb.ConstraintException, duckdb.ConversionException, pa.ArrowException, OverflowError) as error:
            return str(error).splitlines()[0]
        self.connection.execute(
            """INSERT INTO e_latency_samples BY NAME
               SELECT * EXCLUDE (is_latency), CASE WHEN is_latency THEN sample_ns / 1e6 END AS latency_ms FROM (
                   SELECT run_id, worker, phase, unnest(range(len(samples_ns)))::INTEGER AS sample,
                          unnest(samples_ns) AS sample_ns, runs_per_sample, is_latency,
                          unnest(arrivals_ns) AS arrival_ns, unnest(starts_ns) AS start_ns, unnest(ends_ns) AS end_ns
                   FROM e_nested)"""
        )
        self.connection.execute("DELETE FROM e_nested")
        return None

    def _load(self, table: str, rows: list[Row]) -> None:
        import pyarrow as pa

        if not rows:
            return
        schema = self.connection.table(f"e_{table}").limit(0).to_arrow_table().schema
        self.connection.register("e_incoming", pa.Table.from_pylist(rows, schema))
        verb = "INSERT OR IGNORE" if table in (*DIMENSIONS, LOG) else "INSERT"
        try:
            self.connection.execute(f"{verb} INTO e_{table} FROM e_incoming")
        finally:
            self.connection.unregister("e_incoming")

    def differing(self) -> dict[str, set[str]]:
        """For each table the runs whose rows in it are not exactly the warehouse's."""
        new = self.connection.execute(
            "SELECT run_id FROM e_benchmark_runs WHERE run_id NOT IN (SELECT run_id FROM benchmark_runs)"
        ).fetchall()
        found = {table: {r[0] for r in new} for table in PER_RUN}
        if len(new) == self.connection.execute("SELECT count(*) FROM e_benchmark_runs").fetchall()[0][0]:
            return found
        for table, runs in found.items():
            sides = (f"FROM e_{table}", self._mine(table))
            for one, other in (sides, sides[::-1]):
                rows = self.connection.execute(f"SELECT DISTINCT run_id FROM ({one} EXCEPT ALL {other})").fetchall()
                runs |= {r[0] for r in rows}
        for table, key in _KEYS.items():
            rows = self.connection.execute(
                f"SELECT run_id FROM e_performance_results WHERE {key} NOT IN "
                f"(SELECT {key} FROM (FROM {table} INTERSECT FROM e_{table}))"
            ).fetchall()
            found["performance_results"] |= {r[0] for r in rows}
        return found

    def counts(self, table: str) -> tuple[int, int]:
        """Rows only here, rows only in the warehouse, of the runs staged here."""
        one, other = f"FROM e_{table}", self._mine(table)
        return (
            self.connection.execute(f"SELECT count(*) FROM ({one} EXCEPT ALL {other})").fetchall()[0][0],
            self.connection.execute(f"SELECT count(*) FROM ({other} EXCEPT ALL {one})").fetchall()[0][0],
        )

    def edited(self, table: str) -> set[str]:
        """Keys of the models or devices staged here that the warehouse lacks or describes otherwise."""
        key = _KEYS[table]
        rows = self.connection.execute(f"SELECT {key} FROM (FROM e_{table} EXCEPT FROM {table})").fetchall()
        return {r[0] for r in rows}

    @staticmethod
    def _mine(table: str) -> str:
        return f"SELECT * FROM {table} WHERE run_id IN (SELECT run_id FROM e_benchmark_runs)"

    def write(self, differs: Mapping[str, set[str]]) -> None:
        """Replace what differs. Inside the caller's transaction; ``benchmark_runs`` is written last."""
        for table, key in _KEYS.items():
            self.connection.execute(
                f"INSERT OR REPLACE INTO {table} (SELECT * FROM e_{table} WHERE {key} IN "
                f"(SELECT {key} FROM e_performance_results) EXCEPT FROM {table})"
            )
        self.connection.execute(f"INSERT OR IGNORE INTO {LOG} FROM e_{LOG}")
        for table in PER_RUN:
            if differs[table]:
                only = "run_id IN (SELECT unnest(?::VARCHAR[]))"
                ids = [sorted(differs[table])]
                self.connection.execute(f"DELETE FROM {table} WHERE {only}", ids)
                self.connection.execute(f"INSERT INTO {table} SELECT * FROM e_{table} WHERE {only}", ids)

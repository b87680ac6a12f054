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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwbench_mlflow import __version__
from hwbench_mlflow.attest import Keyring
from hwbench_mlflow.codec import sha256
from hwbench_mlflow.errors import StoreError
from hwbench_mlflow.warehouse.cases import RUNS_OF_OURS, listed, load_work
from hwbench_mlflow.warehouse.database import transaction
from hwbench_mlflow.warehouse.dependents import DIMENSIONS, KEYS, LOG, PER_RUN, Filled, orphans
from hwbench_mlflow.warehouse.judging import Terms, judged, judges, tables_of
from hwbench_mlflow.warehouse.results import FILES, Case, Rows, judge_name, refused
from hwbench_mlflow.warehouse.sources import EvidenceSource, Sources

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection

CHUNK_RUNS = 500
"""Runs a transaction; what is held in memory is their files and their samples."""
FETCHERS = 8

_NESTED = (
    "run_id VARCHAR, worker INTEGER, phase VARCHAR, samples_ns BIGINT[], runs_per_sample BIGINT, is_latency BOOLEAN, "
    "arrivals_ns BIGINT[], starts_ns BIGINT[], ends_ns BIGINT[]"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Due:
    run_id: str
    fetch: bool


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
        begin = 0
        for stage in self._judged(connection, due):
            for run in stage.runs():
                if run.evidence == "unreachable":
                    filled.unreachable[run.run_id] = run.reasons[0]
                if run.verdict is not None:
                    filled.verdicts[run.verdict] = filled.verdicts.get(run.verdict, 0) + 1
            differs = stage.differing()
            if any(differs.values()):
                with transaction(connection):
                    before_write()
                    stage.write(differs)
                    at_step(f"inside results {begin}")
                at_step(f"results {begin}")
            filled.written += len(set().union(*differs.values()))
            begin += CHUNK_RUNS
            filled.judged = min(begin, len(due))
            progress(filled.judged, len(due))
        return filled

    def differences(self, connection: DuckDBPyConnection) -> list[tuple[str, int, int]]:
        """``(table, rows only in the evidence, rows only in the warehouse)``: everything fetched and judged again."""
        counts = dict.fromkeys(PER_RUN, (0, 0))
        edited: dict[str, set[str]] = {table: set() for table in DIMENSIONS}
        for stage in self._judged(connection, self._due(connection, (), full=True)):
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

    def _judged(self, connection: DuckDBPyConnection, due: Sequence[_Due]) -> Iterator[StagedRows]:
        """The rows of ``due``, staged ``CHUNK_RUNS`` runs at a time, in order."""
        terms = Terms(keyring=self.keyring, schemas=schemas(connection), keep_content=True, kept_only=False)
        chunks = (due[begin : begin + CHUNK_RUNS] for begin in range(0, len(due), CHUNK_RUNS))
        with listed(connection), judges(terms, len(due)) as several:
            for work, made in several.judge(self._work(connection, chunk) for chunk in chunks):
                with staged(connection) as stage:
                    stage.fill(work, made, terms)
                    yield stage

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

    def _work(self, connection: DuckDBPyConnection, due: Sequence[_Due]) -> pa.Table:
        """What the mirror says of runs, with their files or the reason why there are none now."""
        import pyarrow as pa

        work = load_work(connection, [d.run_id for d in due], files=False, judged_by=self.judge)
        kept = kept_files(connection, [d.run_id for d in due if not d.fetch])
        fetch = {d.run_id for d in due if d.fetch}

        def files(run: Mapping[str, Any]) -> Mapping[str, bytes] | str:
            known = None if run["run_id"] in fetch else kept.get(run["run_id"])
            return self._files(run) if known is None else known

        runs = work.select(["run_id", "role", "deleted", "artifact_uri"]).to_pylist()
        # Threads wait for files; judging is Python's own work, which threads would only interleave.
        with ThreadPoolExecutor(FETCHERS, thread_name_prefix="hwbench-evidence") as pool:
            fetched = list(pool.map(files, runs))
        columns = {
            "unreachable": [found if isinstance(found, str) else None for found in fetched],
            "files": [
                [] if isinstance(found, str) else [{"name": n, "sha256": "", "content": c} for n, c in found.items()]
                for found in fetched
            ],
        }
        for name, values in columns.items():
            field = work.schema.field(name)
            work = work.set_column(work.schema.get_field_index(name), field, pa.array(values, field.type))
        return work

    def _files(self, run: Mapping[str, Any]) -> Mapping[str, bytes] | str:
        names = FILES.get(run["role"], ())
        if not names or run["deleted"]:
            return {}
        try:
            return self.source.fetch(run["run_id"], run["artifact_uri"], names)
        except StoreError as error:
            return str(error).encode("utf-8", "backslashreplace").decode()


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


def schemas(connection: DuckDBPyConnection) -> dict[str, pa.Schema]:
    """The columns of every table that judging fills, as Arrow has them."""
    found = {t: connection.table(t).limit(0).to_arrow_table().schema for t in (*PER_RUN, *DIMENSIONS, LOG)}
    columns = ", ".join(f"NULL::{kind} AS {name}" for name, kind in (c.split(" ") for c in _NESTED.split(", ")))
    return found | {"nested": connection.sql(f"SELECT {columns} LIMIT 0").to_arrow_table().schema}


@contextmanager
def staged(connection: DuckDBPyConnection) -> Iterator[StagedRows]:
    stage = StagedRows(connection)
    yield stage
    stage.drop()


@dataclass(frozen=True, slots=True)
class StagedRun:
    """What became of one run."""

    run_id: str
    role: str
    evidence: str
    verdict: str | None
    reasons: Sequence[str]


def runs_of(made: pa.Table) -> list[StagedRun]:
    """What became of the runs of a table of ``benchmark_runs``."""
    columns = (made.column(name).to_pylist() for name in ("run_id", "role", "evidence", "verdict", "reasons"))
    return [StagedRun(*row) for row in zip(*columns, strict=True)]


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
        connection.execute(f"CREATE OR REPLACE TEMP TABLE e_nested ({_NESTED})")

    def drop(self) -> None:
        """Give the memory back."""
        for table in (*PER_RUN, *DIMENSIONS, LOG, "nested"):
            self.connection.execute(f"DROP TABLE IF EXISTS e_{table}")

    def fill(self, work: pa.Table, made: Mapping[str, pa.Table] | None, terms: Terms) -> None:
        """Insert the rows of runs: as another process ``made`` them, or judged here."""
        if made is not None and self._insert(made) is None:
            return
        self._clear("TRUE")
        rows = judged(work, terms)
        if self._try([one for _, one in rows], terms) is None:
            return
        self._clear("TRUE")
        for case, one in rows:
            self._insert_one(case, one, terms)

    def runs(self) -> list[StagedRun]:
        """What came out, a run each."""
        rows = self.connection.execute(
            "SELECT run_id, role, evidence, verdict, reasons FROM e_benchmark_runs ORDER BY run_id"
        ).fetchall()
        return [StagedRun(*row) for row in rows]

    def _clear(self, only: str, *values: object) -> None:
        for table in (*PER_RUN, LOG, "nested", *(DIMENSIONS if not values else ())):
            self.connection.execute(f"DELETE FROM e_{table} WHERE {only}", list(values))

    def _insert_one(self, case: Case, rows: Rows, terms: Terms) -> None:
        reason = self._try([rows], terms)
        if reason is None:
            return
        self._clear("run_id = ?", case.run_id)
        again = self._try([refused(case, rows.run["judge"], reason, rows.files)], terms)
        if again is not None:
            raise StoreError(f"run {case.run_id} cannot be refused: {again}")

    def _try(self, rows: Sequence[Rows], terms: Terms) -> str | None:
        import pyarrow as pa

        try:
            made = tables_of(rows, terms.schemas)
        except (pa.ArrowException, OverflowError) as error:
            return str(error).splitlines()[0]
        return self._insert(made)

    def _insert(self, made: Mapping[str, pa.Table]) -> str | None:
        """Why the tables refuse these rows; None where they hold them now."""
        import duckdb

        try:
            for table, rows in made.items():
                self._load(table, rows)
        except (duckdb.ConstraintException, duckdb.ConversionException) as error:
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

    def _load(self, table: str, rows: pa.Table) -> None:
        if not rows.num_rows:
            return
        self.connection.register("e_incoming", rows)
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
        for table, key in KEYS.items():
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
        key = KEYS[table]
        rows = self.connection.execute(f"SELECT {key} FROM (FROM e_{table} EXCEPT FROM {table})").fetchall()
        return {r[0] for r in rows}

    @staticmethod
    def _mine(table: str) -> str:
        return f"SELECT * FROM {table} WHERE run_id IN (SELECT run_id FROM e_benchmark_runs)"

    def write(self, differs: Mapping[str, set[str]]) -> None:
        """Replace what differs. Inside the caller's transaction; ``benchmark_runs`` is written last."""
        for table, key in KEYS.items():
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

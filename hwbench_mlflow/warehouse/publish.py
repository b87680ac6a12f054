"""Writing the published file: built beside the old one, counted, digested, then swapped in.

What may be in it is decided before (by the gate) and enforced again here, by the CHECKs of the tables it is made of.
"""

# ruff: noqa: S608 -- names come from our own tables, values are bound

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hwbench_mlflow import __version__
from hwbench_mlflow.errors import Refused, StoreError
from hwbench_mlflow.rules import Outcome
from hwbench_mlflow.warehouse import database
from hwbench_mlflow.warehouse.published import (
    DOCUMENT_CHECKS,
    JOINED,
    LAYOUT,
    PUBLISHED_VERSION,
    RESULT_CHECKS,
    SAMPLES_A_RUN,
    all_digests,
    content_digest,
    last_sync,
    warehouse_id,
)
from hwbench_mlflow.warehouse.replication import find_replicated

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What is published: which gate let it through, what the gate kept out and why.

    ``quarantine`` is ``(run_id, rule, reason)``, a row a reason; ``suites`` is name -> SHA-256. ``keep_out`` are runs
    whose probes and failures are not shown either.
    """

    gate_id: str
    gated_at: datetime
    outcomes: Sequence[Outcome]
    quarantine: Sequence[tuple[str, str, str]]
    suites: Mapping[str, str]
    keep_out: Iterable[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Runs that claim something: all that were looked at, and where each one went."""

    rows_in: int
    rows_real: int
    rows_simulated: int
    rows_estimates: int
    rows_rooflines: int
    rows_quarantined: int


# Runs that claim a result, an estimate or a calibration: with a row of one, or judged without one. Deleted in MLflow:
# no claim.
RUNS_IN = """
    SELECT run_id FROM performance_results
    UNION SELECT run_id FROM estimates
    UNION SELECT run_id FROM rooflines
    UNION SELECT run_id FROM benchmark_runs
          WHERE role IN ('result', 'estimate', 'roofline') AND evidence <> 'deleted'"""


def publish(connection: DuckDBPyConnection, path: Path, what: Publication) -> Counts:
    """Make ``path`` hold what the warehouse behind ``connection`` may show. Raises Refused, leaving ``path`` as it was.

    A crash anywhere leaves the old file, and at most ``FILE.next`` beside it, which the next publication replaces.
    """
    import duckdb

    beside = Path(f"{path}.next")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with database.exclusive(path, "gate"):
            _remove(beside)
            try:
                with _attached(connection, beside):
                    counts = _build(connection, what)
                with beside.open("rb") as written:
                    os.fsync(written.fileno())
                # Left by who wrote into the old file by hand: DuckDB would not open the new one beside it.
                Path(f"{path}.wal").unlink(missing_ok=True)
                os.replace(beside, path)
            finally:
                _remove(beside)
    except duckdb.ConstraintException as error:
        text = str(error).splitlines()[0]
        raise Refused(f"the published file refused a row that the gate let through: {text}") from error
    except duckdb.Error as error:
        raise StoreError(*database.explain(path, error)) from error
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error
    return counts


def _remove(path: Path) -> None:
    for name in (path, Path(f"{path}.wal")):
        name.unlink(missing_ok=True)


@contextlib.contextmanager
def _attached(connection: DuckDBPyConnection, path: Path) -> Iterator[None]:
    name = str(path).replace("'", "''")
    order = connection.execute("SELECT current_setting('preserve_insertion_order')").fetchall()[0][0]
    connection.execute(f"ATTACH '{name}' AS pub")
    # The digest is of rows in their order, so they must be stored in the order that they are inserted in.
    connection.execute("SET preserve_insertion_order = true")
    try:
        yield
        connection.execute("CHECKPOINT pub")
    finally:
        connection.execute(f"SET preserve_insertion_order = {str(order).lower()}")
        connection.execute("DETACH pub")


def _build(connection: DuckDBPyConnection, what: Publication) -> Counts:
    create_tables(connection)
    _load_quarantine(connection, what)
    try:
        find_replicated(connection)
        _results(connection, what.gate_id)
        _context(connection)
        _labels(connection)
        _rules(connection, what)
        counts = _counted(connection)
    finally:
        for table in ("g_quarantine", "g_keep_out", "g_replicated"):
            connection.execute(f"DROP TABLE IF EXISTS {table}")
    manifest = _manifest(connection, what, counts)
    manifest["column_digests"] = all_digests(connection, within="pub")
    manifest["content_digest"] = content_digest(manifest)
    connection.executemany("INSERT INTO pub.manifest VALUES (?, ?)", [list(item) for item in manifest.items()])
    return counts


def create_tables(connection: DuckDBPyConnection) -> None:
    """The published tables, in the attached ``pub``: results with every CHECK of the warehouse and their own."""
    bodies = dict(
        connection.execute(
            "SELECT table_name, sql[strpos(sql, '(') + 1 : strpos(sql, ');') - 1] FROM duckdb_tables() "
            "WHERE database_name = current_database() AND schema_name = 'main' AND NOT temporary"
        ).fetchall()
    )
    joined = ", ".join(f"{name} {kind}" for name, kind in JOINED.items())
    for table, checks in RESULT_CHECKS.items():
        own = ", ".join(f"CHECK ({check})" for check in checks)
        connection.execute(f"CREATE TABLE pub.{table} ({bodies['performance_results']}, {joined}, {own})")
    for table, also in DOCUMENT_CHECKS.items():
        own = ", ".join(f"CHECK ({check})" for check in also)
        connection.execute(f"CREATE TABLE pub.{table} ({bodies[table]}, gate_id VARCHAR NOT NULL, {own})")
    connection.execute(f"CREATE TABLE pub.availability ({bodies['hardware_availability_log']})")
    for table, body in LAYOUT.items():
        connection.execute(f"CREATE TABLE pub.{table} ({body})")


def _load_quarantine(connection: DuckDBPyConnection, what: Publication) -> None:
    import pyarrow as pa

    rows = list(dict.fromkeys(what.quarantine))
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    table = pa.table(dict(zip(("run_id", "rule", "reason"), (pa.array(c, pa.string()) for c in columns), strict=True)))
    keep_out = pa.table({"run_id": pa.array(sorted(set(what.keep_out)), pa.string())})
    for name, incoming in (("g_quarantine", table), ("g_keep_out", keep_out)):
        connection.register("g_incoming", incoming)
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS FROM g_incoming")
        connection.unregister("g_incoming")


def _results(connection: DuckDBPyConnection, gate_id: str) -> None:
    for table, verdict, simulated in (("real_results", "verified", False), ("simulated_results", "simulated", True)):
        connection.execute(
            f"""INSERT INTO pub.{table}
                SELECT pr.*, m.model_name, m.architecture, m.task, hp.hardware_type, hp.vendor, hp.memory_bytes, ?,
                       md5(pr.packages::VARCHAR),
                       CASE WHEN pr.run_id IN (SELECT run_id FROM g_replicated) THEN 'replicated' ELSE pr.verdict END
                FROM performance_results pr
                JOIN models m USING (model_id) JOIN hardware_platforms hp USING (hardware_id)
                WHERE pr.verdict = ? AND pr.is_simulated = ? AND pr.run_id NOT IN (SELECT run_id FROM g_quarantine)""",
            [gate_id, verdict, simulated],
        )
    connection.execute(
        "INSERT INTO pub.replications FROM g_replicated SEMI JOIN pub.real_results USING (run_id) ORDER BY run_id"
    )
    for table, verdict in (("estimates", "simulated"), ("rooflines", "verified")):
        # A run is one thing: what has a row among the results is never an estimate or a calibration as well.
        connection.execute(
            f"""INSERT INTO pub.{table}
                SELECT d.*, ? FROM {table} d
                WHERE d.verdict = ? AND d.run_id NOT IN (SELECT run_id FROM g_quarantine)
                  AND d.run_id NOT IN (SELECT run_id FROM performance_results)
                ORDER BY d.run_id""",
            [gate_id, verdict],
        )
    connection.execute(
        f"""INSERT INTO pub.quarantine
            SELECT q.run_id, pr.result_id, coalesce(m.model_name, b.model_name, es.model_name),
                   coalesce(hp.hardware_type, b.hardware_type, pr.platform, es.platform, ro.platform),
                   coalesce(pr.created_at, es.estimated_at, ro.calibrated_at,
                            epoch_ms(coalesce(r.end_time, r.start_time))),
                   coalesce(pr.verdict, b.verdict), q.rule, q.reason
            FROM g_quarantine q SEMI JOIN ({RUNS_IN}) USING (run_id)
            LEFT JOIN performance_results pr USING (run_id) LEFT JOIN benchmark_runs b USING (run_id)
            LEFT JOIN mlflow.runs r ON r.run_uuid = q.run_id
            LEFT JOIN estimates es USING (run_id) LEFT JOIN rooflines ro USING (run_id)
            LEFT JOIN models m USING (model_id) LEFT JOIN hardware_platforms hp USING (hardware_id)
            ORDER BY 5, 1, q.rule, q.reason"""
    )


def _context(connection: DuckDBPyConnection) -> None:
    connection.execute(
        f"""INSERT INTO pub.samples
            SELECT run_id, worker, sample, latency_ms FROM (
                SELECT *, row_number() OVER (PARTITION BY run_id ORDER BY worker, sample) - 1 AS n,
                       count(*) OVER (PARTITION BY run_id) AS total
                FROM latency_samples SEMI JOIN (
                    SELECT run_id FROM pub.real_results UNION ALL SELECT run_id FROM pub.simulated_results)
                    USING (run_id)
                WHERE phase = 'timed' AND latency_ms IS NOT NULL)
            WHERE n % ceil(total / {SAMPLES_A_RUN})::BIGINT = 0
            ORDER BY run_id, worker, sample"""
    )
    connection.execute(
        """INSERT INTO pub.availability
           FROM hardware_availability_log WHERE run_id NOT IN (SELECT run_id FROM g_keep_out)
           QUALIFY row_number() OVER (
               PARTITION BY host_id, hardware_type, device_id ORDER BY probed_at DESC NULLS LAST, run_id) = 1
           ORDER BY host_id, hardware_type, device_id, probed_at"""
    )
    connection.execute(_CHANGES)
    connection.execute(
        """INSERT INTO pub.failures
           SELECT b.run_id, b.model_name, b.hardware_type, b.failure_precision, b.failure_category,
                  b.failure_reason, b.failure_remedy,
                  epoch_ms(coalesce(r.end_time, r.start_time)) AS created_at
           FROM benchmark_runs b LEFT JOIN mlflow.runs r ON r.run_uuid = b.run_id
           WHERE b.role = 'failure' AND b.evidence = 'read' AND b.run_id NOT IN (SELECT run_id FROM g_keep_out)
           ORDER BY created_at, b.run_id"""
    )


LABEL_CHARACTERS = 500
"""Longer tags are notes and dumps: nobody chooses runs by one."""


def _labels(connection: DuckDBPyConnection) -> None:
    """What the published runs are called (experiments, and tags but for MLflow's and hwbench's own), and run with."""
    from hwbench_mlflow.index import TAGS

    published = "SELECT run_id, experiment_id FROM pub.real_results UNION ALL BY NAME FROM pub.simulated_results"
    published = f"SELECT run_id, experiment_id FROM ({published})"
    connection.execute(
        f"""INSERT INTO pub.labels
            SELECT run_uuid, key, value FROM mlflow.tags SEMI JOIN ({published}) p ON p.run_id = run_uuid
            WHERE NOT starts_with(key, 'mlflow.') AND NOT starts_with(key, 'hwbench.')
              AND key NOT IN (SELECT unnest(?::VARCHAR[]))
              AND len(value) <= {LABEL_CHARACTERS}
            ORDER BY run_uuid, key""",
        [sorted(TAGS)],
    )
    connection.execute(
        f"""INSERT INTO pub.experiments
            SELECT experiment_id, name FROM mlflow.experiments SEMI JOIN ({published}) USING (experiment_id)
            ORDER BY experiment_id"""
    )
    connection.execute(
        """INSERT INTO pub.package_sets
           SELECT packages_id, unnest(map_keys(packages)), unnest(map_values(packages)) FROM (
               SELECT packages_id, any_value(packages) AS packages FROM (
                   SELECT packages_id, packages FROM pub.real_results
                   UNION ALL SELECT packages_id, packages FROM pub.simulated_results)
               GROUP BY packages_id)
           ORDER BY ALL"""
    )


# A probe is one answer of one platform: verified if each of its devices was. Devices are named, so that a card that was
# swapped is a change. A probe of which the machine or the time is unknown is in no stretch.
_CHANGES = """
    INSERT INTO pub.availability_changes
    WITH answers AS (
        SELECT host_id, any_value(hostname) AS hostname, hardware_type, probe_id, min(run_id) AS run_id,
               max(probed_at) AS probed_at, any_value(status) AS status, bool_and(is_verified) AS is_verified,
               coalesce(string_agg(DISTINCT concat_ws(': ', device_id, device_name), ', '), '') AS devices,
               any_value(reason) AS reason
        FROM hardware_availability_log
        WHERE run_id NOT IN (SELECT run_id FROM g_keep_out) AND host_id IS NOT NULL AND probed_at IS NOT NULL
        GROUP BY host_id, hardware_type, probe_id),
    turns AS (
        SELECT *, (status, is_verified, devices) IS DISTINCT FROM lag((status, is_verified, devices)) OVER w AS turned
        FROM answers WINDOW w AS (PARTITION BY host_id, hardware_type ORDER BY probed_at, probe_id, run_id)),
    stretches AS (
        SELECT *, count(*) FILTER (turned) OVER (
            PARTITION BY host_id, hardware_type ORDER BY probed_at, probe_id, run_id) AS stretch FROM turns)
    SELECT host_id, max_by(hostname, probed_at), hardware_type, any_value(status), any_value(is_verified),
           any_value(devices), max_by(reason, probed_at), min(probed_at), max(probed_at), count(*)
    FROM stretches GROUP BY host_id, hardware_type, stretch
    ORDER BY host_id, hardware_type, min(probed_at)"""


def _rules(connection: DuckDBPyConnection, what: Publication) -> None:
    rows = [
        [o.rule, o.suite, str(o.kind), o.passed, o.evaluated, o.unexpected, o.why, o.what_to_do] for o in what.outcomes
    ]
    connection.executemany("INSERT INTO pub.gate_rules VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)


def _counted(connection: DuckDBPyConnection) -> Counts:
    found = connection.execute(
        f"""SELECT (SELECT count(*) FROM ({RUNS_IN})), (SELECT count(*) FROM pub.real_results),
                   (SELECT count(*) FROM pub.simulated_results), (SELECT count(*) FROM pub.estimates),
                   (SELECT count(*) FROM pub.rooflines), (SELECT count(DISTINCT run_id) FROM pub.quarantine)"""
    ).fetchall()[0]
    counts = Counts(
        rows_in=found[0], rows_real=found[1], rows_simulated=found[2], rows_estimates=found[3],
        rows_rooflines=found[4], rows_quarantined=found[5],
    )  # fmt: skip
    if counts.rows_in != sum(found[1:]):
        raise Refused(
            f"{counts.rows_in} runs went in; {counts.rows_real} real, {counts.rows_simulated} simulated, "
            f"{counts.rows_estimates} estimates, {counts.rows_rooflines} rooflines and {counts.rows_quarantined} "
            "quarantined came out: nothing is published"
        )
    return counts


def _manifest(connection: DuckDBPyConnection, what: Publication, counts: Counts) -> dict[str, str]:
    return {
        "schema_version": str(PUBLISHED_VERSION),
        "gate_id": what.gate_id,
        "published_at": f"{what.gated_at.isoformat()}+00:00",
        "hwbench_version": __version__,
        "warehouse": warehouse_id(connection),
        "warehouse_sync": json.dumps(last_sync(connection), sort_keys=True),
        "rows_in": str(counts.rows_in),
        "rows_real": str(counts.rows_real),
        "rows_simulated": str(counts.rows_simulated),
        "rows_estimates": str(counts.rows_estimates),
        "rows_rooflines": str(counts.rows_rooflines),
        "rows_quarantined": str(counts.rows_quarantined),
        "suites": json.dumps(dict(what.suites), sort_keys=True),
    }

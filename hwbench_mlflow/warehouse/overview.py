"""What the status dashboard shows, a page at a time: from the published file, and the warehouse's own story.

Numbers come from the published file alone. The warehouse is opened read-only and only for as long as it takes to read
its gates and syncs: a reader that stays would stop the next sync.
"""

# ruff: noqa: S608 -- names come from our own tables, values are bound

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench_mlflow.board import Gates, Overview, Part, Row
from hwbench_mlflow.errors import StoreError
from hwbench_mlflow.warehouse import database
from hwbench_mlflow.warehouse.published import Published, open_published
from hwbench_mlflow.warehouse.summarize import CONFIGURATION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from duckdb import DuckDBPyConnection

SHOWN = (
    *CONFIGURATION, "run_id", "created_at", "hostname", "vendor", "latency_ms_p50", "latency_ms_p50_ci95_low",
    "latency_ms_p50_ci95_high", "latency_ms_p90", "latency_ms_p95", "latency_ms_p99", "throughput_items_per_s",
    "memory_peak_mb", "energy_j_per_item", "server_rate_per_s", "offered_rate_per_s", "real_time_factor",
    "sample_count", "stable", "noise_reasons", "ranked", "key_id", "experiment_id", "trust_level",
)  # fmt: skip
"""Columns of a result that lists show; a result's own page reads the others when it is asked for."""

READS: Mapping[str, tuple[str, ...]] = {
    "real_results": (*SHOWN, "is_simulated", "simulation_reason"),
    "quarantine": (
        "run_id", "result_id", "model_name", "hardware_type", "created_at", "verdict", "rule", "reason",
    ),
    "failures": (
        "run_id", "model_name", "hardware_type", "failure_category", "failure_reason", "failure_remedy", "created_at",
    ),
    "availability_changes": (
        "host_id", "hostname", "hardware_type", "status", "is_verified", "devices", "reason", "since", "until",
        "probe_count",
    ),
    "gate_rules": ("rule", "suite", "kind", "passed", "evaluated", "unexpected", "why", "what_to_do"),
}  # fmt: skip
PAGE = 100
RECENT = 15
GATES = 50


def open_board(path: Path) -> Published:
    """The published file with what lists show checked. Raises as :func:`.published.open_published` does."""
    return open_published(path, READS)


def overview(found: Published) -> Overview:
    """The first page."""
    connection = found.connection
    rules, failed = connection.execute("SELECT count(*), count(*) FILTER (NOT passed) FROM gate_rules").fetchall()[0]
    return Overview(
        manifest=found.manifest,
        latest=latest(found, limit=RECENT),
        matrix=_rows(
            connection,
            """SELECT model_name, platform, count(*) AS results, count(DISTINCT device_name) AS devices,
                      count(*) FILTER (ranked) AS ranked, count(*) FILTER (ranked AND stable) AS stable,
                      max(created_at) AS newest
               FROM real_results GROUP BY ALL ORDER BY model_name, platform LIMIT 2000""",
        ),
        kinds=_rows(
            connection,
            "SELECT rule, count(DISTINCT run_id) AS runs FROM quarantine GROUP BY rule ORDER BY runs DESC, rule",
        ),
        failures=_rows(
            connection,
            "SELECT failure_category AS category, count(*) AS runs FROM failures GROUP BY ALL ORDER BY 2 DESC, 1",
        ),
        rules=rules,
        rules_failed=failed,
    )


def latest(
    found: Published, *, model: str | None = None, platform: str | None = None, offset: int = 0, limit: int = PAGE
) -> Part:
    """The last result of each configuration, newest first."""
    wanted: dict[str, Any] = {"model": model, "platform": platform}
    grouped = f"""
        SELECT max_by(run_id, (created_at, run_id)) AS run_id, count(*) AS result_count, max(created_at) AS newest
        FROM real_results WHERE ($model::VARCHAR IS NULL OR model_name = $model::VARCHAR)
             AND ($platform::VARCHAR IS NULL OR platform = $platform::VARCHAR)
        GROUP BY {", ".join(CONFIGURATION)}"""
    # One look at the rows for both; the count has a row of its own, as a page past the end has no other.
    connection = found.connection
    connection.execute(f"CREATE OR REPLACE TEMP TABLE board_latest AS {grouped}", wanted)
    total = connection.execute("SELECT count(*) FROM board_latest").fetchall()[0][0]
    rows = _rows(
        connection,
        f"""WITH picked AS (FROM board_latest ORDER BY newest DESC, run_id LIMIT {limit:d} OFFSET {offset:d})
            SELECT r.*, picked.result_count FROM picked JOIN real_results r USING (run_id)
            ORDER BY newest DESC, run_id""",
    )
    return Part(rows=rows, total=total, offset=offset, limit=limit)


def one_result(found: Published, run_id: str) -> Row | None:
    """Everything that is published of one result; None if it is not among the real ones."""
    everything = [
        column
        for (column,) in found.connection.execute(
            "SELECT column_name FROM duckdb_columns() WHERE table_name = 'real_results' AND NOT internal "
            "AND database_name = current_database()"
        ).fetchall()
    ]
    found.check("real_results", everything)
    same = " AND ".join(f"o.{name} IS NOT DISTINCT FROM r.{name}" for name in CONFIGURATION)
    rows = _rows(
        found.connection,
        f"""SELECT *, (SELECT count(*) FROM real_results o WHERE {same}) AS result_count
            FROM (FROM real_results WHERE run_id = $run_id) r""",
        {"run_id": run_id},
    )
    return rows[0] if rows else None


def history_of(found: Published, row: Row, limit: int = 200) -> list[Row]:
    """The results of the same configuration, newest first."""
    same = " AND ".join(f"{name} IS NOT DISTINCT FROM $key_{name}" for name in CONFIGURATION)
    return _rows(
        found.connection,
        f"""SELECT run_id, created_at, latency_ms_p50, latency_ms_p50_ci95_low, latency_ms_p50_ci95_high,
                   throughput_items_per_s, stable
            FROM real_results WHERE {same} ORDER BY created_at DESC, run_id LIMIT {limit:d}""",
        {f"key_{name}": row[name] for name in CONFIGURATION},
    )


def quarantine(found: Published, offset: int = 0, limit: int = PAGE) -> Part:
    """Refused results with each reason, newest first."""
    total = found.connection.execute("SELECT count(*) FROM quarantine").fetchall()[0][0]
    rows = _rows(
        found.connection,
        f"FROM quarantine ORDER BY created_at DESC NULLS LAST, run_id, rule LIMIT {limit:d} OFFSET {offset:d}",
    )
    return Part(rows=rows, total=total, offset=offset, limit=limit)


def failures(found: Published, offset: int = 0, limit: int = PAGE) -> Part:
    """Runs that ended without a result, newest first."""
    total = found.connection.execute("SELECT count(*) FROM failures").fetchall()[0][0]
    rows = _rows(
        found.connection, f"FROM failures ORDER BY created_at DESC NULLS LAST, run_id LIMIT {limit:d} OFFSET {offset:d}"
    )
    return Part(rows=rows, total=total, offset=offset, limit=limit)


def availability(found: Published, limit: int = 1000) -> Part:
    """How each machine's platforms answered over time: a row for each stretch of like answers, newest first."""
    total = found.connection.execute("SELECT count(*) FROM availability_changes").fetchall()[0][0]
    rows = _rows(
        found.connection,
        f"FROM availability_changes ORDER BY hostname, host_id, hardware_type, since DESC LIMIT {limit:d}",
    )
    return Part(rows=rows, total=total, limit=limit)


def rules_failed(found: Published) -> list[Row]:
    """The rules that kept results out of what is published."""
    return _rows(found.connection, "FROM gate_rules WHERE NOT passed ORDER BY suite, rule")


def keys_used(found: Published) -> dict[str, int]:
    """How many published results each key has signed."""
    return dict(found.connection.execute("SELECT key_id, count(*) FROM real_results GROUP BY key_id").fetchall())


def gates_of(db: Path) -> Gates:
    """The warehouse's own story. Never raises for a warehouse that is away, locked or another's: it says so."""
    import duckdb

    now = datetime.now(UTC)
    try:
        with database.reader(db) as connection:
            return Gates(
                read_at=now,
                gates=_rows(
                    connection,
                    f"""SELECT gate_id, max(gated_at) AS gated_at, count(*) FILTER (run_id IS NULL) AS rules,
                               count(*) FILTER (run_id IS NULL AND NOT passed) AS failed,
                               count(*) FILTER (run_id IS NULL AND NOT passed AND kind = 'table') AS refusing,
                               count(DISTINCT run_id) AS refused_rows, max(hwbench_version) AS hwbench_version
                        FROM gate_results GROUP BY gate_id ORDER BY gated_at DESC, gate_id LIMIT {GATES}""",
                ),
                failed=_rows(
                    connection,
                    """SELECT rule, suite, kind, unexpected, reason FROM gate_results
                       WHERE run_id IS NULL AND NOT passed AND gate_id =
                           (SELECT gate_id FROM gate_results ORDER BY gated_at DESC, gate_id LIMIT 1)
                       ORDER BY kind DESC, suite, rule""",
                ),
                syncs=_rows(
                    connection,
                    f"""SELECT sync_id, started_at, finished_at, store, mode, runs_seen, runs_added, runs_changed,
                               runs_removed, events FROM mlflow.sync_log ORDER BY sync_id DESC LIMIT {RECENT}""",
                ),
                running=_rows(connection, _RUNNING),
            )
    except StoreError as error:
        return Gates(read_at=now, trouble=str(error))
    except duckdb.Error as error:
        return Gates(read_at=now, trouble=database.explain(db, error)[0])


_RUNNING = """
    SELECT r.run_uuid AS run_id, r.name, epoch_ms(r.start_time) AS started_at, count(c.run_uuid) AS children,
           count(c.run_uuid) FILTER (c.status = 'FINISHED') AS finished,
           count(c.run_uuid) FILTER (c.status IN ('FAILED', 'KILLED')) AS failed
    FROM mlflow.runs r
    LEFT JOIN mlflow.tags p ON p.key = 'mlflow.parentRunId' AND p.value = r.run_uuid
    LEFT JOIN mlflow.runs c ON c.run_uuid = p.run_uuid
    WHERE r.status = 'RUNNING' AND r.lifecycle_stage = 'active'
    GROUP BY ALL ORDER BY started_at DESC NULLS LAST, run_id LIMIT 20"""


def _rows(connection: DuckDBPyConnection, sql: str, values: Mapping[str, Any] | None = None) -> list[Row]:
    cursor = connection.execute(sql, dict(values or {}))
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

"""From a published file to what a report shows of it: the last result of each configuration, trends, what is missing.

Everything is aggregated in SQL, so that a page does not grow with the results behind it. Reads nothing but what
:func:`.published.open_published` has checked.
"""

# ruff: noqa: S608 -- names come from our own tables, values are bound

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hwbench_mlflow.summary import Filters, Results, Row, Summary, Trend

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from hwbench_mlflow.warehouse.published import Published

CONFIGURATION = (
    "model_name", "platform", "device_id", "device_name", "host_id", "requested_precision", "effective_precision",
    "batch_size", "sequence_length", "image_size", "scenario", "latency_bound_ms",
    "latency_percentile", "query_size", "profile", "compile_mode", "threads", "weights",
    "phase", "audio_seconds", "output_tokens", "kv_cache",
)  # fmt: skip
"""Results that agree in these measured the same thing, and make a trend."""

MAX_CONFIGURATIONS = 300
MAX_TRENDS = 12
MAX_POINTS = 200
MAX_ROWS = 200

_WANTED = """
    (len($models::VARCHAR[]) = 0 OR list_contains($models::VARCHAR[], model_name))
    AND (len($platforms::VARCHAR[]) = 0 OR list_contains($platforms::VARCHAR[], platform))
    AND (len($precisions::VARCHAR[]) = 0 OR list_contains($precisions::VARCHAR[], effective_precision))
    AND ($since::TIMESTAMP IS NULL OR created_at >= $since::TIMESTAMP)"""


# The last one of each configuration, as of results.
_ESTIMATES = f"""
    SELECT * FROM estimates
    WHERE {_WANTED.replace("effective_precision", "precision").replace("created_at", "estimated_at")}
    QUALIFY row_number() OVER (
        PARTITION BY model_name, platform, sheet_name, sheet_sha256, batch_size, sequence_length, image_size, precision
        ORDER BY estimated_at DESC, run_id) = 1
    ORDER BY model_name, platform, device_product, precision, batch_size, run_id"""


def summarize(found: Published, filters: Filters, *, simulated: bool, stale: str | None) -> Summary:
    """All that a report shows. ``simulated`` asks for simulated results, apart from the real ones."""
    connection = found.connection
    real = _results(connection, "real_results", filters)
    return Summary(
        manifest=found.manifest,
        stale=stale,
        filters=filters,
        real=real,
        simulated=_results(connection, "simulated_results", filters) if simulated else None,
        trends=_trends(connection, real.latest, filters),
        quarantine=_rows(
            connection, f"FROM quarantine ORDER BY created_at DESC NULLS LAST, run_id, rule LIMIT {MAX_ROWS}"
        ),
        quarantine_count=_count(connection, "SELECT count(*) FROM quarantine"),
        failures=_rows(connection, f"FROM failures ORDER BY created_at DESC NULLS LAST, run_id LIMIT {MAX_ROWS}"),
        failure_count=_count(connection, "SELECT count(*) FROM failures"),
        availability=_rows(
            connection, f"FROM availability ORDER BY host_id, hardware_type, device_id, probed_at LIMIT {MAX_ROWS}"
        ),
        rules_failed=_rows(connection, "FROM gate_rules WHERE NOT passed ORDER BY suite, rule"),
        rule_count=_count(connection, "SELECT count(*) FROM gate_rules"),
        estimates=_rows(connection, f"{_ESTIMATES} LIMIT {MAX_ROWS}", _bound(filters)) if simulated else None,
        estimate_count=_count(connection, f"SELECT count(*) FROM ({_ESTIMATES})", filters) if simulated else 0,
        rooflines=_rows(
            connection,
            f"""FROM rooflines QUALIFY row_number() OVER (
                    PARTITION BY host_id, platform, device_id
                    ORDER BY peak_tflops_fp32 DESC NULLS LAST, calibrated_at DESC, run_id) = 1
                ORDER BY host_id, platform, device_id LIMIT {MAX_ROWS}""",
        ),
    )


def every_result(found: Published, filters: Filters, *, simulated: bool) -> Iterator[Row]:
    """Every published result that the filters let through, real ones first, oldest first, as they are published."""
    for table in ("real_results", *(("simulated_results",) if simulated else ())):
        cursor = found.connection.execute(
            f"SELECT * FROM {table} WHERE {_WANTED} ORDER BY created_at, run_id", _bound(filters)
        )
        names = [column[0] for column in cursor.description or ()]
        while rows := cursor.fetchmany(5_000):
            for row in rows:
                yield dict(zip(names, row, strict=True))


def result_columns(found: Published) -> list[str]:
    """The columns of a published result, in order."""
    return [column[0] for column in found.connection.execute("FROM real_results LIMIT 0").description or ()]


def _results(connection: DuckDBPyConnection, table: str, filters: Filters) -> Results:
    keys = ", ".join(CONFIGURATION)
    grouped = f"""
        SELECT max_by(run_id, (created_at, run_id)) AS run_id, count(*) AS result_count, max(created_at) AS newest
        FROM {table} WHERE {_WANTED} GROUP BY {keys}"""
    counts = connection.execute(
        f"SELECT count(*), coalesce(sum(result_count), 0)::BIGINT FROM ({grouped})", _bound(filters)
    ).fetchall()[0]
    latest = _rows(
        connection,
        f"""WITH picked AS ({grouped} ORDER BY newest DESC, run_id LIMIT {MAX_CONFIGURATIONS})
            SELECT t.*, picked.result_count FROM picked JOIN {table} t USING (run_id)
            ORDER BY model_name, platform, device_name, sequence_length, image_size, batch_size, effective_precision,
                     phase, kv_cache, t.run_id""",
        _bound(filters),
    )
    return Results(latest=latest, configurations=counts[0], results=counts[1])


def trends(found: Published, filters: Filters) -> list[Trend]:
    """The configurations that were measured most often, over time."""
    return _trends(found.connection, _results(found.connection, "real_results", filters).latest, filters)


def _trends(connection: DuckDBPyConnection, latest: Sequence[Row], filters: Filters) -> list[Trend]:
    # A server's latencies are of whatever rate that run found: no trend.
    repeated = (row for row in latest if row["result_count"] > 1 and row["scenario"] != "server")
    several = sorted(repeated, key=lambda row: -row["result_count"])
    return [trend for row in several[:MAX_TRENDS] if len((trend := _trend(connection, row, filters)).points) > 1]


def _trend(connection: DuckDBPyConnection, row: Row, filters: Filters) -> Trend:
    same = " AND ".join(f"{name} IS NOT DISTINCT FROM $key_{name}" for name in CONFIGURATION)
    points = connection.execute(
        f"""SELECT created_at, latency_ms_p50, latency_ms_p50_ci95_low, latency_ms_p50_ci95_high, stable FROM (
                SELECT *, row_number() OVER (ORDER BY created_at, run_id) - 1 AS n, count(*) OVER () AS total FROM (
                    SELECT created_at, run_id, latency_ms_p50, latency_ms_p50_ci95_low, latency_ms_p50_ci95_high, stable
                    FROM real_results WHERE {_WANTED} AND {same} AND latency_ms_p50 IS NOT NULL))
            WHERE n % ceil(total / {MAX_POINTS})::BIGINT = 0 OR n = total - 1
            ORDER BY created_at, run_id""",
        {**_bound(filters), **{f"key_{name}": row[name] for name in CONFIGURATION}},
    ).fetchall()
    return Trend(row=row, points=points)


def _bound(filters: Filters) -> dict[str, Any]:
    return {
        "models": list(filters.models), "platforms": list(filters.platforms), "precisions": list(filters.precisions),
        "since": filters.since,
    }  # fmt: skip


def _rows(connection: DuckDBPyConnection, sql: str, values: dict[str, Any] | None = None) -> list[Row]:
    cursor = connection.execute(sql, values or {})
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _count(connection: DuckDBPyConnection, sql: str, filters: Filters | None = None) -> int:
    return int(connection.execute(sql, _bound(filters) if filters is not None else {}).fetchall()[0][0])

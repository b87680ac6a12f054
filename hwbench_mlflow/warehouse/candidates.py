"""Published results by configuration, over all hosts, for recommendations. Aggregated in SQL."""

# ruff: noqa: S608 -- names come from our own tables, values are bound

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwbench_mlflow.decide.recommending import Candidate
from hwbench_mlflow.decide.replicating import MARGIN
from hwbench_mlflow.decide.selectors import Selector
from hwbench_mlflow.warehouse.chosen import condition, reads_of
from hwbench_mlflow.warehouse.published import Published, open_published

KEYS = (
    "model_name", "platform", "device_name", "effective_precision", "batch_size", "sequence_length", "image_size",
    "audio_seconds", "output_tokens", "scenario", "compile_mode", "threads",
)  # fmt: skip
PERCENTILES = (50, 90, 95, 99)
CITED = 5

_READS = (
    *KEYS, "phase", "task", "architecture", "parameter_count", "host_id", "created_at", "stable", "ranked",
    "sample_count", *(f"latency_ms_p{p}" for p in PERCENTILES), "throughput_items_per_s", "energy_j_per_item",
    "energy_method", "trust_level", "latency_ms_p50_ci95_low", "latency_ms_p50_ci95_high",
)  # fmt: skip


def open_candidates(path: Path, side: Selector | None, *, simulated: bool) -> Published:
    """The published file with what a recommendation reads checked."""
    reads = reads_of([] if side is None else [side])
    reads["real_results"] = list(dict.fromkeys([*reads["real_results"], *_READS]))
    if simulated:
        reads["simulated_results"] = [*reads["real_results"]]
    reads["availability"] = ["hardware_type", "status", "is_verified", "device_id", "device_name", "hostname"]
    return open_published(path, reads)


def candidates(
    found: Published, model: str | None, task: str | None, side: Selector | None, *, table: str = "real_results"
) -> list[Candidate]:
    """Every ranked configuration of the model, of models like it (same architecture or task, half to twice its
    parameters), or of the task. Of the scenarios latency and offline: a server's numbers are of the rate it found. Of
    phases the forward pass: a prompt and the tokens after it are not compared with one."""
    values: dict[str, Any] = {"model": model, "task": task}
    wanted = "true" if side is None else condition(side, "s", values)
    keys = ", ".join(KEYS)
    percentiles = ", ".join(f"median(latency_ms_p{p}) AS p{p}" for p in PERCENTILES)
    cursor = found.connection.execute(
        f"""WITH chosen AS (FROM {table} WHERE ranked AND phase = 'forward'
                            AND scenario IN ('latency', 'offline') AND {wanted}),
            asked AS (
                SELECT any_value(architecture) AS architecture, any_value(task) AS task,
                       any_value(parameter_count) AS size
                FROM real_results WHERE model_name = $model),
            near AS (
                SELECT c.*, c.model_name IS DISTINCT FROM $model AND $model IS NOT NULL AS is_similar
                FROM chosen c, asked WHERE CASE WHEN $model IS NOT NULL
                    THEN c.model_name = $model OR ((c.architecture = asked.architecture OR c.task = asked.task)
                         AND c.parameter_count BETWEEN asked.size / 2 AND asked.size * 2)
                    ELSE c.task = $task END),
            hosts AS (
                SELECT {keys}, list(middle ORDER BY middle) AS hosts FROM (
                    SELECT {keys}, host_id, median(coalesce(latency_ms_p50, 1000 / throughput_items_per_s)) AS middle
                    FROM near GROUP BY {keys}, host_id) GROUP BY {keys}),
            grouped AS (
                SELECT {keys}, bool_and(is_similar) AS is_similar, count(*) AS runs,
                       count(*) FILTER (trust_level = 'replicated') AS replicated,
                       arg_max(run_id, created_at) FILTER (trust_level <> 'simulated' AND stable
                           AND (latency_ms_p50_ci95_high - latency_ms_p50_ci95_low) / 2 <= {MARGIN} * latency_ms_p50)
                           AS confirmable,
                       count(*) FILTER (NOT stable) AS noisy, sum(sample_count)::BIGINT AS samples,
                       max(created_at) AS newest, arg_max(run_id, created_at, {CITED}) AS run_ids,
                       stddev_samp(ln(coalesce(latency_ms_p50, 1000 / throughput_items_per_s))) AS spread,
                       {percentiles}, min(latency_ms_p50) AS low, max(latency_ms_p50) AS high,
                       median(throughput_items_per_s) AS throughput, min(throughput_items_per_s) AS slow,
                       max(throughput_items_per_s) AS fast,
                       median(energy_j_per_item) FILTER (energy_method IN ('counter', 'integrated')) AS energy
                       {", any_value(simulation_reason) AS why" if table == "simulated_results" else ", NULL AS why"}
                FROM near GROUP BY {keys})
            SELECT grouped.*, hosts.hosts FROM grouped JOIN hosts
            ON {" AND ".join(f"grouped.{k} IS NOT DISTINCT FROM hosts.{k}" for k in KEYS)} ORDER BY ALL""",
        values,
    )
    names = [column[0] for column in cursor.description or ()]
    return [_candidate(dict(zip(names, row, strict=True))) for row in cursor.fetchall()]


def _candidate(row: dict[str, Any]) -> Candidate:
    return Candidate(
        work={name: row[name] for name in KEYS}, similar=row["is_similar"], runs=row["runs"], noisy=row["noisy"],
        samples=row["samples"], newest=row["newest"], run_ids=row["run_ids"], hosts=row["hosts"],
        spread=row["spread"], latency_ms=row["p50"],
        latency_range=None if row["low"] is None else (row["low"], row["high"]),
        latency_at={p: row[f"p{p}"] for p in PERCENTILES}, throughput=row["throughput"],
        throughput_range=(row["slow"], row["fast"]), energy_j_per_item=row["energy"], simulation_reason=row["why"],
        replicated=row["replicated"], confirmable=row["confirmable"],
    )  # fmt: skip


def known(found: Published, column: str) -> list[str]:
    """The models or tasks that have ranked results."""
    if column not in {"model_name", "task"}:
        raise ValueError(f"{column!r} is not asked for")
    rows = found.connection.execute(f"SELECT DISTINCT {column} FROM real_results WHERE ranked ORDER BY 1").fetchall()
    return [row[0] for row in rows]


def available(found: Published) -> Sequence[tuple[str, str, str | None]]:
    """Platform, device and host of everything that a probe made compute, and that was published."""
    rows = found.connection.execute(
        "SELECT DISTINCT hardware_type, device_id, hostname FROM availability "
        "WHERE status = 'AVAILABLE' AND is_verified AND device_id IS NOT NULL ORDER BY ALL"
    ).fetchall()
    return [tuple(row) for row in rows]

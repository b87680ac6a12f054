"""What the published file holds of each model, platform and precision. Aggregated in SQL."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from hwbench_mlflow.decide.covering import EMULATED, Found, Key, Measured, usual_precision
from hwbench_mlflow.warehouse.published import Published, open_published

_RESULTS = [
    "run_id",
    "model_name",
    "platform",
    "effective_precision",
    "created_at",
    "stable",
    "noise_reasons",
    "ranked",
]


def open_coverage(path: Path) -> Published:
    """The published file with what a table of coverage reads checked."""
    return open_published(
        path,
        {
            "real_results": _RESULTS,
            "simulated_results": ["run_id", "model_name", "platform", "effective_precision", "created_at"],
            "quarantine": ["run_id", "model_name", "hardware_type", "created_at", "rule", "reason"],
            "failures": ["model_name", "hardware_type", "failure_precision", "failure_category", "failure_reason",
                "failure_remedy", "created_at",
            ],
            "availability": ["hardware_type", "status", "reason", "remedy", "is_verified", "emulation_reason",
                "probed_at",
            ],
        },
    )  # fmt: skip


def measured(found: Published, stale_before: datetime) -> dict[Key, Measured]:
    """Model, platform, precision -> what there is. Of quarantined results the precision is not published: they count
    where the model has nothing else on the platform, as what is run where none is asked for."""
    rows = found.connection.execute(
        """WITH real AS (
               SELECT model_name, platform, effective_precision, count(*) FILTER (ranked) AS ranked,
                      count(*) FILTER (ranked AND created_at >= $stale) AS fresh,
                      count(*) FILTER (ranked AND created_at >= $stale AND stable) AS stable,
                      count(*) FILTER (NOT ranked) AS unranked, max(created_at) FILTER (ranked) AS newest,
                      arg_max(run_id, created_at) FILTER (ranked) AS run_id,
                      arg_max(noise_reasons, created_at) FILTER (ranked AND NOT stable) AS noise
               FROM real_results GROUP BY ALL),
           simulated AS (
               SELECT model_name, platform, effective_precision, count(*) AS simulated,
                      arg_max(simulation_reason, created_at) AS why
               FROM simulated_results GROUP BY ALL)
           SELECT coalesce(r.model_name, s.model_name), coalesce(r.platform, s.platform),
                  coalesce(r.effective_precision, s.effective_precision),
                  coalesce(ranked, 0), coalesce(fresh, 0), coalesce(stable, 0), coalesce(unranked, 0),
                  coalesce(simulated, 0), newest, run_id, coalesce(array_to_string(noise, '; '), s.why)
           FROM real r FULL JOIN simulated s USING (model_name, platform, effective_precision)""",
        {"stale": stale_before},
    ).fetchall()
    cells = {
        (model, platform, precision): Measured(
            ranked=ranked, fresh=fresh, stable=stable, unranked=unranked, simulated=simulated, newest=newest,
            run_id=run_id, why=why,
        )
        for model, platform, precision, ranked, fresh, stable, unranked, simulated, newest, run_id, why in rows
    }  # fmt: skip
    elsewhere = {(model, platform) for model, platform, _ in cells}
    for model, platform, count, why in found.connection.execute(
        """SELECT model_name, hardware_type, count(DISTINCT run_id),
                  arg_max(rule || ': ' || reason, coalesce(created_at, TIMESTAMP '1970-01-01'))
           FROM quarantine WHERE model_name IS NOT NULL AND hardware_type IS NOT NULL GROUP BY ALL"""
    ).fetchall():
        if (model, platform) not in elsewhere:
            cells[model, platform, usual_precision(platform)] = Measured(quarantined=count, why=why)
    return cells


def failures(found: Published) -> dict[tuple[str, str, str | None], Found]:
    """Model, platform and the precision that was asked for (None: unknown) -> the last failure."""
    rows = found.connection.execute(
        """SELECT model_name, hardware_type, failure_precision, failure_category, failure_reason, failure_remedy
           FROM failures WHERE model_name IS NOT NULL AND hardware_type IS NOT NULL
           QUALIFY row_number() OVER (
               PARTITION BY model_name, hardware_type, failure_precision ORDER BY created_at DESC NULLS LAST) = 1"""
    ).fetchall()
    return {
        (model, platform, precision): Found(state=state, reason=reason, remedy=remedy)
        for model, platform, precision, state, reason, remedy in rows
    }


def probes(found: Published) -> dict[str, Found]:
    """Platform -> the best that a probe found on any host: a device that computed, then an emulated one that did, else
    the newest answer."""
    rows = found.connection.execute(
        """SELECT hardware_type,
                  CASE WHEN status <> 'AVAILABLE' THEN status
                       WHEN NOT is_verified THEN 'UNVERIFIED'
                       WHEN emulation_reason IS NOT NULL THEN $emulated ELSE status END,
                  coalesce(emulation_reason, reason), remedy
           FROM availability
           QUALIFY row_number() OVER (
               PARTITION BY hardware_type
               ORDER BY status = 'AVAILABLE' AND is_verified DESC, emulation_reason IS NULL DESC,
                        probed_at DESC NULLS LAST) = 1""",
        {"emulated": EMULATED},
    ).fetchall()
    return {platform: Found(state=status, reason=why, remedy=remedy) for platform, status, why, remedy in rows}

"""What of a published file an estimate can be held against: verified results, and calibrations of their devices.

Reads nothing but what :func:`.published.open_published` has checked.
"""

# ruff: noqa: S608 -- names come from our own tables

from __future__ import annotations

from typing import TYPE_CHECKING

from hwbench_mlflow.summary import Row
from hwbench_mlflow.warehouse.summarize import CONFIGURATION

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from hwbench_mlflow.warehouse.published import Published


def comparable_results(found: Published) -> list[Row]:
    """The last verified result of each configuration that has a latency of one eager inference."""
    return _rows(
        found.connection,
        f"""SELECT * FROM real_results
            WHERE scenario = 'latency' AND compile_mode = 'eager' AND latency_ms_p50 IS NOT NULL
            QUALIFY row_number() OVER (PARTITION BY {", ".join(CONFIGURATION)} ORDER BY created_at DESC, run_id) = 1
            ORDER BY model_name, platform, effective_precision, batch_size, run_id""",
    )


def calibrations(found: Published) -> list[Row]:
    """The best calibration of each device of each host: a peak is a maximum, so one that was measured while the machine
    was busy can only be too low."""
    return _rows(
        found.connection,
        """SELECT * FROM rooflines
           QUALIFY row_number() OVER (
               PARTITION BY host_id, platform, device_id
               ORDER BY peak_tflops_fp32 DESC NULLS LAST, calibrated_at DESC, run_id) = 1
           ORDER BY run_id""",
    )


def _rows(connection: DuckDBPyConnection, sql: str) -> list[Row]:
    cursor = connection.execute(sql)
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

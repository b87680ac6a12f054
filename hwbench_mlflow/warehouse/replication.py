"""Which results of a warehouse are replicated: :mod:`hwbench_mlflow.decide.replicating` in SQL, over all pairs.

Reads the columns that the evidence was judged into, and no tag. A test holds the two against each other.
"""

# ruff: noqa: S608 -- names come from our own tables

from __future__ import annotations

from typing import TYPE_CHECKING

from hwbench_mlflow.decide.replicating import APART, MARGIN, SAME

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

TRUST_LEVEL = """VARCHAR NOT NULL CHECK (trust_level IN ('simulated', 'verified', 'replicated'))"""

# What can confirm or be confirmed, and was not kept out.
_SOUND = f"""
    SELECT run_id, device_uuid, latency_ms_p50, {", ".join(SAME)}, {", ".join(APART)} FROM performance_results
    WHERE verdict = 'verified' AND NOT is_simulated AND signature_state = 'trusted' AND ranked AND stable
      AND (latency_ms_p50_ci95_high - latency_ms_p50_ci95_low) / 2 <= {MARGIN} * latency_ms_p50
      AND {" AND ".join(f"{name} IS NOT NULL" for name in APART)}
      AND run_id NOT IN (SELECT run_id FROM g_quarantine)"""

# Configurations that two machines measured, and of their runs each with the one that agrees best.
_PAIRS = f"""
    WITH grouped AS (
        SELECT row_number() OVER () AS configuration,
               list({{'run_id': run_id, 'device_uuid': device_uuid, 'middle': latency_ms_p50,
                      {", ".join(f"'{name}': {name}" for name in APART)}}}) AS runs
        FROM ({_SOUND}) GROUP BY {", ".join(SAME)}
        HAVING {" AND ".join(f"count(DISTINCT {name}) > 1" for name in APART)}),
    each AS (SELECT configuration, unnest(runs, max_depth := 2) FROM grouped),
    pairs AS (
        SELECT a.run_id, b.run_id AS replicated_by, b.host_id, b.key_id, a.middle / b.middle AS ratio
        FROM each a JOIN each b USING (configuration)
        WHERE {" AND ".join(f"a.{name} <> b.{name}" for name in APART)}
          AND (a.device_uuid IS NULL OR b.device_uuid IS NULL OR a.device_uuid <> b.device_uuid)
          AND greatest(a.middle / b.middle, b.middle / a.middle) <= 1 + {MARGIN})
    FROM pairs
    QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY abs(ln(ratio)), replicated_by) = 1
    ORDER BY run_id"""


def find_replicated(connection: DuckDBPyConnection) -> None:
    """Make the temporary table ``g_replicated``: a row for each replicated run, with the one that confirms it best.

    ``g_quarantine`` names the runs that are kept out. Where all results come from one machine this is one count.
    """
    hosts = connection.execute(
        "SELECT count(DISTINCT host_id) FROM performance_results WHERE verdict = 'verified'"
    ).fetchall()[0][0]
    limit = "" if hosts > 1 else "LIMIT 0"
    connection.execute(f"CREATE OR REPLACE TEMP TABLE g_replicated AS FROM ({_PAIRS}) {limit}")

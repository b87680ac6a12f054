"""Which runs of the mirror are hwbench's, and everything that it says of them: what is judged, a row a run.

SQL to Arrow, no object a value: what leaves here can go to another process as bytes. Judges nothing.
"""

# ruff: noqa: S608 -- names come from our own tables, values are bound

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hwbench_mlflow.evidence import DIGEST_PARAM, RESULT_ID_PARAM, ROLE_TAG
from hwbench_mlflow.metrics import METRICS

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection

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


OURS = "e_runs"
"""The rows of ``RUNS_OF_OURS`` as they were when :func:`listed` was entered."""


@contextmanager
def listed(connection: DuckDBPyConnection) -> Iterator[None]:
    """Find the runs of hwbench once for many looks: nobody may write the mirror meanwhile."""
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {OURS} AS {RUNS_OF_OURS}")
    try:
        yield
    finally:
        connection.execute(f"DROP TABLE IF EXISTS {OURS}")


def load_work(
    connection: DuckDBPyConnection, run_ids: Sequence[str], *, files: bool, judged_by: str | None = None
) -> pa.Table:
    """What is judged of runs that are :func:`listed`, in the order of their ids.

    ``files``: with the evidence that the warehouse keeps. ``judged_by`` is written into their rows; None leaves the
    judge that they have.
    """
    only = "IN (FROM e_work)"
    kept = f"""
        SELECT run_id, list({{'name': name, 'sha256': sha256, 'content': content}} ORDER BY name) AS found
        FROM evidence_files WHERE run_id {only} GROUP BY 1"""
    none = "SELECT NULL::VARCHAR AS run_id, NULL::STRUCT(name VARCHAR, sha256 VARCHAR, content BLOB)[] AS found"
    texts = """
        SELECT run_uuid, list({{'key': key, 'value': coalesce(value, '')}}) AS found
        FROM mlflow.{table} WHERE run_uuid {only} GROUP BY 1"""
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE e_work AS SELECT DISTINCT unnest(?::VARCHAR[]) AS run_id", [list(run_ids)]
    )
    try:
        return connection.sql(
            f"""SELECT c.run_id, c.role, c.fingerprint, c.experiment_id, c.deleted, c.artifact_uri, c.status,
                       coalesce(?::VARCHAR, b.judge, '') AS judged_by, NULL::VARCHAR AS unreachable,
                       coalesce(p.found, []) AS params, coalesce(t.found, []) AS tags,
                       coalesce(m.found, []) AS points, coalesce(f.found, []) AS files
                FROM {OURS} c SEMI JOIN e_work USING (run_id) LEFT JOIN benchmark_runs b USING (run_id)
                LEFT JOIN ({texts.format(table="params", only=only)}) p ON p.run_uuid = c.run_id
                LEFT JOIN ({texts.format(table="tags", only=only)}) t ON t.run_uuid = c.run_id
                LEFT JOIN (
                    SELECT run_uuid, list({{'key': key, 'value': value}}) AS found FROM mlflow.metric_history
                    WHERE run_uuid {only} AND key IN (SELECT unnest(?::VARCHAR[])) GROUP BY 1) m
                    ON m.run_uuid = c.run_id
                LEFT JOIN ({kept if files else none}) f ON f.run_id = c.run_id
                ORDER BY c.run_id""",
            params=[judged_by, list(METRICS)],
        ).to_arrow_table()
    finally:
        connection.execute("DROP TABLE IF EXISTS e_work")

"""Which runs of the mirror are hwbench's, and everything that it says of them: what is judged, a row a run.

SQL to Arrow, no object a value: what leaves here can go to another process as bytes. Judges nothing.
"""

# ruff: noqa: S608 -- names come from our own tables, values are bound

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hwbench_mlflow.estimate import ESTIMATE_DIGEST_PARAM, ESTIMATE_ID_PARAM
from hwbench_mlflow.evidence import DIGEST_PARAM, RESULT_ID_PARAM, ROLE_TAG
from hwbench_mlflow.metrics import ALL_METRICS
from hwbench_mlflow.roofline import ROOFLINE_DIGEST_PARAM, ROOFLINE_ID_PARAM

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection

_FINGERPRINT = "concat_ws(' ', f.fp_run, f.fp_tags, f.fp_params, f.fp_latest, f.fp_history, f.engine)"

# Params are write-once: a run that has them is a result (an estimate, a calibration), whatever its tags are made to
# say. One that has a result's params as well is judged as a result, which its files are not.
RUNS_OF_OURS = f"""
    SELECT r.run_uuid AS run_id, r.experiment_id, r.lifecycle_stage IS DISTINCT FROM 'active' AS deleted,
           coalesce(r.artifact_uri, '') AS artifact_uri, coalesce(r.status, '') AS status,
           CASE WHEN p.run_uuid IS NOT NULL THEN 'result'
                WHEN d.run_uuid IS NOT NULL THEN d.role
                WHEN t.value IN ('result', 'devices', 'failure', 'parent') THEN t.value ELSE 'unknown' END AS role,
           {_FINGERPRINT} AS fingerprint
    FROM mlflow.runs r JOIN mlflow.run_state f USING (run_uuid)
    LEFT JOIN (SELECT run_uuid, max(value) AS value FROM mlflow.tags WHERE key = '{ROLE_TAG}' GROUP BY ALL) t
        USING (run_uuid)
    LEFT JOIN (SELECT DISTINCT run_uuid FROM mlflow.params WHERE key IN ('{DIGEST_PARAM}', '{RESULT_ID_PARAM}')) p
        USING (run_uuid)
    LEFT JOIN (SELECT run_uuid, min(CASE WHEN key IN ('{ESTIMATE_DIGEST_PARAM}', '{ESTIMATE_ID_PARAM}')
                                         THEN 'estimate' ELSE 'roofline' END) AS role
               FROM mlflow.params WHERE key IN ('{ESTIMATE_DIGEST_PARAM}', '{ESTIMATE_ID_PARAM}',
                                                '{ROOFLINE_DIGEST_PARAM}', '{ROOFLINE_ID_PARAM}') GROUP BY ALL) d
        USING (run_uuid)
    WHERE (p.run_uuid IS NOT NULL OR d.run_uuid IS NOT NULL OR t.run_uuid IS NOT NULL)"""


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
    # Places of runs, not their ids, are what sorts and joins below: they are short.
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE e_work AS
            SELECT run_id, (row_number() OVER (ORDER BY run_id) - 1)::INTEGER AS place
            FROM {OURS} WHERE run_id IN (SELECT unnest(?::VARCHAR[]))""",
        [list(run_ids)],
    )
    try:
        work = connection.sql(
            f"""SELECT c.run_id, c.role, c.fingerprint, c.experiment_id, c.deleted, c.artifact_uri, c.status,
                       coalesce(?::VARCHAR, b.judge, '') AS judged_by, NULL::VARCHAR AS unreachable,
                       []::STRUCT(key VARCHAR, value VARCHAR)[] AS params,
                       []::STRUCT(key VARCHAR, value VARCHAR)[] AS tags,
                       []::STRUCT(key VARCHAR, value DOUBLE)[] AS points,
                       []::STRUCT(name VARCHAR, sha256 VARCHAR, content BLOB)[] AS files
                FROM {OURS} c JOIN e_work w USING (run_id) LEFT JOIN benchmark_runs b USING (run_id)
                ORDER BY w.place""",
            params=[judged_by],
        ).to_arrow_table()
        ours = ", ".join(f"'{name}'" for name in ALL_METRICS)
        mine = "JOIN e_work ON run_uuid = run_id"
        looks = {
            "params": f"SELECT place, key, coalesce(value, '') AS value FROM mlflow.params {mine}",
            "tags": f"SELECT place, key, coalesce(value, '') AS value FROM mlflow.tags {mine}",
            "points": f"SELECT place, key, value FROM mlflow.metric_history {mine} WHERE key IN ({ours})",
        }
        if files:
            looks["files"] = "SELECT place, name, sha256, content FROM evidence_files JOIN e_work USING (run_id)"
        for column, sql in looks.items():
            work = _with_lists(work, column, connection.sql(sql).to_arrow_table())
        return work
    finally:
        connection.execute("DROP TABLE IF EXISTS e_work")


def _with_lists(work: pa.Table, name: str, flat: pa.Table) -> pa.Table:
    """``work`` with the rows of ``flat`` in the lists of the runs at their ``place``. SQL takes three times as long.

    Rows are mostly in order as they are stored; where they are, sorting would only copy every file.
    """
    import numpy as np
    import pyarrow as pa

    column = work.schema.get_field_index(name)
    kind = work.schema.field(column).type
    places = flat.column("place").to_numpy()
    if np.any(places[1:] < places[:-1]):
        order = np.argsort(places, kind="stable")
        flat, places = flat.take(pa.array(order)), places[order]
    offsets = pa.array(np.searchsorted(places, np.arange(len(work) + 1)), pa.int32())
    values = pa.StructArray.from_arrays(
        [flat.column(field.name).combine_chunks() for field in kind.value_type], fields=list(kind.value_type)
    )
    return work.set_column(column, work.schema.field(column), pa.ListArray.from_arrays(offsets, values, type=kind))

"""Whether the warehouse has exactly the rows that were just made again, said at once for many runs.

Almost always it has, and then nothing need be staged: both sides are read as Arrow in one order and compared value by
value. "No" only means that somebody must look closer (:mod:`.star`'s staged rows say which runs differ): a NaN, an
order that was not foreseen or a real difference all say it. Writes nothing.
"""

# ruff: noqa: S608 -- names come from our own tables, values are bound

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from duckdb import DuckDBPyConnection

_ORDER = {
    "benchmark_runs": "run_id",
    "performance_results": "run_id",
    "verdict_findings": "run_id, position",
    "evidence_files": "run_id, name",
    "estimates": "run_id",
    "rooflines": "run_id",
}
"""The order in which judging makes the rows of a table."""

_PROBES = "hardware_availability_log"
_PROBE_KEY = ("run_id", "hardware_type", "probe_id", "device_index")
_SHARED = ("models", "hardware_platforms")
_WHEN = ("arrival_ns", "start_ns", "end_ns")


def unchanged(connection: DuckDBPyConnection, made: Mapping[str, pa.Table]) -> bool:
    """True only if every table has the rows in ``made`` and no other of their runs.

    ``made`` is what :func:`.judging.tables_of` makes, in the order of the runs' ids. Of kept files the digest is
    compared, not the content, which the rows were just made of.
    """
    with _registered(connection, "e_made_runs", made["benchmark_runs"].select(["run_id"])):
        return (
            all(_same(connection, table, order, made[table]) for table, order in _ORDER.items())
            and _same(connection, _PROBES, ", ".join(_PROBE_KEY), _sorted(made[_PROBES]))
            and all(_within(connection, table, made[table]) for table in _SHARED)
            and _same_samples(connection, made["benchmark_runs"].column("run_id"), made["nested"])
        )


@contextmanager
def _registered(connection: DuckDBPyConnection, name: str, rows: pa.Table) -> Iterator[None]:
    connection.register(name, rows)
    try:
        yield
    finally:
        connection.unregister(name)


def _same(connection: DuckDBPyConnection, table: str, order: str, made: pa.Table) -> bool:
    names = [name for name in made.column_names if name != "content"]
    columns = ", ".join(f't."{name}"' for name in names)
    there = connection.sql(
        f"SELECT {columns} FROM {table} t SEMI JOIN e_made_runs USING (run_id) ORDER BY {order}"
    ).to_arrow_table()
    same: bool = there.equals(made.select(names))
    return same


def _sorted(probes: pa.Table) -> pa.Table:
    return probes.sort_by([(name, "ascending") for name in _PROBE_KEY])


def _within(connection: DuckDBPyConnection, table: str, made: pa.Table) -> bool:
    """Several runs share a row, so only that each is there is said."""
    with _registered(connection, "e_made", made):
        return not connection.execute(f"SELECT EXISTS (FROM e_made EXCEPT FROM {table})").fetchall()[0][0]


def _same_samples(connection: DuckDBPyConnection, run_ids: pa.ChunkedArray, nested: pa.Table) -> bool:
    """A run is named by its place: its id beside every sample would be most of what is read."""
    import numpy as np
    import pyarrow as pa

    expected = _flat(run_ids, nested)
    if expected is None:
        return False
    places = pa.table({"run_id": run_ids, "place": np.arange(len(run_ids))})
    columns = ", ".join(f"t.{name}" for name in expected if name not in {"place", "phase"})
    with _registered(connection, "e_made", places):
        there = connection.sql(
            f"""SELECT p.place, CASE t.phase WHEN 'warmup' THEN 0 WHEN 'timed' THEN 1 END AS phase, {columns}
                FROM latency_samples t JOIN e_made p USING (run_id)
                ORDER BY p.place, t.worker, 2, t.sample"""
        ).to_arrow_table()
    return all(
        there.column(name).combine_chunks().equals(values.cast(there.schema.field(name).type))
        for name, values in expected.items()
    )


def _flat(run_ids: pa.ChunkedArray, nested: pa.Table) -> dict[str, pa.Array] | None:
    """The columns of ``latency_samples``, a value a sample; None where the lists of a worker do not correspond."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    lists = nested.column("samples_ns").combine_chunks()
    counts = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    rows = np.repeat(np.arange(len(counts)), counts)
    firsts = np.cumsum(counts) - counts
    samples = lists.flatten()

    def repeated(values: pa.ChunkedArray) -> pa.Array:
        return values.combine_chunks().take(pa.array(rows))

    is_latency = repeated(nested.column("is_latency"))
    phases = pc.index_in(nested.column("phase"), pa.array(["warmup", "timed"]))
    columns = {
        "place": repeated(pc.index_in(nested.column("run_id"), run_ids.combine_chunks())),
        "phase": repeated(phases),
        "worker": repeated(nested.column("worker")),
        "sample": pa.array(np.arange(len(rows)) - firsts[rows]),
        "sample_ns": samples,
        "runs_per_sample": repeated(nested.column("runs_per_sample")),
        "latency_ms": pc.if_else(is_latency, pc.divide(samples.cast(pa.float64(), safe=False), 1e6), None),
    }
    for name in _WHEN:
        values = _beside(nested.column(f"{name[:-3]}s_ns").combine_chunks(), counts, rows)
        if values is None:
            return None
        columns[name] = values
    return columns


def _beside(lists: pa.Array, counts: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> pa.Array | None:
    """A list as long as the samples' gives each its value, no list gives none; None for any other."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    if not np.all((lengths == counts) | (lengths == 0)):
        return None
    known = lengths[rows] > 0
    values = np.zeros(len(rows), dtype=np.int64)
    values[known] = lists.flatten().to_numpy(zero_copy_only=False)
    return pa.array(values, mask=~known)

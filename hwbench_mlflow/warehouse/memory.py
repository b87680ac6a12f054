"""What was judged and has not changed since: a keyed digest a run, which a hand that edits the warehouse cannot make.

An HMAC-SHA256 over all that a verdict rests on (the mirror's rows of the run, the bytes of its evidence files, the keys
trusted and revoked here, hwbench's own code and the libraries that it judges with) and over all that it came to (every
row of the run in the star schema). Only a gate writes one, of a run that it has just judged and found exactly as the
warehouse has it. A run whose digest fits is as it was then, to the bit, so judging it again would come to the same.

What it rests on, and what it does not prove
    The key is derived from this machine's signing key and is in no file of the warehouse: a digest made elsewhere, or
    with a key that was revoked or rotated since, fits nothing and is ignored. The run's id is inside, so a digest
    copied to another run fits nothing either. A digest proves no more than the gate that wrote it did, and whoever
    holds the signing key can make one, as they can sign a result. An older state of a run with its older digest, both
    put back by hand, is a state that was judged: what it hides is found by ``hwbench verify --store``, as before.

Every value is written so that no two states have the same bytes: counts before rows, lengths before texts, NULL apart.
"""

# ruff: noqa: S608 -- names come from our own tables, values are bound

from __future__ import annotations

import hashlib
import hmac
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata, resources
from itertools import islice
from typing import TYPE_CHECKING, Any

from hwbench_mlflow.attest import Keyring
from hwbench_mlflow.metrics import ALL_METRICS
from hwbench_mlflow.warehouse.cases import OURS
from hwbench_mlflow.warehouse.database import engine, transaction
from hwbench_mlflow.warehouse.results import judge_name

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    import numpy as np
    import pyarrow as pa
    from duckdb import DuckDBPyConnection

KEY_PURPOSE = b"hwbench warehouse: judged runs v1"
"""Names this use of the signing key apart from every other: see :func:`hwbench_mlflow.keystore.derived_key`."""

CHUNK_RUNS = 1000
LIBRARIES = ("cryptography", "duckdb", "msgspec", "numpy", "pyarrow", "pynacl", "securesystemslib")
_JUDGING = (".py", ".sql")

# The tables of a run's rows, each with the column that names the run and an order that does not depend on how they are
# stored. Rows that are equal in all of the ordering columns may come either way: then a digest may not fit, never too
# well. Long tables are hashed column by column, wide ones as the JSON of their rows.
LONG: dict[str, tuple[str, str]] = {
    "mlflow.params": ("run_uuid", "key, value"),
    "mlflow.tags": ("run_uuid", "key, value"),
    "mlflow.metric_history": ("run_uuid", "key, step, timestamp, value"),
    "evidence_files": ("run_id", "name, sha256"),
    "latency_samples": ("run_id", "worker, phase, sample, sample_ns"),
    "verdict_findings": ("run_id", "position, rule, reason"),
}
WIDE: dict[str, tuple[str, str]] = {
    "mlflow.runs": ("run_uuid", "status"),
    "mlflow.run_state": ("run_uuid", "engine"),
    "benchmark_runs": ("run_id", "role"),
    "performance_results": ("run_id", "result_id"),
    "estimates": ("run_id", "estimate_id"),
    "rooflines": ("run_id", "roofline_id"),
    "hardware_availability_log": ("run_id", "hardware_type, probe_id, device_index"),
}
SHARED = {"models": "model_id", "hardware_platforms": "hardware_id"}
"""Wide tables whose rows belong to several runs, by the column of ``performance_results`` that names one."""


@dataclass(slots=True)
class Memory:
    """The runs that need not be judged again, by ``key`` (32 bytes) and the keys and code of now.

    Inside :func:`.cases.listed`, and while nobody else writes.
    """

    key: bytes = field(repr=False)
    keyring: Keyring
    code: str

    def proven(self, connection: DuckDBPyConnection) -> set[str]:
        """Runs of hwbench's that are to the bit as a gate of this machine, code and keyring found them right."""
        known = connection.execute(
            f"SELECT run_id, mac FROM judged_runs SEMI JOIN {OURS} USING (run_id) ORDER BY run_id"
        ).fetchall()
        found = set()
        for chunk in batched(known, CHUNK_RUNS):
            macs = dict(self.macs(connection, [run_id for run_id, _ in chunk]))
            # As bytes: a text that is not ASCII is not compared, it raises.
            found |= {run_id for run_id, mac in chunk if hmac.compare_digest(macs[run_id].encode(), mac.encode())}
        return found

    def remember(self, connection: DuckDBPyConnection, right: Iterable[str], proven: set[str]) -> None:
        """Keep the digests of ``right``, which were judged just now, and of ``proven``; of no other run."""
        import pyarrow as pa

        with transaction(connection):
            self._forget(connection, proven)
            for chunk in batched(sorted(right), CHUNK_RUNS):
                ids, macs = zip(*self.macs(connection, chunk), strict=True)
                connection.register("e_incoming", pa.table({"run_id": pa.array(ids), "mac": pa.array(macs)}))
                try:
                    connection.execute("INSERT INTO judged_runs FROM e_incoming")
                finally:
                    connection.unregister("e_incoming")

    @staticmethod
    def _forget(connection: DuckDBPyConnection, kept: set[str]) -> None:
        connection.execute("DELETE FROM judged_runs WHERE run_id NOT IN (SELECT unnest(?::VARCHAR[]))", [sorted(kept)])

    def macs(self, connection: DuckDBPyConnection, run_ids: Sequence[str]) -> Iterator[tuple[str, str]]:
        """``(run, digest)`` of runs as they are in the warehouse now, in the order given."""
        pieces = [_Pieces(name, rows, run_ids) for name, rows in _rows(connection, run_ids)]
        common = _text(self.code) + _text(judge_name(self.keyring, ""))
        for n, run_id in enumerate(run_ids):
            one = hmac.new(self.key, common + _text(run_id), hashlib.sha256)
            for table in pieces:
                table.add(one, n)
            yield run_id, one.hexdigest()


def _text(value: str) -> bytes:
    data = value.encode()
    return len(data).to_bytes(8, "big") + data


def batched(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of at most ``size`` (itertools.batched is Python 3.12's)."""
    source = iter(values)
    while batch := list(islice(source, size)):
        yield batch


def _rows(connection: DuckDBPyConnection, run_ids: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """``(table, rows)``; the rows have their run's place in ``run_ids`` as ``#``, and come in its order."""
    import pyarrow as pa

    places = pa.table({"#": pa.array(range(len(run_ids)), pa.int64()), "#run": pa.array(run_ids, pa.string())})
    connection.register("e_places", places)
    try:
        for table, (key, order) in LONG.items():
            # Of other people's metrics there may be millions of points, and no verdict looks at them.
            only = f"WHERE key IN ({', '.join(repr(str(name)) for name in ALL_METRICS)})" if "metric" in table else ""
            yield table, _sorted(connection, f"(FROM {table} {only})", key, f"t.* EXCLUDE ({key})", order)
        for table, (key, order) in WIDE.items():
            yield table, _sorted(connection, table, key, "to_json(t)::VARCHAR AS row", order)
        for table, key in SHARED.items():
            mine = (
                f"(SELECT r.run_id AS mine, to_json(s) AS row FROM {table} s JOIN performance_results r USING ({key}))"
            )
            yield table, _sorted(connection, f"({mine})", "mine", "row::VARCHAR AS row", "row")
    finally:
        connection.unregister("e_places")


def _sorted(connection: DuckDBPyConnection, table: str, key: str, columns: str, order: str) -> pa.Table:
    return connection.sql(
        f'SELECT p."#", {columns} FROM {table} t JOIN e_places p ON t.{key} = p."#run" ORDER BY p."#", {order}'
    ).to_arrow_table()


class _Pieces:
    """The bytes of each run's rows in one table: how many, then column by column."""

    def __init__(self, name: str, rows: pa.Table, run_ids: Sequence[str]) -> None:
        import numpy as np

        columns = [f for f in rows.schema if f.name != "#"]
        self.head = _text(f"{name} {[(f.name, str(f.type)) for f in columns]}")
        self.bounds = np.searchsorted(rows.column("#").to_numpy(), np.arange(len(run_ids) + 1)).tolist()
        self.columns = [column for f in columns for column in _columns(rows.column(f.name).combine_chunks())]

    def add(self, digest: hmac.HMAC, n: int) -> None:
        begin, end = self.bounds[n], self.bounds[n + 1]
        parts = [self.head, (end - begin).to_bytes(8, "big")]
        if end > begin:
            parts += [data[at(begin) : at(end)] for data, at in self.columns]
        digest.update(b"".join(parts))


def _columns(values: pa.Array) -> list[tuple[memoryview, Callable[[int], int]]]:
    """``(bytes, where a row begins in them)``: which are NULL, then the values, or their lengths and content."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    def fixed(array: np.ndarray[Any, Any]) -> tuple[memoryview, Callable[[int], int]]:
        width = array.itemsize
        return memoryview(np.ascontiguousarray(array).tobytes()), lambda row: row * width

    nulls = fixed(pc.is_null(values).to_numpy(zero_copy_only=False).astype(np.uint8))
    if pa.types.is_string(values.type) or pa.types.is_binary(values.type):
        filled = values.fill_null(b"" if pa.types.is_binary(values.type) else "")
        offsets = np.frombuffer(filled.buffers()[1], dtype=np.int32)[filled.offset : filled.offset + len(filled) + 1]
        content = memoryview(filled.buffers()[2] or b"").cast("B")
        return [nulls, fixed(np.diff(offsets)), (content, offsets.tolist().__getitem__)]
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    elif not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        raise TypeError(f"no digest is defined of a column of type {values.type}")
    return [nulls, fixed(pc.fill_null(values, 0).to_numpy(zero_copy_only=False))]


def code_digest() -> str | None:
    """Names the code that judges: every file of this package, Python's version and the libraries'. None where that
    cannot be read: then nothing may be remembered."""
    whole = hashlib.sha256()
    try:
        for name, data in _sources(resources.files("hwbench_mlflow")):
            whole.update(_text(name) + len(data).to_bytes(8, "big") + data)
        for name in LIBRARIES:
            whole.update(_text(f"{name} {metadata.version(name)}"))
    except (OSError, metadata.PackageNotFoundError):
        return None
    whole.update(_text(f"{platform.python_implementation()} {platform.python_version()} {engine()}"))
    return whole.hexdigest()


def _sources(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.is_dir():
            yield from _sources(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(_JUDGING):
            yield prefix + entry.name, entry.read_bytes()

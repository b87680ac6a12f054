"""Digests of tables' content: SHA-256 of each column, in its rows' order.

Rests on the values alone: not on DuckDB's version, its compression, or how rows come in batches. Runs at about a
gigabyte of values a second and thread. It is no signature: whoever can write the file can also make its digest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection

BATCH_ROWS = 100_000
THREADS = min(4, os.cpu_count() or 1)
"""Columns of a batch are hashed side by side: hashing a large buffer lets other threads run."""


def quoted(name: str) -> str:
    """An identifier for SQL."""
    return '"' + name.replace('"', '""') + '"'


def column_digests(
    connection: DuckDBPyConnection, table: str, columns: Sequence[str] | None = None, *, within: str = "main"
) -> dict[str, str]:
    """Column -> hex SHA-256 of its name, its type and every value of it, in the rows' order; of all columns, or some.

    A column's digest covers how many rows there are and which comes when, so columns that were digested apart
    belong together as they did.
    """
    picked = "*" if columns is None else ", ".join(map(quoted, columns))
    rows = connection.sql(f"SELECT {picked} FROM {within}.{quoted(table)}").to_arrow_reader(BATCH_ROWS)  # noqa: S608
    found = [_Column(field.type) for field in rows.schema]
    with ThreadPoolExecutor(THREADS) as pool:
        for batch in rows:
            for _ in pool.map(_Column.add, found, batch.columns):
                pass  # what a thread raised is raised here
    return {
        field.name: hashlib.sha256(f"{field.name!r} {field.type} {column.hexdigest()}".encode()).hexdigest()
        for field, column in zip(rows.schema, found, strict=True)
    }


class _Column:
    """The streams of one column: what is NULL, then lengths and content, or values."""

    def __init__(self, kind: pa.DataType) -> None:
        import pyarrow as pa

        self.kind = kind
        self.nulls, self.values, self.lengths = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        self.children: list[_Column] = []
        if pa.types.is_map(kind):
            self.children = [_Column(kind.key_type), _Column(kind.item_type)]
        elif pa.types.is_list(kind):
            self.children = [_Column(kind.value_type)]
        elif not (pa.types.is_string(kind) or pa.types.is_primitive(kind)):
            raise TypeError(f"no digest is defined of a column of type {kind}")

    def add(self, array: pa.Array) -> None:
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        full = array.null_count == 0
        self.nulls.update(bytes(len(array)) if full else array.is_null().cast(pa.uint8()).to_numpy())
        if self.children:
            offsets = array.offsets.to_numpy()
            self.lengths.update(np.where(array.is_null().to_numpy(zero_copy_only=False), 0, np.diff(offsets)).tobytes())
            if len(self.children) == 1:
                self.children[0].add(array.flatten())
                return
            for child, values in zip(self.children, (array.keys, array.items), strict=True):
                child.add(values.slice(offsets[0], offsets[-1] - offsets[0]))
            return
        if pa.types.is_string(self.kind):
            text = array if full else array.fill_null("")
            offsets = np.frombuffer(text.buffers()[1], dtype=np.int32)[text.offset : text.offset + len(text) + 1]
            self.lengths.update(np.diff(offsets).data)
            if text.buffers()[2] is not None:
                self.values.update(memoryview(text.buffers()[2])[offsets[0] : offsets[-1]])
            return
        plain = array.cast(pa.int64()) if pa.types.is_timestamp(self.kind) else array
        if pa.types.is_boolean(self.kind):
            plain = array.cast(pa.uint8())
        plain = plain if full else pc.fill_null(plain, 0)
        self.values.update(np.ascontiguousarray(plain.to_numpy(zero_copy_only=False)).data)

    def hexdigest(self) -> str:
        parts = [d.hexdigest() for d in (self.nulls, self.lengths, self.values)]
        return hashlib.sha256(" ".join(parts + [c.hexdigest() for c in self.children]).encode()).hexdigest()

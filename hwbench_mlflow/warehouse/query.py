"""Read-only SQL over what is published or over the warehouse, and its rows as a table, csv, json or Parquet."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from hwbench_mlflow.errors import StoreError, UsageError
from hwbench_mlflow.warehouse import database
from hwbench_mlflow.warehouse.published import add_familiar_views, is_published, open_published

if TYPE_CHECKING:
    import pyarrow
    from duckdb import DuckDBPyConnection

Row = tuple[Any, ...]
_AT_A_TIME = 1_000
_ROW_GROUP = 100_000


@contextmanager
def run_query(db: Path, sql: str) -> Iterator[tuple[list[str], Iterator[Row]]]:
    """Column names and rows, which are read as they are asked for: a result may be larger than the memory.

    Raises :class:`UsageError` for SQL that DuckDB refuses, also while rows are read.
    """
    with _locked_down(db) as connection:
        cursor = connection.execute(sql)
        if cursor is None:  # nothing but spaces and comments
            raise UsageError("there is no statement to run", remedy="For example: FROM real_results LIMIT 5")
        yield [d[0] for d in cursor.description or ()], _rows(cursor)


def _rows(cursor: DuckDBPyConnection) -> Iterator[Row]:
    while some := cursor.fetchmany(_AT_A_TIME):
        yield from some


def query_to_parquet(db: Path, sql: str, out: Path) -> int:
    """Write the rows of a query to a Parquet file, which is whole or not there; how many they are.

    DuckDB itself is kept from the file system, so the file is written by Arrow, a batch of rows at a time. Raises
    :class:`UsageError`, :class:`StoreError` where the file cannot be written.
    """
    import pyarrow.parquet as pq

    count = 0
    beside = out.with_name(f".{out.name}.part")
    with _locked_down(db) as connection:
        relation = connection.sql(sql)
        if relation is None:
            raise UsageError("the statement gives no rows to write")
        reader = relation.to_arrow_reader(_ROW_GROUP)
        try:
            with pq.ParquetWriter(beside, reader.schema) as writer:
                for batch in _batches(reader):
                    writer.write_batch(batch)
                    count += batch.num_rows
            os.replace(beside, out)
        except OSError as error:
            raise StoreError(f"cannot write {out}: {error.strerror or error}") from error
        finally:
            reader.close()  # while it lives, whoever opens the same file in this process waits for ever in DuckDB
            with suppress(OSError):  # a file system that is read-only refuses this too
                beside.unlink(missing_ok=True)
    return count


def _batches(reader: pyarrow.RecordBatchReader) -> Iterator[pyarrow.RecordBatch]:
    """The same batches. Arrow has what DuckDB says of a row for an error of input and output: it is none of a file."""
    batches = iter(reader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except OSError as error:
            raise UsageError(f"the query was refused: {str(error).splitlines()[0]}") from error
        yield batch


@contextmanager
def _locked_down(db: Path) -> Iterator[DuckDBPyConnection]:
    """A connection through which nothing but that file can be read: a published file, or the warehouse."""
    import duckdb

    if is_published(db):
        with open_published(db) as found:
            add_familiar_views(found)
            try:
                yield found.connection
            except duckdb.CatalogException as error:
                raise UsageError(
                    f"the query was refused: {str(error).splitlines()[0].rstrip('.')}, in what is published ({db})",
                    remedy="The warehouse holds everything: name it with --db",
                ) from error
            except duckdb.Error as error:
                raise UsageError(f"the query was refused: {str(error).splitlines()[0]}") from error
        return
    with database.reader(db) as connection:
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            yield connection
        except duckdb.Error as error:
            raise UsageError(f"the query was refused: {str(error).splitlines()[0]}") from error


def write_rows(columns: Sequence[str], rows: Iterable[Row], form: str, out: TextIO) -> None:
    """Write rows to ``out``; NULL is empty in csv and tables, null in json. Raises UsageError for two columns of one
    name in json, where the last would hide the others.

    csv and json are written as the rows come. A table waits for the last, for its widths; it is for a terminal: what
    would move its cursor, or turn the writing round, is written as an escape.
    """
    if form == "json":
        if twice := sorted({name for name in columns if columns.count(name) > 1}):
            raise UsageError(f"two columns are called {twice[0]}", remedy="Name them apart with AS")
        # JSON has no NaN and no infinity: they are the texts that MLflow's API, and protobuf's JSON, has for them.
        empty = True
        for row in rows:
            plain = dict(zip(columns, map(_in_json, row), strict=True))
            out.write(("[" if empty else ",\n ") + json.dumps(plain, default=str, allow_nan=False))
            empty = False
        out.write("[]\n" if empty else "]\n")
        return
    if form == "csv":
        writer = csv.writer(out)
        writer.writerow(columns)
        writer.writerows(rows)
        return
    cells = [[printable("" if v is None else str(v)) for v in row] for row in (columns, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for line in cells:
        out.write("  ".join(v.ljust(w) for v, w in zip(line, widths, strict=True)).rstrip() + "\n")


def _in_json(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, (list, tuple)):
        return [_in_json(one) for one in value]
    if isinstance(value, dict):
        return {str(key): _in_json(one) for key, one in value.items()}  # a MAP's keys may be of any type
    return value


def printable(text: str) -> str:
    """Text from a store, for a terminal: one line, and nothing that moves the cursor or turns the writing round."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

"""Read-only SQL over the warehouse, and its rows as a table, csv or json."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, TextIO

from hwbench_mlflow.errors import UsageError
from hwbench_mlflow.warehouse import database


def run_query(db: Path, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and rows. Raises :class:`UsageError` for SQL that DuckDB refuses."""
    import duckdb

    with database.reader(db) as connection:
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            cursor = connection.execute(sql)
            rows = cursor.fetchall()
        except duckdb.Error as error:
            raise UsageError(f"the query was refused: {str(error).splitlines()[0]}") from error
        return [d[0] for d in cursor.description or ()], rows


def write_rows(columns: list[str], rows: list[tuple[Any, ...]], form: str, out: TextIO) -> None:
    """Write rows to ``out``; NULL is empty in csv and tables, null in json."""
    if form == "json":
        json.dump([dict(zip(columns, row, strict=True)) for row in rows], out, default=str)
        out.write("\n")
        return
    if form == "csv":
        writer = csv.writer(out)
        writer.writerow(columns)
        writer.writerows(rows)
        return
    cells = [columns, *[["" if v is None else str(v) for v in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for row in cells:
        out.write("  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)).rstrip() + "\n")

"""``hwbench query``: SQL over the warehouse, read-only. Wiring only."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.argument("sql")
@click.option(
    "--db", type=click.Path(dir_okay=False, path_type=Path), default=Path("hwbench.duckdb"), show_default=True
)
@click.option(
    "--format", "form", type=click.Choice(["table", "csv", "json", "parquet"]), default="table", show_default=True
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file; parquet needs one."
)
def query(sql: str, db: Path, form: str, output: Path | None) -> None:
    """Run SQL on the warehouse, read-only, without access to other files.

    \b
    hwbench query "SELECT status, count(*) FROM mlflow.runs GROUP BY 1"
    hwbench query "FROM verified_results" --format parquet -o results.parquet
    """
    from hwbench_mlflow.errors import StoreError
    from hwbench_mlflow.warehouse.query import query_to_parquet, run_query, write_rows

    if form == "parquet":
        if output is None:
            raise click.UsageError("parquet is no text for a terminal: give a file with -o")
        query_to_parquet(db, sql, output)
        return
    columns, rows = run_query(db, sql)
    if output is None:
        write_rows(columns, rows, form, sys.stdout)
        return
    try:
        with output.open("w", encoding="utf-8", newline="") as stream:
            write_rows(columns, rows, form, stream)
    except OSError as error:
        raise StoreError(f"cannot write {output}: {error.strerror or error}") from error

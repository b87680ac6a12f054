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
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
def query(sql: str, db: Path, form: str) -> None:
    """Run SQL on the warehouse, read-only, without access to other files.

    Example: hwbench query "SELECT status, count(*) FROM mlflow.runs GROUP BY 1"
    """
    from hwbench_mlflow.warehouse.query import run_query, write_rows

    columns, rows = run_query(db, sql)
    write_rows(columns, rows, form, sys.stdout)

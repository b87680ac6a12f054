"""``hwbench query``: SQL over what is published, or over the warehouse; read-only. Wiring only."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("sql")
@click.option(
    "--db",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A published file or a warehouse (default: published.duckdb, else hwbench.duckdb).",
)
@click.option(
    "--format", "form", type=click.Choice(["table", "csv", "json", "parquet"]), default="table", show_default=True
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file; parquet needs one."
)
def query(sql: str, db: Path | None, form: str, output: Path | None) -> None:
    """Run SQL on what `hwbench gate` published, read-only, without access to other files.

    Tables: real_results, simulated_results, estimates, rooflines, quarantine, samples, availability,
    availability_changes, failures, labels, experiments, package_sets, gate_rules, manifest; the warehouse's names
    (performance_results, models, hardware_platforms) show real results. Where nothing is published, the warehouse is
    asked, and that is said; --db hwbench.duckdb asks it on purpose.

    \b
    hwbench query "SELECT model_name, latency_ms_p50 FROM real_results"
    hwbench query "FROM verified_results" --format parquet -o results.parquet
    hwbench query "SELECT status, count(*) FROM mlflow.runs GROUP BY 1" --db hwbench.duckdb
    """
    from hwbench_mlflow.cli.output import refuse_database, write_whole
    from hwbench_mlflow.warehouse.query import query_to_parquet, run_query, write_rows

    if db is None:
        db = _default()
    if form == "parquet":
        if output is None:
            raise click.UsageError("parquet is no text for a terminal: give a file with -o")
        refuse_database(output)
        query_to_parquet(db, sql, output)
        return
    with run_query(db, sql) as (columns, rows):
        write_whole(output, lambda out: write_rows(columns, rows, form, out))


def _default() -> Path:
    from hwbench_mlflow.warehouse.published import DEFAULT_PUBLISHED

    if DEFAULT_PUBLISHED.exists():
        return DEFAULT_PUBLISHED
    warehouse = Path("hwbench.duckdb")
    if warehouse.exists():
        click.echo(f"nothing is published: this is {warehouse}, which no gate has passed", err=True)
    return warehouse

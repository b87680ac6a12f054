"""``hwbench sync``: mirror an MLflow store into the warehouse. Wiring only."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hwbench_mlflow.cli.sync_progress import SyncProgress

if TYPE_CHECKING:
    from hwbench_mlflow.warehouse.star import Star


@click.command()
@click.option("--tracking-uri", help="The MLflow store (default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db).")
@click.option(
    "--via", type=click.Choice(["sql", "rest"]), help="Read the database, or a server; default: as the URI says."
)
@click.option(
    "--db", type=click.Path(dir_okay=False, path_type=Path), default=Path("hwbench.duckdb"), show_default=True
)
@click.option("--experiment", "experiments", multiple=True, metavar="NAME", help="Only this experiment; repeatable.")
@click.option("--full", is_flag=True, help="Compare every row, relying on nothing.")
@click.option(
    "--fast",
    is_flag=True,
    help="Trust that no tag was edited in place since the last sync, and, of a server, that no late point was "
    "logged at a lower step.",
)
@click.option("--dry-run", is_flag=True, help="Say what would change; write nothing of it.")
@click.option("--rebind", is_flag=True, help="The warehouse follows this store from now on.")
@click.option(
    "--watch", type=click.FloatRange(min=0.1), metavar="SECONDS",
    help="Sync again and again; what is up to date is said once.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object a sync, with a schema_version.")
def sync(  # noqa: PLR0917 -- click passes by name
    tracking_uri: str | None, via: str | None, db: Path, experiments: tuple[str, ...], full: bool, fast: bool,
    dry_run: bool, rebind: bool, watch: float | None, as_json: bool,
) -> None:  # fmt: skip
    """Make the warehouse an exact mirror of an MLflow store, and judge its results by the keys trusted here.

    The store is SQLite, PostgreSQL, MySQL, or a tracking server.

    Example: hwbench sync --tracking-uri sqlite:///mlflow.db --db hwbench.duckdb
    """
    from hwbench_mlflow.errors import StoreError
    from hwbench_mlflow.warehouse.readers import Mode
    from hwbench_mlflow.warehouse.sync import SyncOptions
    from hwbench_mlflow.warehouse.sync import sync as run_sync

    if full and fast:
        raise click.UsageError("--full and --fast exclude each other")
    mode = Mode.FULL if full else Mode.FAST if fast else Mode.DEFAULT
    options = SyncOptions(mode=mode, experiments=experiments, dry_run=dry_run, rebind=rebind)
    uri = store_uri(tracking_uri)

    def once(*, said: bool = False) -> bool:
        """One sync; whether nothing was new, which is told unless it was ``said`` the last time."""
        from hwbench_mlflow.warehouse.readers.choose import Via, open_reader

        reader = open_reader(uri, Via(via) if via else None)
        with SyncProgress() as shown:
            summary = run_sync(reader, db, options, judge=judge(uri), say=shown.say, progress=shown.progress)
        if as_json:
            click.echo(json.dumps(summary.to_json(), sort_keys=True))
        elif not (said and summary.up_to_date):
            click.echo(_line(summary, db))
        return summary.up_to_date

    if watch is None:
        once()
        return
    idle = False
    while True:
        try:
            idle = once(said=idle)
        except StoreError as error:  # a lock that someone holds now is no reason to stop watching
            click.echo(str(error), err=True)
            idle = False
        time.sleep(watch)


def store_uri(tracking_uri: str | None) -> str:
    """The flag, else the environment's, else MLflow's own default."""
    return tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"


def judge(tracking_uri: str) -> Star:
    """What judges results here: the keys trusted now, and evidence read from where its run says it is."""
    from hwbench_mlflow.keystore import load_keyring
    from hwbench_mlflow.tracking import ArtifactFiles
    from hwbench_mlflow.warehouse.sources import Sources
    from hwbench_mlflow.warehouse.star import Star

    return Star(load_keyring(), Sources(elsewhere=ArtifactFiles(tracking_uri)))


def _line(summary: object, db: Path) -> str:
    from hwbench_mlflow.warehouse.sync import SyncSummary

    assert isinstance(summary, SyncSummary)
    if summary.up_to_date:
        return f"{db} is up to date with {summary.store}"
    would = "would be " if summary.dry_run else ""
    line = (
        f"{db}: {summary.runs_added} runs {would}added, {summary.runs_changed} changed, {summary.runs_removed} removed"
        f" ({summary.seconds['total']:.2f} s)"
    )
    if summary.verdicts:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(summary.verdicts.items()))
        line += f"\n{db}: results judged: {counts}"
    if summary.unreachable:
        line += f"\n{db}: {len(summary.unreachable)} runs whose evidence could not be read are tried again next time"
    return line

"""``hwbench doctor``: what is wrong with this set-up, and what to do. Wiring only; the checks are in :mod:`.checks`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hwbench_mlflow.cli.findings import Finding, Setup

_PATH = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.option("--tracking-uri", help="MLflow store; else MLFLOW_TRACKING_URI, else ./mlflow.db.")
@click.option("--db", type=_PATH, default="hwbench.duckdb", show_default=True, help="The warehouse.")
@click.option("--published", type=_PATH, default="published.duckdb", show_default=True, help="The published file.")
@click.option(
    "--stuck-hours", type=click.FloatRange(min=0), default=6.0, show_default=True, help="RUNNING for longer is stuck."
)
@click.option("--fix", is_flag=True, help="End the runs that dead processes of this machine left RUNNING.")
@click.option("--probe/--no-probe", default=True, show_default=True, help="Probe every platform: takes seconds.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def doctor(  # noqa: PLR0917  # click passes options by keyword
    tracking_uri: str | None,
    db: Path,
    published: Path,
    stuck_hours: float,
    fix: bool,
    probe: bool,
    as_json: bool,
) -> None:
    """Look at the whole set-up, and say what to do.

    Exit code 1 if there is a problem. A check that could not be made is "unknown", and never ok.

    \b
    hwbench doctor
    hwbench doctor --fix
    """
    from hwbench_mlflow.cli.checks import CHECKS
    from hwbench_mlflow.cli.findings import Level, Setup, run_checks
    from hwbench_mlflow.codec import encode
    from hwbench_mlflow.errors import ExitCode, HwbenchError

    setup = Setup(tracking_uri=tracking_uri, db=db, published=published, stuck_hours=stuck_hours, probe=probe)
    ended: list[str] = []
    if fix:
        try:
            ended = _end_dead(setup)
        except HwbenchError as error:  # what is wrong with the key or the store is in the table, with all the rest
            click.echo(f"hwbench: warning: no run was ended: {' '.join(str(error).split())}", err=True)
    findings = run_checks(setup, CHECKS)
    if as_json:
        click.echo(encode({"schema_version": 1, "checks": findings, "ended": ended}).decode())
    else:
        for run_id in ended:
            click.echo(f"ended {run_id}: its process is gone")
        click.echo(_table(findings))
    sys.exit(int(ExitCode.FAILED if any(f.level is Level.PROBLEM for f in findings) else ExitCode.DONE))


def _end_dead(setup: Setup) -> list[str]:
    """Complete what the spool can complete, then end what dead processes of this machine left; their runs."""
    from hwbench_mlflow.cli.checks import is_dead, left_running, no_store_yet
    from hwbench_mlflow.cli.delivery import Delivery
    from hwbench_mlflow.keystore import load_keyring, signing_key
    from hwbench_mlflow.tracking import Store

    if no_store_yet(setup) is not None:
        return []
    warn = lambda text: click.echo(f"hwbench: warning: {text}", err=True)  # noqa: E731
    delivery = Delivery(setup.tracking_uri, None, signing_key(), load_keyring(), warn)
    delivery.flush()
    waiting = {delivery.spool.place(attempt).run_id for attempt in delivery.spool.waiting()}
    store = Store(setup.tracking_uri)
    dead = [run for run in left_running(store, setup.stuck_hours) if is_dead(run) and run.run_id not in waiting]
    for run in dead:
        store.end_killed(run.run_id, "its process is gone: ended by hwbench doctor")
    return [run.run_id for run in dead]


def _table(findings: list[Finding]) -> str:
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<8} {finding.check:<{width}}  {finding.seen}")
        if finding.remedy:
            lines.append(f"{'':<8} {'':<{width}}  -> {finding.remedy}")
    return "\n".join(lines)

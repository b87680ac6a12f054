"""``hwbench push``: results that were written to files become MLflow runs. Wiring only."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

import click


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--tracking-uri", help="MLflow store; else MLFLOW_TRACKING_URI, else ./mlflow.db.")
@click.option("--experiment", help="MLflow experiment, by name.")
@click.option("--spool", "spooled", is_flag=True, help="Deliver what waits in the spool, each to its own store.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def push(
    files: tuple[Path, ...], tracking_uri: str | None, experiment: str | None, spooled: bool, as_json: bool
) -> None:
    """Make an MLflow run of each result FILE that `hwbench run --out` wrote, once.

    The evidence goes along byte for byte, with a signed statement of which run it was put in. A result that
    the store already holds is not pushed again. A file from another machine is verified only if that machine's
    key is trusted here (`hwbench keys trust`). A file that contradicts itself is pushed and kept as what it is, and
    the command exits 3.

    \b
    hwbench push results/*.json
    hwbench push --spool
    """
    if spooled == bool(files) or (spooled and (tracking_uri or experiment)):
        raise click.UsageError("name files, or give --spool alone: what waits there knows where it belongs")
    if spooled:
        _push_spool(as_json=as_json)
    from hwbench_mlflow.bundle import read_bundle
    from hwbench_mlflow.errors import CorruptEvidence, ExitCode, StoreError
    from hwbench_mlflow.evidence import judge
    from hwbench_mlflow.keystore import load_keyring, signing_key
    from hwbench_mlflow.model import VerdictState
    from hwbench_mlflow.tracking import Store

    key, keyring = signing_key(), load_keyring()
    # Read all before the first is pushed: a wrong name in a list should not leave half of it done.
    bundles = []
    for path in files:
        contents = read_bundle(path)
        judged = judge(contents, None, keyring)
        if judged.result is None or judged.samples is None:
            raise CorruptEvidence(f"{path} holds no readable result: {'; '.join(judged.verdict.reasons)}")
        bundles.append((path, contents, judged.result))
    store = Store(tracking_uri, experiment)
    pushed, contradicted = [], []
    for path, contents, result in bundles:
        known = store.find_result(result.result_id)
        if known is not None:
            pushed.append({"file": str(path), "run_id": known, "pushed": False})
            continue
        run_id = store.start_pushed(result)
        try:
            verdict = store.log_result(run_id, contents, key, keyring)
        except StoreError:
            click.echo(f"hwbench: {path} was not pushed whole: run {run_id} is incomplete", err=True)
            raise
        pushed.append({"file": str(path), "run_id": run_id, "pushed": True, "verdict": str(verdict)})
        if verdict is VerdictState.CONTRADICTED:
            contradicted.append(path)
    if as_json:
        from hwbench_mlflow.codec import encode

        click.echo(encode({"schema_version": 1, "results": pushed}).decode())
    else:
        for one in pushed:
            state = one["verdict"] if one["pushed"] else "already there"
            click.echo(f"{one['file']}: run {one['run_id']} ({state})")
    if contradicted:
        # The store keeps it: that somebody pushed it is worth knowing. No report will show it as real.
        names = ", ".join(map(str, contradicted))
        click.echo(f"hwbench: contradicted by its own evidence: {names}. `hwbench verify FILE` says why", err=True)
    sys.exit(int(ExitCode.REFUSED if contradicted else ExitCode.DONE))


def _push_spool(*, as_json: bool) -> NoReturn:
    """Deliver every entry of the spool; exit 1 if one has to stay."""
    from hwbench_mlflow.cli.delivery import Delivery
    from hwbench_mlflow.errors import ExitCode
    from hwbench_mlflow.keystore import load_keyring, signing_key

    delivery = Delivery(
        None, None, signing_key(), load_keyring(), lambda text: click.echo(f"hwbench: {text}", err=True)
    )
    delivered = delivery.flush(everywhere=True)
    left = delivery.spool.waiting()
    if as_json:
        from hwbench_mlflow.codec import encode

        entries = [{"attempt": attempt, "run_id": run_id} for attempt, run_id in delivered]
        click.echo(encode({"schema_version": 1, "delivered": entries, "waiting": left}).decode())
    else:
        for attempt, run_id in delivered:
            click.echo(f"{attempt}: run {run_id} (delivered)")
    if left:
        click.echo(f"hwbench: {len(left)} results still wait in {delivery.spool.folder}", err=True)
    sys.exit(int(ExitCode.FAILED if left else ExitCode.DONE))

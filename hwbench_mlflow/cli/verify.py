"""``hwbench verify``: recompute a verdict from the store, or from a file, and say why. Wiring only."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hwbench_mlflow.documents import EstimateJudgement, RooflineJudgement
    from hwbench_mlflow.evidence import Judgement

    Documents = list[tuple[str, EstimateJudgement | RooflineJudgement]]


@click.command()
@click.argument("target", metavar="RUN_ID|FILE", required=False)
@click.option("--store", "whole_store", is_flag=True, help="Compare the warehouse with the store, row by row.")
@click.option("--tracking-uri", help="MLflow store; else MLFLOW_TRACKING_URI, else ./mlflow.db.")
@click.option(
    "--db",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("hwbench.duckdb"),
    show_default=True,
    help="The warehouse that --store compares.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def verify(target: str | None, whole_store: bool, tracking_uri: str | None, db: Path, as_json: bool) -> None:
    """Recompute a run's verdict from its evidence, its tags and its metrics, and say why.

    Reads everything again: digests, signature, raw samples, statistics. A run with nested runs is
    verified by its nested runs. TARGET may be a file that `hwbench run --out` wrote.

    \b
    hwbench verify 4f0c9f7e6d2b4c8f9a41d2f3b5c6a7e8
    hwbench verify result.json
    hwbench verify --store

    With --store: is the warehouse exactly what the MLflow store holds, and are its results what the evidence
    says, judged by the keys trusted here? Exits 0 if all is verified, 3 if not. An estimate never is: it is simulated.
    """
    from hwbench_mlflow.errors import ExitCode
    from hwbench_mlflow.model import VerdictState

    if whole_store is (target is not None):
        raise click.UsageError("give a run, a file, or --store")
    if target is None:
        _verify_store(tracking_uri, db, as_json)
        return
    documents: Documents = []
    judged = _from_file(Path(target)) if Path(target).is_file() else _from_store(target, tracking_uri, documents)
    if as_json:
        from hwbench_mlflow.cli.summary import summary_document
        from hwbench_mlflow.codec import encode

        click.echo(encode({**summary_document(judged), **_document_objects(documents)}).decode())
    else:
        for run_id, file, judgement in judged:
            _say(run_id or file or target, judgement)
        for run_id, document in documents:
            _say_document(run_id, document)
    states = [str(judgement.verdict.state) for _, _, judgement in judged]
    states += [str(document.verdict.state) for _, document in documents]
    if any(state != VerdictState.VERIFIED for state in states):
        sys.exit(int(ExitCode.REFUSED))


def _verify_store(tracking_uri: str | None, db: Path, as_json: bool) -> None:
    from hwbench_mlflow.cli.sync import judge, store_uri
    from hwbench_mlflow.errors import ExitCode
    from hwbench_mlflow.warehouse.readers.choose import open_reader
    from hwbench_mlflow.warehouse.sync import verify_store

    uri = store_uri(tracking_uri)
    drift = verify_store(open_reader(uri), db, judge(uri))
    if as_json:
        tables = [{"table": t, "only_in_store": more, "only_in_warehouse": less} for t, more, less in drift]
        click.echo(json.dumps({"schema_version": 1, "exact": not drift, "tables": tables}))
    for table, more, less in () if as_json else drift:
        click.echo(f"{table}: {more} rows only in the store, {less} only in {db}")
    if drift:
        remedy = "run `hwbench sync`; if that changes nothing, the file was edited: move it away and sync again"
        click.echo(f"hwbench: {db} differs from the store; {remedy}", err=True)
        sys.exit(int(ExitCode.REFUSED))
    if not as_json:
        click.echo(f"{db} is exactly what the store holds")


def _from_file(path: Path) -> list[tuple[str | None, str | None, Judgement]]:
    from hwbench_mlflow.bundle import read_bundle
    from hwbench_mlflow.evidence import judge
    from hwbench_mlflow.keystore import load_keyring

    return [(None, str(path), judge(read_bundle(path), None, load_keyring()))]


def _from_store(
    run_id: str, tracking_uri: str | None, documents: Documents
) -> list[tuple[str | None, str | None, Judgement]]:
    """Results are returned; estimates and calibrations are added to ``documents``."""
    from hwbench_mlflow.documents import judge_estimate_run, judge_roofline_run, role_of
    from hwbench_mlflow.evidence import ROLE_TAG, judge
    from hwbench_mlflow.keystore import load_keyring
    from hwbench_mlflow.tracking import Store

    store, keyring = Store(tracking_uri), load_keyring()
    run, files = store.read_run(run_id)
    children = store.children(run_id) if run.tags.get(ROLE_TAG) == "parent" else []
    judged: list[tuple[str | None, str | None, Judgement]] = []
    for one in children or [run_id]:
        index, its_files = store.read_run(one) if children else (run, files)
        role = role_of(index)
        if role is None:
            judged.append((one, None, judge(its_files, index, keyring)))
        else:
            judge_document = judge_estimate_run if role == "estimate" else judge_roofline_run
            documents.append((one, judge_document(its_files, index, keyring)))
    return judged


def _document_objects(documents: Documents) -> dict[str, object]:
    from hwbench_mlflow.cli.estimates import estimate_document
    from hwbench_mlflow.cli.roofline import roofline_document
    from hwbench_mlflow.documents import EstimateJudgement

    found: dict[str, list[object]] = {}
    for run_id, one in documents:
        if isinstance(one, EstimateJudgement):
            found.setdefault("estimates", []).append(estimate_document(run_id, one))
        else:
            found.setdefault("rooflines", []).append(roofline_document(run_id, one))
    return dict(found)


def _say_document(run_id: str, document: EstimateJudgement | RooflineJudgement) -> None:
    from hwbench_mlflow.documents import EstimateJudgement

    click.echo(f"{run_id}: {document.verdict.state}")
    for reason in document.verdict.reasons:
        click.echo(f"  {reason}")
    if document.signature is not None:
        click.echo(f"  {document.signature.reason}")
    if isinstance(document, EstimateJudgement) and document.estimate is not None and not document.verdict.findings:
        click.echo(f"  SIMULATED: {document.estimate.simulation_reason}; every number recomputes from its own figures")


def _say(name: str, judgement: Judgement) -> None:
    click.echo(f"{name}: {judgement.verdict.state}")
    for reason in judgement.verdict.reasons:
        click.echo(f"  {reason}")
    signature = judgement.signature
    if signature is not None:
        click.echo(f"  {signature.reason}")
    if judgement.result is not None and not judgement.verdict.findings:
        stats = judgement.result.aggregates
        click.echo(f"  every rule is content; {stats.sample_count} raw samples recompute to the statistics exactly")

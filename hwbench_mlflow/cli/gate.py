"""``hwbench gate``: audit the warehouse and publish what passes. Wiring only."""

from __future__ import annotations

import json
import re
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hwbench_mlflow.gates.loader import Loaded
    from hwbench_mlflow.gates.run import Checked
    from hwbench_mlflow.rules import Outcome
    from hwbench_mlflow.warehouse.gated import Gated
    from hwbench_mlflow.warehouse.publish import Counts
    from hwbench_mlflow.warehouse.rederive import Rederived

SCHEMA_VERSION = 1
SHOWN_RUNS = 20
"""Runs a rule that are listed on a terminal; --json lists all."""

_PATH = click.Path(dir_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport:
    """What one gate found and did. ``refusals`` names the rules that stopped everything; empty if it published.

    ``unchanged`` runs were not judged again: a keyed digest proves them as an earlier gate of this machine judged them.
    """

    gate_id: str
    gated_at: str
    outcomes: Sequence[Outcome]
    refusals: Sequence[str]
    counts: Counts | None
    quarantine: Sequence[tuple[str, str, str]]
    judged: int = 0
    unchanged: int = 0

    def to_json(self, published: Path) -> dict[str, object]:
        """The stable object of ``--json``."""
        return {
            "schema_version": SCHEMA_VERSION,
            "gate_id": self.gate_id,
            "gated_at": self.gated_at,
            "passed": not self.refusals,
            "published": None if self.refusals else str(published),
            "runs_judged": self.judged,
            "runs_unchanged": self.unchanged,
            "counts": asdict(self.counts) if self.counts else None,
            "refused_by": list(self.refusals),
            "rules": [{k: v for k, v in asdict(o).items() if k != "refused"} for o in self.outcomes],
            "quarantined": [{"run_id": r, "rule": rule, "reason": why} for r, rule, why in self.quarantine],
        }


@click.command()
@click.option("--db", type=_PATH, default=Path("hwbench.duckdb"), show_default=True, help="The warehouse.")
@click.option(
    "--published", type=_PATH, default=Path("published.duckdb"), show_default=True, help="What reports will read."
)
@click.option(
    "--suite", "suites", multiple=True, type=click.Path(exists=True, path_type=Path), metavar="DIR|FILE",
    help="More rules beside hwbench's own; repeatable.",
)  # fmt: skip
@click.option(
    "--docs", type=click.Path(file_okay=False, path_type=Path), help="Write Great Expectations' Data Docs here."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option("--junit", type=_PATH, help="Write a JUnit XML file, a test a rule.")
@click.option("--strict", is_flag=True, help="Publish nothing if any row fails any rule.")
@click.option("--allow-empty", is_flag=True, help="A table without rows is no reason to refuse.")
@click.option("--max-age", type=click.FloatRange(min=0), metavar="HOURS", help="Refuse if the last sync is older.")
@click.option("--rejudge", is_flag=True, help="Judge also what did not change since the last gate here.")
def gate(  # noqa: PLR0917 -- click passes by name
    db: Path, published: Path, suites: tuple[Path, ...], docs: Path | None, as_json: bool, junit: Path | None,
    strict: bool, allow_empty: bool, max_age: float | None, rejudge: bool,
) -> None:  # fmt: skip
    """Judge every result again, run every rule, and publish what passes: the only way into a report.

    Rows that fail a rule are quarantined with the reason, and the rest is published; a rule about a whole table, a
    check that could not be made, or --strict with any failure refuses everything, and the file that was published
    before stays. Exits 3 when refused.

    Example: hwbench gate && hwbench report
    """
    from hwbench_mlflow.cli.output import refuse_database, refuse_side_file
    from hwbench_mlflow.errors import ExitCode
    from hwbench_mlflow.warehouse.published import refuse_foreign

    if junit is not None:
        refuse_database(junit)
    if published.resolve() == db.resolve():
        raise click.UsageError("--published is the warehouse itself: name another file")
    refuse_side_file(published)
    refuse_foreign(published)
    try:
        age = None if max_age is None else timedelta(hours=max_age)
    except (ValueError, OverflowError) as error:  # nan; or more hours than there is a time for
        raise click.UsageError(f"--max-age {max_age:g} is no number of hours that a sync can be old") from error
    report, checked = run_gate(
        db, published, suites, strict=strict, allow_empty=allow_empty, max_age=age, rejudge=rejudge
    )
    if docs is not None:
        from hwbench_mlflow.gates.docs import write_docs

        write_docs(docs, [v for one in checked for v in one.validations], f"hwbench gate {report.gate_id}")
    if junit is not None:
        _write_junit(junit, report.outcomes)
    if as_json:
        click.echo(json.dumps(report.to_json(published), sort_keys=True, default=str))
    else:
        for line in lines(report, published):
            click.echo(line)
    if report.refusals:
        click.echo(f"hwbench: refused by {', '.join(report.refusals)}; {_kept(published)}", err=True)
        sys.exit(int(ExitCode.REFUSED))


def _kept(published: Path) -> str:
    return f"{published} is as it was" if published.exists() else "nothing is published"


def run_gate(
    db: Path,
    published: Path,
    suites: Sequence[Path] = (),
    *,
    strict: bool = False,
    allow_empty: bool = False,
    max_age: timedelta | None = None,
    rejudge: bool = False,
) -> tuple[GateReport, list[Checked]]:
    """Load, look, decide, write down, publish. Raises StoreError and KeyTrouble; a refusal is a report."""
    from hwbench_mlflow.errors import Refused
    from hwbench_mlflow.gates.loader import load
    from hwbench_mlflow.rules import decide
    from hwbench_mlflow.warehouse.gated import open_gated
    from hwbench_mlflow.warehouse.publish import Publication

    gate_id, now = uuid.uuid4().hex, datetime.now(UTC).replace(tzinfo=None, microsecond=0)
    loaded = load(suites)
    counts = None
    with open_gated(db, lambda text: click.echo(text, err=True)) as gated:
        schema = gated.schema()
        checked: list[Checked] = []
        outcomes, keep_out, again = [*loaded.problems, schema], set[str](), None
        if schema.passed:
            found, checked, keep_out, again = _look(gated, loaded, now, allow_empty, max_age, rejudge)
            outcomes += found
        decision = decide(outcomes, strict=strict)
        refusals = [o.rule for o in decision.refusals]
        quarantine = gated.quarantine(outcomes) if schema.passed else []
        if schema.passed:
            gated.record(gate_id, now, outcomes)
        if decision.publish:
            what = Publication(
                gate_id=gate_id, gated_at=now, outcomes=outcomes, quarantine=quarantine, suites=loaded.digests,
                keep_out=keep_out,
            )  # fmt: skip
            try:
                counts = gated.publish(published, what)
            except Refused as error:
                click.echo(f"hwbench: {error}", err=True)
                refusals.append("publication")
    return GateReport(
        gate_id=gate_id, gated_at=f"{now.isoformat()}+00:00", outcomes=outcomes, refusals=refusals, counts=counts,
        quarantine=quarantine, judged=again.runs - again.remembered if again else 0,
        unchanged=again.remembered if again else 0,
    ), checked  # fmt: skip


def _look(  # noqa: PLR0917 -- one caller, a few lines above
    gated: Gated, loaded: Loaded, now: datetime, allow_empty: bool, max_age: timedelta | None, rejudge: bool
) -> tuple[list[Outcome], list[Checked], set[str], Rederived]:
    from hwbench_mlflow.cli.sync_progress import SyncProgress
    from hwbench_mlflow.gates.run import check
    from hwbench_mlflow.keystore import derived_key, load_keyring
    from hwbench_mlflow.warehouse.memory import KEY_PURPOSE

    with SyncProgress() as shown:
        key = None if rejudge else derived_key(KEY_PURPOSE)
        again = gated.rederive(load_keyring(), lambda done, total: shown.progress("judging", done, total), key)
        outcomes = [*again.outcomes(), *gated.audit(now, max_age)]
        checked = []
        for number, suite in enumerate(loaded.suites):
            shown.progress("running suites", number, len(loaded.suites))
            checked.append(check(suite, gated.frames(suite.table, suite.columns), allow_empty=allow_empty))
            outcomes += checked[-1].outcomes
    keep_out = again.probes | {
        key for o in outcomes if o.table in {"hardware_availability_log", "benchmark_runs"} for key, _ in o.refused
    }
    return outcomes, checked, keep_out, again


def lines(report: GateReport, published: Path) -> Iterator[str]:
    """What people read: each rule that failed with its runs, then what came of it all."""
    failed = [o for o in report.outcomes if not o.passed]
    for outcome in failed:
        kind = "TABLE" if outcome.kind == "table" else "ROW"
        if outcome.refused:
            yield f"{kind:5}  {outcome.rule}  {outcome.unexpected} of {outcome.evaluated} failed"
            yield from _refused(outcome.refused)
        else:
            yield f"{kind:5}  {outcome.rule}  {printable(outcome.reason or '')}"
        yield f"         {outcome.what_to_do}"
    unchanged = f", {report.unchanged} unchanged since they were judged here" if report.unchanged else ""
    yield f"{report.judged} runs judged{unchanged}; {len(report.outcomes)} rules, {len(failed)} failed"
    if report.counts is not None:
        c = report.counts
        yield (
            f"{published}: {c.rows_real} real, {c.rows_simulated} simulated, {c.rows_quarantined} quarantined "
            f"of {c.rows_in - c.rows_estimates - c.rows_rooflines} results"
            + (f"; {c.rows_estimates} estimates (SIMULATED)" if c.rows_estimates else "")
            + (f"; {c.rows_rooflines} rooflines" if c.rows_rooflines else "")
        )


def _refused(refused: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Each run with its own reason; runs with the very same one are listed under it, the most first."""
    reasons: dict[str, list[str]] = {}
    for key, reason in refused:
        reasons.setdefault(reason, []).append(key)
    left = SHOWN_RUNS
    for reason, keys in sorted(reasons.items(), key=lambda item: -len(item[1])):
        shown, left = keys[:left], left - len(keys[:left])
        if len(keys) == 1 and shown:
            yield f"         {printable(shown[0])}  {printable(reason)}"
        elif shown:
            yield f"         {len(keys)} alike: {printable(reason)}"
            yield from (f"           {printable(key)}" for key in shown)
    if len(refused) > SHOWN_RUNS:
        yield f"         and {len(refused) - SHOWN_RUNS} more: see --json"


def printable(text: str) -> str:
    """Text from a store, for a line on a terminal."""
    from hwbench_mlflow.warehouse import query

    return query.printable(text)[:500]


_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _write_junit(path: Path, outcomes: Sequence[Outcome]) -> None:
    from xml.etree import ElementTree as ET

    from hwbench_mlflow.errors import StoreError

    root = ET.Element("testsuites", name="hwbench gate")
    for suite in dict.fromkeys(o.suite for o in outcomes):
        mine = [o for o in outcomes if o.suite == suite]
        failures = sum(not o.passed for o in mine)
        element = ET.SubElement(root, "testsuite", name=suite, tests=str(len(mine)), failures=str(failures))
        for outcome in mine:
            case = ET.SubElement(element, "testcase", classname=f"hwbench.{suite}", name=outcome.rule)
            if not outcome.passed:
                failure = ET.SubElement(case, "failure", message=_NOT_XML.sub("?", outcome.reason or ""))
                rows = [f"{key}: {reason}" for key, reason in outcome.refused]
                failure.text = _NOT_XML.sub("?", "\n".join([outcome.why, outcome.what_to_do, *rows]))
    try:
        ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error

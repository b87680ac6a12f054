"""``hwbench coverage``: what was measured where, and what to run next. Wiring only."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TextIO

import click

from hwbench_mlflow.cli.choices import PATH, published_option
from hwbench_mlflow.decide.covering import ALL_PLATFORMS, STALE_AFTER_DAYS
from hwbench_mlflow.model import Precision


@click.command()
@click.option("--model", "models", multiple=True, metavar="NAME", help="Only this model, known or not; repeatable.")
@click.option("--hardware", "platforms", multiple=True, type=click.Choice(ALL_PLATFORMS), help="Only this; repeatable.")
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice([p.value for p in Precision]),
    help="Only this; repeatable.",
)
@click.option(
    "--stale-after", "days", type=click.FloatRange(min=0, min_open=True), default=STALE_AFTER_DAYS, show_default=True,
    help="Days after which a result is stale, before the publication.",
)  # fmt: skip
@click.option("--plan", type=PATH, metavar="FILE", help="Write what to run next as a matrix for `hwbench batch`.")
@click.option("--format", "form", type=click.Choice(["text", "markdown", "json"]), default="text", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("-o", "--output", type=PATH, help="Write to this file.")
@published_option
def coverage(  # noqa: PLR0917 -- click passes by name
    models: tuple[str, ...], platforms: tuple[str, ...], precisions: tuple[str, ...], days: float, plan: Path | None,
    form: str, as_json: bool, output: Path | None, published: Path, db: Path,
) -> None:  # fmt: skip
    """Show what was measured, model by platform by precision, and what would be most useful to run next.

    A cell is verified, noisy, stale, simulated, unranked (the test profile), quarantined, failed (and how), unavailable
    (and what would make it available) or never run. Runs are proposed only for platforms on which a probe made a device
    compute.

    \b
    hwbench coverage
    hwbench coverage --model bert --model gpt2 --hardware cpu --hardware openvino
    hwbench coverage --plan matrix.yaml
    """
    from hwbench_mlflow.cli.choices import warn_if_stale
    from hwbench_mlflow.cli.output import write_whole
    from hwbench_mlflow.decide.covering import cover, next_runs, stale_before
    from hwbench_mlflow.errors import StoreError
    from hwbench_mlflow.reports import coverage as pages
    from hwbench_mlflow.warehouse import coverage as published_cells

    form = "json" if as_json else form
    with published_cells.open_coverage(published) as found:
        now = datetime.fromisoformat(found.manifest["published_at"]).replace(tzinfo=None)
        measured = published_cells.measured(found, stale_before(now, days))
        failures, probes = published_cells.failures(found), published_cells.probes(found)
        stale = found.stale_against(db)
    warn_if_stale(stale)
    known = sorted({model for model, *_ in measured} | {model for model, *_ in failures})
    wanted = list(dict.fromkeys(models)) or known
    if not wanted:
        raise StoreError(f"{published} knows no model", remedy="Name some with --model")
    cells = cover(wanted, platforms or ALL_PLATFORMS, precisions or None, measured, failures, probes)
    following = next_runs(cells, failures, probes)

    def render(out: TextIO) -> None:
        if form == "json":
            context = {"stale_after_days": days, "stale": stale, "gate_id": found.manifest["gate_id"]}
            out.write(json.dumps(pages.document(cells, following, context)) + "\n")
            return
        draw = pages.to_markdown if form == "markdown" else pages.to_text
        out.writelines(f"{line}\n" for line in draw(cells, following))

    write_whole(output, render)
    if plan is not None:
        if not following:
            raise StoreError("there is nothing to run next on hardware that was verified: no plan was written")
        write_whole(plan, lambda out: out.writelines(f"{line}\n" for line in pages.to_matrix(following)))
        click.echo(f"{plan}: {len(following)} runs; to run them: hwbench batch --matrix {plan}", err=True)
